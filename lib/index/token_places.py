"""The places at which a text may be cut without changing its tokens, and the tokens before each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenPlaces:
    """``offsets`` (``int64[n]``, characters, ascending) and ``before`` (``int64[n + 1]``): tokens before each, and in all.

    Where ``exact``, a piece between two of the offsets has just the tokens that ``before`` says; else about as many.
    ``stems`` (``int64[n_words]``) has for each word, as ``str.split`` finds them, a number for its stem, or 0.
    """

    offsets: NDArray[np.int64]
    before: NDArray[np.int64]
    exact: bool
    stems: NDArray[np.int64]

    @classmethod
    def of_tokens(cls, starts: Sequence[int], stems: NDArray[np.int64]) -> TokenPlaces:
        """Where each token starts, in the whole text: a tokenizer may find other tokens in a piece of it."""
        import numpy as np

        return cls(np.array(starts, np.int64), np.arange(len(starts) + 1), exact=False, stems=stems)
