"""What a client asks before each search: which release answers it, and with which table and embedder (docs/serving.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.platform import postgres


@dataclass(frozen=True)
class Route:
    """The release that answers one request. It is good for that request alone: the next one asks again."""

    release_id: str
    generation: int
    table_schema: str
    table_name: str
    embedder: dict[str, Any]
    config: dict[str, Any]
    arm: str

    @property
    def table(self) -> sql.Identifier:
        return postgres.table_identifier(self.table_schema, self.table_name)


def route(connection: Connection, request_id: str | None = None) -> Route:
    """Asks the database which release answers the request. The caller owns the transaction, and ends it before the next.

    Raises:
        Refused: queries are stopped. NotFound: no release is live.
    """
    try:
        row = postgres.one(connection, "SELECT * FROM golive.route(%s)", (request_id,))
    except psycopg2.Error as error:
        raise postgres.translate(error) or error from error
    assert row is not None, "route() raises where it has no row"
    return Route(**row)
