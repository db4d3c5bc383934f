"""Stopping and resuming queries, through the database, for every client: by ``golive.route()``, and by privileges."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg2.errors
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index.releases import read_pointer
from lib.index.seal import content_of
from lib.platform import audit, failpoints, locks, postgres
from lib.platform.clock import timestamp
from lib.platform.commit import committing
from lib.platform.errors import GoliveError, IntegrityMismatch, NotFound, Refused, Unavailable, redact
from lib.platform.lease import who
from lib.platform.progress import note
from lib.platform.workspace import Workspace
from lib.release import rollback_validation

_LOCK_TIMEOUT = "500ms"  # the audit log is locked for as long as others' transactions last that wrote there
_LOCK_TRIES = 5
_POLL_S = 0.05
_ENDING_S = 5.0  # a session that is told to end does so at once, unless its server process hangs


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
        return _read(connection)


def stop(connection: Connection, reason: str, *, force: bool = False) -> Traffic:
    """Refuses queries from now on; an earlier stop keeps its reason. Returns the state read back.

    Readers lose the right to read chunk tables in the same transaction; a second stop does so for what was made since.

    Args:
        force: ends sessions whose open transactions keep the stop from being written.

    Raises:
        Unavailable: without ``force``, such a session stands in the way: nothing is stopped.
    """
    try:
        return _change(connection, "stopped", reason)
    except psycopg2.errors.LockNotAvailable as error:
        with connection:
            blockers = postgres.every(connection, postgres.read_sql(__file__, "stop_blockers"))
        if not force:
            raise Unavailable(
                "queries are NOT stopped: another session's open transaction is in the way",
                detail=", ".join(f"session {each['pid']} ({each['client']}, {each['state']})" for each in blockers),
                hint="scripts/emergency_stop.py --force ends it",
            ) from error
    for blocker in blockers:
        note(f"ending session {blocker['pid']} ({blocker['client']}), which keeps the stop from being written")
        _terminate(connection, blocker["pid"])
    return _change(connection, "stopped", reason)


def resume(connection: Connection, reason: str, *, generation: int | None = None) -> Traffic:
    """Answers queries again, where what is live is what was sealed; readers get back what the stop took from them.

    Args:
        generation: that of the pointer which was validated; where it has moved since, nothing changes.

    Raises:
        NotFound, IntegrityMismatch: nothing sound would answer them. Refused: the pointer has moved.
    """
    check_live(connection)
    return _change(connection, "open", reason, generation)


def validate_live(workspace: Workspace, connection: Connection) -> tuple[dict[str, Any], int]:
    """Reads everything back that would answer: ``check_live``'s result, and the pointer's generation.

    A config that was locked since, for the next release, is no part of that.

    Raises:
        NotFound, IntegrityMismatch: it would not answer as what was sealed.
    """
    with connection:
        generation = read_pointer(connection).generation
    live = check_live(connection)
    failed = [check for check in rollback_validation.validate(workspace, connection, None) if not check["holds"]]
    failed = [check for check in failed if check["name"] != "config files" or not _has_candidate(workspace)]
    if failed:
        raise IntegrityMismatch(
            f"live release {live['release_id']} does not validate: {failed[0]['name']}: {failed[0]['found']}",
            detail="; ".join(f"{check['name']}: {check['found']}" for check in failed[1:]),
            hint="scripts/validate_rollback.py, then make backups and make rollback BACKUP=id",
        )
    return live, generation


def in_flight(connection: Connection) -> list[dict[str, Any]]:
    """Who still reads a chunk table, the longest first: ``{pid, role, client, state, since}``."""
    with connection:
        return postgres.every(connection, postgres.read_sql(__file__, "queries_in_flight"))


def drain(connection: Connection, wait_s: float, *, force: bool = False) -> tuple[int, list[dict[str, Any]]]:
    """Waits for the queries in flight, then with ``force`` ends the rest. How many were ended, and who is left."""
    ended, left = 0, _await_end(connection, wait_s)
    if force:
        failpoints.reach("traffic.terminate")
        for session in left:
            ended += _terminate(connection, session["pid"])
        left = _await_end(connection, _ENDING_S)
    return ended, left


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


def _change(connection: Connection, state: str, reason: str, generation: int | None = None) -> Traffic:
    failpoints.reach("traffic.begin")
    with committing(connection) as transaction:
        locks.take(
            connection, lambda: _write(connection, state, reason, generation), timeout=_LOCK_TIMEOUT, tries=_LOCK_TRIES
        )
        failpoints.reach("traffic.commit")
    failpoints.reach("traffic.read_back")
    with transaction.reading_back() as alive:
        return _read(alive)


def _write(connection: Connection, state: str, reason: str, generation: int | None) -> None:
    with connection.cursor() as cursor:
        if generation is not None and read_pointer(connection, lock=True).generation != generation:
            raise Refused("the pointer was moved while its release was validated", hint="the same command again")
        cursor.execute(
            "UPDATE golive.traffic SET state = %s, changed_at = now(), changed_by = %s, reason = %s WHERE state <> %s",
            (state, who(), redact(reason), state),
        )
        changed = cursor.rowcount
        failpoints.reach("traffic.privileges")
        if state == "open":
            cursor.execute("SELECT golive.open_tables()")
        else:
            cursor.execute("SELECT golive.close_tables()")
            for table in (cursor.fetchone() or ([],))[0]:
                note(f"the right to read {table} is not taken from all: this role does not own it, or it was in use")
        if changed:
            audit.record(connection, "resume queries" if state == "open" else "stop queries", "traffic", reason)


def _read(connection: Connection) -> Traffic:
    row = postgres.one(connection, "SELECT state, changed_at, changed_by, reason FROM golive.traffic")
    assert row is not None, "create_state writes the row"
    return Traffic(**row)


def _has_candidate(workspace: Workspace) -> bool:
    """Whether the active config is one that was locked for the next release."""
    try:
        return not store.read_active(workspace).is_production
    except GoliveError:
        return False


def _await_end(connection: Connection, wait_s: float) -> list[dict[str, Any]]:
    deadline = time.monotonic() + wait_s
    while (left := in_flight(connection)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def _terminate(connection: Connection, pid: int) -> bool:
    """Ends a session; False where it was gone already, or where this role may not end it."""
    try:
        with connection:
            found = postgres.one(connection, "SELECT pg_terminate_backend(%s) AS done", (pid,))
    except psycopg2.errors.InsufficientPrivilege as error:
        note(f"session {pid} is not ended: {str(error).partition(chr(10))[0]}")
        return False
    return bool(found and found["done"])
