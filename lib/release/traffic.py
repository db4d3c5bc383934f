"""Stopping and resuming queries, through the database, for every client that routes through ``golive.route()``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.index.releases import read_pointer
from lib.index.seal import content_of
from lib.platform import audit, postgres
from lib.platform.clock import timestamp
from lib.platform.errors import IntegrityMismatch, NotFound, redact
from lib.platform.lease import who


@dataclass(frozen=True)
class Traffic:
    """Whether queries are answered, since when, by whose decision and why."""

    state: str
    changed_at: datetime
    changed_by: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "changed_at": timestamp(self.changed_at)}


def read(connection: Connection) -> Traffic:
    with connection:
        row = postgres.one(connection, "SELECT state, changed_at, changed_by, reason FROM golive.traffic")
    assert row is not None, "create_state writes the row"
    return Traffic(**row)


def stop(connection: Connection, reason: str) -> Traffic:
    """Refuses queries from now on; an earlier stop keeps its reason. Returns the state read back."""
    return _change(connection, "stopped", reason)


def resume(connection: Connection, reason: str) -> Traffic:
    """Answers queries again.

    Raises:
        NotFound, IntegrityMismatch: nothing sound would answer them.
    """
    check_live(connection)
    return _change(connection, "open", reason)


def check_live(connection: Connection) -> dict[str, Any]:
    """Reads back what the pointer names: ``{release_id, table, rows, digest}``.

    Raises:
        NotFound: nothing is live. IntegrityMismatch: its table is gone, or not what was sealed.
    """
    with connection:
        release = read_pointer(connection).release
        content = content_of(connection, release.table_schema, release.table_name) if release else None
    if release is None:
        raise NotFound("no release is live", hint="make golive, or make rollback BACKUP=id")
    if content is None or content.digest != release.content_digest:
        found = (
            "the table is gone"
            if content is None
            else f"{content.row_count} rows are there, {release.row_count} were sealed"
        )
        raise IntegrityMismatch(
            f"live release {release.release_id} is damaged", detail=found, hint="make backups, then make rollback BACKUP=id"
        )
    return {
        "release_id": release.release_id,
        "table": release.table_name,
        "rows": content.row_count,
        "digest": content.digest,
    }


def _change(connection: Connection, state: str, reason: str) -> Traffic:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE golive.traffic SET state = %s, changed_at = now(), changed_by = %s, reason = %s WHERE state <> %s",
            (state, who(), redact(reason), state),
        )
        if cursor.rowcount:
            if state == "open":
                cursor.execute("SELECT golive.admit_readers()")
            audit.record(connection, "resume queries" if state == "open" else "stop queries", "traffic", reason)
    return read(connection)
