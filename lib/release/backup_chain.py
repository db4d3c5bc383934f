"""The record of backups in ``golive.backups``."""

from __future__ import annotations

from psycopg2.extensions import connection as Connection

from lib.platform import audit


def tombstone(connection: Connection, backup_id: str, reason: str) -> None:
    """Records that a backup was deleted on purpose. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE golive.backups SET deleted_at = now() WHERE backup_id = %s", (backup_id,))
    audit.record(connection, "delete backup", backup_id, reason)
