"""The chain of backups: each names the one before it and its manifest's digest, so that a missing or replaced one shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.platform import audit, postgres
from lib.platform.errors import NotFound


def registered(connection: Connection) -> list[dict[str, Any]]:
    """Every backup that was made from this database, oldest first; in the caller's transaction."""
    return postgres.every(
        connection,
        "SELECT backup_id, manifest_digest, number, previous_digest, deleted_at FROM golive.backups"
        " ORDER BY created_at, number, backup_id",
    )


def identity_of(connection: Connection) -> str:
    """By which backups tell this database from others; in the caller's transaction."""
    found = postgres.one(connection, "SELECT system_id::text AS id FROM golive.identity")
    assert found is not None, "create_state writes the row"
    return str(found["id"])


def following(rows: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, str] | None]:
    """The number of the next backup, and ``{backup_id, manifest_digest}`` of the one before it; None for the first."""
    if not rows:
        return 1, None
    last = rows[-1]
    number = max((row["number"] or place for place, row in enumerate(rows, 1)), default=0) + 1
    return number, {"backup_id": last["backup_id"], "manifest_digest": last["manifest_digest"]}


def tombstone(connection: Connection, backup_id: str, reason: str) -> None:
    """Records that a backup was deleted on purpose; part of the caller's transaction.

    Raises:
        NotFound: this database does not know it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE golive.backups SET deleted_at = now() WHERE backup_id = %s AND deleted_at IS NULL"
            " RETURNING manifest_digest",
            (backup_id,),
        )
        found = cursor.fetchone()
    if found is None:
        raise NotFound(f"backup {backup_id} is not on record here, or was deleted already", hint="make backups")
    audit.record(connection, "delete backup", backup_id, reason, before=found[0])


def breaks(rows: Sequence[Mapping[str, Any]], there: Mapping[str, str], chained: Mapping[str, str | None]) -> list[str]:
    """What is wrong with the backups that stand, one line each. Pure.

    Args:
        rows: as ``registered`` gives them.
        there: the backups that stand, with the digests of their manifests.
        chained: for each of these the digest of the manifest before it, as its own manifest says; None for the first.
    """
    found = []
    for row in rows:
        name = row["backup_id"]
        if name not in there:
            if row["deleted_at"] is None:
                found.append(f"{name} was made and is gone, and nobody recorded that it was deleted")
        elif there[name] != row["manifest_digest"]:
            found.append(f"{name} is not the one that was made: its manifest was replaced")
        elif row["number"] is not None and chained[name] != row["previous_digest"]:
            found.append(f"{name} names another backup before it than is on record")
    for before, row in pairwise(rows):
        if row["number"] is not None and row["previous_digest"] != before["manifest_digest"]:
            found.append(f"before {row['backup_id']} a backup is missing on record")
    return found
