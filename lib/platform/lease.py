"""One at a time: steps that change state hold a lease in the database, and the loser is told who has it.

The lease is a session-level advisory lock, so it goes when its holder dies; the row beside it says who holds it. A step
that another step started (``make golive`` runs the scripts one by one) is covered by its parent's lease, whose token it
finds in ``GOLIVE_LEASE``.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import connection as Connection

from lib.platform.clock import timestamp
from lib.platform.errors import LeaseHeld, Unavailable
from lib.platform.postgres import connect, one

_NAME = "state"
_TOKEN_VARIABLE = "GOLIVE_LEASE"


def who() -> str:
    """``user@host``, as it stands in the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def lease(url: str, step: str) -> Iterator[dict[str, str]]:
    """Holds the lease while the block runs; yields the environment that lets child steps share it.

    Raises:
        LeaseHeld: another run has it; the message says which, and since when.
        Unavailable: the lease was lost while the block ran, so that another run may have been at work too.
    """
    connection = connect(url, f"lease: {step}")
    try:
        inherited = os.environ.get(_TOKEN_VARIABLE)
        if inherited and _is_current(connection, inherited):
            yield {_TOKEN_VARIABLE: inherited}
            _require_current(connection, inherited)
            return
        connection.autocommit = True
        got = one(connection, "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS held", (f"golive lease {_NAME}",))
        if not got or not got["held"]:
            held = one(connection, "SELECT holder FROM golive.leases WHERE name = %s", (_NAME,))
            raise LeaseHeld(
                f"another run is at work: {held['holder'] if held else 'unknown'}",
                hint="wait for it to end, then run the same command again",
            )
        token = secrets.token_hex(16)
        holder = f"{step} by {who()}, pid {os.getpid()}, since {timestamp()}"
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO golive.leases (name, token, holder) VALUES (%s, %s, %s) ON CONFLICT (name) DO UPDATE"
                " SET token = excluded.token, holder = excluded.holder, acquired_at = now()",
                (_NAME, token, holder),
            )
        yield {_TOKEN_VARIABLE: token}
        _require_current(connection, token)
    finally:
        connection.close()


def _require_current(connection: Connection, token: str) -> None:
    try:
        current = _is_current(connection, token)
    except psycopg2.Error:  # the session that held the lock is gone, and the lock with it
        current = False
    if not current:
        raise Unavailable(
            "the lease was lost while this step was at work",
            detail="its session in the database ended, so another step may have run beside it",
            hint="make status; then run the same command again",
        )


def _is_current(connection: Connection, token: str) -> bool:
    """Whether ``token`` is that of the lease, and somebody still holds it."""
    with connection:
        found = one(
            connection,
            "SELECT EXISTS (SELECT FROM golive.leases, pg_locks WHERE name = %s AND token = %s"
            " AND locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0)) AS current",
            (_NAME, token, f"golive lease {_NAME}"),
        )
    return bool(found and found["current"])
