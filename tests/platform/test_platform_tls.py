"""The production profile's rule against what is no server at all: it is told nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from lib.platform import postgres
from lib.platform.errors import Refused, Unavailable


@dataclass
class Eavesdropper:
    """Takes every connection and keeps what it is sent until the other side ends it."""

    listener: socket.socket
    heard: list[bytes] = field(default_factory=list)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def url(self, query: str = "") -> str:
        return f"postgresql://golive:hunter22@localhost:{self.listener.getsockname()[1]}/golive{query}"

    def listen(self) -> None:
        with suppress(OSError):  # closed at the end of the test
            while True:
                taken, _ = self.listener.accept()
                with taken:
                    taken.settimeout(5)
                    self.heard.append(taken.recv(4096))
                self.ended.release()


@pytest.fixture
def eavesdropper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Eavesdropper]:
    for name in ("PGSSLMODE", "PGSERVICE", "PGHOST", "PGHOSTADDR"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Eavesdropper(listener)
        thread = threading.Thread(target=found.listen, daemon=True)
        thread.start()
        yield found
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)


@pytest.mark.parametrize("profile", ["production", "Production", " PRODUCTION "])
@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", ""])
def test_a_weaker_mode_is_refused_before_a_byte_is_sent(
    eavesdropper: Eavesdropper, monkeypatch: pytest.MonkeyPatch, mode: str, profile: str
) -> None:
    monkeypatch.setenv("GOLIVE_ENV", profile)
    with pytest.raises(Refused, match=f"sslmode={mode or 'prefer'} is refused") as caught:
        postgres.connect(eavesdropper.url(f"?sslmode={mode}" if mode else ""), "test")
    assert "hunter22" not in str(caught.value.to_dict())
    assert "sslmode=verify-full" in caught.value.hint
    assert eavesdropper.ended.acquire(timeout=5)
    assert eavesdropper.heard == [b""]


def test_in_another_profile_the_same_address_is_tried(eavesdropper: Eavesdropper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLIVE_ENV", "staging")
    with pytest.raises(Unavailable):
        postgres.connect(eavesdropper.url("?sslmode=disable"), "test")
    assert eavesdropper.ended.acquire(timeout=5)
    assert b"golive" in eavesdropper.heard[0]
