"""Going live: the steps in order under one lease, each a script of its own, skipping what still holds."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.evaluation import cases as case_files
from lib.index import documents
from lib.index.releases import get_release, read_pointer
from lib.platform import postgres
from lib.platform.clock import now, timestamp
from lib.platform.errors import ExitCode, NotFound
from lib.platform.files import write_json
from lib.platform.lease import lease
from lib.platform.progress import note
from lib.platform.workspace import CHECKOUT, Workspace
from lib.release import audit_heads, locking, receipts, traffic
from lib.release.steps import Context, Options, Step

_SCRIPTS = CHECKOUT / "scripts"
_BEFORE_LOCK = ("sync", "lock")
_PR_SET_PDEATHSIG = 1
_NEXT = {
    int(ExitCode.FAIL): "the report says why; change the config, then make golive",
    int(ExitCode.INCONCLUSIVE): "too little speaks for or against it: add cases (or change the config), then make golive",
}


@dataclass(frozen=True)
class StepOutcome:
    """A step and its state: ``done``, ``held`` (its receipt holds), ``stopped here``, ``not reached`` or ``to do``."""

    name: str
    state: str
    exit_code: int
    seconds: float


@dataclass
class Outcome:
    """How far a run got, or would get; ``applied`` is False for a preview."""

    release_id: str | None = None
    live_before: str | None = None
    live_after: str | None = None
    unchanged: bool = False
    queries: str = "open"
    applied: bool = True
    exit_code: int = 0
    steps: list[StepOutcome] = field(default_factory=list)
    report: str | None = None
    backup_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What was asked for, read from files and checked before anything is touched."""

    cases: case_files.CaseFile
    folder: Path | None
    source: str


def read_input(workspace: Workspace, *, corpus: str | None, cases: str | None) -> Asked:
    """Reads the corpus folder and the cases, and finds every quote.

    Without a corpus the bundled one is taken; a database of one's own is indexed as it stands, once it has documents.

    Raises:
        NotFound, ConfigInvalid: a folder, a file, a case or a quote.
    """
    file = case_files.load(Path(cases) if cases else workspace.default_cases)
    if corpus is None and os.environ.get("DATABASE_URL"):
        return Asked(file, None, "")
    return _with_folder(file, Path(corpus) if corpus else workspace.default_corpus)


def options_for(
    workspace: Workspace, connection: Connection, asked: Asked, sources: list[str], use_bedrock: bool
) -> Options:
    """What the steps are run with; the bundled corpus goes into a database that has no documents yet."""
    if asked.folder is not None:
        return Options(asked.folder, asked.source, asked.cases.path.resolve(), use_bedrock)
    with connection:
        standing = documents.read_documents(connection, sources)
    if standing:
        case_files.resolve(asked.cases, standing, sources)
        return Options(None, "", asked.cases.path.resolve(), use_bedrock)
    bundled = _with_folder(asked.cases, workspace.default_corpus)
    return Options(bundled.folder, bundled.source, asked.cases.path.resolve(), use_bedrock)


def run(workspace: Workspace, connection: Connection, options: Options, steps: list[Step]) -> Outcome:
    """Runs the steps until one does not pass; the last one that did is where the next run goes on.

    Raises:
        LeaseHeld: another run is at work. IntegrityMismatch: what is live is damaged.
    """
    outcome = Outcome(live_before=_live(connection))
    try:
        with lease(postgres.address(workspace), "golive") as shared:
            _run_steps(workspace, connection, options, steps, outcome, shared)
    except KeyboardInterrupt:
        outcome.exit_code = int(ExitCode.INTERRUPTED)
    outcome.live_after = _live(connection)
    if outcome.release_id and not outcome.unchanged:
        _write_evidence(workspace, connection, outcome)
    return outcome


def preview(workspace: Workspace, connection: Connection, options: Options, steps: list[Step]) -> Outcome:
    """Which steps a run would do and which still hold; nothing is changed."""
    outcome = Outcome(live_before=_live(connection), live_after=_live(connection), applied=False)
    candidate = locking.read_candidate(workspace, sources=[options.source] if options.source else None)
    plan = locking.plan_lock(connection, candidate, now())
    holds = {"sync": _synced(connection, options), "lock": plan.reused}
    known = all(holds.values())
    if known:
        outcome.release_id = plan.config.ingest_run_id
        outcome.unchanged = outcome.release_id == outcome.live_before
        with connection:
            context = Context(workspace, connection, get_release(connection, outcome.release_id), options)
    for step in steps:
        held = holds.get(step.name, known and (outcome.unchanged or bool(step.holds and step.holds(context))))
        outcome.steps.append(StepOutcome(step.name, "held" if held else "to do", 0, 0.0))
    return outcome


def _synced(connection: Connection, options: Options) -> bool:
    if options.corpus is None:
        return True
    scan = documents.scan_folder(options.corpus, options.source)
    return not documents.plan_sync(documents.standing_documents(connection, options.source), scan.documents).changes


def _with_folder(cases: case_files.CaseFile, folder: Path) -> Asked:
    source = documents.source_name(folder, None)
    case_files.resolve(cases, documents.scan_folder(folder, source).documents, [source])
    return Asked(cases, folder.resolve(), source)


def _run_steps(
    workspace: Workspace,
    connection: Connection,
    options: Options,
    steps: list[Step],
    outcome: Outcome,
    shared: Mapping[str, str],
) -> None:
    before = [step for step in steps if step.name in _BEFORE_LOCK and not (step.name == "sync" and options.corpus is None)]
    after = [step for step in steps if step.name not in _BEFORE_LOCK]
    total = len(before) + len(after)
    for number, step in enumerate(before, 1):
        if not _do(step, f"[{number}/{total}]", options, shared, outcome):
            outcome.steps += [StepOutcome(later.name, "not reached", 0, 0.0) for later in [*before[number:], *after]]
            return
    context = _context(workspace, connection, options)
    outcome.release_id = context.release.release_id
    if _live(connection) == outcome.release_id:
        traffic.check_live(connection)
        outcome.queries = traffic.read(connection).state
        _note_other_cases(connection, context)
        if not (workspace.evidence(outcome.release_id) / audit_heads.NAME).exists():  # killed just after the promotion
            audit_heads.export(workspace, connection, outcome.release_id)
        outcome.unchanged = True
        return
    for number, step in enumerate(after, 1):
        context = _context(workspace, connection, options)
        label = f"[{len(before) + number}/{total}]"
        if step.holds and step.holds(context):
            note(f"{label} {step.name}: holds, not done again")
            outcome.steps.append(StepOutcome(step.name, "held", 0, 0.0))
        elif not _do(step, label, options, shared, outcome):
            outcome.steps += [StepOutcome(later.name, "not reached", 0, 0.0) for later in after[number:]]
            return


def _do(step: Step, label: str, options: Options, shared: Mapping[str, str], outcome: Outcome) -> bool:
    """Runs a step; False where it did not pass."""
    note(f"{label} {step.name}")
    started = time.monotonic()
    try:
        code = _run_script(step, options, shared)
    except KeyboardInterrupt:
        code = int(ExitCode.INTERRUPTED)
    state = "stopped here" if code else "done"
    outcome.steps.append(StepOutcome(step.name, state, code, round(time.monotonic() - started, 3)))
    outcome.exit_code = code
    return code == 0


def _context(workspace: Workspace, connection: Connection, options: Options) -> Context:
    config = store.read_active(workspace)
    with connection:
        return Context(workspace, connection, get_release(connection, config.ingest_run_id), options)


def _note_other_cases(connection: Connection, context: Context) -> None:
    """Says so where what is live was judged by other cases than those asked for now."""
    with connection:
        found = postgres.one(
            connection,
            "SELECT cases_digest FROM golive.verdicts WHERE release_id = %s ORDER BY verdict_id DESC LIMIT 1",
            (context.release.release_id,),
        )
    if found and found["cases_digest"] != case_files.load(context.options.cases).digest:
        note("note: the cases differ from those it was judged by; make evaluate judges it by the new ones")


def _live(connection: Connection) -> str | None:
    with connection:
        release = read_pointer(connection).release
    return release.release_id if release else None


def _run_script(step: Step, options: Options, shared: Mapping[str, str]) -> int:
    """Runs a step's script with the lease shared; it ends with this process, however that ends."""
    command = [sys.executable, str(_SCRIPTS / step.script), *step.arguments(options)]
    process = subprocess.Popen(
        command,
        env={**os.environ, **shared},
        stdout=sys.stderr,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
        raise
    if code < 0:
        note(f"{step.script} was killed by signal {-code}")
        return int(ExitCode.UNAVAILABLE)
    return code


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _write_evidence(workspace: Workspace, connection: Connection, outcome: Outcome) -> None:
    from lib.release import report

    assert outcome.release_id is not None
    folder = workspace.evidence(outcome.release_id)
    receipt = receipts.read(workspace, outcome.release_id, "backup")
    outcome.backup_id = receipt.summary["backup_id"] if receipt else None
    write_json(folder / "run.json", {"finished_at": timestamp(), **outcome.to_dict()})
    try:
        outcome.report = workspace.show(report.write(workspace, connection, outcome.release_id))
        if outcome.live_before not in (None, outcome.live_after):  # its own report still says that it is live
            report.write(workspace, connection, str(outcome.live_before))
    except NotFound as error:
        note(f"no report: {error.message}")


def to_text(outcome: Outcome) -> str:
    """How far the run got, in words."""
    if outcome.unchanged and not outcome.applied:
        return f"nothing would be done: {outcome.release_id} is live; config and documents are as released"
    if outcome.unchanged and outcome.queries == "stopped":
        return f"nothing to do: {outcome.release_id} is live and sound, but queries are stopped: make resume"
    if outcome.unchanged:
        return f"nothing to do: {outcome.release_id} is live and sound; config and documents are as released"
    lines = [
        f"  {step.name:<9} {step.state}" + (f" (exit {step.exit_code})" if step.exit_code else "") for step in outcome.steps
    ]
    if not outcome.applied:
        return "\n".join([*lines, f"live: {outcome.live_before or 'nothing'}; nothing was changed"])
    if outcome.report:
        lines.append(f"report: {outcome.report} (beside it report.md and junit.xml)")
    if outcome.exit_code == 0 and outcome.live_after == outcome.release_id:
        lines.append(f"live: {outcome.release_id} (before: {outcome.live_before or 'nothing'})")
        lines.append(f"undo: make rollback BACKUP={outcome.backup_id}")
    else:
        lines.append(
            f"not live: {outcome.release_id or 'nothing was locked'}; live is still {outcome.live_after or 'nothing'}"
        )
        lines.append(_NEXT.get(outcome.exit_code, "make golive goes on from here"))
    return "\n".join(lines)
