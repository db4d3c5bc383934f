"""The table ``golive.releases``: what was locked, built and sealed, and what the pointer names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.platform import postgres
from lib.platform.errors import NotFound


@dataclass(frozen=True)
class Release:
    """One row of ``golive.releases``."""

    release_id: str
    chunk_version: str
    config_hash: str
    config: dict[str, Any]
    table_schema: str
    table_name: str
    state: str
    corpus_digest: str | None
    content_digest: str | None
    row_count: int | None
    ingest_stats: dict[str, Any]
    created_at: datetime
    sealed_at: datetime | None

    @property
    def table(self) -> sql.Identifier:
        return postgres.table_identifier(self.table_schema, self.table_name)

    @property
    def locked_config(self) -> LockedConfig:
        return LockedConfig.from_dict(self.config)


@dataclass(frozen=True)
class Pointer:
    """The one row that says which release answers queries; ``release`` is None before the first promotion."""

    generation: int
    release: Release | None
    moved_at: datetime
    moved_by: str
    reason: str


def find_release(connection: Connection, release_id: str) -> Release | None:
    rows = postgres.every(connection, "SELECT * FROM golive.releases WHERE release_id = %s", (release_id,))
    return Release(**rows[0]) if rows else None


def get_release(connection: Connection, release_id: str) -> Release:
    """Raises NotFound where no such release was locked in this database."""
    found = find_release(connection, release_id)
    if found is None:
        raise NotFound(
            f"release {release_id} is not known to this database",
            hint="lock it here first: scripts/lock_production_config.py",
        )
    return found


def adopt(connection: Connection, release_id: str) -> None:
    """Gives the table of a release to the roles of ``scripts/database_roles.py``, where there are any.

    The caller, who made the table, owns the transaction.
    """
    postgres.one(connection, "SELECT golive.adopt(%s)", (release_id,))


def hold_table(connection: Connection, release_id: str) -> None:
    """Keeps a release's table, where it stands, as it is until the caller's transaction ends; no right on it is needed."""
    postgres.one(connection, "SELECT golive.hold_table(%s)", (release_id,))


def read_pointer(connection: Connection, *, lock: bool = False) -> Pointer:
    """The pointer; with ``lock`` its row is locked until the transaction ends."""
    row = postgres.one(connection, "SELECT * FROM golive.pointer" + (" FOR UPDATE" if lock else ""))  # nosec B608  # constants of this module; values are parameters
    assert row is not None, "create_state writes the row"
    release = get_release(connection, row["release_id"]) if row["release_id"] else None
    return Pointer(row["generation"], release, row["moved_at"], row["moved_by"], row["reason"])
