"""Near-duplicates: exact Jaccard similarity over word 5-grams, across the whole corpus. Pure.

Here stands what others use; ``shingles.py`` makes the sets, ``similarity_join.py`` compares them. Both need numpy, which
what only backs up and restores does without: so they are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def shingle_hashes(text: str) -> NDArray[np.uint64]:
    """``uint64[n]``: the hashes of a text's word 5-grams, ascending and without repeats; the same in every process.

    Words are runs of ``\\w`` in the case-folded text. A text of fewer than 5 has one shingle, all of them; a text without
    a word has none.
    """
    return shingle_sets([text])[0]


def shingle_sets(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """``shingle_hashes`` of each text, at a third of the cost where texts are many."""
    from lib.index import shingles

    return shingles.shingle_sets(texts)


class Deduplicator:
    """Texts are added in order, as shingle sets; each is kept, or dropped in favour of an earlier kept one.

    ``threshold``: above 0 and at most 1. A text is dropped if a *kept* one before it is at least so similar (the first such
    one is named), so the result does not depend on chains of similarity, nor on how texts are split into batches.
    """

    def __init__(self, threshold: float) -> None:
        from lib.index.similarity_join import SimilarityJoin

        self._join = SimilarityJoin(threshold)

    def add(self, shingle_sets: Sequence[NDArray[np.uint64]]) -> list[int | None]:
        """For each text the number of the kept one that it repeats, or None; numbers count all texts ever added, from 0."""
        return self._join.add(shingle_sets)


def find_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Maps each dropped text to the kept one it repeats, by place; what is dropped is what Deduplicator says."""
    deduplicator = Deduplicator(threshold)
    answers: list[int | None] = []
    for start in range(0, len(texts), 4096):
        answers += deduplicator.add(shingle_sets(texts[start : start + 4096]))
    return {index: kept for index, kept in enumerate(answers) if kept is not None}
