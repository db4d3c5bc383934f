"""Rerankers: a snapshot and its query in, one score a chunk out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from lib.config.locked_config import LockedConfig
from lib.index.embedder import Embedder, TokenEmbedder
from lib.index.fusion import Candidate, combine_scores
from lib.platform.errors import ConfigInvalid, Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUILT_IN = ("score_combination", "late_interaction", "none")


class Reranker(Protocol):
    """Scores a snapshot; higher is better."""

    name: str

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]: ...


class ScoreCombination:
    """Needs no model: combines the two scores that retrieval already has, with the locked share of the vector."""

    name = "score_combination"

    def __init__(self, vector_weight: float = 0.5) -> None:
        self._vector_weight = vector_weight

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]:
        return combine_scores(snapshot, self._vector_weight)


class KeepOrder:
    """No reranking: the fused order stands."""

    name = "none"

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]:
        return [candidate.fused_score for candidate in snapshot]


class LateInteraction:
    """MaxSim over the embedder's own token vectors, added to the combined scores for the first chunks of the snapshot.

    MaxSim(q, d) = mean over the query's tokens of the largest cosine with a token of d (Khattab and Zaharia, SIGIR 2020).
    Chunks after the first ``_DEPTH`` keep their order behind them. Token vectors are kept by text, the least recently used
    go first: at most 256 MiB in 16-bit floats, which is 700 chunks of 450 tokens at 384 dimensions.
    """

    name = "late_interaction"
    _DEPTH = 20
    _SHARE = 0.5  # of MaxSim beside the combined score; measured on four collections
    _CACHE_BYTES = 256 * 2**20
    _BATCH = 8

    def __init__(self, embedder: TokenEmbedder, vector_weight: float = 0.5) -> None:
        self._embedder = embedder
        self._vector_weight = vector_weight
        self._cache: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        self._bytes = 0

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]:
        """The combined score, for the first chunks plus half of their MaxSim scaled to 0..1, for the rest less 1."""
        combined = combine_scores(snapshot, self._vector_weight)
        order = sorted(range(len(snapshot)), key=lambda place: (-combined[place], place))
        first = order[: self._DEPTH]
        maxsim = self._maxsim(query, [snapshot[place].embedding_text for place in first])
        low, high = min(maxsim, default=0.0), max(maxsim, default=0.0)
        scores = [score - 1 for score in combined]
        for place, found in zip(first, maxsim, strict=True):
            scores[place] = combined[place] + (self._SHARE * (found - low) / (high - low) if high > low else 0.0)
        return scores

    def _maxsim(self, query: str, texts: Sequence[str]) -> list[float]:
        """0 for every text where the query or the text has no token."""
        asked = self._embedder.embed_tokens([query])[0] if texts else None
        if asked is None or not len(asked):
            return [0.0] * len(texts)
        vectors = self._token_vectors(texts)
        return [float((asked @ found.T.astype(asked.dtype)).max(axis=1).mean()) if len(found) else 0.0 for found in vectors]

    def _token_vectors(self, texts: Sequence[str]) -> list[NDArray[np.float16]]:
        import numpy as np

        found = {text: self._cache[text] for text in texts if text in self._cache}
        missing = sorted({text for text in texts if text not in found}, key=len)  # alike in length: little is padded
        for start in range(0, len(missing), self._BATCH):
            batch = missing[start : start + self._BATCH]
            for text, whole in zip(batch, self._embedder.embed_tokens(batch), strict=True):
                found[text] = whole.astype(np.float16)
        for text, vectors in found.items():
            self._keep(text, vectors)
        return [found[text] for text in texts]

    def _keep(self, text: str, vectors: NDArray[np.float16]) -> None:
        if text not in self._cache:
            self._cache[text] = vectors
            self._bytes += vectors.nbytes
        self._cache.move_to_end(text)
        while self._bytes > self._CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._bytes -= dropped.nbytes


class CrossEncoderReranker:
    """A sentence-transformers cross-encoder, by Hugging Face name or folder."""

    def __init__(self, name: str) -> None:
        from sentence_transformers import CrossEncoder

        try:
            self._model = CrossEncoder(name, device="cpu", local_files_only=Path(name).exists())
        except Exception as error:  # the hub client raises many kinds; every one means that the model is not to be had
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise Unavailable(
                f"the reranker {name} does not load", detail=reason, hint="rerank.model in the config"
            ) from error
        self.name = name

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]:
        pairs = [(query, candidate.bm25_text) for candidate in snapshot]
        return [float(score) for score in self._model.predict(pairs, show_progress_bar=False)]


def reranker_of(config: LockedConfig, embedder: Embedder) -> Reranker:
    """The reranker of a release, as its config names and weighs it; raises as ``load_reranker``."""
    return load_reranker(config.rerank.model, embedder, config.retrieval.vector_weight)


def load_reranker(name: str, embedder: Embedder | None = None, vector_weight: float = 0.5) -> Reranker:
    """The reranker of that name, built in or a cross-encoder.

    Args:
        embedder: the release's own; only late interaction needs it.
        vector_weight: ``retrieval.vector_weight``, the vector's share where both scores are combined.

    Raises:
        ConfigInvalid: late interaction with an embedder that shows no token vectors.
        Unavailable: a cross-encoder's files are not here and cannot be fetched.
    """
    if name == ScoreCombination.name:
        return ScoreCombination(vector_weight)
    if name == KeepOrder.name:
        return KeepOrder()
    if name == LateInteraction.name:
        if not hasattr(embedder, "embed_tokens"):
            raise ConfigInvalid(
                "rerank.model late_interaction needs an embedder that gives token vectors",
                hint="a local embedder_runtime, or rerank.model: score_combination",
            )
        return LateInteraction(cast("TokenEmbedder", embedder), vector_weight)
    return CrossEncoderReranker(name)
