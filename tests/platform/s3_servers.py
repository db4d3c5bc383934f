"""The S3 servers that tests ask: a real one, and one that misbehaves as it is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.platform import managed, s3_stub, swift


@pytest.fixture(scope="module")
def real() -> Iterator[swift.Swift]:
    try:
        with swift.running() as started:
            yield started
    except managed.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_stub.Stub]:
    for name, value in swift.Swift("", "stub-secret-key").environment().items():
        monkeypatch.setenv(name, value)
    with s3_stub.serving() as started:
        yield started
