"""Word 5-grams as sets of 64-bit hashes. Pure: the same text gives the same numbers in every process.

A word is a maximal run of ``\\w`` characters of the case-folded text, as ``re`` defines them. Its hash is a polynomial over
its characters modulo 2^64 (differences of one running sum give every word of a block at once), a 5-gram's a sum of its
words' mixed hashes with one odd factor a place; both end in the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).

Two different 5-grams share a hash with probability 2^-64. It matters only where both stand in one compared pair: about
6e-15 for a pair of 330 each, and then only if the pair is exactly one shared 5-gram short. The hash is not keyed: whoever
crafts words to collide can make one text of theirs count as a repeat of another of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WORDS = 5
_BLOCK_CHARACTERS = 1 << 15  # what is computed at once: stays in a core's second-level cache
_BASE = 0x9E3779B97F4A7C15  # of the polynomial: odd, so that it has an inverse modulo 2^64
_FOLDS_TO_SEVERAL = (1 << 64) - 1  # the value of a character such as ß, which only str.casefold can fold
_FACTORS = (0xD6E8FEB86659FD93, 0xA5A3564E9C1B3D4F, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x8CB92BA72F3D8DD7)


def shingle_sets(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """For each text ``uint64[n]``: the hashes of its word 5-grams, ascending and without repeats.

    A text of fewer than 5 words has one: all of them. A text without a word has none.
    """
    return [hashes for block in _blocks(texts) for hashes in _sets_of(block)]


def _blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = characters = 0
    for index, text in enumerate(texts):
        characters += len(text)
        if characters >= _BLOCK_CHARACTERS:
            yield texts[start : index + 1]
            start, characters = index + 1, 0
    if start < len(texts):
        yield texts[start:]


def _sets_of(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    values = _values_of(texts)
    if values.max(initial=0) == _FOLDS_TO_SEVERAL:
        texts = [text.casefold() for text in texts]
        values = _values_of(texts)
    starts, words = _words(values)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    first = np.concatenate([[0], np.searchsorted(starts, ends)])  # the words of text i: first[i] to first[i + 1]
    counts = np.diff(first)
    sizes = np.where(counts < WORDS, np.minimum(counts, 1), counts - WORDS + 1)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(bounds[-1]) + np.repeat(first[:-1] - bounds[:-1], sizes)
    grams = _grams(words)[places]
    for index in np.flatnonzero((counts > 0) & (counts < WORDS)):
        grams[bounds[index]] = _grams(words[first[index] : first[index + 1]])[0]
    return _unique(grams, bounds)


def _unique(grams: NDArray[np.uint64], bounds: NDArray[np.int64]) -> list[NDArray[np.uint64]]:
    """Sorts each part and drops repeats within it."""
    ends = bounds.tolist()
    for start, end in pairwise(ends):
        grams[start:end].sort()
    new = np.ones(len(grams), dtype=bool)
    np.not_equal(grams[1:], grams[:-1], out=new[1:])
    new[bounds[:-1][bounds[:-1] < bounds[1:]]] = True
    kept = np.concatenate([[0], np.cumsum(new)])[bounds].tolist()
    grams = grams[new]
    return [grams[start:end] for start, end in pairwise(kept)]


def _values_of(texts: Sequence[str]) -> NDArray[np.uint64]:
    """The value of each character, with one of 0 between texts."""
    encoded = "\n".join(texts).encode("utf-32-le", "surrogatepass")
    return _values().take(np.frombuffer(encoded, np.uint32).astype(np.int64))


def _words(values: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Where each word starts, and its hash."""
    powers, inverses = _powers(len(values)) if len(values) > 2 * _BLOCK_CHARACTERS else _small_powers()
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    inside = np.zeros(len(values) + 2, dtype=bool)
    np.not_equal(values, 0, out=inside[1:-1])
    values *= powers[: len(values)]
    np.cumsum(values, out=sums[1:])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    return starts, _mixed((sums[ends] - sums[starts]) * inverses[starts])


def _grams(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hash of the 5-gram that starts at each word; past the last word nothing is added."""
    padded = np.concatenate([words, np.zeros(WORDS - 1, dtype=np.uint64)])
    total = np.zeros(len(words), dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        total += padded[place : place + len(words)] * np.uint64(factor)
    return _mixed(total)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection after which every bit depends on every bit. Works in place."""
    numbers ^= numbers >> np.uint64(30)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    numbers ^= numbers >> np.uint64(27)
    numbers *= np.uint64(0x94D049BB133111EB)
    numbers ^= numbers >> np.uint64(31)
    return numbers


@cache
def _values() -> NDArray[np.uint64]:
    """A number for every code point once case-folded, 0 exactly where that is no ``\\w``."""
    characters = "".join(map(chr, range(0x110000)))
    values = np.zeros(len(characters), dtype=np.uint64)
    for match in re.finditer(r"\w+", characters):
        values[match.start() : match.end()] = _mixed(np.arange(match.start() + 1, match.end() + 1, dtype=np.uint64))
    plain = values.copy()
    for start in range(0, len(characters), 256):
        part = characters[start : start + 256]
        if part != part.casefold():
            for code, character in enumerate(part, start):
                folded = character.casefold()
                values[code] = plain[ord(folded)] if len(folded) == 1 else _FOLDS_TO_SEVERAL
    return values


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The base's first powers and their inverses, modulo 2^64."""
    tables = []
    for factor in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.full(count, factor, dtype=np.uint64)
        powers[:1] = 1
        tables.append(np.cumprod(powers))
    return tables[0], tables[1]


@cache
def _small_powers() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return _powers(2 * _BLOCK_CHARACTERS)
