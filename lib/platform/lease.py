"""One at a time: steps that change state hold a lease in the database, and the loser is told who has it.

The lease is an advisory lock of a transaction that stays open while the step is at work. It goes when its holder dies, and
it holds behind a pooler in transaction mode too, which hands a session on between transactions but never within one. That
transaction writes nothing and keeps no snapshot, so it holds back neither vacuum nor those who wait for older transactions.
A row beside the lock says who holds it. A step that another step started (``make golive`` runs the scripts one by one) is
covered by its parent's lease, whose token it finds in ``GOLIVE_LEASE``.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json

from lib.platform.clock import timestamp
from lib.platform.errors import LeaseHeld, Unavailable
from lib.platform.postgres import connect, one

_NAME = "state"
_TOKEN_VARIABLE = "GOLIVE_LEASE"
_HOLDER_LOOKS, _HOLDER_LOOK_S = 40, 0.05
# The first two would end the holder's transaction; by the others the server notices within three minutes that the holder's
# machine is gone, where its defaults take two hours. They count for this transaction alone. Old servers lack the second.
_OF_THE_HOLDER = {
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "20",
    "tcp_keepalives_count": "6",
}


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
        token = os.environ.get(_TOKEN_VARIABLE, "")
        inherited = _is_held(connection, token)
        connection.rollback()
        if not inherited:
            token = secrets.token_hex(16)
            _take(connection, token)
            _write_holder(url, step, token)
        yield {_TOKEN_VARIABLE: token}
        _require_held(connection, token)
    finally:
        with suppress(psycopg2.Error):  # its session is gone, and the lock with it
            connection.rollback()  # free before the next step asks; close() alone does not wait for the server
        connection.close()


def _take(connection: Connection, token: str) -> None:
    """Takes the locks of the lease and of its token; the transaction that holds them stays open.

    Raises:
        LeaseHeld: another run has it.
    """
    one(
        connection,
        "SELECT count(set_config(name, %(values)s::jsonb ->> name, true)) FROM pg_settings"
        " WHERE name IN (SELECT jsonb_object_keys(%(values)s))",
        {"values": Json(_OF_THE_HOLDER)},
    )
    got = one(connection, "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0)) AS held", (f"golive lease {_NAME}",))
    if not got or not got["held"]:
        raise LeaseHeld(
            f"another run is at work: {_holder(connection)}",
            hint="wait for it to end, then run the same command again",
        )
    one(connection, "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (_lock_of(token),))


def _holder(connection: Connection) -> str:
    """Who has the lease. The row is written just after the lock is taken: until then it names the run before, or nobody."""
    for _ in range(_HOLDER_LOOKS):
        held = one(connection, "SELECT token, holder FROM golive.leases WHERE name = %s", (_NAME,))
        if held and _is_held(connection, held["token"]):
            return str(held["holder"])
        time.sleep(_HOLDER_LOOK_S)
    return "unknown"


def _write_holder(url: str, step: str, token: str) -> None:
    """Says who has the lease. In a session of its own, because others see it only when it is committed."""
    holder = f"{step} by {who()}, pid {os.getpid()}, since {timestamp()}"
    with closing(connect(url, f"lease: {step}")) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO golive.leases (name, token, holder) VALUES (%s, %s, %s) ON CONFLICT (name) DO UPDATE"
            " SET token = excluded.token, holder = excluded.holder, acquired_at = now()",
            (_NAME, token, holder),
        )


def _require_held(connection: Connection, token: str) -> None:
    try:
        held = _is_held(connection, token)
    except psycopg2.Error:  # the session that held the lock is gone, and the lock with it
        held = False
    if not held:
        raise Unavailable(
            "the lease was lost while this step was at work",
            detail="its session in the database ended, so another step may have run beside it",
            hint="make status; then run the same command again",
        )


def _is_held(connection: Connection, token: str) -> bool:
    """Whether somebody holds the lease under this token."""
    found = one(
        connection,
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0)) AS held",
        (_lock_of(token),),
    )
    return bool(found and found["held"])


def _lock_of(token: str) -> str:
    return f"golive lease token {token}"
