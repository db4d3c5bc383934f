"""Promotion: exactly what was evaluated goes live; anything else is refused and the pointer stays."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lib.config import store
from lib.index.releases import read_pointer
from lib.platform.errors import GoliveError, IntegrityMismatch, LeaseHeld, Refused
from lib.platform.files import read_json, write_json
from lib.platform.lease import lease
from lib.release import backup_files, promotion, receipts, restore
from tests.conftest import HANDBOOK
from tests.release.staged import CASES, Project, files_below, sync, write_cases, write_verdict

CONDITIONS = [
    "release",
    "content digest",
    "sealed digest",
    "config hash",
    "config file",
    "cases digest",
    "gates",
    "verdict file",
    "signature",
    "verdict",
    "baseline",
    "backup",
    "checklist",
    "documents",
]


def test_a_first_release_goes_live(ready):
    release = ready.release()
    done = promotion.promote(ready.workspace, ready.connection)
    assert (done.applied, done.before, done.generation) == (True, None, 1)
    assert [condition.name for condition in done.conditions] == CONDITIONS
    assert all(condition.holds for condition in done.conditions)
    assert (ready.live_id(), ready.pointer().generation) == (release.release_id, 1)
    assert ready.release().state == "live"
    assert store.read_active(ready.workspace) == release.locked_config.in_production(True)
    assert ready.ask("SELECT table_name FROM golive.route()") == [{"table_name": release.table_name}]


def test_a_later_release_takes_over_and_the_one_before_is_retired(second):
    before, after = second.pointer().release, second.release()
    done = promotion.promote(second.workspace, second.connection)
    assert (done.before, done.generation) == (before.release_id, 2)
    assert second.live_id() == after.release_id
    assert (second.release(before.release_id).state, second.release().state) == ("retired", "live")
    (entry,) = second.ask("SELECT * FROM golive.audit_log ORDER BY seq DESC LIMIT 1")
    assert (entry["action"], entry["subject"]) == ("move pointer", after.release_id)
    assert (entry["from_digest"], entry["to_digest"]) == (before.content_digest, after.content_digest)


def tampered(command: str) -> Callable[[Project], None]:
    return lambda project: project.tamper(command)


def executed(command: str) -> Callable[[Project], None]:
    return lambda project: project.execute(command)


def edit_active_config(project: Project) -> None:
    path = store.active_path(project.workspace)
    write_json(path, {**read_json(path, "config"), "created_by": "somebody@else"})


def edit_gates(project: Project) -> None:
    path = project.workspace.configs / "gates.yaml"
    path.write_text(path.read_text().replace("min_cases: 30", "min_cases: 29"))


def change_documents(project: Project) -> None:
    sync(project, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows.\n"})


def change_cases(project: Project) -> None:
    write_cases(project.workspace.default_cases, {**CASES, "about": "one word more"})


def edit_verdict_file(project: Project) -> None:
    path = project.workspace.evidence(project.release().release_id) / "verdict.json"
    write_json(path, {**read_json(path, "verdict"), "reasons": ["everything is fine"]})


def edit_backup_manifests(project: Project) -> None:
    for path in project.workspace.backups.glob("*/manifest.json"):
        path.write_text(path.read_text() + "\n")


def remove_receipt(project: Project) -> None:
    receipts.path_of(project.workspace, project.release().release_id, "validate").unlink()


def edit_receipt(**changes: Any) -> Callable[[Project], None]:
    def edit(project: Project) -> None:
        path = receipts.path_of(project.workspace, project.release().release_id, "validate")
        write_json(path, {**read_json(path, "receipt"), **changes})

    return edit


def block_an_item(project: Project) -> None:
    path = receipts.path_of(project.workspace, project.release().release_id, "validate")
    content = read_json(path, "receipt")
    content["summary"]["items"][0]["state"] = "missing"
    write_json(path, content)


@pytest.mark.parametrize(
    ("break_", "failing"),
    [
        pytest.param(break_, failing, id=name)
        for name, break_, failing in [
            (
                "one changed row",
                tampered("UPDATE {table} SET bm25_text = bm25_text || ' ' WHERE id = 'corpus/pointer.md#0'"),
                ["content digest", "sealed digest"],
            ),
            ("one row less", tampered("DELETE FROM {table} WHERE id = 'corpus/pointer.md#0'"), CONDITIONS[1:3]),
            ("table dropped", tampered("DROP TABLE {table}"), CONDITIONS[1:3]),
            ("release rolled back", executed("UPDATE golive.releases SET state = 'rolled_back'"), ["release"]),
            ("seal edited", executed("UPDATE golive.releases SET content_digest = repeat('0', 64)"), None),
            ("config of another verdict", executed("UPDATE golive.verdicts SET config_hash = 'x'"), ["config hash"]),
            ("config file edited", edit_active_config, ["config file"]),
            ("documents changed", change_documents, ["documents"]),
            ("cases changed", change_cases, ["cases digest"]),
            ("cases lost", lambda project: project.workspace.default_cases.unlink(), ["cases digest"]),
            ("gates changed", edit_gates, ["gates"]),
            ("verdict FAIL", lambda project: write_verdict(project, "FAIL"), ["verdict"]),
            ("verdict INCONCLUSIVE", lambda project: write_verdict(project, "INCONCLUSIVE"), ["verdict"]),
            ("verdict ERROR", lambda project: write_verdict(project, "ERROR"), ["verdict"]),
            ("verdict.json edited", edit_verdict_file, ["verdict file"]),
            ("another baseline", executed("UPDATE golive.pointer SET release_id = NULL"), ["baseline"]),
            ("backup lost", lambda project: shutil.rmtree(project.workspace.backups), ["backup"]),
            ("backup manifest edited", edit_backup_manifests, ["backup"]),
            ("backup of other digests", executed("UPDATE golive.backups SET digests = '{}'"), ["backup"]),
            ("backup not registered", executed("DELETE FROM golive.backups"), ["backup"]),
            ("checklist missing", remove_receipt, ["checklist"]),
            ("checklist of another table", edit_receipt(inputs={"content_digest": "0" * 64}), ["checklist"]),
            ("checklist empty", edit_receipt(summary={}), ["checklist"]),
            ("checklist with a blocking item missing", block_an_item, ["checklist"]),
        ]
    ],
)
def test_each_condition_alone_keeps_a_release_from_going_live(second, break_, failing):
    break_(second)
    before = state_of(second)
    found = promotion.promote(second.workspace, second.connection, dry_run=True)
    broken = [condition.name for condition in found.conditions if not condition.holds]
    assert broken == (failing or ["sealed digest", "backup", "checklist"])  # a seal is also what backup and checklist name
    assert "would refuse" in found.to_text()
    with pytest.raises(Refused) as raised:
        promotion.promote(second.workspace, second.connection)
    assert f"is not promoted: {broken[0]}: " in raised.value.message
    assert all(name in raised.value.detail for name in broken[1:])
    assert state_of(second) == before


def test_a_deciding_value_edited_in_the_config_file_is_found_out(second):
    path = store.active_path(second.workspace)
    write_json(path, {**read_json(path, "config"), "chunk_size": 21})
    before = state_of(second)
    with pytest.raises(IntegrityMismatch, match="config_hash"):
        promotion.promote(second.workspace, second.connection)
    assert state_of(second) == before


@pytest.mark.parametrize("loss", ["file", "row"])
def test_without_a_verdict_nothing_goes_live(second, loss):
    if loss == "file":
        (second.workspace.evidence(second.release().release_id) / "verdict.json").unlink()
    else:
        second.execute("DELETE FROM golive.verdicts")
    before = state_of(second)
    with pytest.raises(Refused):
        promotion.promote(second.workspace, second.connection)
    assert state_of(second) == before


@pytest.mark.parametrize("content", [{}, [], "PASS", {"cases_file": 3}])
def test_a_verdict_file_that_holds_something_else_is_refused(second, content):
    write_json(second.workspace.evidence(second.release().release_id) / "verdict.json", content)
    before = state_of(second)
    with pytest.raises(Refused):
        promotion.promote(second.workspace, second.connection)
    assert state_of(second) == before


def test_a_backup_that_lost_its_data_is_no_backup(second):
    for path in second.workspace.backups.glob("*/tables/*"):
        path.unlink()
    with pytest.raises(Refused, match="backup"):
        promotion.promote(second.workspace, second.connection)


def test_a_dry_run_says_what_would_happen_and_changes_nothing(second):
    before, files = state_of(second), files_below(second.workspace.root)
    found = promotion.promote(second.workspace, second.connection, dry_run=True)
    assert (found.applied, all(condition.holds for condition in found.conditions)) == (False, True)
    assert "would promote" in found.to_text()
    assert json.loads(json.dumps(found.to_dict()))["generation"] == 2
    assert state_of(second) == before
    assert files_below(second.workspace.root) == files


def test_what_is_live_already_is_left_as_it_is(live):
    before, files = state_of(live), files_below(live.workspace.root)
    found = promotion.promote(live.workspace, live.connection)
    assert (found.already_live, found.applied, found.generation) == (True, False, 1)
    assert "nothing changed" in found.to_text()
    assert state_of(live) == before
    assert files_below(live.workspace.root) == files


def test_a_promotion_killed_before_it_wrote_the_active_config_is_completed_by_the_next(live):
    store.write_active(live.workspace, live.release().locked_config)
    assert promotion.promote(live.workspace, live.connection).already_live
    assert store.read_active(live.workspace).is_production


def test_a_dry_run_writes_nothing_where_the_release_is_live_already(live):
    store.write_active(live.workspace, live.release().locked_config)
    files = files_below(live.workspace.root)
    promotion.promote(live.workspace, live.connection, dry_run=True)
    assert files_below(live.workspace.root) == files


def test_of_two_that_promote_at_once_exactly_one_does(second):
    release, start = second.release(), threading.Barrier(2)
    outcomes: list[object] = []

    def promote() -> None:
        connection = second.connect()
        start.wait()
        try:
            outcomes.append(promotion.promote(second.workspace, connection))
        except GoliveError as error:
            outcomes.append(error)
        connection.close()

    threads = [threading.Thread(target=promote) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    applied = [item for item in outcomes if isinstance(item, promotion.Promotion) and item.applied]
    (other,) = [item for item in outcomes if item not in applied]
    assert len(applied) == 1
    assert isinstance(other, Refused) or other.already_live
    assert (second.live_id(), second.pointer().generation) == (release.release_id, 2)
    moves = second.ask("SELECT FROM golive.audit_log WHERE action = 'move pointer' AND subject = %s", (release.release_id,))
    assert len(moves) == 1


def test_a_pointer_that_moved_meanwhile_is_not_moved_again(second):
    release, other = second.release(), second.connect()
    with other:
        stale = read_pointer(other)
    promotion.promote(second.workspace, second.connection)
    before = state_of(second)
    with pytest.raises(Refused, match="moved by somebody else"), other:
        promotion.move_pointer(other, stale, release, "too late", "retired")
    other.close()
    assert state_of(second) == before


def test_a_release_that_was_rolled_back_is_not_promoted_again(second):
    first = second.live_id()
    promotion.promote(second.workspace, second.connection)
    made = backup_files.every(second.workspace)[0]
    rolled_back = second.release()
    restore.apply_restore(second.workspace, second.connection, made, restore.plan_restore(second.connection, made, first))
    store.write_active(second.workspace, rolled_back.locked_config)
    with pytest.raises(Refused, match="release: its state is rolled_back"):
        promotion.promote(second.workspace, second.connection)
    assert second.live_id() == first


def test_while_another_run_is_at_work_nothing_is_promoted(second):
    before = state_of(second)
    with lease(second.url, "somebody else"), pytest.raises(LeaseHeld, match="somebody else"):
        promotion.promote_active(second.workspace)
    assert state_of(second) == before
    assert promotion.promote_active(second.workspace).applied


def state_of(project: Project) -> dict[str, Any]:
    """What a promotion may change: pointer, releases, audit log, active config."""
    tables = ("golive.pointer", "golive.releases", "golive.audit_log")
    rows = {name: project.ask(f"SELECT * FROM {name} ORDER BY 1") for name in tables}
    return {**rows, "active": store.active_path(project.workspace).read_bytes()}
