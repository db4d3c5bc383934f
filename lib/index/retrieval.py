"""Hybrid retrieval over one release: vector and BM25 lists, fused, reranked, filtered to the reader's budget."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.embedder import Embedder, load_embedder
from lib.index.fusion import Candidate, filter_to_budget, fuse, rank_by
from lib.index.rerank import Reranker, load_reranker
from lib.platform import postgres
from lib.platform.workspace import Workspace


@dataclass(frozen=True)
class Retrieved:
    """What one query got: the snapshot in reranked order, and the part of it that the reader is shown."""

    release_id: str
    query: str
    snapshot: list[Candidate]
    context: list[Candidate]
    latency_ms: float


@dataclass(frozen=True)
class Retriever:
    """Searches the table of one release with that release's own embedder and settings."""

    connection: Connection
    release_id: str
    table: sql.Identifier
    config: LockedConfig
    embedder: Embedder
    reranker: Reranker

    def retrieve(self, query: str) -> Retrieved:
        """One round trip to the database; deterministic for equal inputs and an unchanged table."""
        started = time.perf_counter()
        settings = self.config.retrieval
        vector = self.embedder.embed_query(query)
        parameters: dict[str, Any] = {
            "query": query,
            "embedding": "[" + ",".join(map(repr, vector.tolist())) + "]",
            "search_config": settings.text_search_config,
            "vector_top_k": settings.vector_top_k,
            "bm25_top_k": settings.bm25_top_k,
        }
        with self.connection:
            set_ef = sql.SQL("SET LOCAL hnsw.ef_search = {};\n").format(sql.Literal(settings.hnsw_ef_search))
            search = set_ef + postgres.compose(__file__, "search", table=self.table)
            rows = postgres.every(self.connection, search, parameters)
        found = [Candidate(**{**row, "duplicates": tuple(row["duplicates"])}) for row in rows]
        snapshot = fuse(found, settings.rrf_k, settings.snapshot_size)
        ranked = rank_by(snapshot, self.reranker.score(query, snapshot))
        context = filter_to_budget(ranked, self.config.filter.max_chunks, self.config.filter.max_tokens)
        return Retrieved(self.release_id, query, ranked, context, (time.perf_counter() - started) * 1000)


class LiveRetriever:
    """Follows the pointer: every query reads release, table and embedder together, and is refused while stopped."""

    def __init__(self, connection: Connection, workspace: Workspace) -> None:
        self._connection = connection
        self._workspace = workspace
        self._current: Retriever | None = None

    def retrieve(self, query: str) -> Retrieved:
        """Raises Refused while queries are stopped, NotFound where no release is live."""
        retriever = self._route()
        found = retriever.retrieve(query)
        self._log(found)
        return found

    def _route(self) -> Retriever:
        try:
            with self._connection:
                route = postgres.one(self._connection, "SELECT * FROM golive.route()")
        except psycopg2.Error as error:
            raise postgres.translate(error) or error from error
        assert route is not None, "route() raises where it has no row"
        table = postgres.table_identifier(route["table_schema"], route["table_name"])
        if self._current is None or (self._current.release_id, self._current.table) != (route["release_id"], table):
            config = LockedConfig.from_dict(route["config"])
            self._current = Retriever(
                connection=self._connection,
                release_id=route["release_id"],
                table=table,
                config=config,
                embedder=load_embedder(self._workspace, config),
                reranker=load_reranker(config.rerank.model),
            )
        return self._current

    def _log(self, found: Retrieved) -> None:
        scores = [candidate.rerank_score for candidate in found.context]
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO golive.query_logs"
                " (release_id, query_sha256, snapshot_size, context_size, mean_rerank_score, latency_ms)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (
                    found.release_id,
                    hashlib.sha256(found.query.encode()).hexdigest(),
                    len(found.snapshot),
                    len(found.context),
                    sum(scores) / len(scores) if scores else None,
                    found.latency_ms,
                ),
            )
