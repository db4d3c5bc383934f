"""Documents that change after a table was sealed: which versions a release answers from, what it is behind, and the proof.

A sealed table never changes. ``golive.release_documents`` says of every document which version the release answers from now
and which one its sealed table holds; ``golive.document_changes`` (written by triggers) says what was written since. The log
makes looking cheap; what is proved is always the whole set, digests taken from the contents themselves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ
from psycopg2.extensions import connection as Connection

from lib.index.documents import Document, corpus_digest
from lib.index.releases import Release
from lib.platform import postgres

_SLICE = 10_000
_WRONG = {
    "missing": "documents are not covered in the version that stands",
    "returned": "deleted documents are still covered",
    "ghosts": "documents that do not stand would answer",
    "stale": "documents would answer from another content",
    "unindexed": "changed documents lack new chunks",
    "unhidden": "documents have old chunks that should be hidden, or hidden ones that should answer",
}


@dataclass(frozen=True)
class Pending:
    """Documents that a release has to catch up with, in id order, as of ``snapshot`` (a ``pg_snapshot``)."""

    doc_ids: list[str]
    snapshot: str


@dataclass(frozen=True)
class Lag:
    """How far a release is behind the documents; ``oldest`` is when the first change was made that it has not seen.

    ``oldest`` is None where nothing is pending, or where the log does not hold the change.
    """

    pending: int
    oldest: datetime | None


@dataclass(frozen=True)
class Coverage:
    """What a release answers from: documents now, documents in the sealed table, and how many differ from it.

    ``digest`` is over the ids and versions of all documents covered; with the table's content digest it decides every
    answer. ``origin`` is ``seal`` or ``rebuilt`` (exact), or ``derived``: read off the sealed table, which knows contents
    but not titles and metadata.
    """

    origin: str
    documents: int
    sealed: int
    changed: int
    digest: str

    @property
    def changed_share(self) -> float:
        return self.changed / max(self.sealed, 1)


def record_coverage(connection: Connection, release: Release, documents: Sequence[Document]) -> None:
    """Records the versions that a table was built from; part of the transaction that seals it.

    A document that was written since it was read is recorded as outdated, so that the first catch-up brings it in.
    """
    _begin(connection, release, "seal")
    for first in range(0, len(documents), _SLICE):
        part = documents[first : first + _SLICE]
        _execute(
            connection,
            "record_coverage",
            release,
            ids=[document.doc_id for document in part],
            sha256s=[document.sha256 for document in part],
            titles=[document.title for document in part],
            metadata=[json.dumps(document.metadata) for document in part],
        )


def ensure_coverage(connection: Connection, release: Release) -> None:
    """Makes the coverage of a sealed release whole. The caller owns the transaction.

    A release that was sealed by an earlier Golive, or restored into an empty database, has none: it is rebuilt from the
    documents where they are those that it was sealed from, else read off its table. Changes whose rows are not all there
    are given up, so that they are made again.
    """
    there = postgres.one(connection, "SELECT FROM golive.coverage WHERE release_id = %s", (release.release_id,))
    if there is not None:
        if _one(connection, "broken_changes", release)["broken"]:
            reset_to_seal(connection, release)
    elif corpus_digest(connection, release.locked_config.sources) == release.corpus_digest:
        _begin(connection, release, "rebuilt")
        _execute(connection, "rebuild_coverage", release)
    else:
        _begin(connection, release, "derived")
        _execute(connection, "derive_coverage", release)


def reset_to_seal(connection: Connection, release: Release) -> None:
    """Takes every change back: the release answers from its sealed table alone. The caller owns the transaction."""
    _delete(connection, release, "superseded", "changed_chunks")
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM golive.release_documents WHERE release_id = %s AND sealed_digest IS NULL", (release.release_id,)
        )
        cursor.execute(
            "UPDATE golive.release_documents SET doc_digest = sealed_digest, chunks = 0"
            " WHERE release_id = %s AND (doc_digest IS DISTINCT FROM sealed_digest OR chunks <> 0)",
            (release.release_id,),
        )
        cursor.execute(
            "UPDATE golive.coverage SET seen = NULL, seen_at = NULL WHERE release_id = %s", (release.release_id,)
        )


def find_pending(connection: Connection, release: Release, *, logged_only: bool = False) -> Pending:
    """What the release has to catch up with, and the snapshot in which that was so; a transaction of its own.

    With ``logged_only`` the documents are looked at that the log names since the release last caught up; without, all are.
    """
    connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ)
    try:
        with connection:
            now = postgres.one(connection, "SELECT pg_current_snapshot()::text AS snapshot")
            assert now is not None
            return Pending(pending_documents(connection, release, logged_only=logged_only), now["snapshot"])
    finally:
        if not connection.closed:
            connection.set_session(isolation_level="DEFAULT")


def pending_documents(connection: Connection, release: Release, *, logged_only: bool = False) -> list[str]:
    """The ids of ``find_pending``, in the caller's transaction."""
    looked_at, names = sql.SQL("true"), None
    if logged_only:
        logged = postgres.one(connection, postgres.read_sql(__file__, "logged_documents"), _parameters(release))
        if logged and not logged["unknown"] and not logged["truncated"]:
            looked_at, names = sql.SQL("id = ANY(%(names)s)"), logged["names"]
    query = postgres.compose(__file__, "pending_documents", looked_at=looked_at)
    return [row["doc_id"] for row in postgres.every(connection, query, {**_parameters(release), "names": names})]


def unchanged_yet_pending(connection: Connection, release: Release) -> int:
    """How many documents are pending that the release so far answers from as they were sealed."""
    found = postgres.one(
        connection,
        "SELECT count(*) AS known FROM golive.release_documents WHERE release_id = %s AND doc_id = ANY(%s)"
        " AND doc_digest IS DISTINCT FROM sealed_digest",
        (release.release_id, pending := pending_documents(connection, release)),
    )
    assert found is not None
    return len(pending) - int(found["known"])


def mark_seen(connection: Connection, release: Release, snapshot: str) -> None:
    """Records that the release has caught up with all that ``snapshot`` sees. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE golive.coverage SET seen = %s, seen_at = now() WHERE release_id = %s", (snapshot, release.release_id)
        )


def lag_of(connection: Connection, release: Release) -> Lag:
    """How far the release is behind, by the log; by all documents where it has not caught up before."""
    pending = pending_documents(connection, release, logged_only=True)
    found = postgres.one(
        connection,
        "SELECT min(changed_at) AS oldest FROM golive.document_changes l LEFT JOIN golive.coverage c ON c.release_id = %s"
        " WHERE (l.doc_id = ANY(%s) OR l.doc_id IS NULL) AND (c.seen IS NULL OR NOT pg_visible_in_snapshot(l.xid, c.seen))",
        (release.release_id, pending),
    )
    return Lag(len(pending), found["oldest"] if found and pending else None)


def coverage_of(connection: Connection, release: Release) -> Coverage | None:
    """What the release answers from now; None where nothing is recorded. The caller owns the transaction."""
    found = postgres.one(connection, postgres.read_sql(__file__, "read_coverage"), _parameters(release))
    return Coverage(**found) if found else None


def digest_of_standing(connection: Connection, sources: Sequence[str]) -> str:
    """The coverage digest of a release that has caught up with the documents of ``sources`` as they stand."""
    query = postgres.read_sql(__file__, "digest_of_standing")
    found = postgres.one(connection, query, {"sources": list(sources)})
    assert found is not None
    return str(found["digest"])


def find_faults(connection: Connection, release: Release) -> list[str]:
    """Why the release does not answer from exactly the documents that stand; empty where it does.

    Compares the whole set both ways, and what would answer: the rows of the sealed table that are not hidden, and the
    changed ones. The caller owns the transaction, with the documents locked where the answer must hold until its end.
    """
    found = _one(connection, "prove_coverage", release)
    return [f"{found[name]} {what}" for name, what in _WRONG.items() if found[name]]


def prune_log(connection: Connection, kept: Sequence[Release]) -> None:
    """Forgets log entries that every kept release has seen. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(postgres.read_sql(__file__, "prune_log"), {"kept": [release.release_id for release in kept]})


def _begin(connection: Connection, release: Release, origin: str) -> None:
    """Forgets whatever was recorded of the release and starts anew."""
    _delete(connection, release, "coverage", "release_documents", "superseded", "changed_chunks")
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO golive.coverage (release_id, origin) VALUES (%s, %s)", (release.release_id, origin))


def _delete(connection: Connection, release: Release, *tables: str) -> None:
    with connection.cursor() as cursor:
        for table in tables:
            command = sql.SQL("DELETE FROM {} WHERE release_id = %s").format(sql.Identifier("golive", table))
            cursor.execute(command, (release.release_id,))


def _parameters(release: Release) -> dict[str, Any]:
    return {"release_id": release.release_id, "sources": list(release.locked_config.sources)}


def _execute(connection: Connection, name: str, release: Release, **parameters: Any) -> None:
    with connection.cursor() as cursor:
        query = postgres.compose(__file__, name, table=release.table)
        cursor.execute(query, {**_parameters(release), **parameters})


def _one(connection: Connection, name: str, release: Release) -> dict[str, Any]:
    found = postgres.one(connection, postgres.compose(__file__, name, table=release.table), _parameters(release))
    assert found is not None
    return found
