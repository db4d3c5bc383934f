"""Retention: what is needed is never deleted, the plan is shown first, and a kill leaves a whole backup or none."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.platform import audit, clock
from lib.platform.errors import GoliveError, LeaseHeld, UsageError
from lib.platform.files import write_json
from lib.platform.lease import lease
from lib.release import backup_copies, backup_files, backup_targets, promotion, pruning, receipts, target_settings
from lib.release.backup_copies import Target
from lib.release.backup_files import Backup
from lib.release.pruning import Rules
from lib.release.retention import Decision, Held, plan, plan_text, references
from tests.platform import s3_stub, swift
from tests.release.copied import clone, configure, folder_target, run_script, s3_target
from tests.release.staged import Project

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
MONTH = timedelta(days=30)
RULES = Rules(keep=1, older_than=MONTH)
OLD = ("20260101-000000-aaaaaa", "20260102-000000-aaaaaa", "20260103-000000-aaaaaa")


def held(days: float, **more: Any) -> Held:
    made = NOW - timedelta(days=days)
    values = {"backup_id": f"{made:%Y%m%d-%H%M%S}-aaaaaa", "bytes": 10, "created_at": made, "proven": True, **more}
    return Held(**values)


def decided(*backups: Held, keep: int = 1, older_than: timedelta = MONTH, **more: Any) -> list[tuple[bool, str]]:
    decisions = plan(backups, NOW, keep=keep, older_than=older_than, **{"referenced": {}, **more})
    return [(item.deletes, item.reason) for item in decisions]


# the decision


def test_what_is_old_and_not_among_the_newest_goes() -> None:
    assert decided(held(100), held(1), held(50), held(20), held(90), keep=3) == [
        (False, "the newest proven backup"),
        (False, "one of the newest 3"),
        (False, "one of the newest 3"),
        (True, "older than 30 d, and 3 newer ones stay"),
        (True, "older than 30 d, and 3 newer ones stay"),
    ]
    assert decided(held(1), held(20), held(29.9), held(30)) == [
        (False, "the newest proven backup"),
        (False, "younger than 30 d"),
        (False, "younger than 30 d"),
        (True, "older than 30 d, and 1 newer ones stay"),
    ]


def test_the_last_proven_one_stays_however_old_it_is() -> None:
    assert decided(held(4000)) == [(False, "the newest proven backup")]
    unproven = held(1, proven=False)
    assert [deletes for deletes, _ in decided(unproven, held(4000))] == [False, False]


def test_a_damaged_one_does_not_count_among_the_newest() -> None:
    damaged = held(1, problem="a file is missing")
    assert decided(damaged, held(100)) == [
        (False, "cannot be judged: a file is missing"),
        (False, "the newest proven backup"),
    ]
    assert references([damaged, held(100)], {}, {}) == {}


def test_what_is_referenced_running_or_locked_stays_and_the_reason_is_told() -> None:
    old = [held(100 + days) for days in range(4)]
    locked = held(200, locked_until=NOW + timedelta(days=1))
    lapsed = held(201, locked_until=NOW - timedelta(days=1))
    found = decided(
        held(1), *old, locked, lapsed, referenced={old[1].backup_id: "holds the live release"}, running=[old[2].backup_id]
    )
    assert found == [
        (False, "the newest proven backup"),
        (True, "older than 30 d, and 1 newer ones stay"),
        (False, "holds the live release"),
        (False, "another run is at work on it"),
        (True, "older than 30 d, and 1 newer ones stay"),
        (False, "under object lock until 2026-07-01 12:00"),
        (True, "older than 30 d, and 1 newer ones stay"),
    ]


def test_one_from_the_future_stays_is_named_and_counts_for_nothing() -> None:
    assert decided(held(-1), held(40), held(50)) == [
        (False, "dated 24.0 h in the future: check the clocks"),
        (False, "the newest proven backup"),
        (True, "older than 30 d, and 1 newer ones stay"),
    ]


def test_what_cannot_be_read_stays_and_remains_go() -> None:
    unreadable = held(100, proven=False, created_at=None, problem="damaged manifest")
    remains = held(100, proven=False, created_at=None, remains="its deletion was begun")
    kept = held(100, proven=False, created_at=None, remains="x", locked_until=NOW + MONTH)
    assert sorted(decided(unreadable, remains, kept)) == [
        (False, "cannot be judged: damaged manifest"),
        (False, "under object lock until 2026-07-30 12:00"),
        (True, "its deletion was begun"),
    ]


def test_the_newest_backup_of_a_needed_release_is_the_referenced_one() -> None:
    first, second, third = held(90, releases=("a",)), held(80, releases=("a", "b")), held(70, releases=("c",))
    unproven = held(60, releases=("a",), proven=False)
    found = references(
        [first, second, third, unproven], {"a": "the live release", "z": "the previous release"}, {"x": "named"}
    )
    assert found == {"x": "named", second.backup_id: "holds the live release"}


ids = st.integers(0, 10**6)
backups = st.builds(
    Held,
    backup_id=ids.map(lambda number: f"20260101-000000-{number:06x}"),
    bytes=st.just(1),
    created_at=st.none() | st.integers(-100, 400).map(lambda days: NOW - timedelta(days=days)),
    proven=st.booleans(),
    problem=st.sampled_from(["", "", "damaged"]),
    locked_until=st.none() | st.sampled_from([NOW - MONTH, NOW + MONTH]),
)
lists = st.lists(backups, max_size=12, unique_by=lambda item: item.backup_id)


@given(lists, st.integers(0, 5), st.integers(1, 300), st.data())
def test_nothing_that_is_needed_is_ever_deleted(found: list[Held], keep: int, days: int, data: st.DataObject) -> None:
    every_id = [item.backup_id for item in found]
    referenced = dict.fromkeys(data.draw(st.lists(st.sampled_from(every_id))) if found else [], "needed")
    running = data.draw(st.lists(st.sampled_from(every_id))) if found else []
    older_than = timedelta(days=days)
    decisions = plan(found, NOW, keep=keep, older_than=older_than, referenced=referenced, running=running)
    assert sorted(item.backup_id for item in decisions) == sorted(every_id)
    gone = {item.backup_id for item in decisions if item.deletes}
    sound = [item for item in found if item.proven and not item.problem and item.created_at and item.created_at <= NOW]
    left = [item for item in sound if item.backup_id not in gone]
    assert len(left) >= min(len(sound), max(keep, 1))
    for item in found:
        if item.backup_id in gone:
            assert item in sound and item.backup_id not in referenced and item.backup_id not in running
            assert item.created_at is not None and NOW - item.created_at >= older_than
            assert not (item.locked_until and item.locked_until > NOW)
    # what a plan leaves, the same plan leaves again
    rest = [item for item in found if item.backup_id not in gone]
    again = plan(rest, NOW, keep=keep, older_than=older_than, referenced=referenced, running=running)
    assert not [item for item in again if item.deletes]


@given(lists, st.integers(1, 100))
def test_a_clock_that_is_behind_deletes_no_more(found: list[Held], behind_days: int) -> None:
    def gone(now: datetime) -> set[str]:
        return {item.backup_id for item in plan(found, now, keep=2, older_than=MONTH, referenced={}) if item.deletes}

    assert gone(NOW - timedelta(days=behind_days)) <= gone(NOW)


def test_the_plan_as_text() -> None:
    decisions = [
        Decision("20260101-000000-aaaaaa", True, "old", 2_000_000, NOW - timedelta(days=90)),
        Decision("20260102-000000-aaaaaa", False, "in use", 1_000_000, NOW),
    ]
    lines = plan_text(".local/backups", decisions, NOW).splitlines()
    assert lines[0] == ".local/backups"
    assert "DELETE" in lines[2] and "90 d" in lines[2]
    assert lines[-1] == "1 to delete, 2.0 MB; 1 stay"
    assert plan_text("/mnt/x", [], NOW) == "no backups in /mnt/x"


@pytest.mark.parametrize(("text", "hours"), [("12h", 12), ("30d", 720), ("2w", 336)])
def test_durations(text: str, hours: int) -> None:
    assert target_settings.duration(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0d", "1.5d", "30 d", "30D", "1e3d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        target_settings.duration(text)


# local backups


@pytest.fixture
def project(live: Project) -> Project:
    """One release is live; its backup has just been made, and there are three copies of it from January."""
    configure(live.workspace)
    (made,) = live.workspace.backups.iterdir()
    for number, backup_id in enumerate(OLD):
        clone(made, live.workspace, backup_id, datetime(2026, 1, 1 + number, tzinfo=UTC))
    return live


def newest_of(project: Project) -> str:
    return max(os.listdir(project.workspace.backups))


def local_ids(project: Project) -> list[str]:
    return sorted(name for name in os.listdir(project.workspace.backups) if not name.startswith(".deleting"))


def prune(project: Project, rules: Rules = RULES, target: Target | None = None) -> list[str]:
    decisions = pruning.plan(project.workspace, project.connection, rules, target)
    return pruning.apply(project.workspace, project.connection, target, decisions)


def test_old_backups_go_and_the_database_and_the_audit_log_say_so(project: Project) -> None:
    newest = newest_of(project)
    project.execute(
        "INSERT INTO golive.backups (backup_id, manifest_digest, location, restores, digests, created_at, proven_at)"
        " SELECT %s, manifest_digest, location, restores, digests, created_at, proven_at FROM golive.backups LIMIT 1",
        (OLD[0],),
    )
    assert sorted(prune(project)) == sorted(OLD)
    assert os.listdir(project.workspace.backups) == [newest]
    rows = project.ask("SELECT backup_id, deleted_at IS NOT NULL AS gone FROM golive.backups ORDER BY 1")
    assert rows == [{"backup_id": OLD[0], "gone": True}, {"backup_id": newest, "gone": False}]
    audited = project.ask("SELECT subject FROM golive.audit_log WHERE subject = ANY(%s) ORDER BY seq", (list(OLD),))
    assert sorted(row["subject"] for row in audited) == list(OLD)
    with project.connection:
        assert audit.first_break(project.connection) is None
    assert prune(project) == []


def test_what_a_receipt_of_the_live_release_names_stays(project: Project) -> None:
    release_id = project.live_id()
    assert release_id is not None
    path = receipts.path_of(project.workspace, release_id, "validate")
    content = json.loads(path.read_text())
    content["summary"]["note"] = f"{OLD[0]}, proven by a restore"
    write_json(path, content)
    reasons = {item.backup_id: item.reason for item in pruning.plan_local(project.workspace, project.connection, RULES)}
    assert reasons[OLD[0]] == f"named by the validate receipt of {release_id}"
    path.write_text(path.read_text()[:-20])  # damaged: what can still be read of it counts
    assert sorted(prune(project)) == [OLD[1], OLD[2]]


def test_the_backup_that_holds_the_previous_release_stays(second: Project) -> None:
    workspace, first_id = second.workspace, second.live_id()
    assert first_id is not None
    promotion.promote(workspace, second.connection)
    for folder in (workspace.evidence(release.release_id) / "receipts" for release in second.releases()):
        shutil.rmtree(folder)
    both = next(path for path in workspace.backups.iterdir() if len(tables_of(path)) == 2)
    only_live = [table for table in tables_of(both) if table["release_id"] != first_id]
    clone(both, workspace, OLD[0], datetime(2026, 1, 1, tzinfo=UTC))
    clone(both, workspace, OLD[1], datetime(2026, 1, 2, tzinfo=UTC))
    clone(both, workspace, OLD[2], datetime(2026, 1, 3, tzinfo=UTC), tables=only_live)
    for path in workspace.backups.iterdir():
        if path.name not in OLD:
            shutil.rmtree(path)
    decisions = pruning.plan_local(workspace, second.connection, RULES)
    assert [(item.backup_id, item.deletes, item.reason) for item in decisions] == [
        (OLD[2], False, "the newest proven backup"),
        (OLD[1], False, "holds the previous release"),
        (OLD[0], True, "older than 30 d, and 1 newer ones stay"),
    ]


def tables_of(folder: Path) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())["tables"]
    return tables


def test_one_that_is_being_copied_stays(project: Project) -> None:
    folder = project.workspace.backups / OLD[1]
    with backup_copies.held(folder, "a copy"):
        assert sorted(prune(project)) == [OLD[0], OLD[2]]
    decisions = [Decision(OLD[1], True, "old", 1, NOW)]
    with backup_copies.held(folder, "a copy"), pytest.raises(LeaseHeld):
        pruning.apply_local(project.workspace, project.connection, decisions)
    assert folder.is_dir()


def test_damaged_and_unfinished_ones_are_left_alone_and_named(project: Project) -> None:
    (project.workspace.backups / OLD[0] / "manifest.json").write_text("")
    (project.workspace.backups / ".incomplete-20260101-000000-bbbbbb").mkdir()
    assert sorted(prune(project)) == [OLD[1], OLD[2]]
    assert (project.workspace.backups / OLD[0]).is_dir()
    assert (project.workspace.backups / ".incomplete-20260101-000000-bbbbbb").is_dir()


def test_where_the_clocks_differ_the_earlier_one_counts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = datetime.now(UTC) + timedelta(days=4000)
    monkeypatch.setattr(clock, "now", lambda: ahead)
    assert pruning.moment(project.connection) < ahead - timedelta(days=3999)
    behind = datetime.now(UTC) - timedelta(days=1)
    monkeypatch.setattr(clock, "now", lambda: behind)
    assert pruning.moment(project.connection) == behind


@pytest.mark.parametrize("place", ["prune.rename", "prune.record", "prune.remove"])
def test_a_deletion_that_is_killed_leaves_whole_ones_or_none_and_is_ended_by_the_next(project: Project, place: str) -> None:
    newest = newest_of(project)
    arguments = ("prune_backups", "--keep", "1", "--older-than", "30d", "--yes")
    killed = run_script(project.workspace, *arguments, GOLIVE_FAILPOINT=f"{place}=kill@2")
    assert killed.returncode == -9, killed.stderr
    for item in backup_files.every(project.workspace):
        assert isinstance(item, Backup)
        backup_files.verify_files(item)
    done = run_script(project.workspace, *arguments)
    assert done.returncode == 0, done.stderr
    assert os.listdir(project.workspace.backups) == [newest]
    audited = project.ask("SELECT subject FROM golive.audit_log WHERE subject = ANY(%s)", (list(OLD),))
    assert {row["subject"] for row in audited} == set(OLD)


def test_the_script_shows_its_plan_and_deletes_nothing_without_yes(project: Project) -> None:
    before = local_ids(project)
    arguments = ("prune_backups", "--keep", "1")
    planned = run_script(project.workspace, *arguments, "--dry-run", "--json")
    actions = {item["backup_id"]: item["action"] for item in json.loads(planned.stdout)["plan"]}
    assert actions == {**dict.fromkeys(OLD, "delete"), newest_of(project): "keep"}
    refused = run_script(project.workspace, *arguments)
    assert (refused.returncode, "nothing was deleted" in refused.stderr, OLD[0] in refused.stderr) == (15, True, True)
    both = run_script(project.workspace, *arguments, "--dry-run", "--yes")
    assert (both.returncode, "3 to delete" in both.stdout) == (0, True)
    assert local_ids(project) == before
    with lease(project.url, "another step"):
        held_up = run_script(project.workspace, *arguments, "--yes")
    assert held_up.returncode == 11
    assert run_script(project.workspace, "prune_backups", "--keep", "0").returncode == 2
    done = run_script(project.workspace, *arguments, "--yes")
    assert done.returncode == 0
    assert done.stdout.index("3 to delete") < done.stdout.index("deleted 3 backups")
    assert run_script(project.workspace, *arguments).returncode == 0


# copies on a target


@pytest.fixture
def disk(project: Project, tmp_path: Path) -> Target:
    """A target with a copy of each backup."""
    made = folder_target(tmp_path / "disk")
    for backup_id in local_ids(project):
        backup_targets.copy(made, backup_files.read(project.workspace, backup_id))
    return made


def test_copies_go_by_the_same_rules_and_local_backups_stay(project: Project, disk: Target, tmp_path: Path) -> None:
    before = local_ids(project)
    assert sorted(prune(project, target=disk)) == sorted(OLD)
    assert [item.backup_id for item in backup_copies.copies(disk)] == [newest_of(project)]
    assert os.listdir(tmp_path / "disk") == [newest_of(project)]
    assert local_ids(project) == before
    audited = project.ask("SELECT subject FROM golive.audit_log WHERE action = 'delete backup copy' ORDER BY subject")
    assert [row["subject"] for row in audited] == [f"{backup_id} on disk" for backup_id in OLD]


@pytest.mark.parametrize("place", ["prune.mark", "prune.record", "prune.delete@1", "prune.delete@2", "prune.delete@5"])
def test_a_deletion_on_a_target_that_is_killed_is_ended_by_the_next(
    project: Project, disk: Target, tmp_path: Path, place: str
) -> None:
    configure(project.workspace, disk={"url": str(tmp_path / "disk")})
    name, _, count = place.partition("@")
    arguments = ("prune_backups", "--target", "disk", "--keep", "1", "--yes")
    killed = run_script(project.workspace, *arguments, GOLIVE_FAILPOINT=f"{name}=kill@{count or 1}")
    assert killed.returncode == -9, killed.stderr
    for item in backup_copies.copies(disk):
        if item.state == "complete":
            backup_copies.verify(disk, item.backup_id)
        else:
            assert item.state == "deleting"
    assert run_script(project.workspace, *arguments).returncode == 0
    assert os.listdir(tmp_path / "disk") == [newest_of(project)]


def test_a_copy_whose_deletion_was_begun_is_neither_fetched_nor_copied_over(
    project: Project, disk: Target, tmp_path: Path
) -> None:
    (tmp_path / "disk" / OLD[0] / ".deleting").touch()
    backup = backup_files.read(project.workspace, OLD[0])
    for act in (lambda: backup_copies.verify(disk, OLD[0]), lambda: backup_targets.copy(disk, backup)):
        with pytest.raises(GoliveError, match="is being deleted"):
            act()


def test_an_unfinished_copy_stays_for_a_day(project: Project, disk: Target, tmp_path: Path) -> None:
    folder = tmp_path / "disk" / OLD[0]
    (folder / "manifest.json").unlink()
    assert sorted(prune(project, target=disk)) == [OLD[1], OLD[2]]
    assert folder.is_dir()
    yesterday = (datetime.now(UTC) - timedelta(hours=25)).timestamp()
    for path in folder.rglob("*"):
        os.utime(path, (yesterday, yesterday))
    assert prune(project, target=disk) == [OLD[0]]
    assert not folder.exists()


def test_what_is_under_object_lock_stays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in swift.Swift("", "stub-secret-key").environment().items():
        monkeypatch.setenv(name, value)
    with s3_stub.serving() as stub:
        stub.locks = True
        locked = s3_target(stub.url, "bucket-1", lock=("COMPLIANCE", 10))
        backup_targets.copy(locked, backup_files.read(project.workspace, OLD[0]))
        bare = s3_target(stub.url, "bucket-1")
        for backup_id in (OLD[1], newest_of(project)):
            backup_targets.copy(bare, backup_files.read(project.workspace, backup_id))
        reasons = {item.backup_id: item.reason for item in pruning.plan(project.workspace, project.connection, RULES, bare)}
        assert reasons[OLD[0]].startswith("under object lock until ")
        assert prune(project, target=bare) == [OLD[1]]
        assert {item.backup_id for item in backup_copies.copies(bare)} == {OLD[0], newest_of(project)}
