"""The steps of a release: each names its script with arguments it takes, and holds only while its inputs stand."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.platform.errors import NotFound, UsageError
from lib.platform.files import read_json, write_json
from lib.release import receipts
from lib.release.steps import STEPS, Context, Options, find
from tests.conftest import HANDBOOK
from tests.release.staged import CASES, Project, sync, write_cases, write_verdict

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SKIPPED = {"ingest", "manifest", "evaluate", "backup"}  # what need not be done again while it holds


def test_the_steps_are_those_of_a_release_in_its_order():
    names = ["sync", "lock", "ingest", "manifest", "health", "evaluate", "backup", "validate", "promote"]
    assert [step.name for step in STEPS] == names
    assert {step.name for step in STEPS if step.holds} == SKIPPED


def test_steps_are_found_by_name_in_the_order_asked_for():
    assert [step.name for step in find(["promote", "ingest"])] == ["promote", "ingest"]


def test_an_unknown_step_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match="no step 'deploy'") as raised:
        find(["ingest", "deploy"])
    assert raised.value.hint == f"the steps are: {' '.join(step.name for step in STEPS)}"


@pytest.mark.parametrize("use_bedrock", [False, True])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_steps_script_takes_the_arguments_it_is_given(monkeypatch, tmp_path, step, use_bedrock):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    options = Options(tmp_path / "my corpus", "my corpus", tmp_path / "my cases.json", use_bedrock)
    parsed = runpy.run_path(str(SCRIPTS / step.script))["build_parser"]().parse_args(step.arguments(options))
    asks_a_model = step.name in ("manifest", "health", "evaluate")
    assert getattr(parsed, "use_bedrock", None) == (use_bedrock if asks_a_model else None)
    if step.name in ("manifest", "evaluate", "validate"):
        assert parsed.cases == str(options.cases)
    if step.name == "sync":
        assert (parsed.folder, parsed.source) == (str(options.corpus), "my corpus")
    if step.name == "lock":
        assert parsed.source == ["my corpus"]


def test_without_a_corpus_the_candidates_own_sources_are_locked():
    (lock,) = find(["lock"])
    assert lock.arguments(Options(None, "", Path("cases.json"), False)) == []


def test_everything_holds_for_a_release_that_has_all_evidence(ready):
    assert holding(ready) == SKIPPED


def evidence(project: Project) -> Path:
    return project.workspace.evidence(project.release().release_id)


def edit_manifest(project: Project) -> None:
    path = evidence(project) / "manifest.yaml"
    path.write_text(path.read_text().replace("min_cases: 30", "min_cases: 3"))


def edit_verdict(project: Project) -> None:
    path = evidence(project) / "verdict.json"
    write_json(path, {**read_json(path, "verdict"), "reasons": ["everything is fine"]})


def forget_verdicts(project: Project) -> None:
    project.execute("DELETE FROM golive.verdicts")


@pytest.mark.parametrize(
    ("lose", "step"),
    [
        (lambda project: (evidence(project) / "manifest.yaml").unlink(), "manifest"),
        (lambda project: (evidence(project) / "manifest.yaml").write_text("nothing: [of"), "manifest"),
        (edit_manifest, "manifest"),
        (lambda project: (evidence(project) / "verdict.json").unlink(), "evaluate"),
        (edit_verdict, "evaluate"),
        (lambda project: (evidence(project) / "evaluation" / "metrics.json").unlink(), "evaluate"),
        (forget_verdicts, "evaluate"),
        (lambda project: receipts.path_of(project.workspace, project.release().release_id, "backup").unlink(), "backup"),
    ],
)
def test_evidence_that_is_gone_or_edited_is_made_again(ready, lose, step):
    lose(ready)
    assert step not in holding(ready)


def test_cases_that_were_moved_since_are_evaluated_again_where_they_are(ready, tmp_path):
    moved = tmp_path / "moved.json"
    ready.workspace.default_cases.rename(moved)
    assert "evaluate" not in holding(ready, cases=moved)  # promotion reads the path that verdict.json names


def test_nothing_but_the_build_holds_for_a_release_that_is_only_built(sealed):
    assert holding(sealed) == {"ingest"}


def tampered(command: str) -> Callable[[Project], None]:
    return lambda project: project.tamper(command)


def executed(command: str) -> Callable[[Project], None]:
    return lambda project: project.execute(command)


def edited(name: str, old: str, new: str) -> Callable[[Project], None]:
    def do(project: Project) -> None:
        path = project.workspace.configs / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return do


def damage_backup(project: Project) -> None:
    (path,) = project.workspace.backups.glob("*/state.json")
    path.write_text(path.read_text() + "\n")


def without_receipts(project: Project) -> None:
    shutil.rmtree(project.workspace.evidence(project.release().release_id) / "receipts")


@pytest.mark.parametrize(
    ("change", "undone"),
    [
        pytest.param(change, undone, id=name)
        for name, change, undone in [
            (
                "a row changed",
                tampered("UPDATE {table} SET bm25_text = bm25_text || ' ' WHERE chunk_index = 0"),
                {"ingest"},
            ),
            ("a row less", tampered("DELETE FROM {table} WHERE id = 'corpus/pointer.md#0'"), {"ingest"}),
            ("the table dropped", tampered("DROP TABLE {table}"), {"ingest"}),
            (
                "the documents changed",
                lambda p: sync(p, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows.\n"}),
                {"manifest", "evaluate"},
            ),
            (
                "the cases changed",
                lambda p: write_cases(p.workspace.default_cases, {**CASES, "about": "one word more"}),
                {"manifest", "evaluate"},
            ),
            ("the gates changed", edited("gates.yaml", "min_cases: 30", "min_cases: 29"), {"manifest", "evaluate"}),
            (
                "the reader changed",
                edited("evaluation.yaml", "max_sentences: 3", "max_sentences: 2"),
                {"manifest", "evaluate"},
            ),
            (
                "the seed changed",
                edited("deterministic_evaluation.env", "RANDOM_SEED=42", "RANDOM_SEED=43"),
                {"manifest", "evaluate"},
            ),
            ("the verdict is FAIL", lambda p: write_verdict(p, "FAIL"), {"evaluate"}),
            ("the verdict is INCONCLUSIVE", lambda p: write_verdict(p, "INCONCLUSIVE"), {"evaluate"}),
            ("the verdict is ERROR", lambda p: write_verdict(p, "ERROR"), {"evaluate"}),
            ("the backup deleted", lambda p: shutil.rmtree(p.workspace.backups), {"backup"}),
            ("the backup damaged", damage_backup, {"backup"}),
            ("the backup unknown here", executed("DELETE FROM golive.backups"), {"backup"}),
            ("the backup of another table", executed("UPDATE golive.backups SET digests = '{}'"), {"backup"}),
            ("the table sealed anew", executed("UPDATE golive.releases SET content_digest = repeat('0', 64)"), SKIPPED),
        ]
    ],
)
def test_a_step_no_longer_holds_once_what_it_was_made_from_has_changed(ready, change, undone):
    change(ready)
    assert SKIPPED - holding(ready) == undone


def test_without_receipts_what_was_measured_is_measured_again(ready):
    without_receipts(ready)
    assert not holding(ready) & {"manifest", "evaluate"}


def test_a_variable_of_the_shell_counts_like_the_file(ready, monkeypatch):
    monkeypatch.setenv("RANDOM_SEED", "43")
    assert SKIPPED - holding(ready) == {"manifest", "evaluate"}


def test_what_was_measured_offline_does_not_hold_for_bedrock(ready):
    assert SKIPPED - holding(ready, use_bedrock=True) == {"manifest", "evaluate"}


def test_what_was_measured_on_other_cases_does_not_hold(ready, tmp_path):
    write_cases(tmp_path / "others.json", {**CASES, "about": "others"})
    assert SKIPPED - holding(ready, cases=tmp_path / "others.json") == {"manifest", "evaluate"}


def test_cases_that_are_gone_are_told_and_nothing_holds_by_itself(ready, tmp_path):
    with pytest.raises(NotFound, match="case file"):
        holding(ready, cases=tmp_path / "none.json")


def test_what_was_compared_with_another_release_does_not_hold(second):
    assert holding(second) == SKIPPED
    second.execute("UPDATE golive.pointer SET release_id = NULL")
    assert SKIPPED - holding(second) == {"evaluate"}


def test_a_backup_without_what_is_live_now_does_not_hold(second):
    (backup,) = second.ask("SELECT digests FROM golive.backups ORDER BY created_at DESC LIMIT 1")
    assert backup["digests"].keys() == {second.live_id(), second.release().release_id}
    second.execute("UPDATE golive.backups SET digests = digests - %s", (second.live_id(),))
    assert SKIPPED - holding(second) == {"backup"}


def test_the_report_of_a_run_is_written_once_by_the_run_itself(tmp_path):
    options = Options(None, "", tmp_path / "cases.json", False)
    assert [step.name for step in STEPS if "--no-report" in step.arguments(options)] == ["evaluate"]


def test_fresh_judging_is_passed_on_to_the_evaluation_alone_and_never_skipped(tmp_path):
    options = Options(None, "", tmp_path / "cases.json", False, fresh_judging=True)
    assert [step.name for step in STEPS if "--fresh-judging" in step.arguments(options)] == ["evaluate"]
    (evaluate,) = [step for step in STEPS if step.name == "evaluate"]
    assert evaluate.holds(Context(None, None, None, options)) is False  # whatever its receipt says


def holding(project: Project, *, cases: Path | None = None, use_bedrock: bool = False) -> set[str]:
    """The steps that hold now."""
    options = Options(None, "", cases or project.workspace.default_cases, use_bedrock)
    context = Context(project.workspace, project.connection, project.release(), options)
    return {step.name for step in STEPS if step.holds and step.holds(context)}
