"""An incremental, exact set similarity join: which earlier kept set is each new set at least so similar to? Pure.

Prefix filtering (Bayardo, Ma, Srikant, WWW 2007) with the positional bound of PPJoin (Xiao and others, TODS 2011). Take
any one order of all elements. If sets of n <= m elements have Jaccard similarity >= t, they share t (n + m) / (1 + t) of
them or more, so their first common one is among the first ``n - ceil(2 t n / (1 + t)) + 1`` of the smaller set (its *short*
prefix) and among the first ``m - ceil(t m) + 1`` of the larger (its *long* one), and with k - 1 elements more in each
prefix their first k common ones are there (or all, where they share fewer). So a pair is found by comparing short
prefixes with long ones, and passed over where they share fewer than k. What is found is sifted by size and by parity
sketches of 512 bits (after the bitmap filter of Sandes and others, 2020), which only ever pass too much, and what is
left is compared exactly.

The order is the elements' own (they are hashes, so it is a random one), but an element that stands in the prefixes of
many kept sets moves to the end: a passage that thousands of texts share doesn't make pairs of them all. The kept sets
that it moves for are indexed again, so at any time one order holds for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.index.postings import KeyFilter, Matches, Postings

BLOCK = 256  # sets that are looked up at once: what bounds the pairs within a run of copies
FREQUENT = 512  # kept sets whose prefixes share an element, from which on it goes to the end of the order
MATCHES = 4  # k: keys that a pair's prefixes must share before it is looked at
_ROUNDING = 1e-9  # how much a bound in floats gives away, as a share: more than it can be wrong by
_SKETCH_BITS = 512
_LAST = np.uint64(1 << 35)  # in a key: at the end of the order

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sets:
    """Several sets end to end: ``elements[starts[i] : starts[i] + sizes[i]]`` are those of set i, ascending."""

    elements: Hashes
    sizes: Ints

    @classmethod
    def of(cls, sets: Sequence[Hashes]) -> Sets:
        sizes = np.fromiter(map(len, sets), np.int64, len(sets))
        return cls(np.concatenate(sets) if len(sets) else np.zeros(0, np.uint64), sizes)

    @property
    def starts(self) -> Ints:
        return np.cumsum(self.sizes) - self.sizes


@dataclass(frozen=True)
class Prefixes:
    """The elements of long prefixes: whose, under which key of the index, and whether past the short prefix."""

    owners: Ints
    keys: Hashes
    beyond: Bools

    def only(self, chosen: Bools) -> Prefixes:
        """Those of the chosen owners."""
        return self._where(chosen[self.owners])

    def shared(self) -> Prefixes:
        """Those whose key stands here more than once."""
        order = np.argsort(self.keys)
        same = np.diff(self.keys[order]) == 0
        repeated = np.zeros(len(order), dtype=bool)
        repeated[order[1:][same]] = True
        repeated[order[:-1][same]] = True
        return self._where(repeated)

    def without(self, others: Prefixes) -> Prefixes:
        """Those that the others haven't in the same way."""
        mine, theirs = ((each.owners << 37) | (each.keys.view(np.int64) << 1) | each.beyond for each in (self, others))
        return self._where(~np.isin(mine, theirs))

    def _where(self, mask: Bools) -> Prefixes:
        return Prefixes(self.owners[mask], self.keys[mask], self.beyond[mask])


class SimilarityJoin:
    """Sets are added in order; each is kept, or dropped in favour of the first kept one that it is similar to.

    ``threshold``: above 0 and at most 1, the decimal number that its ``repr`` shows; it is compared in whole numbers.
    """

    def __init__(self, threshold: float, block: int = BLOCK, frequent: int = FREQUENT, matches: int = MATCHES) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"a threshold is above 0 and at most 1, not {threshold!r}")
        self._threshold = float(threshold)
        self._exact = Fraction(repr(self._threshold))
        self._block = block
        self._matches = matches
        self._frequent = FrequentKeys(frequent)
        self._index = Postings()
        self._added = 0
        self._kept: list[Hashes] = []
        self._numbers: list[int] = []  # of each kept set: how many were added before it
        self._sizes = Rows(np.zeros(1024, dtype=np.int64))
        self._sketches = Rows(np.zeros((1024, _SKETCH_BITS // 64), dtype=np.uint64))

    def add(self, sets: Sequence[Hashes]) -> list[int | None]:
        """For each set (ascending, without repeats) the number of the kept one that it repeats, or None.

        Numbers count the sets in the order they were added, over all calls. An empty set is similar to none.
        """
        answers: list[int | None] = []
        for start in range(0, len(sets), self._block):
            answers += self._add_block(sets[start : start + self._block])
        return answers

    def _add_block(self, sets: Sequence[Hashes]) -> list[int | None]:
        block = Sets.of(sets)
        sketches = _sketches(block)
        answers: list[int | None] = [None] * len(sets)
        prefixes, matches = self._look_up(block)
        pairs = _pairs_of(matches, prefixes.owners)
        for left, right in self._sifted(pairs, block.sizes, sketches, self._sizes.room, self._sketches.room):
            if answers[left] is None and self._are_similar(sets[left], self._kept[right]):
                answers[left] = self._numbers[right]

        own = prefixes.only(np.array([answer is None for answer in answers], dtype=bool))
        within, shared = Postings(), own.shared()
        within.add(shared.keys, shared.beyond, shared.owners)
        pairs = _pairs_of(within.find(shared.keys, shared.beyond), shared.owners)
        pairs = pairs[:, pairs[1] < pairs[0]]
        for left, right in self._sifted(pairs, block.sizes, sketches, block.sizes, sketches):
            if answers[left] is None and answers[right] is None and self._are_similar(sets[left], sets[right]):
                answers[left] = self._added + right
        self._keep(sets, sketches, own, answers)
        return answers

    def _look_up(self, block: Sets) -> tuple[Prefixes, list[Matches]]:
        """The block's prefixes and what they meet in the index, once no element of them is newly frequent."""
        while True:
            prefixes = self._prefixes(block)
            matches = self._index.find(prefixes.keys, prefixes.beyond)
            heavy = self._frequent.newly(prefixes.keys, matches)
            if not heavy.any():
                return prefixes, matches
            keys = np.unique(prefixes.keys[heavy])
            met = self._index.find(keys, np.zeros(len(keys), dtype=bool))  # beyond the short prefix too
            moved = np.unique(np.concatenate([match.pairs()[1] for match in met]))
            kept = Sets.of([self._kept[place] for place in moved.tolist()])
            before = self._prefixes(kept)
            self._frequent.add(keys)
            fresh = self._prefixes(kept).without(before)
            self._index.add(fresh.keys, fresh.beyond, moved[fresh.owners])

    def _prefixes(self, block: Sets) -> Prefixes:
        sizes, starts = block.sizes, block.starts
        extra = self._matches - 1
        short = _length(sizes, 2 * self._threshold / (1 + self._threshold)) + extra
        long = _length(sizes, self._threshold) + extra
        owners = np.repeat(np.arange(len(sizes)), sizes)
        keys = block.elements >> np.uint64(29)
        last = self._frequent.has(keys)
        places = np.arange(len(keys)) - starts[owners]
        if last.any():
            before: Ints = np.cumsum(last) - last
            before -= before.take(starts, mode="clip")[owners]  # frequent elements of the same set before this one
            ordinary = sizes - np.bincount(owners[last], minlength=len(sizes))
            places = np.where(last, ordinary[owners] + before, places - before)
            keys |= last * _LAST
        chosen = np.flatnonzero(places < long[owners])
        return Prefixes(owners[chosen], keys[chosen], places[chosen] >= short[owners[chosen]])

    def _sifted(
        self, pairs: Ints, sizes: Ints, sketches: Hashes, other_sizes: Ints, other_sketches: Hashes
    ) -> Iterator[tuple[int, int]]:
        """The pairs that may be similar, ascending: those that enough keys met, of sizes and sketches near enough.

        Each bit in which two parity sketches differ stands for at least one element that only one of the sets has.
        """
        new, old, met = pairs
        total = sizes[new] + other_sizes[old]
        shared = np.ceil(total * (self._threshold / (1 + self._threshold) - _ROUNDING))
        unshared = total * ((1 - self._threshold) / (1 + self._threshold) + _ROUNDING)
        fits = (met >= np.minimum(shared, self._matches)) & (np.abs(sizes[new] - other_sizes[old]) <= unshared)
        new, old, unshared = new[fits], old[fits], unshared[fits]
        differing = np.bitwise_count(sketches[new] ^ other_sketches[old]).sum(axis=1, dtype=np.int64)
        fits = differing <= unshared
        return zip(new[fits].tolist(), old[fits].tolist(), strict=True)

    def _are_similar(self, left: Hashes, right: Hashes) -> bool:
        """|A ∩ B| / |A ∪ B| >= threshold."""
        small, large = (left, right) if len(left) <= len(right) else (right, left)
        shared = int(np.count_nonzero(large.take(large.searchsorted(small), mode="clip") == small))
        return shared * self._exact.denominator >= self._exact.numerator * (len(left) + len(right) - shared)

    def _keep(self, sets: Sequence[Hashes], sketches: Hashes, prefixes: Prefixes, answers: Sequence[int | None]) -> None:
        """Takes in the sets without an answer; copies them, as what was given may be part of something larger."""
        new = np.array([answer is None and len(items) > 0 for answer, items in zip(answers, sets, strict=True)], dtype=bool)
        numbers = len(self._kept) + np.cumsum(new) - 1
        own = prefixes.only(new)
        self._index.add(own.keys, own.beyond, numbers[own.owners])
        places = np.flatnonzero(new).tolist()
        self._kept += [sets[place].copy() for place in places]
        self._numbers += [self._added + place for place in places]
        self._sizes.append(np.array([len(sets[place]) for place in places], dtype=np.int64))
        self._sketches.append(sketches[new])
        self._added += len(sets)


class FrequentKeys:
    """The keys at the end of the order: those that the prefixes of ``limit`` kept sets had."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys = np.zeros(0, dtype=np.uint64)
        self._filter = KeyFilter(64)

    def has(self, keys: Hashes) -> Bools:
        """For keys that don't yet say that they stand at the end."""
        if not len(self._keys):
            return np.zeros(len(keys), dtype=bool)
        found = self._filter.has(keys)
        places = np.flatnonzero(found)
        found[places] = self._keys.take(self._keys.searchsorted(keys[places]), mode="clip") == keys[places]
        return found

    def newly(self, keys: Hashes, matches: Sequence[Matches]) -> Bools:
        """Which keys of a query met so many postings, and are not at the end yet."""
        met = np.zeros(len(keys), dtype=np.int64)
        for match in matches:
            met[match.places] += match.lengths
        return (met >= self._limit) & (keys < _LAST)

    def add(self, keys: Hashes) -> None:
        self._keys = np.union1d(self._keys, keys)
        if self._filter.fits(len(self._keys)):
            self._filter.add(keys)
        else:
            self._filter.grow(2 * len(self._keys), [self._keys])


class Rows:
    """An array that grows along its first axis."""

    def __init__(self, room: NDArray[Any]) -> None:
        self.room = room
        self._count = 0

    def append(self, rows: NDArray[Any]) -> None:
        end = self._count + len(rows)
        if end > len(self.room):
            larger = np.zeros((2 * end, *self.room.shape[1:]), dtype=self.room.dtype)
            larger[: self._count] = self.room[: self._count]
            self.room = larger
        self.room[self._count : end] = rows
        self._count = end


def _length(sizes: Ints, share: float) -> Ints:
    """How long the prefix is of which one element is shared by any two sets that share ``share`` of the elements."""
    lengths: Ints = sizes - np.ceil(sizes * (share - _ROUNDING)).astype(np.int64) + 1
    return lengths


def _sketches(block: Sets) -> Hashes:
    """``uint64[n_sets, 8]``: of 512 classes of elements, in which the set has an odd number."""
    owners = np.repeat(np.arange(len(block.sizes)), block.sizes)
    classes = owners * _SKETCH_BITS + (block.elements & np.uint64(_SKETCH_BITS - 1)).view(np.int64)
    odd = (np.bincount(classes, minlength=len(block.sizes) * _SKETCH_BITS) & 1).astype(np.uint8)
    return np.packbits(odd).view(np.uint64).reshape(-1, _SKETCH_BITS // 64)


def _pairs_of(matches: Sequence[Matches], owners: Ints) -> Ints:
    """``int64[3, n]``: each pair of a new set and an old one that met, ascending, and how many keys did."""
    codes = [(owners[places] << 32) | old for places, old in (match.pairs() for match in matches)]
    met = np.concatenate([np.zeros(0, dtype=np.int64), *codes])
    met.sort()
    first = np.flatnonzero(np.diff(met, prepend=-1))
    pairs = met[first]
    return np.stack([pairs >> 32, pairs & 0xFFFFFFFF, np.diff(first, append=len(met))])
