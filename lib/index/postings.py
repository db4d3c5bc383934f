"""An inverted index in sorted arrays that grows by merging: which sets have this key in their prefix? Pure.

A posting is one number: 36 bits of key, a bit for *beyond* (past the set's short prefix), 27 bits of set number. Runs of
sorted postings double in length, as in a log-structured merge tree (O'Neil and others, 1996); a table of one byte a slot
tells most absent keys before any run is searched. Keys are the high bits of hashes, so different elements may share one: a
match is a candidate, never an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.platform.errors import Refused

MAX_SETS = 1 << 27
_KEY_SHIFT = np.uint64(28)
_BEYOND_SHIFT = np.uint64(27)
_SET_MASK = np.uint64(MAX_SETS - 1)
_SLOTS_PER_KEY = 4

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]


class KeyFilter:
    """A set of keys that never denies one that it has, and claims at most one in ``slots_per_key`` of others."""

    def __init__(self, slots_per_key: int) -> None:
        self._slots_per_key = slots_per_key
        self._table = np.zeros(1 << 14, dtype=bool)

    def fits(self, count: int) -> bool:
        return count * self._slots_per_key <= len(self._table)

    def grow(self, count: int, parts: Iterable[Keys]) -> None:
        """Starts again with room for ``count`` keys."""
        self._table = np.zeros(1 << (count * self._slots_per_key).bit_length(), dtype=bool)
        for keys in parts:
            self.add(keys)

    def add(self, keys: Keys) -> None:
        self._table[self._slots(keys)] = True

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        return self._table[self._slots(keys)]

    def _slots(self, keys: Keys) -> Ints:
        return (keys & np.uint64(len(self._table) - 1)).view(np.int64)


@dataclass(frozen=True)
class Matches:
    """What a query's keys met: its key at ``places[i]`` met ``lengths[i]`` postings of ``run`` from ``starts[i]`` on."""

    run: Keys
    places: Ints
    starts: Ints
    lengths: Ints

    def pairs(self) -> tuple[Ints, Ints]:
        """Each place of the query beside each set that it met."""
        ends = np.cumsum(self.lengths)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - self.lengths, self.lengths)
        postings = self.run[np.repeat(self.starts, self.lengths) + within]
        return np.repeat(self.places, self.lengths), (postings & _SET_MASK).view(np.int64)


class Postings:
    """Grows by ``add``; ``find`` sees all that was added."""

    def __init__(self) -> None:
        self._runs: list[Keys] = []
        self._count = 0
        self._filter = KeyFilter(_SLOTS_PER_KEY)

    def add(self, keys: Keys, beyond: NDArray[np.bool_], sets: Ints) -> None:
        """``keys``: below 2^36. ``sets``: their numbers, below 2^27; raises Refused past that."""
        if not len(keys):
            return
        if int(sets.max()) >= MAX_SETS:
            raise Refused(f"more than {MAX_SETS} kept chunks in one corpus", hint="split the sources into several indexes")
        run = keys << _KEY_SHIFT
        run |= beyond.astype(np.uint64) << _BEYOND_SHIFT
        run |= sets.view(np.uint64)
        run.sort()
        self._runs.append(run)
        self._count += len(run)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            run = np.concatenate([self._runs.pop(), self._runs.pop()])
            run.sort()
            self._runs.append(run)
        if self._filter.fits(self._count):
            self._filter.add(keys)
        else:
            self._filter.grow(2 * self._count, (each >> _KEY_SHIFT for each in self._runs))

    def find(self, keys: Keys, beyond: NDArray[np.bool_]) -> list[Matches]:
        """The postings with each key; for a key that is itself *beyond*, only those that are not."""
        places = np.flatnonzero(self._filter.has(keys))
        places = places[np.argsort(keys[places])]  # neighbouring searches then touch the same memory
        first = keys[places] << _KEY_SHIFT
        last = first + (np.uint64(MAX_SETS) << (~beyond[places]).astype(np.uint64)) - np.uint64(1)
        found = []
        for run in self._runs:
            starts = run.searchsorted(first)
            met = np.flatnonzero(run.take(starts, mode="clip") - first <= last - first)
            met = met[starts[met] < len(run)]
            lengths = run.searchsorted(last[met], side="right") - starts[met]
            found.append(Matches(run, places[met], starts[met], lengths))
        return found
