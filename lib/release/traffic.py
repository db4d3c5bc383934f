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
_LOCK_TRIES = 20
_BESIDE_TIMEOUT = "200ms"  # for what must not hold up a stop
_RIGHTS_TRIES = 3
_RECORD_TRIES = 5
_STOPPED, _RESUMED = "stop queries", "resume queries"  # in the audit log
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


def stop(connection: Connection, reason: str) -> Traffic:
    """Refuses queries from now on; an earlier stop keeps its reason. Returns the state read back.

    Others' locks on chunk tables or on the audit log do not hold up the refusal: that is committed by itself, and recorded
    with it where the log is free. Then readers lose the right to read chunk tables. A second stop makes up for what was
    left out, and takes the rights that were given since.

    Raises:
        Unavailable: queries are stopped, and that is not recorded yet, as the audit log was locked all the time.
    """
    failpoints.reach("traffic.begin")
    with committing(connection) as transaction:
        locks.take(connection, lambda: _set(connection, "stopped", reason), timeout=_LOCK_TIMEOUT, tries=_LOCK_TRIES)
        recorded = _record_if_free(connection)
        failpoints.reach("traffic.commit")
    failpoints.reach("traffic.privileges")
    with transaction.reading_back() as alive:
        _take_rights(alive)
    if not recorded:
        failpoints.reach("traffic.record")
        try:
            with transaction.reading_back() as alive:
                locks.take(alive, lambda: _record_stop(alive), timeout=_LOCK_TIMEOUT, tries=_RECORD_TRIES)
        except psycopg2.errors.LockNotAvailable as error:
            raise Unavailable(
                "queries ARE stopped, but that is not recorded yet: somebody has locked the audit log",
                hint="scripts/emergency_stop.py again; a resume records it too",
            ) from error
    failpoints.reach("traffic.read_back")
    with transaction.reading_back() as alive:
        return _read(alive)


def resume(connection: Connection, reason: str, *, generation: int | None = None) -> Traffic:
    """Answers queries again, where what is live is what was sealed; readers get back what the stop took from them.

    Args:
        generation: that of the pointer which was validated; where it has moved since, nothing changes.

    Raises:
        NotFound, IntegrityMismatch: nothing sound would answer them. Refused: the pointer has moved.
    """
    check_live(connection)
    failpoints.reach("traffic.begin")
    with committing(connection) as transaction:
        locks.take(connection, lambda: _reopen(connection, reason, generation), timeout=_LOCK_TIMEOUT, tries=_LOCK_TRIES)
        failpoints.reach("traffic.commit")
    failpoints.reach("traffic.read_back")
    with transaction.reading_back() as alive:
        return _read(alive)


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


def _reopen(connection: Connection, reason: str, generation: int | None) -> None:
    if generation is not None and read_pointer(connection, lock=True).generation != generation:
        raise Refused("the pointer was moved while its release was validated", hint="the same command again")
    _record_stop(connection)
    changed = _set(connection, "open", reason)
    failpoints.reach("traffic.privileges")
    postgres.one(connection, "SELECT golive.open_tables(), golive.admit_readers()")
    if changed:
        audit.record(connection, _RESUMED, "traffic", reason)


def _set(connection: Connection, state: str, reason: str) -> bool:
    """Whether that changed anything. Locks: the row of ``golive.traffic``, which none but stops and resumes do."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE golive.traffic SET state = %s, changed_at = now(), changed_by = %s, reason = %s WHERE state <> %s",
            (state, who(), redact(reason), state),
        )
        return cursor.rowcount > 0


def _record_stop(connection: Connection) -> None:
    """Records the stop that stands, where that was not done yet. Locks: the audit log."""
    now = _read(connection)
    last = postgres.one(
        connection,
        "SELECT action FROM golive.audit_log WHERE subject = 'traffic' AND action IN (%s, %s) ORDER BY seq DESC LIMIT 1",
        (_STOPPED, _RESUMED),
    )
    if now.state == "stopped" and (last is None or last["action"] != _STOPPED):
        audit.record(connection, _STOPPED, "traffic", now.reason)


def _record_if_free(connection: Connection) -> bool:
    """``_record_stop`` in the transaction that stops; False where somebody has locked the audit log."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (_BESIDE_TIMEOUT,))
        cursor.execute("SAVEPOINT record")
        try:
            _record_stop(connection)
        except psycopg2.errors.LockNotAvailable:
            cursor.execute("ROLLBACK TO SAVEPOINT record")
            return False
    return True


def _take_rights(connection: Connection) -> None:
    """Takes the right to read chunk tables; says which could not be closed. The caller owns the transaction."""
    left_open: list[str] = []
    for _ in range(_RIGHTS_TRIES):
        postgres.one(connection, "SELECT set_config('lock_timeout', %s, true)", (_BESIDE_TIMEOUT,))
        found = postgres.one(connection, "SELECT golive.close_tables() AS left_open")
        left_open = list(dict.fromkeys(found["left_open"])) if found else []
        if not left_open:
            return
        time.sleep(_POLL_S)
    for table in left_open:
        note(f"the right to read {table} is not taken from all: this role does not own it, or it is in use: stop again")


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
