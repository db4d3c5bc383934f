"""A step at its beginning, in a database and a workspace of the test's own: copied from one that was prepared once."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg2 import sql

from lib.index.embedder import Embedder
from lib.platform import embedded, postgres
from lib.platform.workspace import Workspace
from tests.conftest import Finished, administer
from tests.faults import invariants, killing
from tests.faults.steps import STEPS, Step
from tests.release.staged import Project, copy_project, database_address, drop_database, stages

_prepared: dict[tuple[str, str], tuple[str, Path]] = {}
_traces: dict[str, list[str]] = {}
_dumps: dict[tuple[str, str], Path] = {}


@dataclass
class Case:
    """A step, its project, and the state before it. ``own``: the workspace has a PostgreSQL of its own, no DATABASE_URL."""

    step: Step
    project: Project
    before: invariants.Before
    own: bool = False

    def choose(self) -> None:
        """What runs from now on runs in this case, though another was opened since."""
        os.environ.update(DATABASE_URL=self.project.url, GOLIVE_HOME=str(self.project.workspace.root))

    def start(self, **environment: str) -> killing.Running:
        return self.step.start(self.project, **environment)

    def run(self, **environment: str) -> Finished:
        return killing.finish(self.start(**environment))

    def check(self, *, but: tuple[invariants.Check, ...] = ()) -> None:
        """Asserts every invariant, ``but`` for what the test itself has broken."""
        checks = tuple(check for check in invariants.CHECKS if check not in but)
        invariants.check(self.project.workspace, self.project.url, self.before, checks)

    def repeat(self) -> None:
        """What holds after a fault is checked; the same command is run again to the end; all is checked again."""
        self.check()
        done = self.run()
        assert done.code == 0, done
        invariants.check(self.project.workspace, self.project.url, self.before, invariants.AFTERWARDS)
        self.step.done(self.project)

    def reconnect(self) -> None:
        """After the server was killed; it is started where it is the workspace's own."""
        self.project.connection.close()
        if self.own:
            self.project.url = embedded.address(self.project.workspace)
        self.project.connection = postgres.connect(self.project.url, "test")


@pytest.fixture
def open_case(
    server: str,
    embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Case]]:
    """Opens a step by its name, as often as asked; ``DATABASE_URL`` and ``GOLIVE_HOME`` then name the newest."""
    opened: list[tuple[Project, str]] = []

    def open_(name: str) -> Case:
        template, folder = _prepare(server, tmp_path_factory, STEPS[name])
        project, database = _copy(server, template, folder, tmp_path / str(len(opened)))
        opened.append((project, database))
        monkeypatch.setenv("DATABASE_URL", project.url)
        monkeypatch.setenv("GOLIVE_HOME", str(project.workspace.root))
        step = STEPS[name]
        return Case(step, project, invariants.Before.of(project.url, step.then(project)))

    yield open_
    for project, database in opened:
        project.connection.close()
        drop_database(server, database)


@pytest.fixture
def open_own(
    server: str,
    embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Case]]:
    """As ``open_case``, in an embedded server of the workspace's own, which may be killed; scripts start it again."""
    opened: list[Case] = []

    def open_(name: str) -> Case:
        template, folder = _prepare(server, tmp_path_factory, STEPS[name])
        workspace = Workspace(tmp_path / str(len(opened)))
        copy_project(folder, workspace.root)
        _copy_server(_server_with(server, template, tmp_path_factory), embedded.data_folder(workspace))
        monkeypatch.delenv("DATABASE_URL", raising=False)
        monkeypatch.setenv("GOLIVE_HOME", str(workspace.root))
        url = embedded.address(workspace)
        project = Project(workspace, url, postgres.connect(url, "test"))
        case = Case(STEPS[name], project, invariants.Before.of(url, STEPS[name].then(project)), own=True)
        opened.append(case)
        return case

    yield open_
    for case in opened:
        case.project.connection.close()
        embedded.stop(case.project.workspace)


def reached(open_case: Callable[[str], Case], name: str, folder: Path) -> list[str]:
    """The places that a whole run of a step reaches, in order, with repeats; found once."""
    if name not in _traces:
        case, file = open_case(name), folder / "trace"
        done = case.run(GOLIVE_FAILPOINT=f"*=trace:{file}")
        assert done.code == 0, done
        case.step.done(case.project)
        _traces[name] = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
    return _traces[name]


def _prepare(server: str, factory: pytest.TempPathFactory, step: Step) -> tuple[str, Path]:
    """The database and the folder in which the step can begin; made on first use."""
    if (server, step.name) not in _prepared:
        template, folder = stages(server, factory.getbasetemp() / "stages")[step.stage]
        project, database = _copy(server, template, folder, factory.mktemp("prepared"))
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DATABASE_URL", project.url)
            environment.setenv("GOLIVE_HOME", str(project.workspace.root))
            step.prepare(project)
        project.connection.close()
        _prepared[server, step.name] = (database, project.workspace.root)
    return _prepared[server, step.name]


def _copy(server: str, template: str, folder: Path, target: Path) -> tuple[Project, str]:
    database = f"fault_{uuid.uuid4().hex[:12]}"
    administer(
        server,
        sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(database), sql.Identifier(template)
        ),
    )
    workspace = Workspace(target)
    copy_project(folder, workspace.root)
    settings = workspace.configs / "evaluation.yaml"  # as the tests' own workspaces: no graph has to be made
    settings.write_text(settings.read_text().replace("embedder_runtime: openvino ", "embedder_runtime: torch "))
    url = database_address(server, database)
    return Project(workspace, url, postgres.connect(url, "test")), database


def _server_with(server: str, database: str, factory: pytest.TempPathFactory) -> Path:
    """The files of a stopped server whose database ``postgres`` is a copy of this one."""
    if (server, database) not in _dumps:
        home = Workspace(factory.mktemp("own"))
        url = embedded.address(home)
        dump = subprocess.run(
            [embedded.client("pg_dump"), "--dbname", database_address(server, database)], capture_output=True, check=True
        ).stdout
        subprocess.run(
            [embedded.client("psql"), url, "--quiet", "--set", "ON_ERROR_STOP=1"],
            input=dump,
            capture_output=True,
            check=True,
        )
        embedded.stop(home)
        _dumps[server, database] = embedded.data_folder(home)
    return _dumps[server, database]


def _copy_server(data: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(data), str(target)], check=True)
