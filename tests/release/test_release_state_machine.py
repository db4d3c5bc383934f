"""Locking, building, judging, backing up, promoting, damaging and rolling back in any order, with kills, against a model.

The model knows what was locked, sealed, judged and backed up, what is live and damaged, and whether queries are stopped.
Whatever is done, the database is in the state that the model says; a step that was killed is either not begun or complete.
``GOLIVE_STATE_MACHINE_EXAMPLES`` asks for more than ``make test`` takes time for.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from lib.config import store
from lib.index.releases import Release
from lib.index.seal import content_of
from lib.platform import audit, failpoints, postgres
from lib.platform.errors import ExitCode, GoliveError, IntegrityMismatch
from lib.platform.files import read_json
from lib.platform.workspace import Workspace
from lib.release import backup_files, ingesting, rollback_validation
from tests.conftest import PROJECT, Finished
from tests.release import forked, staged, synthetic
from tests.release.staged import Project

EXAMPLES = int(os.environ.get("GOLIVE_STATE_MACHINE_EXAMPLES", "8"))
STEPS = 12
SIZES = (450, 400, 350)
FAILPOINTS = sorted(
    {
        name
        for path in (PROJECT / "lib").rglob("*.py")
        for name in re.findall(r'failpoints\.reach\("([a-z0-9_.]+)"\)', path.read_text(encoding="utf-8"))
    }
)
WEIGHTS = {
    "lock": 1,
    "ingest": 2,
    "judge": 2,
    "back_up": 2,
    "promote": 3,
    "make_ready": 3,
    "roll_back": 4,
    "damage_a_table": 2,
    "damage_a_backup": 1,
    "stop_or_resume": 2,
}
# How the failpoints are named that a step comes to; it writes files, too.
FAILPOINTS_OF = {
    "lock_production_config": "lock",
    "ingest": "ingest",
    "backup_production_state": "backup",
    "promote_production_config": "promote",
    "restore_production_state": "restore",
    "emergency_stop": "traffic",
    "resume_operations": "traffic",
}
Kill = tuple[str, int] | None
REFUSED, INTEGRITY, NOT_FOUND, DONE, KILLED = (
    *(int(code) for code in (ExitCode.REFUSED, ExitCode.INTEGRITY, ExitCode.NOT_FOUND, ExitCode.DONE)),
    -9,
)


@dataclass(frozen=True)
class World:
    """What the database says, and must say."""

    live: str | None
    generation: int
    stopped: bool
    states: dict[str, str]
    registered: frozenset[str]

    def with_state(self, release_id: str, state: str) -> World:
        return replace(self, states={**self.states, release_id: state})

    def moved_to(self, release_id: str, before: str) -> World:
        """The pointer names the release; what was live becomes ``before``."""
        states = dict(self.states)
        if self.live and self.live != release_id:
            states[self.live] = before
        states[release_id] = "live"
        return replace(self, live=release_id, generation=self.generation + 1, states=states)


@dataclass
class KnownBackup:
    """What a visible backup holds, what it brings back, and its damage: none, ``data``, ``manifest``, ``lost``."""

    holds: set[str]
    restores: str
    damage: str | None = None


@dataclass
class Model:
    """What the test knows beside the world."""

    world: World
    digests: dict[str, str] = field(default_factory=dict)  # of sealed tables
    verdicts: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # the last one, and against what
    backups: dict[str, KnownBackup] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)  # releases whose table is not what was sealed
    proven: set[str] = field(default_factory=set)  # releases that passed and were backed up when they went live


class Releases(RuleBasedStateMachine):
    """The rules; ``open_stage`` gives each example a database and a workspace of its own."""

    open_stage: Callable[[str], Project]

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.steps = 0
        stage = random.Random(seed).choice(["second", "second", "second", "live", "documents"])
        note(stage)
        self.project = type(self).open_stage(stage)
        self.model = Model(self.actual())
        for release in self.project.releases():
            self.model.digests[release.release_id] = str(release.content_digest)
            self.model.verdicts[release.release_id] = ("PASS", None if release.state == "live" else self.model.world.live)
        for made in backup_files.every(self.project.workspace):
            assert isinstance(made, backup_files.Backup)
            self.model.backups[made.backup_id] = known(made)
        self.model.proven |= {self.model.world.live} - {None}  # type: ignore[arg-type]

    def teardown(self) -> None:
        if hasattr(self, "project"):
            self.project.connection.close()

    # What is done

    @rule(seed=st.integers(0, 2**32 - 1))
    def step(self, seed: int) -> None:
        """One rule for all, evenly drawn from the seed: a few examples of many rules would be much alike."""
        self.steps += 1
        drawn = random.Random(f"{seed} {self.steps}")
        (what,) = drawn.choices(list(WEIGHTS), list(WEIGHTS.values()))
        number = drawn.randrange(12)
        kind, where = drawn.choice(["failpoint", "statement", "commit", ""]), drawn.randrange(1, 61)
        note(f"{what}, {number}, {kind} {where}")
        getattr(self, what)(number, (kind, where) if kind else None)

    def lock(self, number: int, kill: Kill) -> None:
        size = SIZES[number % len(SIZES)]
        before, standing = self.model.world, self.reusable(size)
        done = self.run("lock_production_config", "--chunk-size", str(size), kill=kill)
        assert done.code in (DONE, KILLED), done.err
        new = self.actual().states.keys() - before.states.keys()
        assert len(new) <= (0 if standing else 1)
        assert standing or new or done.code == KILLED
        self.model.world = replace(before, states={**before.states, **dict.fromkeys(new, "locked")})
        if done.code == DONE:
            assert self.active().ingest_run_id == (standing or next(iter(new)))

    def ingest(self, _: int, kill: Kill) -> None:
        if self.active() is None:
            return
        active = self.active().ingest_run_id
        before, state = self.model.world, self.model.world.states[active]
        done = self.run(ingest, kill=kill)
        if state not in ("locked", "building"):
            self.settle(done, before, before, INTEGRITY if active in self.model.damaged else DONE)
            return
        self.settle(
            done, before, before.with_state(active, "sealed"), DONE, between=[before.with_state(active, "building")]
        )
        if self.model.world.states[active] == "sealed":
            self.model.digests[active] = str(self.project.release(active).content_digest)

    def judge(self, number: int, _: Kill = None) -> None:
        if self.sealed_and_active() is None:
            return
        verdict = ("PASS", "PASS", "FAIL", "INCONCLUSIVE")[number % 4]
        active, live = self.active().ingest_run_id, self.model.world.live
        synthetic.judge(self.project, verdict)
        self.model.verdicts[active] = (verdict, live if live != active else None)

    def back_up(self, _: int, kill: Kill) -> None:
        before, held = self.model.world, self.to_back_up()
        done = self.run("backup_production_state", kill=kill)
        expected = NOT_FOUND if not held else INTEGRITY if held & self.model.damaged else DONE
        assert done.code in (expected, KILLED), done.err
        visible = {made.backup_id: made for made in self.visible() if made.backup_id not in self.model.backups}
        assert len(visible) == (1 if done.code == DONE else 0) or (done.code == KILLED and expected == DONE)
        for backup_id, made in visible.items():
            assert known(made).holds == held
            self.model.backups[backup_id] = known(made)
        self.model.world = replace(before, registered=self.actual().registered)
        new = self.model.world.registered - before.registered
        assert new == set(visible) if done.code == DONE else new <= set(visible)

    def promote(self, _: int, kill: Kill) -> None:
        active, before = self.sealed_and_active(), self.model.world
        if active is None:
            return
        if self.model.verdicts.get(active):
            staged.write_checklist(self.project)
        may = self.may_go_live(active)
        done = self.run("promote_production_config", kill=kill)
        if active == before.live:
            self.settle(done, before, before, DONE)
            return
        self.settle(done, before, before.moved_to(active, "retired") if may else before, DONE if may else REFUSED)
        if self.model.world.live == active:
            self.model.proven.add(active)

    def make_ready(self, number: int, kill: Kill) -> None:
        """All that comes before a promotion, and often that too, so that there are promotions in a few steps."""
        self.lock(number, None)
        if self.active().ingest_run_id not in self.model.damaged:
            self.ingest(0, None)
            self.judge(0)
            self.back_up(0, None)
            if number % 3:
                self.promote(0, kill)

    def roll_back(self, number: int, kill: Kill) -> None:
        if not self.model.backups:
            return
        backup_id, made = self.some_backup(number)
        before, release_id = self.model.world, made.restores
        lost, passed = release_id in self.model.damaged, self.has_passed(release_id)
        done = self.run("restore_production_state", "--backup-id", backup_id, kill=kill)
        if made.damage in ("manifest", "lost"):
            self.settle(done, before, before, NOT_FOUND if made.damage == "lost" else INTEGRITY)
            return
        if not passed:
            self.settle(done, before, before, REFUSED)
            return
        if made.damage and lost:
            self.settle(done, before, before, INTEGRITY)
            return
        nothing_to_do = release_id == before.live and not lost
        after = before if nothing_to_do else before.moved_to(release_id, "rolled_back")
        self.settle(done, before, after, DONE)
        if self.model.world.live == release_id:
            self.model.proven.add(release_id)
        if self.content(release_id) == self.model.digests[release_id]:
            self.model.damaged.discard(release_id)
        if done.code == DONE:
            made_again = backup_files.read(self.project.workspace, backup_id)
            checks = rollback_validation.validate(self.project.workspace, self.project.connection, made_again)
            # a damaged backup can bring back a table that stands, and proves nothing
            failed = [check for check in checks if not check["holds"] and not check["told"]]
            assert not failed or made.damage, failed

    def damage_a_table(self, number: int, _: Kill) -> None:
        if not self.model.digests:
            return
        release_id = sorted(self.model.digests)[number // 2 % len(self.model.digests)]
        if release_id not in self.model.damaged:
            table = self.project.release(release_id).table_name
            self.project.tamper("DROP TABLE {table}" if number % 2 else "DELETE FROM {table} WHERE chunk_index = 0", table)
            self.model.damaged.add(release_id)

    def damage_a_backup(self, number: int, _: Kill) -> None:
        if not self.model.backups:
            return
        backup_id, made = self.some_backup(number // 3)
        if made.damage:
            return
        how = ("data", "manifest", "lost")[number % 3]
        folder, made.damage = self.project.workspace.backups / backup_id, how
        if how == "lost":
            shutil.rmtree(folder)
            return
        path = folder / (made_file(folder) if how == "data" else backup_files.MANIFEST)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1 if how == "data" else 128  # half a manifest's letters are not UTF-8 then
        path.write_bytes(content)

    def stop_or_resume(self, number: int, kill: Kill) -> None:
        before = self.model.world
        if number % 2:
            self.settle(self.run("emergency_stop", kill=kill), before, replace(before, stopped=True), DONE)
            return
        done = self.run("resume_operations", kill=kill)
        code = NOT_FOUND if before.live is None else INTEGRITY if before.live in self.model.damaged else DONE
        self.settle(done, before, replace(before, stopped=before.stopped and code != DONE), code)

    # What always holds

    @invariant()
    def what_always_holds(self) -> None:
        self.the_database_is_what_the_model_says()
        self.only_what_passed_and_was_backed_up_is_live()
        self.tables_are_what_was_sealed_unless_they_were_damaged()
        self.queries_are_answered_from_what_is_live_unless_they_are_stopped()
        self.every_visible_backup_is_whole_unless_it_was_damaged()
        self.every_change_is_in_the_audit_log_and_its_chain_is_whole()
        self.config_files_are_whole_and_those_that_were_locked()

    def the_database_is_what_the_model_says(self) -> None:
        assert self.actual() == self.model.world

    def only_what_passed_and_was_backed_up_is_live(self) -> None:
        assert self.model.world.live is None or self.model.world.live in self.model.proven

    def tables_are_what_was_sealed_unless_they_were_damaged(self) -> None:
        for release_id, digest in self.model.digests.items():
            assert (self.content(release_id) == digest) == (release_id not in self.model.damaged), release_id

    def queries_are_answered_from_what_is_live_unless_they_are_stopped(self) -> None:
        try:
            routed = self.project.ask("SELECT release_id, generation FROM golive.route()")[0]
        except psycopg2.Error as error:
            assert error.pgcode == ("GL001" if self.model.world.stopped else "GL002")
            assert self.model.world.stopped or self.model.world.live is None
        else:
            assert not self.model.world.stopped
            assert routed == {"release_id": self.model.world.live, "generation": self.model.world.generation}

    def every_visible_backup_is_whole_unless_it_was_damaged(self) -> None:
        workspace = self.project.workspace
        names = {path.name for path in workspace.backups.glob("[!.]*")}
        assert names == {name for name, made in self.model.backups.items() if made.damage != "lost"}
        for name in names:
            try:
                backup_files.verify_files(backup_files.read(workspace, name))
                assert self.model.backups[name].damage is None
            except IntegrityMismatch:
                assert self.model.backups[name].damage

    def every_change_is_in_the_audit_log_and_its_chain_is_whole(self) -> None:
        rows = self.project.ask("SELECT action, count(*) AS entries FROM golive.audit_log GROUP BY action")
        entries = {row["action"]: row["entries"] for row in rows}
        world = self.model.world
        assert entries.get("move pointer", 0) == world.generation
        assert entries.get("lock config", 0) == len(world.states)
        assert entries.get("seal table", 0) == len(self.model.digests)
        assert entries.get("back up", 0) == len(world.registered)
        assert entries.get("stop queries", 0) - entries.get("resume queries", 0) == world.stopped
        with self.project.connection:
            assert audit.first_break(self.project.connection) is None

    def config_files_are_whole_and_those_that_were_locked(self) -> None:
        configs = {row.chunk_version: row.config for row in self.project.releases()}
        for path in (self.project.workspace.locked_configs / "history").glob("[!.]*.json"):
            assert read_json(path, "config") == configs[path.stem]
        if store.active_path(self.project.workspace).exists():
            active = self.active()
            assert active.in_production(False).to_dict() == configs[active.chunk_version]

    # What the model works out

    def settle(self, done: Finished, before: World, after: World, code: int, *, between: Iterable[World] = ()) -> None:
        """The world after a step is the one before or the one after it: after it, unless it was refused or killed."""
        assert done.code in (code, KILLED), done.err
        actual = self.actual()
        if done.code == KILLED:
            assert actual in [before, after, *between]
        else:
            assert actual == (after if code == DONE else before)
        self.model.world = actual

    def reusable(self, size: int) -> str | None:
        """The release that locking this config finds: the newest with it, unless it was withdrawn or is damaged."""
        same = [release for release in self.project.releases() if release.config["chunk_size"] == size]
        if not same:
            return None
        newest = max(same, key=lambda release: release.chunk_version)
        damaged = newest.state == "sealed" and newest.release_id in self.model.damaged
        return newest.release_id if newest.state in ("locked", "building", "sealed", "live") and not damaged else None

    def to_back_up(self) -> set[str]:
        active, held = self.active(), {self.model.world.live} - {None}
        if active and self.model.world.states[active.ingest_run_id] == "sealed":
            held.add(active.ingest_run_id)
        return held  # type: ignore[return-value]

    def may_go_live(self, release_id: str) -> bool:
        live = self.model.world.live
        needed = {release_id} | ({live} if live else set())
        backed_up = any(
            name in self.model.world.registered and made.damage is None and needed <= made.holds
            for name, made in self.model.backups.items()
        )
        return (
            self.model.world.states[release_id] == "sealed"
            and release_id not in self.model.damaged
            and self.model.verdicts.get(release_id) == ("PASS", live)
            and backed_up
        )

    def has_passed(self, release_id: str) -> bool:
        """Whether it was live once, or its newest verdict is PASS."""
        was_live = self.model.world.states[release_id] in ("live", "retired", "rolled_back")
        return was_live or self.model.verdicts.get(release_id, ("none", None))[0] == "PASS"

    def some_backup(self, number: int) -> tuple[str, KnownBackup]:
        return sorted(self.model.backups.items())[number % len(self.model.backups)]

    def sealed_and_active(self) -> str | None:
        """The active config's release, where it has been built."""
        active = self.active()
        return active.ingest_run_id if active and active.ingest_run_id in self.model.digests else None

    # What is there

    def run(self, what: str | Callable[..., None], *arguments: str, kill: Kill) -> Finished:
        """Runs a script, or calls a function, in a process of its own, which dies where ``kill`` says."""
        environment = {**os.environ, "DATABASE_URL": self.project.url, "GOLIVE_HOME": str(self.project.workspace.root)}
        environment |= dying(what if isinstance(what, str) else what.__name__, kill)
        if isinstance(what, str):
            done = forked.run(what, *arguments, environment=environment)
        else:
            done = forked.call(what, str(self.project.workspace.root), environment=environment)
        if done.code == KILLED:
            self.wait_until_the_server_noticed()
        return done

    def wait_until_the_server_noticed(self) -> None:
        query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while self.project.ask(query + " AND backend_type = 'client backend'"):
            pass

    def actual(self) -> World:
        (row,) = self.project.ask(
            "SELECT release_id, generation, (SELECT state = 'stopped' FROM golive.traffic) AS stopped,"
            " (SELECT array_agg(backup_id) FROM golive.backups) AS backups FROM golive.pointer"
        )
        states = {release.release_id: release.state for release in self.project.releases()}
        return World(row["release_id"], row["generation"], row["stopped"], states, frozenset(row["backups"] or ()))

    def active(self) -> Any:
        """The active config; None where there is none yet."""
        try:
            return store.read_active(self.project.workspace)
        except GoliveError:
            return None

    def visible(self) -> list[backup_files.Backup]:
        return [made for made in backup_files.every(self.project.workspace) if isinstance(made, backup_files.Backup)]

    def content(self, release_id: str) -> str | None:
        release: Release = self.project.release(release_id)
        with self.project.connection:
            found = content_of(self.project.connection, release.table_schema, release.table_name)
        return found.digest if found else None


def dying(step: str, kill: Kill) -> dict[str, str]:
    """What makes a step die where ``kill`` says, as far as it comes there."""
    if kill is None:
        return {}
    kind, number = kill
    if kind == "failpoint":
        own = [name for name in FAILPOINTS if name.partition(".")[0] in (FAILPOINTS_OF[step], "file")]
        return {failpoints.VARIABLE: f"{own[number % len(own)]}=kill@{1 + number % 3}"}
    return {forked.DIES: f"{kind}:{number if kind == 'statement' else 1 + number % 8}"}


def known(made: backup_files.Backup) -> KnownBackup:
    return KnownBackup({table["release_id"] for table in made.manifest["tables"]}, made.manifest["restores"]["release_id"])


def made_file(folder: Path) -> str:
    """The largest file of a backup's data."""
    found = max((folder / "tables").rglob("*.*"), key=lambda path: (path.stat().st_size, path.name))
    return found.relative_to(folder).as_posix()


def ingest(root: str) -> None:
    """The step of scripts/shadow_ingest.py, without a model; a refusal is its exit code."""
    workspace = Workspace(Path(root))
    try:
        with synthetic.without_a_model(), postgres.database(workspace, "ingest", write=True) as connection:
            ingesting.ingest(workspace, connection)
    except GoliveError as error:
        raise SystemExit(int(error.exit_code)) from error


def test_in_any_order_and_killed_anywhere_the_state_is_one_that_the_model_knows(
    server: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = synthetic.stages(server, tmp_path_factory.getbasetemp() / "synthetic")
    opened: list[tuple[Path, str]] = []

    def forget() -> None:
        for folder, name in opened:
            staged.drop_database(server, name)
            shutil.rmtree(folder)
        opened.clear()

    def open_stage(stage: str) -> Project:
        forget()
        template, folder = stages[stage]
        name = f"machine_{uuid.uuid4().hex[:12]}"
        url = synthetic.copy_database(server, template, name)
        home = tmp_path_factory.mktemp("machine")
        staged.copy_project(folder, home)
        opened.append((home, name))
        monkeypatch.setenv("DATABASE_URL", url)
        return Project(Workspace(home), url, postgres.connect(url, "test"))

    class Machine(Releases):
        pass

    Machine.open_stage = staticmethod(open_stage)
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # to make a failing example smaller takes many minutes: each step is a real one
            print_blob=True,
        ),
    )
    forget()
