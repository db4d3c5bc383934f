"""How strongly a text hangs together at each of its words: where its vocabulary changes, its subject does. Pure.

The measure is that of lexical chains: repeated words tie what stands before a place to what stands after it (Morris and
Hirst 1991; Hearst, "TextTiling", Computational Linguistics 23:1, 1997). It takes whole numbers alone, so that every
machine breaks a text at the same places, and time in proportion to the text, whatever it holds.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Chosen with the least fills of lib.index.chunking, on the same questions.
_REACH = 100  # words; a word that comes again farther away ties nothing
_STEM = 6  # characters: enough to tell words apart, few enough to leave out most endings
_COMMON = 3  # bits: a word that is one in eight or more ties nothing
_AROUND = string.punctuation + "…“”‘’«»、。！？"


def ties_over(text: str) -> NDArray[np.int64]:
    """``int64[n_words]``: before each word of ``text.split()``, the weight of the words that come again across that place.

    Counted is each pair of a word and its next occurrence. A pair weighs more the rarer its word is in the text: the bits
    of how many words there are to one of it.
    """
    import numpy as np

    words = text.split()
    number_of: dict[str, int] = dict.fromkeys(words, 0)
    numbers = {"": 0}
    stems = [word.strip(_AROUND)[:_STEM].lower() for word in number_of]
    number_of.update(zip(number_of, [numbers.setdefault(stem, len(numbers)) for stem in stems], strict=True))
    stem_of = np.fromiter(map(number_of.__getitem__, words), np.int64, len(words))
    one_in = len(words) // np.maximum(np.bincount(stem_of, minlength=len(numbers)), 1)
    weights = np.maximum(np.frexp(one_in)[1] - _COMMON, 0)  # frexp: the bits, exactly
    weights[0] = 0
    order = np.argsort(stem_of, kind="stable")
    first, again = order[:-1], order[1:]
    tied = (stem_of[first] == stem_of[again]) & (again - first <= _REACH)
    first, again = first[tied], again[tied]
    weight = weights[stem_of[first]]
    # sums of whole numbers in float64 are exact
    change = np.bincount(first + 1, weight, len(words) + 1) - np.bincount(again + 1, weight, len(words) + 1)
    return np.cumsum(change)[:-1].astype(np.int64)
