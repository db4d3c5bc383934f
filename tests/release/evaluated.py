"""Two releases, the second one really evaluated against the first, and signed; built once a run, copied for each test."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from lib.evaluation import settings
from lib.platform import postgres, signing
from lib.platform.workspace import Workspace
from lib.release import assessment, ingesting
from tests.conftest import HANDBOOK, PROJECT, administer
from tests.release.staged import (
    FIRST_LOCKED,
    SECOND_LOCKED,
    Project,
    copy_project,
    database_address,
    do_without_fsync,
    drop_database,
    lock,
    sync,
    write_cases,
    write_manifest,
)

QUOTES = {
    "a": ("backups.md", "A backup is proven by restoring it into fresh tables."),
    "b": ("backups.md", "Keep the last seven daily backups"),
    "c": ("pointer.md", "One row names the table that answers queries."),
    "d": ("chunking.md", "Overlap repeats the end of a chunk"),
}
CASES: dict[str, Any] = {
    "schema_version": 1,
    "cases": [
        {"query_id": name, "query": text, "gt_answer": text, "answerable": True, "gold": [{"doc_id": doc, "quote": text}]}
        for name, (doc, text) in QUOTES.items()
    ]
    + [{"query_id": "e", "query": "who won?", "gt_answer": "Nothing says so.", "answerable": False, "gold": []}],
}


@pytest.fixture
def evaluated(
    server: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """The second release is active, has a signed manifest and a signed verdict; the first is live. No key signs now."""
    template, folder = _build(server, tmp_path_factory.getbasetemp() / "evaluated")
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(server, _copied(name, template))
    copy_project(folder, workspace.root)
    url = database_address(server, name)
    monkeypatch.setenv("DATABASE_URL", url)
    connection = postgres.connect(url, "test")
    yield Project(workspace, url, connection)
    connection.close()
    drop_database(server, name)


def private_key(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key that signed."""
    return _build(server, tmp_path_factory.getbasetemp() / "evaluated")[1].parent / "release.pem"


@cache
def _build(server: str, root: Path) -> tuple[str, Path]:
    do_without_fsync(server)
    home = Workspace(root / "home")
    shutil.copytree(
        PROJECT / "configs", home.configs, ignore=shutil.ignore_patterns("locked_configs", "attestations.yaml", "signing")
    )
    write_cases(home.default_cases, CASES)
    signing.write_pair(root / "release.pem", home.configs / "signing" / "release.pub", "")
    working = f"evaluated_{uuid.uuid4().hex[:8]}"
    administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(working)))
    url = database_address(server, working)
    connection = postgres.connect(url, "test")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", url)
        environment.setenv(signing.SIGNING_KEY_FILE, str(root / "release.pem"))
        _evaluate(Project(home, url, connection))
    connection.close()
    return working, home.root


def _evaluate(project: Project) -> None:
    postgres.create_state(project.connection)
    sync(project, HANDBOOK)
    lock(project, FIRST_LOCKED, chunk_size="80", embedder_runtime="torch")
    ingesting.ingest(project.workspace, project.connection)
    first = project.release().release_id
    project.execute("UPDATE golive.pointer SET release_id = %s, generation = generation + 1", (first,))
    project.execute("UPDATE golive.releases SET state = 'live' WHERE release_id = %s", (first,))
    lock(project, SECOND_LOCKED, chunk_size="40", embedder_runtime="torch")
    ingesting.ingest(project.workspace, project.connection)
    write_manifest(project)
    assessment.assess(
        project.workspace,
        project.connection,
        cases_path=project.workspace.default_cases,
        settings=settings.load(project.workspace),
    )


def _copied(name: str, template: str) -> sql.Composable:
    names = [sql.Identifier(text) for text in (name, template)]
    return sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(*names)
