"""The audit log: append-only and hash-chained in the database, written in the transaction that it tells of."""

from __future__ import annotations

from psycopg2.extensions import connection as Connection

from lib.platform.errors import redact
from lib.platform.lease import who


def record(
    connection: Connection, action: str, subject: str, reason: str, *, before: str | None = None, after: str | None = None
) -> None:
    """Appends one entry: who did what to ``subject`` and why, from which digest to which. The caller commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT golive.audit(%s, %s, %s, %s, %s, %s)",
            (who(), action, redact(subject), redact(reason), before, after),
        )
