"""A shadow table's rows: which are there, which have to go, and how rows with their vectors go in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import execute_values

from lib.index.ingest import ChunkRow
from lib.index.releases import Release
from lib.platform import binary_copy, postgres
from lib.platform.errors import IntegrityMismatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS: dict[str, binary_copy.Encoder] = {
    "id": binary_copy.text,
    "doc_id": binary_copy.text,
    "chunk_index": binary_copy.int4,
    "embedding_text": binary_copy.text,
    "bm25_text": binary_copy.text,
    "embedding_token_count": binary_copy.int4,
    "bm25_token_count": binary_copy.int4,
    "chunk_version": binary_copy.text,
    "ingest_run_id": binary_copy.text,
    "span_start": binary_copy.int4,
    "span_end": binary_copy.int4,
    "doc_sha256": binary_copy.text,
    "embedding": binary_copy.vector,
}
_NO_MODIFIER = -1


class TableRows:
    """The rows of a table that is being built, held against what they should be; every method that writes commits.

    A row's fingerprint is the SHA-256 of all that decides it but its vector, which follows from its text.
    """

    def __init__(self, connection: Connection, release: Release) -> None:
        """Raises IntegrityMismatch where the table is not one of this release, or holds rows of another."""
        self._connection = connection
        self._release = release
        self._opened = False
        with connection:
            _check_columns(connection, release)
            rows = postgres.every(connection, postgres.compose(__file__, "fingerprints", table=release.table))
        foreign = [row["id"] for row in rows if row["ingest_run_id"] != release.release_id]
        if foreign:
            raise IntegrityMismatch(
                f"table {release.table_name} holds rows of another ingest",
                detail=f"{len(foreign)} rows, {foreign[0]} among them",
                hint="lock again: the table is left as it is",
            )
        self._there: dict[str, bytes] = {row["id"]: bytes(row["fingerprint"]) for row in rows}
        self._stale: set[str] = set()

    def lacks(self, row: ChunkRow) -> bool:
        """Whether a row has to be loaded; asked once of every row that the table should have."""
        there = self._there.pop(row.chunk_id, None)
        if there == fingerprint(row):
            return False
        if there is not None:
            self._stale.add(row.chunk_id)
        return True

    def load(self, rows: Sequence[ChunkRow], vectors: NDArray[np.float32]) -> None:
        """Loads rows with their vectors, ``float32[n_rows, dimension]``, in place of outdated ones of the same ids."""
        stale = [row.chunk_id for row in rows if row.chunk_id in self._stale]
        with self._connection, self._connection.cursor() as cursor:
            self._open(cursor)
            self._delete(cursor, stale)
            values = (values_of(row, vector, self._release) for row, vector in zip(rows, vectors, strict=True))
            binary_copy.copy_binary(cursor, self._release.table, COLUMNS, values)

    def remove_rest(self) -> int:
        """Deletes the rows that ``lacks`` was not asked about; returns how many."""
        rest = list(self._there)
        if rest:
            with self._connection, self._connection.cursor() as cursor:
                self._open(cursor)
                self._delete(cursor, rest)
        return len(rest)

    def record_duplicates(self, duplicates: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Makes each row say what was dropped in its favour; only rows that say something else are written."""
        table = self._release.table
        with self._connection, self._connection.cursor() as cursor:
            query = sql.SQL("SELECT id, duplicates FROM {} WHERE duplicates <> '[]'").format(table)
            there = {row["id"]: row["duplicates"] for row in postgres.every(self._connection, query)}
            wanted: dict[str, list[Mapping[str, Any]]] = {chunk_id: [] for chunk_id in there}
            wanted |= {chunk_id: list(found) for chunk_id, found in duplicates.items() if found}
            changed = [(key, json.dumps(value)) for key, value in wanted.items() if there.get(key, []) != value]
            if changed:
                self._open(cursor)
                update = sql.SQL(
                    "UPDATE {} c SET duplicates = v.found::jsonb FROM (VALUES %s) AS v (id, found) WHERE c.id = v.id"
                )
                execute_values(cursor, update.format(table), changed, page_size=1000)

    def _open(self, cursor: Any) -> None:
        """Before the first write: drops the indexes of an earlier attempt, beside which a row costs many times more.

        Term weights are of the whole collection, so they too are made again once a row has changed.
        """
        if self._opened:
            return
        self._opened = True
        cursor.execute(
            "UPDATE golive.releases SET ingest_stats = ingest_stats - 'indexed' WHERE release_id = %s"
            " AND ingest_stats ? 'indexed'",
            (self._release.release_id,),
        )
        for name in _secondary_indexes(self._connection, self._release):
            cursor.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(self._release.table_schema, name)))

    def _delete(self, cursor: Any, chunk_ids: list[str]) -> None:
        if chunk_ids:
            cursor.execute(sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._release.table), (chunk_ids,))


def values_of(row: ChunkRow, vector: NDArray[np.float32], release: Release) -> tuple[Any, ...]:
    """A row's fields in the order of ``COLUMNS``."""
    return (
        row.chunk_id,
        row.doc_id,
        row.chunk_index,
        row.embedding_text,
        row.bm25_text,
        row.embedding_token_count,
        row.bm25_token_count,
        release.chunk_version,
        release.release_id,
        row.span_start,
        row.span_end,
        row.doc_sha256,
        vector,
    )


def fingerprint(row: ChunkRow) -> bytes:
    """As sql/fingerprints.sql computes it of the row in the table."""
    facts = (row.doc_id, row.chunk_index, row.embedding_token_count, row.bm25_token_count, row.span_start, row.span_end)
    texts = (row.doc_sha256, len(row.embedding_text), row.embedding_text, row.bm25_text)
    return hashlib.sha256("\x1f".join(map(str, (*facts, *texts))).encode()).digest()


def _secondary_indexes(connection: Connection, release: Release) -> list[str]:
    query = (
        "SELECT c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = to_regclass(%s) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)"
    )
    table = postgres.quoted_name(release.table_schema, release.table_name)
    return [row["name"] for row in postgres.every(connection, query, (table,))]


def _check_columns(connection: Connection, release: Release) -> None:
    """Raises IntegrityMismatch where the table was left by another Golive, or for vectors of another width."""
    table = postgres.quoted_name(release.table_schema, release.table_name)
    query = (
        "SELECT attname AS name, atttypmod AS modifier FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
    )
    there = {row["name"]: row["modifier"] for row in postgres.every(connection, query, (table,))}
    missing = [name for name in COLUMNS if name not in there]
    width, locked = there.get("embedding", _NO_MODIFIER), release.locked_config.embedder_dimension
    if missing:
        wrong = f"it lacks {', '.join(missing)}"
    elif width != locked:
        wrong = f"its vectors have {width} dimensions, the locked embedder's {locked}"
    else:
        return
    raise IntegrityMismatch(
        f"table {release.table_name} is not one of this config",
        detail=wrong,
        hint="lock again: the table is left as it is",
    )
