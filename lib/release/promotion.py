"""Promotion: one transaction moves the pointer, and only to exactly what was evaluated, gated and backed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.evaluation import cases as case_files
from lib.index import changes
from lib.index.releases import Pointer, Release, get_release, hold_table, read_pointer
from lib.index.seal import content_of
from lib.platform import audit, failpoints, locks, postgres
from lib.platform.commit import alive, committing
from lib.platform.errors import GoliveError, Refused, Unavailable
from lib.platform.files import digest_of, read_json
from lib.platform.lease import lease, who
from lib.platform.workspace import Workspace
from lib.release import attesting, audit_heads, backup, catching_up, receipts
from lib.release.checklist import blocking_items, requires_signature
from lib.release.gates import load_gates

_LOCK_TIMEOUT = "2s"
_LOCK_TRIES = 3
_DOCUMENTS_LOCK_TIMEOUT = "2s"  # for so long writers wait behind a promotion that waits for one of them
_DOCUMENTS_LOCK_TRIES = 5
_ROUNDS = 5
_FEW = 32  # so many documents are indexed while writers wait


@dataclass(frozen=True)
class Condition:
    """One thing that must be so for a promotion, and what was found."""

    name: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Promotion:
    """What a promotion did or would do."""

    release_id: str
    before: str | None
    generation: int
    conditions: list[Condition]
    applied: bool
    already_live: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        if self.already_live:
            return f"{self.release_id} is live already; nothing changed"
        lines = [f"  {'holds' if c.holds else 'FAILS'}  {c.name}: {c.found}" for c in self.conditions]
        verb = "promoted" if self.applied else "would promote" if all(c.holds for c in self.conditions) else "would refuse"
        return "\n".join(
            [*lines, f"{verb}: {self.before or 'nothing'} -> {self.release_id} (generation {self.generation})"]
        )


def promote_active(workspace: Workspace, *, dry_run: bool = False) -> Promotion:
    """Promotes the release of the active config; the database is found and the lease taken here.

    Raises:
        Refused: a condition does not hold. LeaseHeld: another run is at work.
    """
    with postgres.database(workspace, "promotion", write=True) as connection:
        if dry_run:
            return promote(workspace, connection, dry_run=True)
        with lease(postgres.address(workspace), "promote_production_config"):
            outcome = promote(workspace, connection)
            with alive(connection, postgres.address(workspace)) as still:
                audit_heads.export(workspace, still, outcome.release_id)
            return outcome


def promote(workspace: Workspace, connection: Connection, *, dry_run: bool = False) -> Promotion:
    """Checks every condition again inside the transaction that moves the pointer, and reads the new state back.

    Documents that changed since the table was sealed are brought in before, and the last of them in that transaction, with
    ``documents`` locked against writers: what goes live answers from exactly the documents that stand at that moment.
    """
    config = store.read_active(workspace)
    with connection:
        release = get_release(connection, config.ingest_run_id)
        pointer = read_pointer(connection)
    if pointer.release and pointer.release.release_id == release.release_id:
        if not dry_run:
            store.write_active(workspace, config.in_production(True))
        return Promotion(release.release_id, release.release_id, pointer.generation, [], False, True)
    evidence = _evidence(workspace, release)
    failpoints.reach("promote.begin")
    if dry_run:
        try:
            changes.ensure_coverage(connection, release)

            def foresee() -> Condition:
                return _documents(workspace, connection, release, may_be_pending=True)

            return _decide(workspace, connection, release, evidence, foresee, True)
        finally:
            connection.rollback()
    with catching_up.turn(workspace):
        models, ready = _bring_in(workspace, connection, release)
        failpoints.reach("promote.transaction")
        with committing(connection) as transaction:

            def prove() -> Condition:
                failpoints.reach("promote.documents")
                _lock_documents(connection)
                catching_up.bring_in_now(connection, ready, models)
                return _documents(workspace, connection, release, may_be_pending=False)

            outcome = _decide(workspace, connection, release, evidence, prove, False)
            failpoints.reach("promote.commit")
    failpoints.reach("promote.read_back")
    with transaction.reading_back() as alive:
        now = read_pointer(alive)
    assert now.release and now.release.release_id == release.release_id, "the pointer does not name what was promoted"
    failpoints.reach("promote.config")
    store.write_active(workspace, config.in_production(True))
    failpoints.reach("promote.done")
    return outcome


def _decide(
    workspace: Workspace,
    connection: Connection,
    release: Release,
    evidence: dict[str, str],
    prove_documents: Callable[[], Condition],
    dry_run: bool,
) -> Promotion:
    """Looks at every condition and moves the pointer if all hold; the documents come last, as writers wait from then on.

    The caller owns the transaction.

    Raises:
        Refused: one does not hold.
    """
    pointer = lock_pointer(connection)
    conditions = _conditions(workspace, connection, release, pointer, evidence)
    if dry_run or all(condition.holds for condition in conditions):
        conditions.append(prove_documents())
    failed = [condition for condition in conditions if not condition.holds]
    before = pointer.release.release_id if pointer.release else None
    outcome = Promotion(release.release_id, before, pointer.generation + 1, conditions, not dry_run, False)
    if dry_run:
        return outcome
    if failed:
        raise Refused(
            f"{release.release_id} is not promoted: {failed[0].name}: {failed[0].found}",
            detail="; ".join(f"{c.name}: {c.found}" for c in failed[1:]),
            hint="make golive runs the steps that are missing",
        )
    failpoints.reach("promote.move")
    move_pointer(connection, pointer, release, f"promotion after verdict {evidence['verdict_digest'][:12]}", "retired")
    return outcome


def _bring_in(workspace: Workspace, connection: Connection, release: Release) -> tuple[catching_up.Models, list[Release]]:
    """Brings documents in until few are left, while nobody waits; the models that that took, and the releases it reached.

    Raises:
        Refused: too many have changed.
        Unavailable: the release cannot be brought up to date, or documents are written faster than they can be indexed.
    """
    with connection:
        changes.ensure_coverage(connection, release)
        condition = _documents(workspace, connection, release, may_be_pending=True)
    if not condition.holds:  # too many to index for a release that will not go live
        raise Refused(f"{release.release_id} is not promoted: documents: {condition.found}", hint="make golive")
    models = catching_up.Models(workspace)
    for _ in range(_ROUNDS):
        outcome = catching_up.bring_in(workspace, connection, models)
        if release.release_id in outcome.failed:
            raise Unavailable(
                f"{release.release_id} cannot be brought up to date with the documents",
                detail=outcome.failed[release.release_id],
            )
        with connection:
            kept = [k.release for k in catching_up.kept_releases(workspace, connection)]
            ready = [item for item in kept if item.release_id not in outcome.failed]
            left = max((len(changes.pending_documents(connection, item)) for item in ready), default=0)
        if left <= _FEW:
            return models, ready
    raise Unavailable(
        "documents are written faster than they can be indexed",
        detail=f"{left} are pending after {_ROUNDS} rounds",
        hint="promote when fewer are written",
    )


def _lock_documents(connection: Connection) -> None:
    """Lets nobody write documents until the transaction ends. Between tries, those who wait behind it have their turn.

    Raises:
        psycopg2.errors.LockNotAvailable: another transaction has been writing all the time.
    """

    def lock() -> None:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE documents IN SHARE MODE")

    locks.take(connection, lock, timeout=_DOCUMENTS_LOCK_TIMEOUT, tries=_DOCUMENTS_LOCK_TRIES)


def lock_pointer(connection: Connection) -> Pointer:
    """The pointer, locked until the transaction ends; queries read it all the while. The caller owns the transaction.

    Raises:
        psycopg2.errors.LockNotAvailable: another transaction has held it all the time.
    """
    return locks.take(connection, lambda: read_pointer(connection, lock=True), timeout=_LOCK_TIMEOUT, tries=_LOCK_TRIES)


def move_pointer(connection: Connection, pointer: Pointer, release: Release, reason: str, state_before: str) -> None:
    """Moves a locked pointer to ``release`` by compare-and-set on its generation. The caller owns the transaction.

    Args:
        state_before: what becomes of the release that was live: ``retired`` or ``rolled_back``.
    """
    with connection.cursor() as cursor:
        if pointer.release and pointer.release.release_id != release.release_id:
            cursor.execute(
                "UPDATE golive.releases SET state = %s WHERE release_id = %s", (state_before, pointer.release.release_id)
            )
        cursor.execute("UPDATE golive.releases SET state = 'live' WHERE release_id = %s", (release.release_id,))
        cursor.execute(
            "UPDATE golive.pointer SET generation = generation + 1, previous = release_id, release_id = %s,"
            " moved_at = now(), moved_by = %s, reason = %s WHERE generation = %s",
            (release.release_id, who(), reason, pointer.generation),
        )
        if cursor.rowcount != 1:
            raise Refused("the pointer was moved by somebody else meanwhile", hint="look at make status, then try again")
        # a stop holds for a table that came back during it
        cursor.execute("SELECT golive.close_tables() FROM golive.traffic WHERE state = 'stopped'")
    before = pointer.release.content_digest if pointer.release else None
    audit.record(connection, "move pointer", release.release_id, reason, before=before, after=release.content_digest)


def _evidence(workspace: Workspace, release: Release) -> dict[str, str]:
    """The file of the cases that the verdict's file names, and the digest of the verdict.

    Raises:
        Refused: there is no verdict.
    """
    path = workspace.evidence(release.release_id) / "verdict.json"
    hint = "scripts/production_evaluation.py --skip-ingest"
    try:
        content = read_json(path, "verdict")
    except GoliveError as error:
        raise Refused(f"{release.release_id} has no verdict", detail=error.message, hint=hint) from error
    if not isinstance(content, dict) or not isinstance(content.get("cases_file"), str):
        raise Refused(f"{release.release_id} has no verdict", detail=f"{workspace.show(path)} holds none", hint=hint)
    return {"cases_file": content["cases_file"], "verdict_digest": digest_of(content)}


def _conditions(
    workspace: Workspace, connection: Connection, release: Release, pointer: Pointer, evidence: dict[str, str]
) -> list[Condition]:
    verdict = postgres.one(
        connection,
        "SELECT * FROM golive.verdicts WHERE release_id = %s ORDER BY verdict_id DESC LIMIT 1",
        (release.release_id,),
    )
    hold_table(connection, release.release_id)
    content = content_of(connection, release.table_schema, release.table_name)
    digest = content.digest if content else "no table"
    live = pointer.release.release_id if pointer.release else None
    recorded = verdict or {}

    def same(name: str, now: str | None, then: str | None) -> Condition:
        return Condition(
            name,
            now == then and now is not None,
            f"{_short(now)}" if now == then else f"{_short(then)} was evaluated, {_short(now)} is there",
        )

    return [
        Condition("release", release.state == "sealed", f"its state is {release.state}"),
        same("content digest", digest, recorded.get("content_digest")),
        same("sealed digest", digest, release.content_digest),
        same("config hash", release.locked_config.config_hash, recorded.get("config_hash")),
        same("config file", store.read_active(workspace).digest, release.locked_config.digest),
        _attempt(
            "cases digest", lambda: same("cases digest", _cases_digest(workspace, evidence), recorded.get("cases_digest"))
        ),
        same("gates", digest_of(load_gates(workspace)), recorded.get("gates_digest")),
        same("verdict file", evidence["verdict_digest"], recorded.get("verdict_digest")),
        _attempt(
            "signature",
            lambda: Condition(
                "signature",
                *attesting.judge_signature(workspace, release.release_id, required=requires_signature(workspace)),
            ),
        ),
        Condition("verdict", recorded.get("verdict") == "PASS", str(recorded.get("verdict", "none"))),
        Condition(
            "baseline", recorded.get("baseline") == live, f"compared with {recorded.get('baseline')}, live is {live}"
        ),
        backup_condition(workspace, connection, release, pointer.release),
        _attempt("checklist", lambda: _checklist(workspace, release)),
    ]


def _documents(workspace: Workspace, connection: Connection, release: Release, *, may_be_pending: bool) -> Condition:
    holds, found = catching_up.judge_documents(workspace, connection, release, may_be_pending=may_be_pending)
    return Condition("documents", holds, found)


def _attempt(name: str, look: Callable[[], Condition]) -> Condition:
    """A condition that could not be looked at does not hold."""
    try:
        return look()
    except GoliveError as error:
        return Condition(name, False, error.message)


def _cases_digest(workspace: Workspace, evidence: dict[str, str]) -> str:
    return case_files.load(workspace.root / evidence["cases_file"]).digest


def backup_condition(workspace: Workspace, connection: Connection, release: Release, live: Release | None) -> Condition:
    """A proven backup that holds the release, and what is live, with these very digests, and is whole on disk."""
    found = backup.standing(workspace, connection, [item for item in (release, live) if item])
    return Condition("backup", False, found) if isinstance(found, str) else Condition("backup", True, found.backup_id)


def _checklist(workspace: Workspace, release: Release) -> Condition:
    """The newest checklist of this release has nothing missing that blocks."""
    receipt = receipts.read(workspace, release.release_id, "validate")
    if receipt is None or receipt.inputs.get("content_digest") != release.content_digest:
        return Condition("checklist", False, "scripts/production_validation.py has not looked at this release")
    missing = blocking_items(receipt.summary)
    return Condition("checklist", not missing, ", ".join(missing) or "nothing that blocks is missing")


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"
