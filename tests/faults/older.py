"""An older PostgreSQL: 16.2 with pgvector 0.6.2, out of the wheel ``pgserver``, in a folder of its own."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest

from tests.conftest import PROJECT
from tests.platform.managed import _as_server_user, _embedded_package, _give, _server_user

_PACKAGE = "pgserver==0.1.4"
_PLACE = PROJECT / ".local" / "test-servers" / "pgserver"
_START_TIMEOUT_S = 60


@contextmanager
def older_server() -> Iterator[str]:
    """The address of a new one; skips the test where the wheel cannot be had."""
    binaries = _fetch()
    folder = Path(tempfile.mkdtemp(prefix="golive-older-"))
    _give(folder)
    data = folder / "data"
    data.mkdir()
    _give(data)
    options = ["-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync"]
    made = subprocess.run([binaries / "initdb", *options], user=_server_user(), cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    process = _as_server_user([str(binaries / "postgres"), "-D", str(data), "-k", str(folder), "-h", "", "-F"], folder)
    try:
        yield _await(f"postgresql://postgres@/postgres?host={quote(str(folder), safe='/')}", folder)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _fetch() -> Path:
    """The folder of its programs; the wheel is unpacked beside the embedded server's package, never installed."""
    if not _PLACE.exists():
        made = _PLACE.with_name(f"pgserver-{secrets.token_hex(4)}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made), _PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            shutil.rmtree(made, ignore_errors=True)
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            pytest.skip(f"{_PACKAGE} could not be fetched: {last}")
        made.rename(_PLACE)
    binaries = _PLACE / "pgserver" / "pginstall" / "bin"
    _embedded_package().ensure_prefix_permissions(binaries / "postgres")
    return binaries


def _await(url: str, folder: Path) -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            psycopg2.connect(url).close()
            return url
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.05)
