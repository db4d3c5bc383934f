"""How strongly a text hangs together at each of its words: where its vocabulary changes, its subject does. Pure.

The measure is that of lexical chains: repeated words tie what stands before a place to what stands after it (Morris and
Hirst 1991; Hearst, "TextTiling", Computational Linguistics 23:1, 1997). It takes whole numbers alone, so that every
machine breaks a text at the same places, and time in proportion to the text, whatever it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Chosen with the least fills of lib.index.chunking, on the same questions.
_REACH = 100  # words; a word that comes again farther away ties nothing
_COMMON = 3  # bits: a word that is one in eight or more ties nothing


def ties_over(stems: NDArray[np.int64]) -> NDArray[np.int64]:
    """``int64[n_words]``: before each word of a text, the weight of the words that come again across that place.

    Counted is each pair of a word and its next occurrence, which has the same of ``stems`` (``int64[n_words]``; 0 for one
    that is not compared). A pair weighs more the rarer its word is in the text: the bits of how many words there are to one
    of it.
    """
    import numpy as np

    n_words = len(stems)
    bits = n_words.bit_length()
    stems_and_places = np.sort(stems.astype(np.uint64) << np.uint64(bits) | np.arange(n_words, dtype=np.uint64))
    place = (stems_and_places & np.uint64((1 << bits) - 1)).astype(np.int64)
    stem = stems_and_places >> np.uint64(bits)
    again = stem[1:] == stem[:-1]
    group = np.cumsum(np.concatenate([[0], ~again]))
    one_in = n_words // np.bincount(group)
    weights = np.maximum(np.frexp(one_in)[1] - _COMMON, 0)  # frexp: the bits, exactly
    tied = again & (np.diff(place) <= _REACH) & (stem[1:] != 0)
    weight = weights[group[1:][tied]]
    # sums of whole numbers in float64 are exact
    opened = np.bincount(place[:-1][tied] + 1, weight, n_words + 1)
    closed = np.bincount(place[1:][tied] + 1, weight, n_words + 1)
    return np.cumsum(opened - closed)[:-1].astype(np.int64)
