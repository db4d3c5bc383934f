"""Progress for the person at the terminal: a bar on a terminal, a few plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from lib.platform.errors import redact

_WIDTH = 28
_PLAIN_STEPS = 4
_LINE_EVERY_S = 60.0
_KNOWN_AFTER_S = 10.0  # of work after the first, before the time left is worth saying
_MARKS = 32  # of the latest work, which the time left is told from
_MARK_EVERY_S = 5.0
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
    few seconds, the time left is said too: what the rest takes if it goes on as lately. The first ``advance`` is no part of
    that: until then models are loaded and services started, once.

    Args:
        steps: how many advances one unit takes.
    """

    def __init__(
        self, label: str, total: int, unit: str, clock: Callable[[], float] = time.monotonic, *, steps: int = 1
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._steps_done, self._steps = 0, steps
        self._live, self._muted = sys.stderr.isatty(), _muted
        self._clock = clock
        self._drawn = clock()
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)  # when, and how many steps were done by then
        self._lines = 0

    @property
    def done(self) -> int:
        return self._steps_done // self._steps

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live and self._steps_done and not self._muted:
            self._draw(self._clock())
            sys.stderr.write("\n")

    def advance(self, steps: int = 1) -> None:
        if not (self.total and steps):
            return
        self._steps_done += steps
        if self._muted:
            return
        now = self._clock()
        if not self._live:
            self._write_line(now)
        elif now - self._drawn > 0.1:
            self._draw(now)
        if not self._marks or now - self._marks[-1][0] >= _MARK_EVERY_S:
            self._marks.append((now, self._steps_done))

    def _write_line(self, now: float) -> None:
        quarters = self.done * _PLAIN_STEPS // self.total
        if quarters <= self._lines and now - self._drawn < _LINE_EVERY_S:
            return
        self._lines, self._drawn = quarters, now
        sys.stderr.write(f"{self.label}: {self.done} of {self.total} {self.unit}{self._left(now)}\n")
        sys.stderr.flush()

    def _left(self, now: float) -> str:
        """The time left in words; nothing where it is not known yet, or nothing is left."""
        rest = self.total * self._steps - self._steps_done
        since, then = self._marks[0] if self._marks else (now, 0)
        made = self._steps_done - then
        if rest <= 0 or made <= 0 or now - since < _KNOWN_AFTER_S:
            return ""
        return f", {duration((now - since) * rest / made)} left"

    def _draw(self, now: float) -> None:
        self._drawn = now
        bar = ("#" * round(self.done / self.total * _WIDTH)).ljust(_WIDTH, ".")
        sys.stderr.write(f"\r{self.label} [{bar}] {self.done}/{self.total} {self.unit}{self._left(now)} \x1b[K")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """``12 s``, ``5 min``, ``3 h``: about how long."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
