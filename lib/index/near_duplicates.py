"""Near-duplicates: exact Jaccard similarity over word 5-grams, across the whole corpus. Pure.

Prefix filtering (Bayardo, Ma, Srikant, WWW 2007): two sets with Jaccard similarity of at least t share an element among
the first ``n - ceil(t n) + 1`` of each when elements are ordered by rarity; so only few pairs need to be compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_N = 5
_ROUNDING = 1e-9  # 0.7 * 10 is a little over 7

Shingle = tuple[str, ...]


def shingles(text: str) -> frozenset[Shingle]:
    """The word 5-grams of a text, case folded; a text of fewer words has one: all of them."""
    words = [match.group() for match in _WORD.finditer(text.casefold())]
    if len(words) < _N:
        return frozenset([tuple(words)]) if words else frozenset()
    return frozenset(tuple(words[i : i + _N]) for i in range(len(words) - _N + 1))


def jaccard(left: frozenset[Shingle], right: frozenset[Shingle]) -> float:
    """|A ∩ B| / |A ∪ B|; two empty sets are not similar."""
    union = len(left | right)
    return len(left & right) / union if union else 0.0


def find_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Maps each dropped text to the kept one it repeats.

    Texts are taken in order; a text is dropped if a *kept* one before it is at least ``threshold`` similar (the first
    such one is named), so the result does not depend on chains of similarity.
    """
    ordered = _by_rarity([shingles(text) for text in texts])
    postings: defaultdict[int, list[int]] = defaultdict(list)
    sets = [frozenset(items) for items in ordered]
    dropped: dict[int, int] = {}
    for index, items in enumerate(ordered):
        if not items:
            continue
        prefix = items[: len(items) - math.ceil(threshold * len(items) - _ROUNDING) + 1]
        candidates = sorted({other for item in prefix for other in postings[item]})
        match = next((other for other in candidates if _similar(sets[other], sets[index], threshold)), None)
        if match is None:
            for item in prefix:
                postings[item].append(index)
        else:
            dropped[index] = match
    return dropped


def _similar(left: frozenset[int], right: frozenset[int], threshold: float) -> bool:
    small, large = sorted((len(left), len(right)))
    if small / large < threshold:
        return False
    shared = len(left & right)
    return shared / (small + large - shared) >= threshold


def _by_rarity(sets: list[frozenset[Shingle]]) -> list[list[int]]:
    """Each set as ascending integers, rarest shingle first."""
    frequency = Counter(item for items in sets for item in items)
    rank = {item: place for place, item in enumerate(sorted(frequency, key=lambda item: (frequency[item], item)))}
    return [sorted(rank[item] for item in items) for items in sets]
