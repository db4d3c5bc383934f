"""Progress for the person at the terminal: a bar on a terminal, a few plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from lib.platform.errors import redact

_WIDTH = 28
_PLAIN_STEPS = 4


def note(line: str) -> None:
    """One line for the person who watches: stderr, never stdout."""
    print(redact(line), file=sys.stderr, flush=True)


class Progress:
    """Counts done units of ``total``; use as a context manager and call ``advance``."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._live = sys.stderr.isatty()
        self._started = self._drawn = time.monotonic()
        self._lines = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live and self.done:
            self._draw()
            sys.stderr.write("\n")

    def advance(self, units: int = 1) -> None:
        self.done += units
        if self._live:
            if time.monotonic() - self._drawn > 0.1:
                self._draw()
        elif self.total and self.done * _PLAIN_STEPS // self.total > self._lines:
            self._lines = self.done * _PLAIN_STEPS // self.total
            sys.stderr.write(f"{self.label}: {self.done} of {self.total} {self.unit}\n")

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        share = self.done / self.total if self.total else 1.0
        left = (self._drawn - self._started) * (1 / share - 1) if share else 0.0
        bar = ("#" * round(share * _WIDTH)).ljust(_WIDTH, ".")
        sys.stderr.write(f"\r{self.label} [{bar}] {self.done}/{self.total} {self.unit}, {left:.0f} s left \x1b[K")
        sys.stderr.flush()
