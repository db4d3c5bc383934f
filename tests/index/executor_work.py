"""What test_index_executors.py hands to workers: functions that a process of their own can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from lib.platform.errors import NotFound


def double(number: int) -> int:
    return 2 * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise NotFound("no three", detail="the detail", hint="the hint")
    return number


def die_once(unit: tuple[int, Path]) -> int:
    """Kills its own process the first time that it sees the number 5."""
    number, mark = unit
    if number == 5 and not mark.exists():
        mark.touch()
        die_at_five(number)
    return number


def die_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep_and_tell(seconds: float) -> int:
    """The id of the process that slept."""
    time.sleep(seconds)
    return os.getpid()
