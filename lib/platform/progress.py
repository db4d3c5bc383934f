"""Progress for the person at the terminal: a bar on a terminal, a few plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from lib.platform.errors import redact

_WIDTH = 28
_PLAIN_STEPS = 4
_LINE_EVERY_S = 60.0
_KNOWN_AFTER_S = 10.0  # of work, before the time left is worth saying
_muted = False


def note(line: str) -> None:
    """One line for the person who watches: stderr, never stdout."""
    print(redact(line), file=sys.stderr, flush=True)


@contextmanager
def muted() -> Iterator[None]:
    """Within it no ``Progress`` shows: for many short pieces of work, whose caller shows how far the whole is."""
    global _muted
    before, _muted = _muted, True
    try:
        yield
    finally:
        _muted = before


class Progress:
    """Counts done units of ``total``; use as a context manager and call ``advance``.

    Without a terminal it says where it is at each quarter, and at least once a minute. Where the work takes longer than a
    few seconds, the time left is said too: what the rest takes if it goes on as so far.
    """

    def __init__(self, label: str, total: int, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._live, self._muted = sys.stderr.isatty(), _muted
        self._clock = clock
        self._started = self._drawn = clock()
        self._lines = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live and self.done and not self._muted:
            self._draw()
            sys.stderr.write("\n")

    def advance(self, units: int = 1) -> None:
        self.done += units
        if self._muted:
            return
        if self._live:
            if self._clock() - self._drawn > 0.1:
                self._draw()
        elif self.total and units:
            self._write_line()

    def _write_line(self) -> None:
        now, steps = self._clock(), self.done * _PLAIN_STEPS // self.total
        if steps <= self._lines and now - self._drawn < _LINE_EVERY_S:
            return
        self._lines, self._drawn = steps, now
        known = now - self._started >= _KNOWN_AFTER_S and self.done < self.total
        left = f", {duration(self._left_s(now))} left" if known else ""
        sys.stderr.write(f"{self.label}: {self.done} of {self.total} {self.unit}{left}\n")
        sys.stderr.flush()

    def _left_s(self, now: float) -> float:
        return (now - self._started) * (self.total / self.done - 1) if self.done else 0.0

    def _draw(self) -> None:
        self._drawn = self._clock()
        share = self.done / self.total if self.total else 1.0
        bar = ("#" * round(share * _WIDTH)).ljust(_WIDTH, ".")
        left = duration(self._left_s(self._drawn))
        sys.stderr.write(f"\r{self.label} [{bar}] {self.done}/{self.total} {self.unit}, {left} left \x1b[K")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """``12 s``, ``5 min``, ``3 h``: about how long."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
