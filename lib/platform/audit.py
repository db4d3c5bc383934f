"""The audit log: append-only and hash-chained in the database, written in the transaction that it tells of."""

from __future__ import annotations

from typing import Any

from psycopg2.extensions import connection as Connection

from lib.platform.errors import redact
from lib.platform.lease import who
from lib.platform.postgres import one


def record(
    connection: Connection, action: str, subject: str, reason: str, *, before: str | None = None, after: str | None = None
) -> None:
    """Appends one entry: who did what to ``subject`` and why, from which digest to which. The caller commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT golive.audit(%s, %s, %s, %s, %s, %s)",
            (who(), action, redact(subject), redact(reason), before, after),
        )


def find(connection: Connection, action: str, subject: str, after: str) -> dict[str, Any] | None:
    """``{seq, hash}`` of the newest entry of that action that led to the digest ``after``. The caller commits."""
    return one(
        connection,
        "SELECT seq, hash FROM golive.audit_log WHERE action = %s AND subject = %s AND to_digest = %s"
        " ORDER BY seq DESC LIMIT 1",
        (action, redact(subject), after),
    )


def first_break(connection: Connection) -> int | None:
    """The ``seq`` of the first entry that was changed, or that follows one that was taken out; None where all is whole.

    The end of the log is not covered: entries cut off there leave a chain that is whole. The caller owns the transaction.
    """
    found = one(connection, "SELECT golive.audit_break() AS seq")
    return int(found["seq"]) if found and found["seq"] is not None else None
