"""Failpoints: asked for by name and count, and silent otherwise."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib.platform import failpoints
from tests.conftest import PROJECT


@pytest.fixture(autouse=True)
def forgotten() -> None:
    failpoints._reached.clear()


def test_a_place_that_nobody_asked_for_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.reach("a.place")
    monkeypatch.setenv(failpoints.VARIABLE, "another.place=ENOSPC")
    failpoints.reach("a.place")


def test_an_error_is_raised_the_time_it_is_asked_for_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "a.place=ENOSPC@2")
    failpoints.reach("a.place")
    with pytest.raises(OSError) as caught:
        failpoints.reach("a.place")
    assert caught.value.errno == errno.ENOSPC
    failpoints.reach("a.place")


def test_a_kill_is_a_real_one() -> None:
    code = "from lib.platform import failpoints; failpoints.reach('a.place'); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), failpoints.VARIABLE: "a.place=kill"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_a_wait_goes_on_when_its_mark_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv(failpoints.VARIABLE, f"a.place=wait:{mark}")
    waiting = threading.Thread(target=failpoints.reach, args=("a.place",))
    waiting.start()
    while not mark.exists():
        time.sleep(0.01)
    assert waiting.is_alive()
    mark.unlink()
    waiting.join(timeout=30)
    assert not waiting.is_alive()
