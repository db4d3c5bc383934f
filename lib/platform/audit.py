"""The audit log: append-only and hash-chained in the database, written in the transaction that it tells of.

The database refuses changes, but its owner can take the refusals away. What the owner cannot do is to make other entries
give the same hashes: whoever kept a head (the last entry's number and hash) finds that the log was cut off or written anew.
The hashes are computed here again, because functions in the database can be replaced as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.platform.errors import redact
from lib.platform.lease import who
from lib.platform.postgres import one

_PAGE = 5000
_recorded: list[int] = []
# A year before the first is told apart, which the format alone does not do: no hash was made over one.
_AT = sql.SQL(
    "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || CASE WHEN at < '0001-01-01Z' THEN ' BC' ELSE '' END"
)


@dataclass(frozen=True)
class Entry:
    """One entry as it is stored; ``role`` is the database role that logged in, None in entries older than that column.

    ``at`` is UTC: ``2026-01-02T03:04:05.678901``.
    """

    seq: int
    at: str
    actor: str
    action: str
    subject: str
    reason: str
    from_digest: str | None
    to_digest: str | None
    previous_hash: str
    hash: str
    role: str | None = None


@dataclass(frozen=True)
class Head:
    """The end of a log at some time: its last entry, and how many entries there were.

    ``database`` names the database: the server's system identifier and the database's number in it.
    """

    seq: int
    hash: str
    at: str
    entries: int
    database: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Fault:
    """What is wrong with the entry ``seq``, or with its place in the chain."""

    seq: int
    what: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def record(
    connection: Connection, action: str, subject: str, reason: str, *, before: str | None = None, after: str | None = None
) -> None:
    """Appends one entry: who did what to ``subject`` and why, from which digest to which. The caller commits."""
    found = one(
        connection,
        "SELECT golive.audit(%s, %s, %s, %s, %s, %s) AS seq",
        (who(), action, redact(subject), redact(reason), before, after),
    )
    assert found is not None
    _recorded.append(found["seq"])


def take_recorded() -> list[int]:
    """The numbers of the entries that this process recorded since it was last asked; some of them may have been undone."""
    taken = list(_recorded)
    _recorded.clear()
    return taken


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


def database_of(connection: Connection) -> str:
    """Which database this is, whatever it is called; another one that is restored from a backup is another database."""
    found = one(
        connection,
        "SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || oid AS name FROM pg_database"
        " WHERE datname = current_database()",
    )
    assert found is not None
    return str(found["name"])


def head_of(connection: Connection) -> Head | None:
    """The head of the log as it stands; None where the log is empty. The caller owns the transaction."""
    found = one(
        connection,
        sql.SQL(
            "SELECT seq, hash, {} AS at, (SELECT count(*) FROM golive.audit_log) AS entries FROM golive.audit_log"
            " ORDER BY seq DESC LIMIT 1"
        ).format(_AT),
    )
    if found is None:
        return None
    return Head(**found, database=database_of(connection))


def read(connection: Connection, first: int = 1) -> Iterator[Entry]:
    """The entries from a number on, in their order, a page at a time. The caller owns the transaction."""
    with connection.cursor("golive_audit_log") as cursor:
        cursor.itersize = _PAGE
        cursor.execute(
            sql.SQL(
                "SELECT seq, {} AS at, actor, action, subject, reason, from_digest, to_digest, previous_hash, hash, role"
                " FROM golive.audit_log WHERE seq >= {} ORDER BY seq"
            ).format(_AT, sql.Literal(first))
        )
        for row in cursor:
            yield Entry(*row)


def hash_of(entry: Entry) -> str:
    """What the entry's hash must be: SHA-256 over a JSON array of its fields, as ``golive.audit_hash`` computes it."""
    fields = [entry.seq, entry.at, entry.actor, entry.action, entry.subject, entry.reason]
    fields += [entry.from_digest, entry.to_digest, entry.previous_hash]
    fields += [] if entry.role is None else [entry.role]
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()


def find_faults(entries: Iterable[Entry]) -> Iterator[Fault]:
    """Every entry that was changed, or that does not follow from the one before it; pure.

    Nothing here tells that entries at the end are missing, or that all hashes were computed anew: heads do.
    """
    last_seq, last_hash = 0, ""
    for entry in entries:
        if entry.seq != last_seq + 1:
            gap = f"{entry.seq - last_seq - 1} missing before it" if entry.seq > last_seq else f"it stands after {last_seq}"
            yield Fault(entry.seq, gap)
        elif entry.previous_hash != last_hash:
            yield Fault(entry.seq, "it does not follow from the entry before it")
        if entry.hash != hash_of(entry):
            yield Fault(entry.seq, "it is not what was written: its hash differs")
        last_seq, last_hash = entry.seq, entry.hash
