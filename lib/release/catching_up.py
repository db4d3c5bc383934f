"""Catching up: documents that changed since a table was sealed are brought into every release that is kept up to date.

Kept are the live release, the one before it for the bake window, and the sealed release of the active config. A batch of
documents is brought into all of them in one transaction, so that the release before the live one is never behind it and a
rollback loses nothing that could be found. Killed anywhere, a batch is in all of them or in none.

Who takes several locks takes them in this order, so that nobody waits in a circle: the lease, the turn to catch up, the
pointer's row, the chunk table, ``documents``, the rows of changed documents, the audit log.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index import changed_chunks, changes, settings
from lib.index.chunking import Counter
from lib.index.embedder import Embedder, load_embedder, locked_files
from lib.index.releases import Release, find_release, read_pointer
from lib.platform import postgres
from lib.platform.cli import translate
from lib.platform.clock import age, now, timestamp
from lib.platform.errors import GoliveError, LeaseHeld, Unavailable
from lib.platform.lease import who
from lib.platform.progress import Progress, note
from lib.platform.workspace import Workspace

COMMAND = "scripts/catch_up.py"
_BATCH_DOCUMENTS = 32
_TURN = "golive catch up"
_TURN_WAIT_S = 60
_BURST_S = 0.2


@dataclass(frozen=True)
class Kept:
    """A release that is kept up to date, and why: ``live``, ``previous`` or ``candidate``."""

    role: str
    release: Release


@dataclass
class Outcome:
    """What a pass did or would do; ``failed`` says of a release why it could not be brought up to date."""

    applied: bool
    releases: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        if not self.releases and not self.failed:
            return "no release is kept up to date: nothing is live"
        verb = "caught up with" if self.applied else "behind by"
        lines = [f"{item['role']} {item['release_id']}: {verb} {item['documents']} documents" for item in self.releases]
        return "\n".join(
            [*lines, *(f"{release_id}: not brought up to date: {why}" for release_id, why in self.failed.items())]
        )


class Models:
    """The tokenizer and the embedder of each release, loaded when something has to be indexed."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._loaded: dict[str, tuple[Counter, Embedder]] = {}

    def of(self, release: Release) -> tuple[Counter, Embedder]:
        """Raises IntegrityMismatch, Unavailable: as ``load_embedder``."""
        if release.release_id not in self._loaded:
            from lib.index.tokens import TokenCounter

            config = release.locked_config
            counter = TokenCounter(locked_files(self._workspace, config).folder)
            self._loaded[release.release_id] = (counter, load_embedder(self._workspace, config))
        return self._loaded[release.release_id]


def kept_releases(workspace: Workspace, connection: Connection) -> list[Kept]:
    """The releases that are kept up to date, the live one first. The caller owns the transaction."""
    bake_hours = settings.load(workspace).catch_up.bake_hours
    live = read_pointer(connection).release
    found = [Kept("live", live)] if live else []
    row = postgres.one(
        connection,
        "SELECT r.release_id FROM golive.pointer p JOIN golive.releases r ON r.release_id = p.previous"
        " WHERE r.state = 'retired' AND p.moved_at > now() - %s * interval '1 hour'",
        (bake_hours,),
    )
    if row and (previous := find_release(connection, row["release_id"])):
        found.append(Kept("previous", previous))
    with suppress(GoliveError):  # no active config, or one that cannot be read: then none is being released
        active = find_release(connection, store.read_active(workspace).ingest_run_id)
        if active and active.state == "sealed":
            found.append(Kept("candidate", active))
    return [k for k in found if postgres.table_exists(connection, k.release.table_schema, k.release.table_name)]


@contextmanager
def turn(workspace: Workspace, wait_s: float = _TURN_WAIT_S) -> Iterator[None]:
    """Only one at a time brings documents in; waits for the one at work.

    Raises:
        LeaseHeld: it did not end in time; the message says who it is.
        Unavailable: the turn was lost meanwhile, with its session in the database.
    """
    with closing(postgres.connect(postgres.address(workspace), f"catch up: {who()}")) as connection:
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{int(wait_s * 1000)}ms")))
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # the turn is this open transaction
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (_TURN,))
        except psycopg2.errors.LockNotAvailable as error:
            connection.rollback()
            raise LeaseHeld(
                "documents are being brought in by another run",
                detail=f"{_at_work(connection)}; waited {wait_s:g} s",
                hint="try again",
            ) from error
        yield
        try:
            connection.rollback()
        except psycopg2.Error as error:
            raise Unavailable(
                "the turn to bring documents in was lost while this run was at work",
                hint="run the same command again",
            ) from error


def _at_work(connection: Connection) -> str:
    """Who has the turn."""
    rows = postgres.every(
        connection,
        "SELECT a.application_name AS who FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory'"
        " AND l.granted AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%s, 0)",
        (_TURN,),
    )
    return rows[0]["who"] if rows else "it has just ended"


def catch_up(workspace: Workspace, connection: Connection, *, logged_only: bool = False) -> Outcome:
    """Brings every kept release up to the documents that stand now, in batches that are each one transaction.

    With ``logged_only`` only what the log names is looked at, as a watcher does between two looks at all documents.
    """
    with turn(workspace):
        return bring_in(workspace, connection, Models(workspace), logged_only=logged_only)


def bring_in(workspace: Workspace, connection: Connection, models: Models, *, logged_only: bool = False) -> Outcome:
    """``catch_up`` for one who has the turn."""
    started = time.monotonic()
    with connection:
        kept = kept_releases(workspace, connection)
        for item in kept:
            changes.ensure_coverage(connection, item.release)
    outcome = Outcome(applied=True)
    pending = {
        item.release.release_id: changes.find_pending(connection, item.release, logged_only=logged_only) for item in kept
    }
    ready = []
    for item in kept:
        try:
            if pending[item.release.release_id].doc_ids:
                models.of(item.release)
            ready.append(item.release)
        except GoliveError as error:  # one release whose model is gone must not keep the others behind
            outcome.failed[item.release.release_id] = error.message
    _replace_all(connection, ready, {name: found.doc_ids for name, found in pending.items()}, models)
    with connection:
        for release in ready:
            changes.mark_seen(connection, release, pending[release.release_id].snapshot)
        _forget(connection, kept)
    outcome.releases = [
        _told(item, len(pending[item.release.release_id].doc_ids)) for item in kept if item.release in ready
    ]
    outcome.seconds = round(time.monotonic() - started, 3)
    return outcome


def preview(workspace: Workspace, connection: Connection) -> Outcome:
    """What ``catch_up`` would bring in; changes nothing."""
    outcome = Outcome(applied=False)
    try:
        for item in kept_releases(workspace, connection):
            changes.ensure_coverage(connection, item.release)
            outcome.releases.append(_told(item, len(changes.pending_documents(connection, item.release))))
    finally:
        connection.rollback()
    return outcome


def bring_in_now(connection: Connection, releases: Iterable[Release], models: Models) -> None:
    """Brings in what is pending inside the caller's transaction, who has the turn and ``documents`` locked."""
    work = []
    for release in releases:
        doc_ids = changes.pending_documents(connection, release)
        if doc_ids:
            counter, embedder = models.of(release)
            replacement = changed_chunks.plan(connection, release, doc_ids, counter)
            work.append((replacement, changed_chunks.embed(replacement, embedder)))
    for replacement, vectors in work:  # the audit log is locked from here on
        changed_chunks.apply(connection, replacement, vectors, "promotion")


def judge_documents(
    workspace: Workspace, connection: Connection, release: Release, *, may_be_pending: bool
) -> tuple[bool, str]:
    """Whether the release answers from exactly the documents that stand, few of which changed since it was sealed; and why.

    With ``may_be_pending`` those that are still to be brought in count as changed, and nothing is proved. The caller owns
    the transaction, in which ``changes.ensure_coverage`` was called.
    """
    coverage = changes.coverage_of(connection, release)
    assert coverage is not None, "ensure_coverage writes it"
    limit = settings.load(workspace).catch_up.max_share
    pending = changes.unchanged_yet_pending(connection, release) if may_be_pending else 0
    changed = coverage.changed + pending
    found = f"{changed} of {coverage.sealed} changed since the table was sealed"
    if coverage.origin == "derived":
        return False, "it is not known which versions of them the table was built from: make golive"
    if changed > limit * coverage.sealed:
        return False, f"{found}, over {limit:.0%}: make golive builds and evaluates a new release"
    if may_be_pending:
        return True, f"{found}, {pending} of them are to be brought in" if pending else found
    faults = changes.find_faults(connection, release)
    return not faults, "; ".join(faults) or f"{found}; all that stand are covered, and no others"


def watch(workspace: Workspace, *, poll_s: float, full_every_s: float = 3600) -> Iterator[Outcome]:
    """Passes without end: at each notice of a write, and every ``poll_s`` seconds where a notice cannot be heard.

    The first pass, and one each ``full_every_s``, looks at every document; the others look at what the log names.
    """
    looked_at_all = float("-inf")
    while True:
        try:
            with postgres.database(workspace, "catch up", write=True) as connection:
                hears = postgres.has_own_session(connection)
                while True:
                    if hears:
                        with connection, connection.cursor() as cursor:
                            cursor.execute("LISTEN golive_documents")
                    everything = time.monotonic() - looked_at_all > full_every_s
                    outcome = catch_up(workspace, connection, logged_only=not everything)
                    looked_at_all = time.monotonic() if everything else looked_at_all
                    yield outcome
                    _wait(connection, poll_s)
        except (psycopg2.OperationalError, psycopg2.InterfaceError, Unavailable, LeaseHeld) as error:
            # a server that restarts, or another run at work: a watcher outlives both
            known = translate(error)
            note(f"not caught up: {known.message if known else error}; again in {poll_s:g} s")
            time.sleep(poll_s)


def status_of(workspace: Workspace, connection: Connection) -> list[dict[str, Any]]:
    """Every kept release with how far it is behind: ``{role, release_id, pending, oldest, changed_since_seal}``.

    ``pending`` is None where the release has never been caught up; ``oldest`` is when the first pending change was made.
    """
    found = []
    with connection:
        for item in kept_releases(workspace, connection):
            coverage = changes.coverage_of(connection, item.release)
            lag = changes.lag_of(connection, item.release) if coverage else None
            found.append(
                {
                    "role": item.role,
                    "release_id": item.release.release_id,
                    "pending": lag.pending if lag else None,
                    "oldest": timestamp(lag.oldest) if lag and lag.oldest else None,
                    "changed_since_seal": coverage.changed if coverage else None,
                }
            )
    return found


def status_text(found: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each kept release."""
    lines = []
    for item in found:
        if item["pending"] is None:
            behind = f"never caught up: {COMMAND}"
        elif item["pending"]:
            since = f", the oldest {age(datetime.fromisoformat(item['oldest']), now())} old" if item["oldest"] else ""
            behind = f"{item['pending']} documents behind{since}: {COMMAND}"
        else:
            behind = "up to date"
        lines.append(f"kept:    {item['role']} {item['release_id']}: {behind}")
    return lines


def _replace_all(
    connection: Connection, releases: Sequence[Release], pending: dict[str, list[str]], models: Models
) -> None:
    """Brings the documents in, so many at a time into all releases that miss them."""
    doc_ids = sorted({doc_id for release in releases for doc_id in pending[release.release_id]})
    missed = {release.release_id: set(pending[release.release_id]) for release in releases}
    with Progress("catching up", len(doc_ids), "documents") as progress:
        for first in range(0, len(doc_ids), _BATCH_DOCUMENTS):
            batch = doc_ids[first : first + _BATCH_DOCUMENTS]
            work = []
            for release in releases:
                if mine := [doc_id for doc_id in batch if doc_id in missed[release.release_id]]:
                    counter, embedder = models.of(release)
                    replacement = _plan(connection, release, mine, counter)
                    work.append((replacement, changed_chunks.embed(replacement, embedder)))
            with connection:
                for replacement, vectors in work:
                    changed_chunks.apply(connection, replacement, vectors, "catch up")
            progress.advance(len(batch))


def _plan(connection: Connection, release: Release, doc_ids: Sequence[str], counter: Counter) -> changed_chunks.Replacement:
    """``changed_chunks.plan`` in a snapshot of its own."""
    connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ)
    try:
        with connection:
            return changed_chunks.plan(connection, release, doc_ids, counter)
    finally:
        if not connection.closed:
            connection.set_session(isolation_level="DEFAULT")


def _forget(connection: Connection, kept: Sequence[Kept]) -> None:
    """Drops what nobody needs any more: log entries that all have seen, and changes of releases past their bake window."""
    changes.prune_log(connection, [item.release for item in kept])
    rows = postgres.every(
        connection,
        "SELECT r.* FROM golive.releases r JOIN golive.coverage c USING (release_id)"
        " WHERE r.state IN ('retired', 'rolled_back') AND c.seen IS NOT NULL AND NOT r.release_id = ANY(%s)",
        ([item.release.release_id for item in kept],),
    )
    for row in rows:
        changes.reset_to_seal(connection, Release(**row))


def _told(item: Kept, documents: int) -> dict[str, Any]:
    return {"role": item.role, "release_id": item.release.release_id, "documents": documents}


def _wait(connection: Connection, poll_s: float) -> None:
    """Until a write to ``documents`` is heard of, or ``poll_s`` seconds have passed; a burst of notices counts as one."""
    heard, _, _ = select.select([connection], [], [], poll_s)
    if heard:
        time.sleep(_BURST_S)
        connection.poll()
        connection.notifies.clear()
