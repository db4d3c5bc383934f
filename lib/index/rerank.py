"""Rerankers: a snapshot and its query in, one score a chunk out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lib.index.fusion import Candidate, combine_scores
from lib.platform.errors import Unavailable

BUILT_IN = ("score_combination", "none")


class Reranker(Protocol):
    """Scores a snapshot; higher is better."""

    name: str

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]: ...


class ScoreCombination:
    """Needs no model: combines the two scores that retrieval already has."""

    name = "score_combination"

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]:
        return combine_scores(snapshot)


class KeepOrder:
    """No reranking: the fused order stands."""

    name = "none"

    def score(self, query: str, snapshot: Sequence[Candidate]) -> list[float]:
        return [candidate.fused_score for candidate in snapshot]


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


def load_reranker(name: str) -> Reranker:
    """Raises Unavailable where a cross-encoder's files are not here and cannot be fetched."""
    if name == ScoreCombination.name:
        return ScoreCombination()
    if name == KeepOrder.name:
        return KeepOrder()
    return CrossEncoderReranker(name)
