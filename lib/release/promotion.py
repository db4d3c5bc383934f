"""Promotion: one transaction moves the pointer, and only to exactly what was evaluated, gated and backed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.evaluation import cases as case_files
from lib.index.documents import corpus_digest
from lib.index.releases import Pointer, Release, get_release, read_pointer
from lib.index.seal import content_of
from lib.platform import audit, postgres
from lib.platform.errors import GoliveError, Refused
from lib.platform.files import digest_of, read_json
from lib.platform.lease import lease, who
from lib.platform.workspace import Workspace
from lib.release import backup, receipts
from lib.release.assessment import load_gates
from lib.release.checklist import blocking_items

_LOCK_TIMEOUT = "5s"


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
            return promote(workspace, connection)


def promote(workspace: Workspace, connection: Connection, *, dry_run: bool = False) -> Promotion:
    """Checks every condition again inside the transaction that moves the pointer, and reads the new state back."""
    config = store.read_active(workspace)
    with connection:
        release = get_release(connection, config.ingest_run_id)
        pointer = read_pointer(connection)
    if pointer.release and pointer.release.release_id == release.release_id:
        if not dry_run:
            store.write_active(workspace, config.in_production(True))
        return Promotion(release.release_id, release.release_id, pointer.generation, [], False, True)
    evidence = _evidence(workspace, release)
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        pointer = read_pointer(connection, lock=True)
        conditions = _conditions(workspace, connection, release, pointer, evidence)
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
        move_pointer(connection, pointer, release, f"promotion after verdict {evidence['verdict_digest'][:12]}", "retired")
    with connection:
        now = read_pointer(connection)
    assert now.release and now.release.release_id == release.release_id, "the pointer does not name what was promoted"
    store.write_active(workspace, config.in_production(True))
    return outcome


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
            "UPDATE golive.pointer SET generation = generation + 1, release_id = %s, moved_at = now(), moved_by = %s,"
            " reason = %s WHERE generation = %s",
            (release.release_id, who(), reason, pointer.generation),
        )
        if cursor.rowcount != 1:
            raise Refused("the pointer was moved by somebody else meanwhile", hint="look at make status, then try again")
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
    with connection.cursor() as cursor:
        if postgres.table_exists(connection, release.table_schema, release.table_name):
            cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(release.table))
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
        same("documents", corpus_digest(connection, release.locked_config.sources), release.corpus_digest),
        _attempt(
            "cases digest", lambda: same("cases digest", _cases_digest(workspace, evidence), recorded.get("cases_digest"))
        ),
        same("gates", digest_of(load_gates(workspace)), recorded.get("gates_digest")),
        same("verdict file", evidence["verdict_digest"], recorded.get("verdict_digest")),
        Condition("verdict", recorded.get("verdict") == "PASS", str(recorded.get("verdict", "none"))),
        Condition(
            "baseline", recorded.get("baseline") == live, f"compared with {recorded.get('baseline')}, live is {live}"
        ),
        backup_condition(workspace, connection, release, pointer.release),
        _attempt("checklist", lambda: _checklist(workspace, release)),
    ]


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
