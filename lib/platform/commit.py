"""A COMMIT whose answer was lost: whether it happened is asked of the database (``pg_xact_status``), never guessed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg2
from psycopg2.extensions import connection as Connection

from lib.platform import postgres
from lib.platform.errors import GoliveError, Unavailable

_ASK_FOR_S = 60.0
_POLL_S = 0.1
_END_AFTER_S = 2.0  # a COMMIT still on its way to the server arrives in that time, if ever


class Transaction:
    """A transaction of ``committing``, and the way to the database after it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.address = postgres.address_of(connection)

    @contextmanager
    def reading_back(self) -> Iterator[Connection]:
        """A transaction on the connection, or on a new one to the same place where the answer's loss took that along."""
        with alive(self._connection, self.address) as still, still:
            yield still


@contextmanager
def alive(connection: Connection, address: str) -> Iterator[Connection]:
    """The connection, or a new one to ``address`` where a COMMIT whose answer was lost took it along."""
    if not connection.closed:
        yield connection
        return
    with closing(_connect(address)) as again:
        yield again


@contextmanager
def committing(connection: Connection) -> Iterator[Transaction]:
    """``with connection:``, whose end is sure: afterwards the transaction is committed, or an error says that it is not.

    Raises:
        Unavailable: the connection was lost at COMMIT, and nothing was committed; or the database did not answer for a
            minute, which the message tells apart.
    """
    transaction = Transaction(connection)
    try:
        yield transaction
        xid = _transaction_id(connection)
    except BaseException:
        with suppress(psycopg2.InterfaceError):  # the connection is lost, and what it began with it
            connection.rollback()
        raise
    try:
        connection.commit()
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        if not connection.closed and error.pgcode is not None:
            raise  # an answer: the server says why it did not commit
        with suppress(psycopg2.Error):
            connection.close()
        if xid is not None and not _was_committed(transaction.address, xid):
            raise Unavailable(
                "the connection was lost at COMMIT, and nothing was committed", hint="the same command again"
            ) from error


def _transaction_id(connection: Connection) -> str | None:
    """The transaction's own number; None where it wrote nothing."""
    found = postgres.one(connection, "SELECT pg_current_xact_id_if_assigned()::text AS xid")
    assert found is not None
    return found["xid"] and str(found["xid"])


def _was_committed(address: str, xid: str) -> bool:
    """Asks until the database knows. A transaction that goes on because its COMMIT never arrived is ended.

    Raises:
        Unavailable: no answer in a minute, or the database has forgotten.
    """
    started = time.monotonic()
    reason = "it is still in progress"
    while time.monotonic() - started < _ASK_FOR_S:
        try:
            with closing(_connect(address)) as connection:
                while time.monotonic() - started < _ASK_FOR_S:
                    status = _status_of(connection, xid)
                    if status != "in progress":
                        if status is None:
                            reason = "the database keeps no record of it any more"
                            break
                        return status == "committed"
                    if time.monotonic() - started > _END_AFTER_S:
                        _end_idle(connection, xid)
                    time.sleep(_POLL_S)
        except (GoliveError, psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            reason = str(error)
        time.sleep(_POLL_S)
    raise Unavailable(
        "the connection was lost at COMMIT, and it is not known whether that was carried out",
        detail=f"transaction {xid}: {reason}",
        hint=f"SELECT pg_xact_status('{xid}'), and make status, before anything else",
    )


def _status_of(connection: Connection, xid: str) -> str | None:
    with connection:
        found = postgres.one(connection, "SELECT pg_xact_status(%s::xid8) AS status", (xid,))
    return found["status"] if found else None


def _end_idle(connection: Connection, xid: str) -> None:
    """Ends the session whose client is gone and whose COMMIT did not come: whatever comes later finds it ended."""
    with connection:
        postgres.every(
            connection,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_xid = %s::xid8::xid AND state LIKE 'idle in transaction%%'",
            (xid,),
        )


def _connect(address: str) -> Connection:
    return postgres.connect(address, "outcome of a commit")
