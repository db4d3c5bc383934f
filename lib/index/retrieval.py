"""Hybrid retrieval over one release: vector and BM25 lists, fused, reranked, filtered to the reader's budget."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig, RetrievalSettings
from lib.index.bm25 import terms_of
from lib.index.embedder import Embedder, load_embedder
from lib.index.fusion import Candidate, filter_to_budget, fuse, rank_by
from lib.index.rerank import Reranker, reranker_of
from lib.platform import postgres
from lib.platform.workspace import Workspace

SEALED_ALONE = ""  # stands for a release that no document has changed for: no release has this id

# Chosen by measurement; no answer depends on them.
_SEED_POSTINGS = 2000  # read for a first bound on the k-th best BM25 score
_PASSED_SHARE = 0.5  # of that bound, what the postings passed over may add up to

# A search of one release sees a filter where documents have changed since: the index then goes on until the list is full.
# jit would compile each query anew, which takes longer than the query.
_SETTINGS = sql.SQL(
    "SELECT set_config('jit', 'off', true), set_config('hnsw.ef_search', %(ef_search)s, true), CASE"
    " WHEN %(iterative_scan)s <> 'off' THEN set_config('hnsw.iterative_scan', %(iterative_scan)s, true)"
    " WHEN EXISTS (SELECT FROM golive.superseded WHERE release_id = %(release_id)s)"
    " THEN set_config('hnsw.iterative_scan', 'strict_order', true) END"
)


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

    @classmethod
    def of(
        cls, connection: Connection, release_id: str, table: sql.Identifier, config: LockedConfig, embedder: Embedder
    ) -> Retriever:
        """The one that ranks as the release's config says: what is measured is made like what answers live queries."""
        return cls(connection, release_id, table, config, embedder, reranker_of(config, embedder))

    def retrieve(self, query: str) -> Retrieved:
        """One round trip to the database; deterministic for equal inputs and an unchanged table."""
        started = time.perf_counter()
        snapshot = fuse(self.candidates(query), self.config.retrieval)
        ranked = rank_by(snapshot, self.reranker.score(query, snapshot))
        context = filter_to_budget(ranked, self.config.filter.max_chunks, self.config.filter.max_tokens)
        return Retrieved(self.release_id, query, ranked, context, (time.perf_counter() - started) * 1000)

    def candidates(self, query: str) -> list[Candidate]:
        """Both lists of a query, not yet fused, in no order; ``vector_rank`` and ``bm25_rank`` say where each stands."""
        rows = self._search(query, self.embedder.embed_query(query).tolist())
        return [Candidate(**{**row, "duplicates": tuple(row["duplicates"])}) for row in rows]

    def _search(self, query: str, vector: list[float]) -> list[dict[str, Any]]:
        return search_lists(self.connection, self.table, self.config.retrieval, query, vector, self.release_id)


def search_lists(
    connection: Connection,
    table: sql.Identifier,
    settings: RetrievalSettings,
    query: str,
    vector: list[float],
    release_id: str = SEALED_ALONE,
) -> list[dict[str, Any]]:
    """The rows of both lists of a query as search.sql gives them, in no order.

    Args:
        release_id: whose documents changed since the seal are searched in their place; without one, the sealed table alone.
    """
    parameters: dict[str, Any] = {
        "query": query,
        "embedding": "[" + ",".join(map(repr, vector)) + "]",
        "release_id": release_id,
        "search_config": settings.text_search_config,
        "vector_top_k": settings.vector_top_k,
        "bm25_top_k": settings.bm25_top_k,
        "ef_search": str(settings.hnsw_ef_search),
        "iterative_scan": settings.hnsw_iterative_scan,
        "seed_postings": _SEED_POSTINGS,
        "passed_share": _PASSED_SHARE,
    }
    search = postgres.compose(__file__, "search", table=table, terms=terms_of(table))
    with _one_message(connection):
        return postgres.every(connection, sql.SQL(";\n").join((_SETTINGS, search)), parameters)


@contextmanager
def _one_message(connection: Connection) -> Iterator[None]:
    """Statements sent together are a transaction by themselves: BEGIN and COMMIT would be two more round trips.

    Inside a transaction of the caller's they become a part of that.
    """
    if connection.autocommit or connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
        yield
        return
    connection.autocommit = True
    try:
        yield
    finally:
        if not connection.closed:
            connection.autocommit = False


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
            embedder = load_embedder(self._workspace, config)
            self._current = Retriever.of(self._connection, route["release_id"], table, config, embedder)
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
