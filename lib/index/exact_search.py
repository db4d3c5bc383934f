"""Looking at every row of a release: exact search, and the chunks of a document. What a lost case is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib.index.fusion import Candidate, fuse
from lib.index.retrieval import Retriever
from lib.platform import postgres


@dataclass(frozen=True)
class Ranks:
    """Where a chunk stands in each whole list, from 1; ``bm25`` is None where it holds no word of the query."""

    vector: int
    bm25: int | None


@dataclass(frozen=True)
class ExactResult:
    """``snapshot``: what the query would have got, fused and not yet reranked. ``ranks``: of the chunks asked about."""

    snapshot: list[Candidate]
    ranks: dict[str, Ranks]


@dataclass(frozen=True)
class ExactSearch:
    """Exact search over the release that a retriever searches; each call reads the whole table."""

    retriever: Retriever

    def chunks_of(self, doc_ids: Sequence[str]) -> list[Candidate]:
        """The chunks that answer with a text of these documents, those that stand for a near-duplicate included."""
        with self.retriever.connection:
            return self._chunks(doc_ids=doc_ids)

    def search(self, query: str, chunk_ids: Sequence[str]) -> ExactResult:
        """What ``query`` finds where no index is asked, and the ranks of ``chunk_ids``, as far as they answer at all."""
        settings = self.retriever.config.retrieval
        vector = self.retriever.embedder.embed_query(query).tolist()
        parameters: dict[str, Any] = {
            "query": query,
            "embedding": "[" + ",".join(map(repr, vector)) + "]",
            "release_id": self.retriever.release_id,
            "search_config": settings.text_search_config,
            "vector_top_k": settings.vector_top_k,
            "bm25_top_k": settings.bm25_top_k,
            "chunk_ids": list(chunk_ids),
        }
        with self.retriever.connection:
            search = postgres.compose(__file__, "exact_search", table=self.retriever.table)
            found = {row["id"]: row for row in postgres.every(self.retriever.connection, search, parameters)}
            chunks = self._chunks(chunk_ids=list(found))
        listed = [_listed(chunk, found[chunk.chunk_id], settings.vector_top_k, settings.bm25_top_k) for chunk in chunks]
        within = [chunk for chunk in listed if chunk.vector_rank is not None or chunk.bm25_rank is not None]
        asked = [found[chunk_id] for chunk_id in chunk_ids if chunk_id in found]
        ranks = {row["id"]: Ranks(row["vector_rank"], row["bm25_rank"]) for row in asked}
        return ExactResult(fuse(within, settings), ranks)

    def _chunks(self, *, doc_ids: Sequence[str] = (), chunk_ids: Sequence[str] = ()) -> list[Candidate]:
        query = postgres.compose(__file__, "answering_chunks", table=self.retriever.table)
        parameters = {
            "release_id": self.retriever.release_id,
            "doc_ids": list(doc_ids),
            "chunk_ids": list(chunk_ids),
        }
        unranked = {"vector_rank": None, "bm25_rank": None, "similarity": 0.0, "bm25_score": 0.0}
        rows = postgres.every(self.retriever.connection, query, parameters)
        return [Candidate(**{**row, **unranked, "duplicates": tuple(row["duplicates"])}) for row in rows]


def _listed(chunk: Candidate, row: dict[str, Any], vector_top_k: int, bm25_top_k: int) -> Candidate:
    """A chunk with its scores, and with its ranks in the lists that take it."""
    vector_rank, bm25_rank = row["vector_rank"], row["bm25_rank"]
    return replace(
        chunk,
        similarity=row["similarity"],
        bm25_score=row["score"],
        vector_rank=vector_rank if vector_rank <= vector_top_k else None,
        bm25_rank=bm25_rank if bm25_rank is not None and bm25_rank <= bm25_top_k else None,
    )
