"""Fusing, reranking without a model, and filtering: what becomes of two candidate lists. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lib.config.locked_config import RetrievalSettings
from lib.platform.errors import IntegrityMismatch


class Place(NamedTuple):
    """A span of one version of a document: characters, end exclusive; the version by its content's SHA-256."""

    doc_id: str
    start: int
    end: int
    doc_sha256: str


@dataclass(frozen=True)
class Candidate:
    """One retrieved chunk. Ranks count from 1 and are None where a list did not have it; tokens leave special ones out."""

    chunk_id: str
    doc_id: str
    span_start: int
    span_end: int
    bm25_text: str
    embedding_text: str
    embedding_token_count: int
    bm25_token_count: int
    doc_sha256: str
    duplicates: tuple[dict[str, Any], ...]
    vector_rank: int | None
    bm25_rank: int | None
    similarity: float
    bm25_score: float
    fused_score: float = 0.0
    rerank_score: float = 0.0

    @property
    def places(self) -> list[Place]:
        """Where its text stands: its own place, then those of the near-duplicates it replaced."""
        repeats = [Place(d["doc_id"], d["start"], d["end"], d["doc_sha256"]) for d in self.duplicates]
        return [Place(self.doc_id, self.span_start, self.span_end, self.doc_sha256), *repeats]


def fuse(candidates: Sequence[Candidate], settings: RetrievalSettings) -> list[Candidate]:
    """The best ``snapshot_size`` by the locked fusion, ``rrf`` or ``convex``; ties go to the smaller chunk id."""
    if settings.fusion == "convex":
        scores = combine_scores(candidates, settings.vector_weight)
    else:
        scores = reciprocal_ranks(candidates, settings.rrf_k)
    scored = [replace(c, fused_score=score) for c, score in zip(candidates, scores, strict=True)]
    return sorted(scored, key=lambda c: (-c.fused_score, c.chunk_id))[: settings.snapshot_size]


def reciprocal_ranks(candidates: Sequence[Candidate], rrf_k: int) -> list[float]:
    """Reciprocal rank fusion: score(d) = Σ 1 / (k + rank of d in each list) (Cormack, Clarke, Büttcher, SIGIR 2009)."""
    return [sum(1.0 / (rrf_k + rank) for rank in (c.vector_rank, c.bm25_rank) if rank is not None) for c in candidates]


def combine_scores(candidates: Sequence[Candidate], vector_weight: float = 0.5) -> list[float]:
    """The weighed mean of cosine similarity and BM25 score, each scaled to 0..1 over the candidates.

    Both scores of every candidate are the true ones, whichever list it came from. A convex combination keeps how far apart
    scores lie, which ranks throw away (Bruch, Gai, Ingber, TOIS 2023).
    """
    similarities = _scaled([candidate.similarity for candidate in candidates])
    words = _scaled([candidate.bm25_score for candidate in candidates])
    return [vector_weight * left + (1 - vector_weight) * right for left, right in zip(similarities, words, strict=True)]


def rank_by(snapshot: Sequence[Candidate], scores: Sequence[float]) -> list[Candidate]:
    """The snapshot in the order of new scores, best first; ties keep the fused order.

    Raises:
        IntegrityMismatch: a score is not finite.
    """
    for candidate, score in zip(snapshot, scores, strict=True):
        if not math.isfinite(score):
            raise IntegrityMismatch(
                "the reranker gave a score that is not finite", detail=f"for chunk {candidate.chunk_id}"
            )
    scored = [replace(candidate, rerank_score=score) for candidate, score in zip(snapshot, scores, strict=True)]
    return sorted(scored, key=lambda c: (-c.rerank_score, -c.fused_score, c.chunk_id))


def filter_to_budget(ranked: Sequence[Candidate], max_chunks: int, max_tokens: int) -> list[Candidate]:
    """The first chunks that fit the reader's budget; a chunk that does not fit is passed over."""
    kept: list[Candidate] = []
    left = max_tokens
    for candidate in ranked:
        if len(kept) == max_chunks:
            break
        if candidate.bm25_token_count <= left:
            kept.append(candidate)
            left -= candidate.bm25_token_count
    return kept


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
