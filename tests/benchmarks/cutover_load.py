"""Clients that query without a pause while the pointer moves, as docs/serving.md says that a client works.

Two synthetic releases with embedders of 384 and 768 dimensions; each row says in ``ingest_run_id`` which release it is of.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.index import serving
from lib.index.chunk_table import create_chunk_table
from lib.index.releases import Release, get_release
from lib.platform import postgres
from lib.platform.commit import committing
from lib.release.promotion import lock_pointer, move_pointer

DIMENSIONS = (384, 768)
CLIENTS = 8
_BETWEEN_MOVES_S = 0.02
_FILL = """
INSERT INTO {table} (id, doc_id, chunk_index, embedding_text, bm25_text, embedding_token_count, bm25_token_count,
    chunk_version, ingest_run_id, span_start, span_end, doc_sha256, embedding)
SELECT n, 'doc', n, 'text', 'text', 1, 1, {release}, {release}, 0, 1, '', (
    SELECT array_agg(random() + n * 0 ORDER BY i) FROM generate_series(1, {dimension}) AS i)::vector
FROM generate_series(1, {rows}) AS n;
CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops);
ANALYZE {table}
"""


@dataclass
class Seen:
    """What clients saw together."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    mixed: int = 0
    answered_by: set[str] = field(default_factory=set)

    def facts(self) -> dict[str, Any]:
        return {
            "queries": len(self.latencies_ms),
            "median_ms": statistics.median(self.latencies_ms),
            "longest_stall_ms": max(self.latencies_ms),
            "errors": len(self.errors),
            "mixed": self.mixed,
        }


def make_releases(connection: Connection, rows: int) -> list[Release]:
    """Makes both releases, of which none is live yet."""
    made = []
    for dimension in DIMENSIONS:
        release_id, name = f"release-{dimension}", f"document_chunks_{dimension}"
        table = postgres.table_identifier("public", name)
        with connection, connection.cursor() as cursor:
            create_chunk_table(connection, table, dimension)
            parts = {"release": release_id, "dimension": dimension, "rows": rows}
            cursor.execute(sql.SQL(_FILL).format(table=table, **{key: sql.Literal(value) for key, value in parts.items()}))
            cursor.execute(
                "INSERT INTO golive.releases (release_id, chunk_version, config_hash, config, table_schema, table_name,"
                " state, content_digest) VALUES (%s, %s, '', %s, 'public', %s, 'sealed', '')",
                (release_id, release_id, json.dumps({"embedder_name": name, "embedder_dimension": dimension}), name),
            )
            made.append(get_release(connection, release_id))
    return made


def move(connection: Connection, release: Release) -> float:
    """Moves the pointer to a release, as a promotion does; the milliseconds from the lock to the COMMIT's answer."""
    started = time.perf_counter()
    with committing(connection):
        move_pointer(connection, lock_pointer(connection), release, "cut-over under load", "retired")
    return (time.perf_counter() - started) * 1000


def move_often(connection: Connection, releases: list[Release], times: int) -> list[float]:
    """To one release and back to the other; the milliseconds of each move."""
    moves = []
    for release in islice(cycle(releases), times):
        moves.append(move(connection, release))
        time.sleep(_BETWEEN_MOVES_S)
    return moves


@contextmanager
def clients(url: str, *, prepared: bool) -> Iterator[Seen]:
    """Eight clients that query until the block ends."""
    seen, over = Seen(), threading.Event()
    work = _query_prepared if prepared else _query
    threads = [threading.Thread(target=_client, args=(url, work, over, seen, number)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def long_reader(url: str, releases: list[Release]) -> Iterator[None]:
    """A transaction that has read the pointer and both tables and does not end."""
    with closing(postgres.connect(url, "long reader")) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM golive.pointer")
            for release in releases:
                cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(release.table))
        yield


def _client(url: str, work: Any, over: threading.Event, seen: Seen, number: int) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        prepared: set[str] = set()
        asked = 0
        while not over.is_set():
            asked += 1
            started = time.perf_counter()
            try:
                release_id, rows = work(connection, f"{number}-{asked}", prepared)
            except Exception as error:  # whatever a client would see is what is counted
                seen.errors.append(f"{type(error).__name__}: {error}")
                continue
            seen.latencies_ms.append((time.perf_counter() - started) * 1000)
            seen.answered_by.add(release_id)
            seen.mixed += not rows or any(row["ingest_run_id"] != release_id for row in rows)


def _query(connection: Connection, request_id: str, prepared: set[str]) -> tuple[str, list[dict[str, Any]]]:
    route = serving.route(connection, request_id)
    search = sql.SQL("SELECT ingest_run_id FROM {} ORDER BY embedding <=> %s::vector LIMIT 10").format(route.table)
    return route.release_id, postgres.every(connection, search, (_vector(route.embedder["dimension"]),))


def _query_prepared(connection: Connection, request_id: str, prepared: set[str]) -> tuple[str, list[dict[str, Any]]]:
    if "route" not in prepared:
        with connection.cursor() as cursor:
            cursor.execute("PREPARE route (text) AS SELECT * FROM golive.route($1)")
        prepared.add("route")
    found = postgres.one(connection, "EXECUTE route (%s)", (request_id,))
    assert found is not None
    route = serving.Route(**found)
    name = sql.Identifier(f"search_{route.release_id}")
    if route.release_id not in prepared:
        command = "PREPARE {} (vector) AS SELECT ingest_run_id FROM {} ORDER BY embedding <=> $1 LIMIT 10"
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(command).format(name, route.table))
        prepared.add(route.release_id)
    search = sql.SQL("EXECUTE {} (%s)").format(name)
    return route.release_id, postgres.every(connection, search, (_vector(route.embedder["dimension"]),))


def _vector(dimension: int) -> str:
    return "[" + ",".join(["0.5"] * dimension) + "]"
