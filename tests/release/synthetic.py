"""Releases made without a model: real tables, indexes, seals and evidence, over vectors that only the texts decide.

For tests that need releases and no retrieval quality: nothing here waits for a model to load. Stages as in ``staged``.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from psycopg2 import sql

from lib.index.releases import Release
from lib.platform import postgres
from lib.platform.workspace import Workspace
from lib.release import backup, catching_up, ingesting, promotion, receipts
from tests.conftest import HANDBOOK, PROJECT, administer
from tests.index.killed_build import FixedEmbedder
from tests.release import staged
from tests.release.staged import FIRST_LOCKED, Project

_HEALTH = ("environment", "database_connectivity", "index_presence", "token_budget", "prefix_leakage", "model_availability")


class Embedder(FixedEmbedder):
    batch_independent = False  # not worth a cache


@contextmanager
def without_a_model() -> Iterator[None]:
    """Whatever would load an embedder gets one whose vectors are drawn by the text's hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingesting, "load_embedder", lambda *_: Embedder())
        patch.setattr(catching_up, "load_embedder", lambda *_: Embedder())
        yield


def build(project: Project, number: int = 1) -> Release:
    """Locks and seals the ``number``-th config: each has a chunk size of its own."""
    moment = moment_of(number)
    staged.lock(project, moment, chunk_size=str(500 - 50 * number if number < 9 else 20 + number))
    with without_a_model():
        ingesting.ingest(project.workspace, project.connection)
    return project.release()


def moment_of(number: int) -> datetime:
    return FIRST_LOCKED + timedelta(days=number - 1)


def judge(project: Project, verdict: str = "PASS") -> None:
    """Gives the active release what stands before a backup: manifest, health gates, verdict."""
    staged.write_manifest(project)
    write_health(project)
    staged.write_verdict(project, verdict)


def make_ready(project: Project) -> None:
    """Gives the active release all evidence that a promotion asks for."""
    judge(project)
    backup.create(project.workspace, project.connection)
    staged.write_checklist(project)


def write_health(project: Project) -> None:
    """As scripts/health_gated_evaluation.py does, without a look at the models."""
    release = project.release()
    checks = [{"name": name, "status": "PASS", "evidence": "written by a test", "seconds": 0.0} for name in _HEALTH]
    receipts.write(
        project.workspace,
        release.release_id,
        "health",
        outcome="PASS",
        inputs={"content_digest": release.content_digest},
        summary={"checks": checks},
        seconds=0.1,
    )


@pytest.fixture
def open_synthetic(
    server: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Project]]:
    """Opens a stage in the test's workspace and in a fresh copy of its database, which ``DATABASE_URL`` then names."""
    opened: list[tuple[Project, str]] = []

    def open_(stage: str) -> Project:
        template, folder = stages(server, tmp_path_factory.getbasetemp() / "synthetic")[stage]
        name = f"test_{uuid.uuid4().hex[:12]}"
        url = copy_database(server, template, name)
        staged.copy_project(folder, workspace.root)
        monkeypatch.setenv("DATABASE_URL", url)
        project = Project(workspace, url, postgres.connect(url, "test"))
        opened.append((project, name))
        return project

    yield open_
    for project, name in opened:
        project.connection.close()
        staged.drop_database(server, name)


@cache
def stages(server: str, root: Path) -> dict[str, tuple[str, Path]]:
    """Stage → the database that is copied for it, and the folder: ``documents`` (only them), ``live``, ``second``."""
    staged.do_without_fsync(server)
    home = Workspace(root / "work")
    shutil.copytree(PROJECT / "configs", home.configs, ignore=shutil.ignore_patterns("locked_configs", "attestations.yaml"))
    staged.write_cases(home.default_cases)
    working = f"synthetic_{uuid.uuid4().hex[:8]}"
    administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(working)))
    url, found = staged.database_address(server, working), {}
    for stage, step in _STAGES.items():
        connection = postgres.connect(url, "test stages")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DATABASE_URL", url)
            step(Project(home, url, connection))
        connection.close()
        copy_database(server, working, f"{working}_{stage}")
        staged.copy_project(home.root, root / stage)
        found[stage] = (f"{working}_{stage}", root / stage)
    return found


def copy_database(server: str, source: str, target: str) -> str:
    """Makes a database that equals another; returns its address."""
    command = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    administer(server, command.format(sql.Identifier(target), sql.Identifier(source)))
    return staged.database_address(server, target)


def _documents(project: Project) -> None:
    postgres.create_state(project.connection)
    staged.sync(project, HANDBOOK)


def _live(project: Project) -> None:
    build(project)
    make_ready(project)
    promotion.promote(project.workspace, project.connection)


def _second(project: Project) -> None:
    build(project, 2)
    make_ready(project)


_STAGES: dict[str, Callable[[Project], None]] = {"documents": _documents, "live": _live, "second": _second}
