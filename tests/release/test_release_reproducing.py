"""An evaluation run again from its manifest: the same bytes, or which cases differ, or why it cannot be compared."""

from __future__ import annotations

import copy
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.evaluation import results
from lib.evaluation import settings as evaluation_settings
from lib.platform import signing
from lib.platform.errors import VERDICT_CODES, ConfigInvalid, ExitCode, IntegrityMismatch, NotFound
from lib.platform.files import read_json, sha256_file, write_json
from lib.release import attesting, manifest, reproducing
from tests.case_rows import write_evaluation
from tests.conftest import HANDBOOK, PROJECT
from tests.release.page import Page
from tests.release.staged import Project, files_below, sync


def test_the_same_bytes_on_another_number_of_workers_and_in_another_order_of_the_cases(evaluated, run_script):
    assert evaluation_settings.load(evaluated.workspace).determinism.max_workers == 3
    cases = read_json(evaluated.workspace.default_cases, "cases")
    write_json(evaluated.workspace.default_cases, {**cases, "cases": [cases["cases"][place] for place in (3, 0, 4, 2, 1)]})
    files, database = files_below(evaluated.workspace.root), state_of(evaluated)
    done = run_script("production_evaluation", "--manifest", str(folder(evaluated) / "manifest.yaml"), MAX_WORKERS="1")
    assert done.code == 0, done.out + done.err
    assert "identical to the byte: metrics.json, case_results.jsonl" in done.out
    assert "signed by key" in done.out
    recorded, (again,) = folder(evaluated) / "evaluation", (folder(evaluated) / "reproduced").iterdir()
    for name in ("metrics.json", "case_results.jsonl", "ragchecker.json"):
        assert (again / name).read_bytes() == (recorded / name).read_bytes()
    record = read_json(again / "reproduction.json", "reproduction")
    assert record["outcome"] == "identical"
    assert record["files"] == {name: sha256_file(recorded / name) for name in ("metrics.json", "case_results.jsonl")}
    after = files_below(evaluated.workspace.root)
    assert {name: after.get(name) for name in files} == files
    assert state_of(evaluated) == database


def test_evaluating_by_hand_writes_the_report_and_tells_github(evaluated, monkeypatch, capsys, tmp_path):
    summary = tmp_path / "summary.md"
    write_json(folder(evaluated) / "run.json", {"steps": [STOPPED], "finished_at": "2026-01-01T00:00:00Z"})
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setattr("sys.argv", ["production_evaluation", "--skip-ingest", "--json"])
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    code = runpy.run_path(str(PROJECT / "scripts" / "production_evaluation.py"))["main"]()
    printed = capsys.readouterr()
    done = json.loads(printed.out)
    verdict = done["verdict"]
    assert code == VERDICT_CODES[verdict["verdict"]]
    assert done["report"] == evaluated.workspace.show(folder(evaluated) / "report.html")
    page = Page((folder(evaluated) / "report.html").read_text(encoding="utf-8"))
    assert page.state.startswith(f"{verdict['verdict']} not promoted; {evaluated.live_id()} still answers queries")
    assert "UNSIGNED" in page.prose
    assert "chunk_size 80 → 40" in page.prose
    assert "Of 1 unanswerable cases" in page.prose
    assert f"title={verdict['verdict']}%3A {verdict['release_id']}::" in printed.err
    assert summary.read_text(encoding="utf-8") == (folder(evaluated) / "report.md").read_text(encoding="utf-8") + "\n"


STOPPED = {"name": "evaluate", "state": "stopped here", "exit_code": 13, "seconds": 1.0}


def test_the_manifest_names_who_reads_and_judges_as_they_name_themselves(evaluated):
    frozen = manifest.read(folder(evaluated) / "manifest.yaml")
    produced_by = read_json(folder(evaluated) / "verdict.json", "verdict")["produced_by"]
    for role in ("reader", "judge"):
        assert frozen["models"][role]["id"] == produced_by[role]


def change(evaluation: results.Evaluation, *, inputs: dict[str, Any] | None = None, case: str | None = None):
    rows = copy.deepcopy(evaluation.rows)
    for row in rows:
        if row["query_id"] == case:
            row["metrics"]["precision"] = 0.125
    summary = copy.deepcopy(evaluation.summary)
    summary["inputs"].update(inputs or {})
    if case:
        summary["metrics"]["precision"] = sum(row["metrics"]["precision"] for row in rows if row["answerable"]) / 4
    return results.Evaluation(summary, rows)


@pytest.mark.parametrize(
    ("changed", "outcome", "named", "code"),
    [
        ({}, "identical", ([], [], []), ExitCode.DONE),
        ({"inputs": {"code_digest": "0" * 64}}, "same numbers", ([], [], ["code_digest"]), ExitCode.DONE),
        ({"case": "b"}, "differs", (["precision"], ["b"], []), ExitCode.INTEGRITY),
        (
            {"case": "b", "inputs": {"packages": {}}},
            "differs",
            (["precision"], ["b"], ["packages"]),
            ExitCode.INTEGRITY,
        ),
    ],
)
def test_what_differs_from_the_recorded_evaluation_is_named(evaluated, tmp_path, changed, outcome, named, code):
    planned = plan(evaluated, outdir=tmp_path / "again")
    made = change(planned.recorded, **changed)
    write_evaluation(planned.folder, made)
    found = reproducing.compare(planned, made, folder(evaluated) / "evaluation")
    assert (found.outcome, (found.metrics, found.cases, found.inputs), found.exit_code) == (outcome, named, code)
    assert all(name in found.to_text(evaluated.workspace) for names in named for name in names)


def test_one_byte_of_a_recorded_file_is_a_difference_even_where_its_values_are_the_same(evaluated, tmp_path):
    planned = plan(evaluated, outdir=tmp_path / "again")
    write_evaluation(planned.folder, planned.recorded)
    with (folder(evaluated) / "evaluation" / "metrics.json").open("a") as stream:
        stream.write("\n")
    found = reproducing.compare(planned, planned.recorded, folder(evaluated) / "evaluation")
    assert (found.outcome, found.exit_code) == ("differs", ExitCode.INTEGRITY)


@pytest.mark.parametrize(
    ("judged", "case", "outcome", "code"),
    [
        (True, None, "identical", ExitCode.DONE),
        (True, "b", "differs", ExitCode.INTEGRITY),
        (False, None, "nothing recorded", ExitCode.INCONCLUSIVE),
    ],
)
def test_without_the_recorded_files_the_verdicts_digest_decides(evaluated, judged, case, outcome, code):
    recorded = results.read(folder(evaluated) / "evaluation")
    shutil.rmtree(folder(evaluated) / "evaluation")
    if not judged:
        evaluated.execute("DELETE FROM golive.verdicts")
    planned = plan(evaluated)
    found = reproducing.compare(planned, change(recorded, case=case), folder(evaluated) / "evaluation")
    assert (found.outcome, found.exit_code) == (outcome, code)
    assert found.to_text(evaluated.workspace)


def test_another_version_of_the_code_is_said_and_does_not_hinder(evaluated, monkeypatch):
    monkeypatch.setattr("lib.evaluation.run.code_digest", lambda: "0" * 64)
    planned = plan(evaluated)
    assert (planned.refusals, [item["field"] for item in planned.changed]) == ([], ["code.digest"])
    assert "code: code.digest: was" in planned.to_text()


def edit_config(name: str, old: str, new: str) -> Callable[[Project], None]:
    def do(project: Project) -> None:
        path = project.workspace.configs / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return do


def other_cases(project: Project) -> None:
    content = read_json(project.workspace.default_cases, "cases")
    write_json(project.workspace.default_cases, {**content, "cases": content["cases"][1:]})


def other_documents(project: Project) -> None:
    sync(project, {**HANDBOOK, "more.md": "# More\n\nOne more page.\n"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_cases, "cases.digest has changed"),
        (other_documents, "corpus.digest has changed"),
        (edit_config("evaluation.yaml", "max_sentences: 3", "max_sentences: 2"), "evaluation.settings_digest has changed"),
        (
            edit_config("deterministic_evaluation.env", "RANDOM_SEED=42", "RANDOM_SEED=43"),
            "evaluation.settings_digest has changed",
        ),
    ],
)
def test_what_decides_the_numbers_must_not_have_changed(evaluated, change, said):
    change(evaluated)
    before = files_below(evaluated.workspace.root)
    planned = plan(evaluated)
    assert said in planned.refusals
    with pytest.raises(IntegrityMismatch, match="cannot be run again") as caught:
        reproducing.reproduce(evaluated.workspace, evaluated.connection, planned)
    assert said in caught.value.detail
    assert files_below(evaluated.workspace.root) == before


def test_other_limits_of_the_gate_are_said_and_do_not_hinder(evaluated):
    edit_config("gates.yaml", "min_cases: 30", "min_cases: 29")(evaluated)
    planned = plan(evaluated)
    assert {item["field"] for item in planned.changed} == {"thresholds.digest", "thresholds.min_cases"}
    assert planned.refusals == []


def test_a_recorded_evaluation_of_other_cases_is_refused_by_digest(evaluated, tmp_path):
    """The manifest is of later cases than the evaluation that stands: they must not be compared."""
    other_cases(evaluated)
    path = tmp_path / "later" / "manifest.yaml"
    found = manifest.read(folder(evaluated) / "manifest.yaml")
    now = reproducing.plan(evaluated.workspace, evaluated.connection, folder(evaluated) / "manifest.yaml")
    later = {**found, "cases": {**found["cases"], "digest": now.request.cases.digest, "count": now.request.cases.count}}
    manifest.write(path.parent, later, "yaml")
    planned = reproducing.plan(evaluated.workspace, evaluated.connection, path)
    assert planned.refusals == ["the recorded evaluation has another cases_digest than the manifest"]


def test_a_release_that_answers_from_other_documents_is_refused(evaluated):
    evaluated.execute("UPDATE golive.release_documents SET doc_digest = sha256('other') WHERE doc_id LIKE '%%backups.md'")
    assert any("coverage_digest is not that" in line for line in plan(evaluated).refusals)


def test_an_evaluation_that_its_verdict_was_not_given_for_is_refused(evaluated):
    evaluated.execute("UPDATE golive.verdicts SET metrics_digest = repeat('0', 64)")
    with pytest.raises(IntegrityMismatch, match="is not the one that its verdict was given for"):
        plan(evaluated)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda path: None, "good"),
        (lambda path: attesting.envelope_of(path).unlink(), "unsigned"),
        (lambda path: (path.parents[3] / "configs" / "signing" / "release.pub").unlink(), "unchecked"),
    ],
)
def test_what_is_known_of_the_signature_is_said(evaluated, change, state):
    change(folder(evaluated) / "manifest.yaml")
    planned = plan(evaluated)
    assert (planned.signature.state, planned.refusals) == (state, [])
    assert {"good": "signed by key", "unsigned": "UNSIGNED", "unchecked": "NOT CHECKED"}[state] in planned.to_text()


def test_a_manifest_that_was_changed_after_it_was_signed_is_refused(evaluated):
    path = folder(evaluated) / "manifest.yaml"
    path.write_text(path.read_text().replace("seed: 42", "seed: 43"))
    with pytest.raises(IntegrityMismatch, match="signed for another manifest_digest"):
        plan(evaluated)


def test_a_manifest_signed_by_a_stranger_is_refused(evaluated, tmp_path):
    path = folder(evaluated) / "manifest.yaml"
    signing.write_pair(tmp_path / "other.pem", tmp_path / "other.pub", "")
    stranger = signing.load_signer({signing.SIGNING_KEY_FILE: str(tmp_path / "other.pem")})
    attesting.sign_manifest(path, manifest.read(path), stranger)
    with pytest.raises(IntegrityMismatch, match="does not hold") as caught:
        plan(evaluated)
    assert "is not trusted" in caught.value.detail


def test_a_manifest_of_a_release_that_is_not_there_is_not_found(evaluated, tmp_path):
    found = manifest.read(folder(evaluated) / "manifest.yaml")
    path = manifest.write(tmp_path / "other", {**found, "release_id": "2026-01-02-030405-v1-01234567"}, "json")
    with pytest.raises(NotFound):
        reproducing.plan(evaluated.workspace, evaluated.connection, path)


def test_what_is_no_manifest_is_invalid(evaluated, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigInvalid):
        reproducing.plan(evaluated.workspace, evaluated.connection, tmp_path / "manifest.json")


def test_every_field_of_a_manifest_belongs_to_a_group_and_an_unknown_one_decides(evaluated):
    found = manifest.read(folder(evaluated) / "manifest.yaml")
    fields = [item["field"] for item in manifest.differences({}, found) if item["field"]]
    groups = {field: manifest.group_of(field) for field in fields}
    assert [field for field, group in groups.items() if group == "unknown"] == ["manifest_version"]
    assert manifest.is_decisive("something.new")
    assert {groups[field] for field in fields if not manifest.is_decisive(field)} == {
        "cases",
        "code",
        "gates",
        "packages",
        "platform",
        "settings",
    }
    assert [field for field in fields if not manifest.is_decisive(field) and groups[field] in ("cases", "settings")] == [
        "cases.file",
        "evaluation.max_workers",
    ]


def test_a_dry_run_of_the_script_says_what_it_would_do_or_why_not(evaluated, run_script):
    path = str(folder(evaluated) / "manifest.yaml")
    files = files_below(evaluated.workspace.root)
    planned = run_script("production_evaluation", "--manifest", path, "--dry-run")
    assert planned.code == 0, planned.err
    assert "would evaluate it again into metrics/golive/" in planned.out
    assert files_below(evaluated.workspace.root) == files
    other_cases(evaluated)
    refused = run_script("production_evaluation", "--manifest", path, "--dry-run", "--json")
    assert (refused.code, refused.json["refusals"]) == (14, ["cases.count has changed", "cases.digest has changed"])


@pytest.mark.parametrize(
    "flags", [["--outdir", "x"], ["--manifest", "x", "--use-bedrock"], ["--manifest", "x", "--skip-eval"]]
)
def test_flags_that_do_not_go_together_are_wrong_usage(run_script, flags):
    assert run_script("production_evaluation", *flags).code == 2


def folder(project: Project) -> Path:
    return project.workspace.evidence(project.release().release_id)


def plan(project: Project, **options: Any) -> reproducing.Plan:
    return reproducing.plan(project.workspace, project.connection, folder(project) / "manifest.yaml", **options)


def state_of(project: Project) -> list[Any]:
    """What a promotion goes by."""
    tables = ("verdicts", "audit_log", "pointer", "coverage", "release_documents", "releases")
    return [project.ask(f"SELECT * FROM golive.{name} ORDER BY 1, 2") for name in tables]
