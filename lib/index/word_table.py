"""What chunking asks of every word, remembered, so that each is looked at once: its tokens, and what is compared of it."""

from __future__ import annotations

import string
from collections.abc import Callable
from hashlib import blake2b
from itertools import repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_WORDS = 100_000  # remembered; some 15 MB
_BLOCK = 1 << 15  # words looked up at once
_TOKEN_BITS, _STEM_BITS = 16, 47  # of the one number that stands for a word, 0 or more in 64 bits
# Chosen with the least fills of lib.index.chunking, on the same questions.
_STEM = 6  # characters: enough to tell words apart, few enough to leave out most endings
_AROUND = string.punctuation + "…“”‘’«»、。！？"


class WordTable:
    """Knows words by ``counts_of``, which counts the tokens of words none of which comes twice; by itself it finds none."""

    def __init__(self, counts_of: Callable[[list[str]], list[int]] = lambda words: [0] * len(words)) -> None:
        self._counts_of = counts_of
        self._known: dict[str, int] = {}

    def look_up(self, words: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``(int64[n_words], int64[n_words])``: the tokens of each word, and a number for its stem.

        The number is the same on every machine, below 2 ** 47, and 0 for a word of punctuation alone.
        """
        import numpy as np

        found = np.empty(len(words), np.int64)
        for start in range(0, len(words), _BLOCK):
            block = words[start : start + _BLOCK]
            known = np.fromiter(map(self._known.get, block, repeat(-1)), np.int64, len(block))
            unknown = np.flatnonzero(known < 0)
            if unknown.size:
                new = [block[index] for index in unknown.tolist()]
                described = self._described(list(dict.fromkeys(new)))
                known[unknown] = [described[word] for word in new]
                if len(self._known) + len(described) > _MOST_WORDS:
                    self._known.clear()
                self._known.update(described)
            found[start : start + len(block)] = known
        return found & ((1 << _TOKEN_BITS) - 1), found >> _TOKEN_BITS

    def _described(self, words: list[str]) -> dict[str, int]:
        counts = self._counts_of(words)
        return {word: _stem(word) << _TOKEN_BITS | count for word, count in zip(words, counts, strict=True)}


def _stem(word: str) -> int:
    stem = word.strip(_AROUND)[:_STEM].lower()
    if not stem:
        return 0
    digest = blake2b(stem.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _STEM_BITS)
