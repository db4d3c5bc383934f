"""Assessments: a verdict, its evidence in files and in the database, and the baseline it was compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from lib.evaluation import results
from lib.evaluation import settings as evaluation_settings
from lib.evaluation.settings import EvaluationSettings
from lib.index.documents import apply_sync, plan_sync, scan_folder, standing_documents
from lib.index.releases import Release, get_release
from lib.platform.errors import ConfigInvalid, NotFound, Refused
from lib.platform.files import digest_of
from lib.platform.postgres import every, one
from lib.platform.workspace import Workspace
from lib.release import assessment, ingesting, locking, receipts

GATES = """\
min_cases: 2
max_unscored_share: 0.0
min_documents: 2
confidence: 0.95
alpha: 0.05
power: 0.8
resamples: 1000
metrics:
  oracle_hit_rate: {direction: higher, floor: 0.5, margin: 0.25}
  recall: {direction: higher, floor: 0.25, margin: 0.5}
  hallucination: {direction: lower, ceiling: 0.75, margin: 0.5}
"""
IMPOSSIBLE = GATES.replace("min_cases: 2", "min_cases: 2  # and no snapshot has 900 chunks") + (
    "  avg_snapshot_size: {direction: higher, floor: 900}\n"
)


@pytest.fixture
def cases_path(workspace) -> Path:
    return write_cases(
        workspace, ["A backup is proven by restoring it into fresh tables.", "Keep the last seven daily backups"]
    )


@pytest.fixture
def release(connection, workspace, make_config, cases_path) -> Release:
    """The active release, sealed; nothing is live."""
    write_gates(workspace, GATES)
    return build(connection, workspace, make_config(chunk_size=60))


@pytest.fixture
def live(connection, workspace, make_config, cases_path) -> Release:
    write_gates(workspace, GATES)
    made = build(connection, workspace, make_config(chunk_size=80, chunk_version="2026-01-01-000000-v1"))
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.pointer SET release_id = %s, generation = generation + 1", (made.release_id,))
        cursor.execute("UPDATE golive.releases SET state = 'live' WHERE release_id = %s", (made.release_id,))
    return made


def test_a_first_release_passes_by_its_absolute_limits(workspace, connection, release, cases_path):
    found = assess(workspace, connection, cases_path)
    assert (found.release_id, found.verdict) == (release.release_id, "PASS")
    assert found.content["baseline_release"] is None
    assert found.content["reasons"] == ["first release: nothing is live to compare with; every absolute limit is met"]
    assert found.folder == workspace.root / "metrics" / "golive" / release.release_id


def test_the_evidence_is_written_as_it_was_returned(workspace, connection, release, cases_path, monkeypatch):
    monkeypatch.setattr(EvaluationSettings, "remarks", lambda self, *roles: ["judge m is sent no temperature"])
    found = assess(workspace, connection, cases_path)
    assert found.content["warnings"][0] == "judge m is sent no temperature"
    assert "warning: judge m is sent no temperature\n" in (found.folder / "verdict.txt").read_text(encoding="utf-8")
    assert json.loads((found.folder / "verdict.json").read_text(encoding="utf-8")) == found.content
    assert (found.folder / "verdict.txt").read_text(encoding="utf-8") == assessment.verdict_text(found.content) + "\n"
    evaluation = results.read(found.folder / "evaluation")
    assert found.content["metrics_digest"] == evaluation.digest
    assert found.content["inputs"] == evaluation.summary["inputs"]
    assert found.content["produced_by"] == evaluation.summary["produced_by"]
    assert found.content["cases_file"] == "cases.json"
    assert found.to_text(workspace).endswith(f"evidence: metrics/golive/{release.release_id}")


def test_the_verdict_is_recorded_with_every_digest_it_holds_for(workspace, connection, release, cases_path):
    found = assess(workspace, connection, cases_path)
    row = one(connection, "SELECT * FROM golive.verdicts")
    assert row["release_id"] == release.release_id
    assert (row["verdict"], row["baseline"]) == ("PASS", None)
    assert row["config_hash"] == release.config_hash
    assert row["content_digest"] == release.content_digest
    assert row["cases_digest"] == digest_of(json.loads(cases_path.read_text(encoding="utf-8")))
    assert row["gates_digest"] == digest_of(assessment.load_gates(workspace))
    assert row["verdict_digest"] == digest_of(found.content)
    assert set(row["metrics"]) == {"oracle_hit_rate", "recall", "hallucination"}
    assert row["metrics"]["oracle_hit_rate"] == 1.0


def test_every_verdict_is_an_entry_of_the_audit_log(workspace, connection, release, cases_path):
    found = assess(workspace, connection, cases_path)
    (entry,) = every(connection, "SELECT * FROM golive.audit_log WHERE action = 'verdict'")
    assert (entry["subject"], entry["to_digest"]) == (release.release_id, digest_of(found.content))
    assert entry["reason"].startswith("PASS: first release")


def test_a_pass_leaves_a_receipt_that_holds_until_something_changes(workspace, connection, release, cases_path):
    assess(workspace, connection, cases_path)
    assert receipts.holds(workspace, release.release_id, "evaluate", expected(workspace, connection, release, cases_path))
    write_gates(workspace, GATES.replace("floor: 0.5", "floor: 0.4"))
    assert not receipts.holds(
        workspace, release.release_id, "evaluate", expected(workspace, connection, release, cases_path)
    )
    write_gates(workspace, GATES)
    write_cases(workspace, ["A backup is proven by restoring it into fresh tables."])
    assert not receipts.holds(
        workspace, release.release_id, "evaluate", expected(workspace, connection, release, cases_path)
    )


def test_a_receipt_no_longer_holds_once_other_documents_or_another_release_are_there(
    workspace, connection, live, release, cases_path
):
    assess(workspace, connection, cases_path)
    before = expected(workspace, connection, release, cases_path)
    assert receipts.holds(workspace, release.release_id, "evaluate", before)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.pointer SET release_id = %s", (release.release_id,))
    moved = expected(workspace, connection, release, cases_path)
    assert moved != before and moved["baseline"] is None
    change_document(connection, workspace)
    assert expected(workspace, connection, release, cases_path)["gold_corpus_digest"] != before["gold_corpus_digest"]


def test_a_failed_gate_is_recorded_and_its_receipt_does_not_hold(workspace, connection, release, cases_path):
    write_gates(workspace, IMPOSSIBLE)
    found = assess(workspace, connection, cases_path)
    assert found.verdict == "FAIL"
    assert [reason.split(":")[0] for reason in found.content["reasons"]] == ["avg_snapshot_size"]
    assert one(connection, "SELECT verdict FROM golive.verdicts") == {"verdict": "FAIL"}
    assert receipts.read(workspace, release.release_id, "evaluate").outcome == "FAIL"
    assert not receipts.holds(
        workspace, release.release_id, "evaluate", expected(workspace, connection, release, cases_path)
    )


def test_too_few_cases_are_inconclusive(workspace, connection, release, cases_path):
    write_gates(workspace, GATES.replace("min_cases: 2", "min_cases: 3"))
    found = assess(workspace, connection, cases_path)
    assert (found.verdict, found.content["reasons"]) == ("INCONCLUSIVE", ["2 answerable cases, at least 3 are needed"])


def test_a_candidate_is_compared_with_what_is_live_on_the_same_cases(workspace, connection, live, release, cases_path):
    found = assess(workspace, connection, cases_path)
    assert (found.verdict, found.content["baseline_release"]) == ("PASS", live.release_id)
    baseline = results.read(found.folder / "baseline")
    assert baseline.summary["inputs"]["release_id"] == live.release_id
    assert baseline.summary["inputs"]["cases_digest"] == found.content["inputs"]["cases_digest"]
    assert [item["difference"]["pairs"] for item in found.content["metrics"]] == [2, 2, 2]
    assert one(connection, "SELECT baseline FROM golive.verdicts") == {"baseline": live.release_id}


def test_a_baseline_that_still_holds_is_not_measured_again(workspace, connection, live, release, cases_path):
    folder = assess(workspace, connection, cases_path).folder / "baseline"
    before = (folder / "timings.json").read_bytes()
    assess(workspace, connection, cases_path)
    assert (folder / "timings.json").read_bytes() == before


@pytest.mark.parametrize("change", ["cases", "damage"])
def test_a_baseline_that_does_not_hold_is_measured_again(workspace, connection, live, release, cases_path, change):
    folder = assess(workspace, connection, cases_path).folder / "baseline"
    if change == "cases":
        write_cases(workspace, ["Keep the last seven daily backups", "One row names the table that answers queries."])
    else:
        (folder / "case_results.jsonl").write_text("{}\n")
    found = assess(workspace, connection, cases_path)
    assert results.read(folder).summary["inputs"]["cases_digest"] == found.content["inputs"]["cases_digest"]
    assert found.verdict == "PASS"


def test_the_live_releases_own_evidence_serves_as_the_baseline(workspace, connection, live, make_config, cases_path):
    assess(workspace, connection, cases_path)  # the live one is still the active one
    build(connection, workspace, make_config(chunk_size=60))
    found = assess(workspace, connection, cases_path)
    assert found.content["baseline_release"] == live.release_id
    assert not (found.folder / "baseline").exists()


def test_the_live_release_assessed_again_is_not_called_the_first(workspace, connection, live, cases_path):
    found = assess(workspace, connection, cases_path)
    assert "first release" not in found.to_text(workspace)


def test_a_release_that_is_not_built_is_refused(workspace, connection, make_config, cases_path):
    write_gates(workspace, GATES)
    config = locking.store_config(connection, workspace, make_config())
    with pytest.raises(Refused, match=f"{config.ingest_run_id} is not built yet"):
        assess(workspace, connection, cases_path)
    assert nothing_recorded(workspace, connection)


def test_documents_that_changed_since_the_seal_are_refused(workspace, connection, release, cases_path):
    change_document(connection, workspace)
    with pytest.raises(Refused, match="the documents have changed since the table was sealed"):
        assess(workspace, connection, cases_path)
    assert nothing_recorded(workspace, connection)


def test_gates_that_are_not_valid_are_refused_with_their_line(workspace, connection, release, cases_path):
    write_gates(workspace, GATES.replace("direction: lower", "direction: down"))
    with pytest.raises(ConfigInvalid, match=r"configs/gates\.yaml:11: metrics\.hallucination\.direction must be one of"):
        assess(workspace, connection, cases_path)
    assert nothing_recorded(workspace, connection)


def test_missing_cases_are_not_found(workspace, connection, release):
    with pytest.raises(NotFound, match="no case file at"):
        assess(workspace, connection, workspace.root / "nowhere.json")
    assert nothing_recorded(workspace, connection)


def test_nothing_locked_is_not_found(workspace, connection, cases_path):
    write_gates(workspace, GATES)
    with pytest.raises(NotFound, match="no config is locked yet"):
        assess(workspace, connection, cases_path)


def test_an_environments_gates_lie_over_the_base(workspace, monkeypatch):
    (workspace.configs / "gates.staging.yaml").write_text("min_cases: 7\n", encoding="utf-8")
    assert assessment.load_gates(workspace)["min_cases"] == 30
    monkeypatch.setenv("GOLIVE_ENV", "staging")
    assert assessment.load_gates(workspace)["min_cases"] == 7


def test_a_verdict_as_text_by_hand():
    shown = assessment.verdict_text(
        {
            "metrics": [
                metric("recall", "PASS", value=0.5, baseline=0.25, floor=0.45, ceiling=0.9, mean=0.25),
                metric("f1", "FAIL", value=0.125, floor=0.25, critical=False),
                metric("precision", "ERROR"),
            ],
            "warnings": ["f1: 0.125 is under the floor 0.25"],
            "cases": {"answerable": 3, "unanswerable": 1, "unscored": 0, "answers_without_claims": 2},
            "produced_by": {"reader": "extractive(x)", "judge": "lexical(0.5)"},
            "baseline_release": "live-1",
            "verdict": "ERROR",
            "reasons": ["precision: no value"],
        }
    )
    assert shown.splitlines() == [
        "metric     value  baseline  limits           difference [interval]    status",
        "recall     0.500  0.250     >= 0.45, <= 0.9  +0.250 [+0.000, +0.500]  PASS",
        "f1         0.125  -         >= 0.25                                   warning",
        "precision  -      -                                                   ERROR",
        "warning: f1: 0.125 is under the floor 0.25",
        "3 answerable and 1 unanswerable cases, 0 unscored, 2 without an answer"
        " (whose hallucination, noise sensitivity and self-knowledge are undefined and left out; RAGChecker calls them 0,"
        " which is perfect)",
        "produced by: reader extractive(x), judge lexical(0.5)",
        "compared with: live-1",
        "UNSIGNED: no signing key (GOLIVE_SIGNING_KEY_FILE or GOLIVE_SIGNING_KEY): nothing proves who made this",
        "ERROR: precision: no value",
    ]


def metric(name: str, status: str, *, critical: bool = True, mean: float | None = None, **values: float) -> dict[str, Any]:
    difference = None if mean is None else {"mean": mean, "low": mean - 0.25, "high": mean + 0.25, "pairs": 3}
    limits = {key: values.get(key) for key in ("value", "baseline", "floor", "ceiling")}
    return {"metric": name, "status": status, "critical": critical, "difference": difference, **limits}


def assess(workspace: Workspace, connection: Connection, cases_path: Path) -> assessment.Assessment:
    settings = evaluation_settings.load(workspace)
    return assessment.assess(workspace, connection, cases_path=cases_path, settings=settings)


def expected(workspace: Workspace, connection: Connection, release: Release, cases_path: Path) -> dict[str, Any]:
    settings = evaluation_settings.load(workspace)
    return assessment.expected_inputs(workspace, connection, release, cases_path=cases_path, settings=settings)


def build(connection: Connection, workspace: Workspace, config: Any) -> Release:
    sync(connection, workspace)
    locking.store_config(connection, workspace, config)
    ingesting.ingest(workspace, connection)
    with connection:
        return get_release(connection, config.ingest_run_id)


def sync(connection: Connection, workspace: Workspace) -> None:
    documents = scan_folder(workspace.default_corpus, "corpus").documents
    apply_sync(connection, "corpus", plan_sync(standing_documents(connection, "corpus"), documents), documents)


def change_document(connection: Connection, workspace: Workspace) -> None:
    path = workspace.default_corpus / "chunking.md"
    path.write_text(path.read_text(encoding="utf-8") + "One line more.\n", encoding="utf-8")
    sync(connection, workspace)


def write_gates(workspace: Workspace, text: str) -> None:
    (workspace.configs / "gates.yaml").write_text(text, encoding="utf-8")


def write_cases(workspace: Workspace, quotes: list[str]) -> Path:
    """A case for each quote, whose question and answer are the quote itself."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in workspace.default_corpus.glob("*.md")}
    cases = [
        {
            "query_id": f"q{place}",
            "query": quote,
            "gt_answer": quote,
            "answerable": True,
            "gold": [{"doc_id": next(name for name, text in texts.items() if quote in text), "quote": quote}],
        }
        for place, quote in enumerate(quotes)
    ]
    path = workspace.root / "cases.json"
    path.write_text(json.dumps({"schema_version": 1, "cases": cases}), encoding="utf-8")
    return path


def nothing_recorded(workspace: Workspace, connection: Connection) -> bool:
    with connection:
        rows = every(connection, "SELECT * FROM golive.verdicts")
    return not rows and not list(workspace.root.glob("metrics/golive/*/verdict.json"))
