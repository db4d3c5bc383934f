"""Loading rows into a chunk table: ours, which encodes them on the way, against COPY of a binary file made before."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.index.chunk_table import create_chunk_table
from lib.index.ingest import ChunkRow
from lib.index.loading import COLUMNS, values_of
from lib.index.releases import Release
from lib.platform import binary_copy, embedded, postgres
from lib.platform.workspace import Workspace
from tests.benchmarks.harness import SHARED_DATA, Comparison, alternate, median_s

ROWS = 50_000
DIMENSION = 384
_CHARACTERS = 2048
_CALL_ROWS = 128  # as the pipeline loads them
_RELEASE = Release("r", "v", "", {}, "public", "loaded", "building", None, None, None, {}, datetime.now(UTC), None)
_PEER = "prebuilt binary COPY"


def run() -> list[Comparison]:
    rows, vectors = rows_with_vectors()
    prebuilt = b"".join(binary_copy.encode(list(COLUMNS.values()), values(rows, vectors)))
    with _server() as connection:

        def load(part: slice) -> None:
            with connection, connection.cursor() as cursor:
                binary_copy.copy_binary(cursor, _RELEASE.table, COLUMNS, values(rows[part], vectors[part]))

        def in_calls() -> None:
            for start in range(0, len(rows), _CALL_ROWS):
                load(slice(start, start + _CALL_ROWS))

        def file() -> None:
            command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)")
            names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
            with connection, connection.cursor() as cursor:
                cursor.copy_expert(command.format(_RELEASE.table, names), io.BytesIO(prebuilt), size=1 << 20)

        systems = {"ours": lambda: load(slice(None)), "ours, a commit every 128 rows": in_calls, _PEER: file}
        runs = alternate({name: _into_empty(connection, work) for name, work in systems.items()})
    return [
        Comparison(
            name=label,
            ratio=median_s(runs, _PEER) / median_s(runs, system),
            target=target,
            against=_PEER,
            runs=[run for run in runs if run.system in (system, _PEER)],
        )
        for label, system, target in (
            ("load", "ours", 0.8),
            ("load as the pipeline does", "ours, a commit every 128 rows", None),
        )
    ]


def _into_empty(connection: Connection, work: Callable[[], None]) -> Callable[[], dict[str, Any]]:
    """``work`` into an emptied table; returns how many rows and bytes are there then."""

    def measured() -> dict[str, Any]:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("TRUNCATE {}").format(_RELEASE.table))
        work()
        query = sql.SQL("SELECT count(*) AS rows, pg_total_relation_size({}) / 1048576 AS mib FROM {}")
        with connection:
            name = sql.Literal(postgres.quoted_name(_RELEASE.table_schema, _RELEASE.table_name))
            found = postgres.one(connection, query.format(name, _RELEASE.table))
        assert found is not None
        assert found["rows"] == ROWS
        return found

    return measured


def rows_with_vectors(count: int = ROWS) -> tuple[list[ChunkRow], np.ndarray]:
    """Rows of real text, each a different piece of it, and random unit vectors."""
    files = sorted((SHARED_DATA / "chroma_chunking" / "corpora").iterdir())
    text = "".join(file.read_text(encoding="utf-8").replace("\0", "") for file in files)
    step = (len(text) - _CHARACTERS) // count
    rows = []
    for number in range(count):
        piece = text[number * step : number * step + _CHARACTERS]
        row = ChunkRow(
            chunk_id=f"doc{number // 20}#{number % 20}",
            doc_id=f"doc{number // 20}",
            chunk_index=number % 20,
            embedding_text=f"Document: {number}\n{piece}",
            bm25_text=piece,
            embedding_token_count=450,
            bm25_token_count=440,
            span_start=number,
            span_end=number + len(piece),
            doc_sha256="0" * 64,
        )
        rows.append(row)
    vectors = np.random.default_rng(42).standard_normal((count, DIMENSION), dtype=np.float32)
    return rows, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def values(rows: list[ChunkRow], vectors: np.ndarray, release: Release = _RELEASE) -> Iterator[tuple[Any, ...]]:
    """The rows as they go into a release's table."""
    return (values_of(row, vector, release) for row, vector in zip(rows, vectors, strict=True))


@contextmanager
def _server() -> Iterator[Connection]:
    """A connection to a PostgreSQL of this benchmark's own, with the empty table."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        connection = postgres.connect(embedded.address(workspace), "benchmark")
        try:
            postgres.create_state(connection)
            with connection:
                create_chunk_table(connection, _RELEASE.table, DIMENSION)
            yield connection
        finally:
            connection.close()
            embedded.stop(workspace)
