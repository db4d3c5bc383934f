"""The go-live checklist: what is broken, missing or not looked at never counts as passed, and a person's word expires."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.config import schemas
from lib.platform.errors import ConfigInvalid, NotFound
from lib.platform.files import read_json, write_json
from lib.release import audit_heads, checklist, receipts
from lib.release.checklist import Item
from tests.conftest import HANDBOOK
from tests.release.staged import CASES, Project, sync, write_cases, write_verdict

TODAY = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
HEALTH = ["environment", "index-presence", "token-budget", "prefix-leakage", "database", "models"]


def test_a_release_with_all_evidence_is_checked_where_something_checks_and_missing_elsewhere(ready):
    listed = yaml.safe_load((ready.workspace.configs / "checklist.yaml").read_text())["items"]
    items = walk(ready)
    assert [item.id for item in items] == [raw["id"] for raw in listed]
    assert {item.id: item.state for item in items} == {
        raw["id"]: "checked" if "check" in raw else "missing" for raw in listed
    }
    assert blocking(items) == []
    assert all(item.evidence for item in items)


def test_a_release_that_is_only_built_lacks_every_proof(sealed):
    found = states(walk(sealed))
    lacking = ["manifest", *HEALTH, "evaluation", "backup", "baselines"]
    assert {name for name, state in found.items() if state == "checked"} == {"determinism", "concurrency", "audit-log"}
    assert blocking(walk(sealed)) == lacking
    assert {found[name] for name in lacking} == {"missing"}


def remove(*parts: str) -> Callable[[Project], None]:
    def do(project: Project) -> None:
        project.workspace.evidence(project.release().release_id).joinpath(*parts).unlink()

    return do


def edit_receipt(step: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Project], None]:
    def do(project: Project) -> None:
        path = receipts.path_of(project.workspace, project.release().release_id, step)
        content = read_json(path, "receipt")
        edit(content)
        write_json(path, content)

    return do


def gate_said(name: str, status: str) -> Callable[[Project], None]:
    def edit(content: dict[str, Any]) -> None:
        next(check for check in content["summary"]["checks"] if check["name"] == name)["status"] = status

    return edit_receipt("health", edit)


def gate_not_looked_at(name: str) -> Callable[[Project], None]:
    def edit(content: dict[str, Any]) -> None:
        content["summary"]["checks"] = [check for check in content["summary"]["checks"] if check["name"] != name]

    return edit_receipt("health", edit)


def edit_file(name: str, old: str, new: str) -> Callable[[Project], None]:
    def do(project: Project) -> None:
        path = project.workspace.configs / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return do


def cut_the_log(project: Project) -> None:
    release_id = project.release().release_id
    audit_heads.export(project.workspace, project.connection, release_id)
    tampered("DELETE FROM golive.audit_log WHERE seq = (SELECT max(seq) FROM golive.audit_log)")(project)


def tampered(command: str) -> Callable[[Project], None]:
    return lambda project: project.tamper(command)


def damage_backup(project: Project) -> None:
    (path,) = project.workspace.backups.glob("*/state.json")
    path.write_text(path.read_text() + "\n")


def change_documents(project: Project) -> None:
    sync(project, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows.\n"})


def damage_manifest(project: Project) -> None:
    (project.workspace.evidence(project.release().release_id) / "manifest.yaml").write_text("- no manifest\n")


@pytest.mark.parametrize(
    ("break_", "found"),
    [
        pytest.param(break_, found, id=name)
        for name, break_, found in [
            ("manifest gone", remove("manifest.yaml"), {"manifest": "missing"}),
            ("manifest damaged", damage_manifest, {"manifest": "failed"}),
            ("gates changed", edit_file("gates.yaml", "min_cases: 30", "min_cases: 29"), {"manifest": "failed"}),
            (
                "settings changed",
                edit_file("evaluation.yaml", "max_sentences: 3", "max_sentences: 2"),
                {"manifest": "failed"},
            ),
            (
                "cases changed",
                lambda p: write_cases(p.workspace.default_cases, {**CASES, "about": "x"}),
                {"manifest": "failed"},
            ),
            ("cases gone", lambda p: p.workspace.default_cases.unlink(), {"manifest": "failed"}),
            ("documents changed", change_documents, {"manifest": "failed"}),
            (
                "environment file gone",
                lambda p: (p.workspace.configs / "deterministic_evaluation.env").unlink(),
                {"manifest": "failed", "determinism": "failed", "concurrency": "failed"},
            ),
            (
                "temperature",
                edit_file("deterministic_evaluation.env", "TEMPERATURE=0", "TEMPERATURE=1"),
                {"manifest": "failed", "determinism": "failed"},
            ),
            (
                "workers",
                edit_file("deterministic_evaluation.env", "MAX_WORKERS=3", "MAX_WORKERS=4"),
                {"manifest": "failed", "determinism": "failed", "concurrency": "failed"},
            ),
            ("health gates not run", remove("receipts", "health.json"), dict.fromkeys(HEALTH, "missing")),
            (
                "health gates of another table",
                edit_receipt("health", lambda content: content["inputs"].update(content_digest="0" * 64)),
                dict.fromkeys(HEALTH, "missing"),
            ),
            ("a health gate failed", gate_said("token_budget", "FAIL"), {"token-budget": "failed"}),
            ("a health gate could not look", gate_said("prefix_leakage", "ERROR"), {"prefix-leakage": "failed"}),
            ("a health gate was left out", gate_not_looked_at("index_presence"), {"index-presence": "missing"}),
            ("no verdict", lambda p: p.execute("DELETE FROM golive.verdicts"), {"evaluation": "missing"}),
            (
                "verdict of another table",
                lambda p: p.execute("UPDATE golive.verdicts SET content_digest = repeat('0', 64)"),
                {"evaluation": "missing"},
            ),
            ("verdict FAIL", lambda p: write_verdict(p, "FAIL"), {"evaluation": "failed"}),
            ("verdict INCONCLUSIVE", lambda p: write_verdict(p, "INCONCLUSIVE"), {"evaluation": "failed"}),
            ("verdict ERROR", lambda p: write_verdict(p, "ERROR"), {"evaluation": "failed"}),
            ("no metrics", remove("evaluation", "metrics.json"), {"baselines": "missing"}),
            ("no audit log", tampered("DELETE FROM golive.audit_log"), {"audit-log": "failed"}),
            (
                "an audit entry changed",
                tampered("UPDATE golive.audit_log SET actor = 'x' WHERE seq = 1"),
                {"audit-log": "failed"},
            ),
            ("the audit log cut off behind an exported head", cut_the_log, {"audit-log": "failed"}),
            ("backup not made", lambda p: p.execute("DELETE FROM golive.backups"), {"backup": "missing"}),
            (
                "backup of another table",
                lambda p: p.execute("UPDATE golive.backups SET digests = jsonb_build_object('another', repeat('0', 64))"),
                {"backup": "missing"},
            ),
            ("backup deleted", lambda p: shutil.rmtree(p.workspace.backups), {"backup": "missing"}),
            ("backup damaged", damage_backup, {"backup": "missing"}),
        ]
    ],
)
def test_each_broken_thing_is_found_by_its_own_item_which_then_blocks(ready, break_, found):
    break_(ready)
    items = walk(ready)
    assert {item.id: item.state for item in items if item.blocking and item.state != "checked"} == found
    assert blocking(items) == [item.id for item in items if item.id in found]


def test_a_changed_manifest_is_told_field_by_field(ready):
    edit_file("gates.yaml", "min_cases: 30", "min_cases: 29")(ready)
    (item,) = [item for item in walk(ready) if item.id == "manifest"]
    assert item.evidence == "changed since: thresholds.digest, thresholds.min_cases"


def test_the_newest_verdict_counts(ready):
    write_verdict(ready, "FAIL")
    write_verdict(ready, "PASS")
    assert states(walk(ready))["evaluation"] == "checked"


def test_a_variable_of_the_shell_counts_like_the_file(ready, monkeypatch):
    monkeypatch.setenv("EVAL_DISABLE_CACHE", "0")
    assert blocking(walk(ready)) == ["manifest", "determinism"]


@pytest.mark.parametrize(
    ("at", "until", "state"),
    [
        ("2026-03-01", "2026-03-31", "attested"),
        ("2026-03-10", "2026-03-10", "attested"),  # that very day
        ("2026-01-01", "2026-03-09", "missing"),  # ended yesterday
        ("2026-03-11", "2026-12-31", "missing"),  # begins tomorrow
        ("2026-03-31", "2026-03-01", "missing"),  # ends before it begins
    ],
)
def test_a_persons_word_counts_from_its_first_day_to_its_last(ready, at, until, state):
    attest(ready, entry("load-test", at=at, until=until))
    items = walk(ready)
    (item,) = [item for item in items if item.id == "load-test"]
    assert item.state == state
    if state == "attested":
        assert item.evidence == f"ops@example.org on {at}, until {until}: 200 queries a second"
    assert [other.id for other in items if other.state == "attested"] == (["load-test"] if state == "attested" else [])


def test_an_item_that_blocks_is_held_up_until_somebody_vouches_for_it(ready):
    line = "title: load testing completed, blocking: "
    edit_file("checklist.yaml", f"{line}false", f"{line}true")(ready)
    assert blocking(walk(ready)) == ["load-test"]
    attest(ready, entry("load-test"))
    assert blocking(walk(ready)) == []


@pytest.mark.parametrize("item", ["token-budget", "evaluation", "backup"])
def test_a_persons_word_does_not_stand_in_for_a_check_that_never_ran(sealed, item):
    attest(sealed, entry(item))
    assert item in blocking(walk(sealed))


@pytest.mark.parametrize("until", ["2026-99-99", "9999-00-00"])
def test_a_day_that_is_none_is_refused(ready, until):
    attest(ready, entry("load-test", until=until))
    with pytest.raises(ConfigInvalid, match="until"):
        walk(ready)


def test_a_health_receipt_without_its_parts_is_a_missing_check_and_no_crash(ready):
    edit_receipt("health", lambda content: content.update(summary={}))(ready)
    assert states(walk(ready))["token-budget"] == "missing"


def test_nobodys_word_stands_over_a_check_that_failed(ready):
    gate_said("token_budget", "FAIL")(ready)
    attest(ready, entry("token-budget"))
    assert blocking(walk(ready)) == ["token-budget"]


def test_of_two_words_the_one_that_still_counts_is_taken(ready):
    attest(ready, entry("failover", until="2026-12-31"), entry("failover", until="2026-03-09"))
    assert states(walk(ready))["failover"] == "attested"


def test_an_attestation_of_an_item_that_is_not_on_the_list_is_refused(ready):
    attest(ready, entry("load-tests"))
    with pytest.raises(ConfigInvalid, match=r"configs/attestations.yaml: no checklist item 'load-tests'"):
        walk(ready)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"until": "forever"}, "until must match"),
        ({"by": ""}, "by must not be empty"),
        ({"note": None}, "note must be of type string"),
        ({"because": "x"}, "unknown key 'because'"),
    ],
)
def test_an_attestation_that_is_not_whole_is_refused_with_its_line(ready, changes, said):
    attest(ready, {**entry("load-test"), **changes})
    with pytest.raises(ConfigInvalid, match=rf"configs/attestations.yaml:\d+: .*{said}"):
        walk(ready)


def test_an_attestation_without_an_end_is_refused(ready):
    attest(ready, {name: value for name, value in entry("load-test").items() if name != "until"})
    with pytest.raises(ConfigInvalid, match="until is missing"):
        walk(ready)


def test_without_a_checklist_nothing_is_walked(ready):
    (ready.workspace.configs / "checklist.yaml").unlink()
    with pytest.raises(NotFound, match=r"checklist.yaml"):
        walk(ready)


def test_a_check_that_nobody_wrote_is_refused_and_not_skipped(ready):
    edit_file("checklist.yaml", "check: backup", "check: backups")(ready)
    with pytest.raises(ConfigInvalid, match=r"checklist.yaml:\d+: .*'backups'"):
        walk(ready)


def test_every_check_that_a_checklist_may_name_is_there():
    named = schemas.schema("checklist")["properties"]["items"]["items"]["properties"]["check"]["enum"]
    assert set(named) == set(checklist.CHECKS)


@pytest.mark.parametrize("summary", [{}, {"items": []}, {"items": None}])
def test_a_walk_without_items_blocks(summary):
    assert checklist.blocking_items(summary) == ["no checklist was walked"]


@pytest.mark.parametrize(
    ("state", "blocks", "held_up"),
    [
        ("checked", True, []),
        ("attested", True, []),
        ("failed", True, ["it"]),
        ("missing", True, ["it"]),
        ("PASS", True, ["it"]),  # no state of ours
        ("failed", False, []),
        ("missing", False, []),
    ],
)
def test_what_is_neither_checked_nor_attested_blocks_where_the_list_says_so(state, blocks, held_up):
    assert blocking([Item("it", "Part", "Title", state, "seen", blocks)]) == held_up


def test_the_list_as_text_by_hand():
    items = [
        Item("a", "Health", "environment", "checked", "seen", True),
        Item("b", "Load", "tested", "missing", "nobody", False),
    ]
    assert checklist.to_text(items).splitlines() == [
        "section  item         state    blocks  evidence",
        "Health   environment  checked  yes     seen",
        "Load     tested       missing          nobody",
        "1 checked, 0 attested, 0 failed, 1 missing",
    ]


def test_the_script_exits_with_the_verdict_and_leaves_every_item_in_the_receipt(ready, run_script):
    remove("receipts", "validate.json")(ready)
    done = run_script("production_validation", "--json")
    assert (done.code, done.json["blocking"]) == (0, [])
    assert all(item["blocking"] for item in done.json["items"])
    full = run_script("production_validation", "--full-check", "--json")
    receipt = receipts.read(ready.workspace, ready.release().release_id, "validate")
    assert receipt is not None
    assert receipt.outcome == "PASS"
    assert len(receipt.summary["items"]) == len(full.json["items"]) > len(done.json["items"])


def test_the_script_exits_3_and_names_what_blocks(ready, run_script):
    remove("receipts", "health.json")(ready)
    done = run_script("production_validation")
    assert done.code == 3
    assert f"FAIL: {', '.join(HEALTH)} block" in done.out
    receipt = receipts.read(ready.workspace, ready.release().release_id, "validate")
    assert receipt is not None
    assert receipt.outcome == "FAIL"


def walk(project: Project, cases: Path | None = None) -> list[Item]:
    workspace = project.workspace
    return checklist.walk(
        checklist.Context(workspace, project.connection, project.release(), cases or workspace.default_cases, TODAY)
    )


def states(items: list[Item]) -> dict[str, str]:
    return {item.id: item.state for item in items}


def blocking(items: list[Item]) -> list[str]:
    return checklist.blocking_items(checklist.as_summary(items))


def entry(item: str, *, at: str = "2026-03-01", until: str = "2026-03-31") -> dict[str, Any]:
    return {"item": item, "by": "ops@example.org", "at": at, "until": until, "note": "200 queries a second"}


def attest(project: Project, *entries: dict[str, Any]) -> None:
    text = yaml.safe_dump({"attestations": list(entries)})
    (project.workspace.configs / "attestations.yaml").write_text(text)
