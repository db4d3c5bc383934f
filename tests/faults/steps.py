"""The steps that faults are tried on: from which stage each starts, what is run, and how it is known to be done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg2 import sql

from lib.config import store
from lib.platform.files import read_json
from lib.release import promotion
from tests.faults import killing
from tests.faults.forking import Forked
from tests.faults.invariants import visible_backups
from tests.release.staged import Project, lock

THIRD_LOCKED = datetime(2026, 1, 4, 3, 4, 5, tzinfo=UTC)
_CHUNK_TOKENS = 30
_built: set[str | None] = set()  # the digests of all builds of this run, of killed ones and of others


@dataclass(frozen=True)
class Step:
    """``then`` names what may be live afterwards; ``done`` asserts that the whole step was done, once.

    ``command`` gives what is run, as the arguments of a process or as a function for a forked one.
    """

    name: str
    stage: str
    prepare: Callable[[Project], None]
    command: Callable[[Project], list[str] | Callable[[], None]]
    then: Callable[[Project], str | None]
    done: Callable[[Project], None]

    def start(self, project: Project, **environment: str) -> killing.Running:
        command = self.command(project)
        return Forked(command, environment) if callable(command) else killing.start(command, **environment)


def newest_release(project: Project) -> str:
    return project.releases()[-1].release_id


def first_release(project: Project) -> str:
    return project.releases()[0].release_id


def newest_backup(project: Project) -> str:
    return visible_backups(project.workspace)[-1].name


def _nothing(project: Project) -> None:
    pass


def _live(project: Project) -> str | None:
    return project.live_id()


def _lock_done(project: Project) -> None:
    releases = project.releases()
    config = store.read_active(project.workspace)
    assert config.chunk_size == _CHUNK_TOKENS
    assert [release.chunk_version for release in releases[1:]] == [config.chunk_version]
    assert store.in_history(project.workspace, config)


def _lock_another(project: Project) -> None:
    lock(project, THIRD_LOCKED, chunk_size=str(_CHUNK_TOKENS), embedder_runtime="torch")


def _ingest(project: Project) -> Callable[[], None]:
    from tests.faults.building import ingest

    return lambda: ingest(project.workspace)


def _ingest_done(project: Project) -> None:
    release = project.release()
    assert release.state == "sealed" and release.row_count
    _built.add(release.content_digest)
    assert len(_built) == 1, "a build that was killed on its way gave other rows than one that was not"
    assert (project.workspace.evidence(release.release_id) / "receipts" / "ingest.json").exists()


def _promote_done(project: Project) -> None:
    assert project.live_id() == newest_release(project)
    assert store.read_active(project.workspace).is_production
    states = [release.state for release in project.releases()]
    assert states == ["retired", "live"]


def _back_up(project: Project) -> None:
    for folder in visible_backups(project.workspace):
        shutil.rmtree(folder)
    project.execute("DELETE FROM golive.backups")


def _backup_done(project: Project) -> None:
    registered = [
        row["backup_id"] for row in project.ask("SELECT backup_id FROM golive.backups ORDER BY created_at, backup_id")
    ]
    seen = [folder.name for folder in visible_backups(project.workspace)]
    assert seen and set(registered) <= set(seen) and registered
    # nothing but whole backups: what a run that died began is gone
    assert not [path for path in project.workspace.backups.iterdir() if path.name.startswith(".incomplete")]


def _promoted(project: Project) -> None:
    promotion.promote(project.workspace, project.connection)


def _promoted_and_lost(project: Project) -> None:
    """The second release is live, and the table of the first is gone."""
    _promoted(project)
    release = project.release(first_release(project))
    for name in (f"{release.table_name}_terms", release.table_name):
        project.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(name)))


def _restore(project: Project) -> list[str]:
    return killing.script("restore_production_state", "--backup-id", newest_backup(project))


def _restore_elsewhere(project: Project) -> list[str]:
    return [*_restore(project), "--from-another-system"]


def _restore_done(project: Project) -> None:
    assert project.live_id() == first_release(project)
    release = project.release(first_release(project))
    assert release.state == "live"
    assert store.read_active(project.workspace).ingest_run_id == release.release_id


def _everything_lost(project: Project) -> None:
    """Another machine: an empty database, the shipped configs, and the backup that holds the first release alone."""
    oldest = visible_backups(project.workspace)[0]
    for folder in visible_backups(project.workspace):
        if folder != oldest:
            shutil.rmtree(folder)
    shutil.rmtree(project.workspace.locked_configs)
    shutil.rmtree(project.workspace.root / "metrics")
    project.execute("DROP SCHEMA golive CASCADE")
    tables = project.ask("SELECT quote_ident(relname) AS name FROM pg_class WHERE relkind = 'r' AND relname ~ '^document'")
    project.execute(f"DROP TABLE {', '.join(row['name'] for row in tables)} CASCADE")


def _restored_by(project: Project) -> str:
    manifest = read_json(visible_backups(project.workspace)[-1] / "manifest.json", "manifest")
    return str(manifest["restores"]["release_id"])


def _stopped(project: Project) -> None:
    project.execute("UPDATE golive.traffic SET state = 'stopped', reason = 'a test'")


def _traffic_is(project: Project, state: str) -> None:
    assert project.ask("SELECT state FROM golive.traffic") == [{"state": state}]


def _roles_done(project: Project) -> None:
    checked = killing.run([*_ROLES, "--check"])
    assert checked.code == 0, checked


_ROLES = killing.script(
    "database_roles", "--owner", "faults_owner", "--operator", "faults_operator", "--reader", "faults_reader"
)
STEPS = {
    step.name: step
    for step in (
        Step(
            "lock",
            "live",
            _nothing,
            lambda _: killing.script("lock_production_config", "--chunk-size", str(_CHUNK_TOKENS)),
            _live,
            _lock_done,
        ),
        Step("ingest", "live", _lock_another, _ingest, _live, _ingest_done),
        Step(
            "promote",
            "second",
            _nothing,
            lambda _: killing.script("promote_production_config"),
            newest_release,
            _promote_done,
        ),
        Step("backup", "second", _back_up, lambda _: killing.script("backup_production_state"), _live, _backup_done),
        Step("restore pointer", "second", _promoted, _restore, first_release, _restore_done),
        Step("restore table", "second", _promoted_and_lost, _restore, first_release, _restore_done),
        Step("restore fresh", "second", _everything_lost, _restore_elsewhere, _restored_by, _restore_done),
        Step(
            "stop",
            "live",
            _nothing,
            lambda _: killing.script("emergency_stop", "--reason", "a test"),
            _live,
            lambda project: _traffic_is(project, "stopped"),
        ),
        Step(
            "stop by force",
            "live",
            _nothing,
            lambda _: killing.script("emergency_stop", "--reason", "a test", "--force"),
            _live,
            lambda project: _traffic_is(project, "stopped"),
        ),
        Step(
            "resume",
            "live",
            _stopped,
            lambda _: killing.script("resume_operations", "--reason", "a test"),
            _live,
            lambda project: _traffic_is(project, "open"),
        ),
        Step("roles", "live", _nothing, lambda _: _ROLES, _live, _roles_done),
    )
}
