"""Content digests and seals: what makes "only what was evaluated goes live" checkable."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.platform import postgres


@dataclass(frozen=True)
class Content:
    """How many rows a table has, and the digest of what they hold."""

    row_count: int
    digest: str


def content_of(connection: Connection, schema: str, table: str) -> Content | None:
    """Counts and digests a chunk table; None where there is no such table. The caller owns the transaction."""
    if not postgres.table_exists(connection, schema, table):
        return None
    return content(connection, chunk_hashes(postgres.table_identifier(schema, table)))


def chunk_hashes(table: sql.Identifier) -> sql.Composed:
    """The query of the hash of every row of a chunk table."""
    return postgres.compose(__file__, "chunk_hashes", table=table)


def content(connection: Connection, hashes: sql.Composable) -> Content:
    """What a query of the hash of every row comes to. The caller owns the transaction."""
    found = postgres.one(connection, postgres.compose(__file__, "content_digest", hashes=hashes))
    assert found is not None
    return Content(found["row_count"], found["digest"])


def seal(connection: Connection, table: sql.Identifier) -> None:
    """Makes a table refuse inserts, updates, deletes and truncation. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(postgres.compose(__file__, "seal", table=table))
