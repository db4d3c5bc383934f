"""Releases at four stages, built once a run with the real embedder and copied for each test.

``sealed``: the first release is built. ``ready``: it has all evidence and could be promoted. ``live``: it is promoted.
``second``: another config is sealed beside it, with all evidence.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.config.locked_config import LockedConfig
from lib.evaluation import cases as case_files
from lib.evaluation import results, settings
from lib.evaluation.ragchecker_metrics import METRICS
from lib.index import documents
from lib.index.embedder import Embedder
from lib.index.releases import Pointer, Release, find_release, get_release, read_pointer
from lib.platform import clock, postgres
from lib.platform.files import digest_of, write_json
from lib.platform.workspace import Workspace
from lib.release import (
    assessment,
    attesting,
    audit_heads,
    backup,
    checklist,
    health,
    ingesting,
    locking,
    manifest,
    promotion,
    receipts,
)
from tests.case_rows import case_row, write_evaluation
from tests.conftest import HANDBOOK, administer

STAGES = ("sealed", "ready", "live", "second")
FIRST_LOCKED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECOND_LOCKED = datetime(2026, 1, 3, 3, 4, 5, tzinfo=UTC)
# what a command changes of production where it releases, judges or records anything
STATE = "SELECT (SELECT count(*) FROM golive.releases) AS releases, (SELECT count(*) FROM golive.audit_log) AS audited,"
STATE += " (SELECT generation FROM golive.pointer) AS generation, (SELECT count(*) FROM golive.verdicts) AS verdicts"
_KEPT = ("configs", "eval", "metrics", ".local/backups")

CASES = {
    "schema_version": 1,
    "cases": [
        {
            "query_id": "rollback-1",
            "query": "how long does going back take?",
            "gt_answer": "It takes milliseconds.",
            "answerable": True,
            "gold": [{"doc_id": "pointer.md", "quote": "A rollback moves the pointer back in milliseconds"}],
        },
        {"query_id": "none-1", "query": "who won?", "gt_answer": "Nothing says so.", "answerable": False, "gold": []},
    ],
}


@dataclass
class Project:
    """A workspace and the database that belongs to it."""

    workspace: Workspace
    url: str
    connection: Connection

    def release(self, release_id: str | None = None) -> Release:
        """The named release, else that of the active config; read anew."""
        with self.connection:
            return get_release(self.connection, release_id or store.read_active(self.workspace).ingest_run_id)

    def releases(self) -> list[Release]:
        """All releases, oldest first."""
        with self.connection:
            rows = postgres.every(self.connection, "SELECT * FROM golive.releases ORDER BY chunk_version")
        return [Release(**row) for row in rows]

    def find(self, release_id: str) -> Release | None:
        with self.connection:
            return find_release(self.connection, release_id)

    def pointer(self) -> Pointer:
        with self.connection:
            return read_pointer(self.connection)

    def live_id(self) -> str | None:
        release = self.pointer().release
        return release.release_id if release else None

    def ask(self, query: str, parameters: Any = None) -> list[dict[str, Any]]:
        with self.connection:
            return postgres.every(self.connection, query, parameters)

    def execute(self, command: str | sql.Composable, parameters: Any = None) -> None:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(command, parameters)

    def tamper(self, command: str, table: str | None = None) -> None:
        """Runs SQL on a release's table as somebody would who goes around its seal; ``{table}`` is its name."""
        name = sql.Identifier(table or self.release().table_name)
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(sql.SQL(command).format(table=name))

    def connect(self) -> Connection:
        """Another session on the same database; the caller closes it."""
        return postgres.connect(self.url, "test")


@pytest.fixture
def open_stage(
    server: str,
    embedder: Embedder,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Project]]:
    """Opens a stage in the test's workspace and in a fresh copy of its database, which ``DATABASE_URL`` then names."""
    opened: list[tuple[Connection, str]] = []

    def open_(stage: str) -> Project:
        template, folder = stages(server, tmp_path_factory.getbasetemp() / "stages")[stage]
        name = f"test_{uuid.uuid4().hex[:12]}"
        administer(
            server,
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            ),
        )
        copy_project(folder, workspace.root)
        url = database_address(server, name)
        monkeypatch.setenv("DATABASE_URL", url)
        connection = postgres.connect(url, "test")
        opened.append((connection, name))
        return Project(workspace, url, connection)

    yield open_
    for connection, name in opened:
        connection.close()
        drop_database(server, name)


@pytest.fixture
def sealed(open_stage: Callable[[str], Project]) -> Project:
    """The first release is built and sealed; nothing else was done with it."""
    return open_stage("sealed")


@pytest.fixture
def ready(open_stage: Callable[[str], Project]) -> Project:
    """The first release is sealed, judged, backed up and checked; nothing is live."""
    return open_stage("ready")


@pytest.fixture
def live(open_stage: Callable[[str], Project]) -> Project:
    """The first release is live."""
    return open_stage("live")


@pytest.fixture
def second(open_stage: Callable[[str], Project]) -> Project:
    """The first release is live; a second one is sealed, judged, backed up and checked."""
    return open_stage("second")


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """The address of a database in which there is nothing at all; ``DATABASE_URL`` does not name it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield database_address(server, name)
    drop_database(server, name)


@cache
def stages(server: str, root: Path) -> dict[str, tuple[str, Path]]:
    """Stage → the database that is copied for it, and the folder; built on first use below ``root``."""
    do_without_fsync(server)
    home = Workspace(root / "work")
    shutil.copytree(
        Path(__file__).resolve().parents[2] / "configs",
        home.configs,
        ignore=shutil.ignore_patterns("locked_configs", "attestations.yaml"),
    )
    write_cases(home.default_cases)
    working = f"stage_{uuid.uuid4().hex[:8]}"
    administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(working)))
    found = {}
    for stage in STAGES:
        url = database_address(server, working)
        connection = postgres.connect(url, "test stages")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DATABASE_URL", url)
            _BUILD[stage](Project(home, url, connection))
        connection.close()
        kept = f"{working}_{stage}"
        administer(
            server,
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(kept), sql.Identifier(working)
            ),
        )
        copy_project(home.root, root / stage)
        found[stage] = (kept, root / stage)
    return found


def sync(project: Project, texts: dict[str, str], source: str = "corpus") -> None:
    """Makes ``documents`` of the source equal to these texts."""
    folder = project.workspace.default_corpus
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    scan = documents.scan_folder(folder, source)
    plan = documents.plan_sync(documents.standing_documents(project.connection, source), scan.documents)
    documents.apply_sync(project.connection, source, plan, scan.documents)


def lock(project: Project, moment: datetime = FIRST_LOCKED, **flags: str) -> locking.LockPlan:
    """Locks ``configs/candidate.yaml`` under these flags."""
    candidate = locking.read_candidate(project.workspace, flags=flags)
    plan = locking.plan_lock(project.connection, candidate, moment)
    locking.apply_lock(project.connection, project.workspace, plan)
    return plan


def build(project: Project, config: LockedConfig) -> Release:
    """Stores, ingests and seals a config that came from elsewhere."""
    locking.store_config(project.connection, project.workspace, config)
    ingesting.ingest(project.workspace, project.connection)
    return project.release()


def make_ready(project: Project) -> None:
    """Gives the active release all evidence that a promotion asks for."""
    write_manifest(project)
    write_health(project)
    write_verdict(project)
    backup.create(project.workspace, project.connection)
    write_checklist(project)


def write_manifest(project: Project) -> None:
    """As scripts/eval_manifest_generator.py does."""
    release = project.release()
    found = manifest.build(
        project.workspace,
        project.connection,
        release,
        cases_path=project.workspace.default_cases,
        settings=settings.load(project.workspace),
    )
    path = manifest.write(project.workspace.evidence(release.release_id), found, "yaml")
    attesting.sign_manifest(path, found, attesting.signer())
    receipts.write(
        project.workspace,
        release.release_id,
        "manifest",
        outcome="DONE",
        inputs={"manifest_digest": manifest.digest(found), "use_bedrock": False},
        summary={"file": project.workspace.show(path)},
        seconds=0.1,
    )


def write_health(project: Project) -> None:
    """As scripts/health_gated_evaluation.py does."""
    release, found = project.release(), settings.load(project.workspace)
    checks = health.check_all(project.workspace, project.connection, release, found)
    receipts.write(
        project.workspace,
        release.release_id,
        "health",
        outcome=health.overall(checks),
        inputs={"content_digest": release.content_digest, "settings_digest": found.digest},
        summary={"checks": [check.to_dict() for check in checks]},
        seconds=0.1,
    )


def write_checklist(project: Project) -> None:
    """As scripts/production_validation.py does."""
    release = project.release()
    items = checklist.walk(
        checklist.Context(project.workspace, project.connection, release, project.workspace.default_cases, clock.now())
    )
    summary = checklist.as_summary(items)
    receipts.write(
        project.workspace,
        release.release_id,
        "validate",
        outcome="FAIL" if checklist.blocking_items(summary) else "PASS",
        inputs={"content_digest": release.content_digest},
        summary=summary,
        seconds=0.1,
    )


def write_verdict(project: Project, verdict: str = "PASS", **values: float) -> dict[str, Any]:
    """Evidence of an evaluation as ``lib.release.assessment`` leaves it; keyword arguments replace metrics' values."""
    release, live = project.release(), project.pointer().release
    baseline = live.release_id if live and live.release_id != release.release_id else None
    rates = {"oracle_hit_rate": 0.9, "filter_hit_rate": 0.8, "reader_gold_usage": 0.7, "avg_snapshot_size": 45.0, **values}
    folder = project.workspace.evidence(release.release_id)
    evaluation = _evaluation(project, release)
    write_evaluation(folder / "evaluation", evaluation)
    content = {
        "release_id": release.release_id,
        "cases_file": project.workspace.show(project.workspace.default_cases),
        "gates_digest": digest_of(assessment.load_gates(project.workspace)),
        "inputs": evaluation.summary["inputs"],
        "produced_by": {"reader": "extractive", "judge": "lexical"},
        "metrics_digest": evaluation.digest,
        "use_bedrock": False,
        "verdict": verdict,
        "reasons": ["written by a test"],
        "warnings": [],
        "metrics": [_metric(name, value, baseline) for name, value in rates.items()],
        "baseline_release": baseline,
        "cases": evaluation.summary["counts"],
    }
    write_json(folder / "verdict.json", content)
    record_verdict(project, content)
    receipts.write(
        project.workspace,
        release.release_id,
        "evaluate",
        outcome=verdict,
        inputs=assessment.expected_inputs(
            project.workspace,
            project.connection,
            release,
            cases_path=project.workspace.default_cases,
            settings=settings.load(project.workspace),
        ),
        summary={"reasons": content["reasons"], "baseline": baseline},
        seconds=2.5,
    )
    return content


def record_verdict(project: Project, content: dict[str, Any]) -> None:
    """What an assessment leaves in the database for this ``verdict.json``."""
    assessment.record(project.connection, project.release(content["release_id"]), content)


def write_cases(path: Path, cases: dict[str, Any] = CASES) -> None:
    write_json(path, cases)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file's path below a folder, with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def do_without_fsync(server: str) -> None:
    """A test's server need not survive a power cut; without fsync a database is copied and dropped ten times faster."""
    for command in ("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()"):
        administer(server, sql.SQL(command))


def database_address(server: str, name: str) -> str:
    return server.replace("/postgres?", f"/{name}?")


def drop_database(server: str, name: str) -> None:
    administer(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def copy_project(source: Path, target: Path) -> None:
    for name in _KEPT:
        if (source / name).exists():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
    graphs = source / ".local" / "embedders"
    if graphs.exists():  # to make one takes seven seconds
        (target / ".local").mkdir(exist_ok=True)
        (target / ".local" / "embedders").symlink_to(graphs.resolve())


def _build_sealed(project: Project) -> None:
    postgres.create_state(project.connection)
    sync(project, HANDBOOK)
    lock(project)
    ingesting.ingest(project.workspace, project.connection)


def _build_live(project: Project) -> None:
    outcome = promotion.promote(project.workspace, project.connection)
    audit_heads.export(project.workspace, project.connection, outcome.release_id)


def _build_second(project: Project) -> None:
    lock(project, SECOND_LOCKED, chunk_size="20")
    ingesting.ingest(project.workspace, project.connection)
    make_ready(project)


_BUILD: dict[str, Callable[[Project], None]] = {
    "sealed": _build_sealed,
    "ready": make_ready,
    "live": _build_live,
    "second": _build_second,
}


def _evaluation(project: Project, release: Release) -> results.Evaluation:
    cases = case_files.load(project.workspace.default_cases)
    values = {
        "oracle_hit": 1.0,
        "filter_hit": 0.0,
        "reader_gold_usage": 0.0,
        "answered": 1.0,
        **dict.fromkeys(METRICS, 0.5),
    }
    rows = [
        case_row(
            case.query_id,
            values if case.answerable else None,
            query=case.query,
            abstained=not case.answerable,
            snapshot_size=45,
        )
        for case in cases.cases
    ]
    inputs = {
        "release_id": release.release_id,
        "content_digest": release.content_digest,
        "cases_digest": cases.digest,
        "settings_digest": settings.load(project.workspace).digest,
    }
    summary = results.summarise(rows, inputs=inputs, produced_by={"judge": "lexical"}, deduplication_rate=0.0)
    return results.Evaluation(summary, rows)


def _metric(name: str, value: float, baseline: str | None) -> dict[str, Any]:
    return {
        "metric": name,
        "status": "PASS",
        "reason": "within its limits",
        "value": value,
        "baseline": value if baseline else None,
        "floor": 0.2,
        "ceiling": None,
        "margin": None,
        "difference": None,
        "critical": True,
    }
