"""Content digests and seals: what makes "only what was evaluated goes live" checkable."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.platform import postgres


@dataclass(frozen=True)
class Content:
    """How many rows a chunk table has, and the digest of what they hold."""

    row_count: int
    digest: str


def content_of(connection: Connection, schema: str, table: str) -> Content | None:
    """Counts and digests a chunk table; None where there is no such table. The caller owns the transaction."""
    if not postgres.table_exists(connection, schema, table):
        return None
    query = postgres.compose(__file__, "content_digest", table=postgres.table_identifier(schema, table))
    found = postgres.one(connection, query)
    assert found is not None
    return Content(found["row_count"], found["digest"])


def seal(connection: Connection, table: sql.Identifier) -> None:
    """Makes a table refuse inserts, updates, deletes and truncation. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(postgres.compose(__file__, "seal", table=table))
