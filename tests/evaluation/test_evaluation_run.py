"""An evaluation end to end: a real table, the real embedder, a judge; and what it does when one of them fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg2.extensions import connection as Connection

from lib.evaluation import cases as case_files
from lib.evaluation import results, run
from lib.evaluation import settings as evaluation_settings
from lib.evaluation.settings import EvaluationSettings
from lib.index.documents import apply_sync, plan_sync, scan_folder
from lib.index.releases import Release, get_release
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, Unavailable
from lib.platform.workspace import Workspace
from lib.release import ingesting, locking

METRIC_FILES = ("metrics.json", "case_results.jsonl", "ragchecker.json")
CASES = [
    {
        "query_id": "backup-proof",
        "query": "How is a backup proven?",
        "gt_answer": "A backup is proven by restoring it into fresh tables.",
        "answerable": True,
        "gold": [{"doc_id": "backups.md", "quote": "A backup is proven by restoring it into fresh tables."}],
    },
    {
        "query_id": "rollback-speed",
        "query": "How fast does a rollback move the pointer back?",
        "gt_answer": "A rollback moves the pointer back in milliseconds.",
        "answerable": True,
        "gold": [{"doc_id": "pointer.md", "quote": "A rollback moves the pointer back in milliseconds"}],
        "tags": ["single"],
    },
    {
        "query_id": "bread",
        "query": "Which oven temperature suits sourdough bread?",
        "gt_answer": "The corpus does not say.",
        "answerable": False,
        "gold": [],
    },
]


@pytest.fixture
def release(connection, workspace, make_config) -> Release:
    return build(connection, workspace, make_config(chunk_size=60))


def test_an_evaluation_by_hand(workspace, connection, release, tmp_path):
    found = run.evaluate(workspace, connection, request(workspace, release), tmp_path / "out")
    rows = {row["query_id"]: row for row in found.rows}
    assert list(rows) == ["backup-proof", "bread", "rollback-speed"]
    proof = rows["backup-proof"]
    assert "A backup is proven by restoring it into fresh tables." in proof["response"]
    assert {name: proof["metrics"][name] for name in ("oracle_hit", "filter_hit", "reader_gold_usage")} == {
        "oracle_hit": 1.0,
        "filter_hit": 1.0,
        "reader_gold_usage": 1.0,
    }
    assert (proof["metrics"]["recall"], proof["metrics"]["claim_recall"], proof["unscored"]) == (1.0, 1.0, "")
    assert (proof["lost_at"], proof["lost_detail"]) == (None, "")
    assert rows["rollback-speed"]["tags"] == ["single"]
    assert rows["bread"]["abstained"] and rows["bread"]["metrics"] is None
    assert found.summary["counts"] == {
        "cases": 3,
        "answerable": 2,
        "unanswerable": 1,
        "unscored": 0,
        "answers_without_claims": 0,
        "undefined": {},
    }
    assert found.summary["metrics"]["abstention_accuracy"] == 1.0
    assert found.summary["metrics"]["deduplication_rate"] == release.ingest_stats["deduplication_rate"]


def test_every_row_says_where_its_case_was_lost(workspace, connection, release, tmp_path):
    """A reader that finds no sentence good enough loses what it was shown."""
    loaded = evaluation_settings.load(workspace)
    values = {**loaded.values, "reader": {**loaded.values["reader"], "least_score": 99.0}}
    asked = request(workspace, release, dataclasses.replace(loaded, values=values))
    rows = {row["query_id"]: row for row in run.evaluate(workspace, connection, asked, tmp_path / "out").rows}
    assert (rows["bread"]["lost_at"], rows["bread"]["lost_detail"]) == (None, "")
    assert rows["backup-proof"]["lost_at"] == rows["rollback-speed"]["lost_at"] == "reader"
    assert "does not use it" in rows["backup-proof"]["lost_detail"]


def test_what_produced_the_numbers_is_named_beside_them(workspace, connection, release, tmp_path):
    summary = run.evaluate(workspace, connection, request(workspace, release), tmp_path / "out").summary
    assert summary["produced_by"]["reader"] == "extractive(all-MiniLM-L6-v2)"
    assert summary["produced_by"]["judge"] == "support(all-MiniLM-L6-v2, 0.6, 0.6, 0.5)"
    assert summary["produced_by"]["metrics"].startswith("ragchecker ")
    assert summary["inputs"]["content_digest"] == release.content_digest
    assert summary["inputs"]["release_id"] == release.release_id
    assert "missing" not in summary["inputs"]["packages"].values()


def test_the_same_inputs_give_the_same_bytes(workspace, connection, release, tmp_path):
    for folder in ("one", "two"):
        made = run.evaluate(workspace, connection, request(workspace, release), tmp_path / folder)
        assert results.read(tmp_path / folder) == made
    for name in METRIC_FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_order_of_the_cases_decides_only_their_digest(workspace, connection, release, tmp_path):
    run.evaluate(workspace, connection, request(workspace, release), tmp_path / "one")
    run.evaluate(workspace, connection, request(workspace, release, cases=CASES[::-1]), tmp_path / "two")
    assert (tmp_path / "one" / "case_results.jsonl").read_bytes() == (tmp_path / "two" / "case_results.jsonl").read_bytes()


def test_every_case_has_its_time_beside_the_metrics(workspace, connection, release, tmp_path):
    run.evaluate(workspace, connection, request(workspace, release), tmp_path / "out")
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["query_id"] for answer in answers] == sorted(case["query_id"] for case in CASES)
    assert all(answer["retrieval_ms"] > 0 and answer["read_ms"] > 0 for answer in answers)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {} SET bm25_text = bm25_text || '.' WHERE chunk_index = 0",
        "UPDATE {} SET embedding = (SELECT embedding FROM {} ORDER BY id DESC LIMIT 1)",
        "UPDATE {} SET span_end = span_end - 1",
        "DELETE FROM {} WHERE id = (SELECT min(id) FROM {})",
        "TRUNCATE {}",
        "DROP TABLE {}",
    ],
)
def test_a_table_that_is_not_what_was_sealed_is_not_evaluated(workspace, connection, release, tmp_path, change):
    name = f'"{release.table_name}"'
    with connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {name} DISABLE TRIGGER ALL")
        cursor.execute(change.replace("{}", name))
    with pytest.raises(IntegrityMismatch, match=f"table {release.table_name} is not what was sealed"):
        run.evaluate(workspace, connection, request(workspace, release), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cases_of_another_corpus_are_refused_and_nothing_is_written(workspace, connection, release, tmp_path):
    foreign = {**CASES[0], "gold": [{"doc_id": "backups.md", "quote": "Nobody wrote this."}]}
    with pytest.raises(ConfigInvalid, match="1 quotes do not stand in the corpus"):
        run.evaluate(workspace, connection, request(workspace, release, cases=[foreign]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_judge_that_fails_leaves_its_case_unscored_with_the_worst_values(
    workspace, connection, release, tmp_path, converse
):
    converse.reply = lambda model_id, prompt: 500 if model_id == "judge" else "Restore it into fresh tables."
    asked = request(workspace, release, bedrock(workspace, converse.url))
    found = run.evaluate(workspace, connection, asked, tmp_path / "out")
    rows = {row["query_id"]: row for row in found.rows}
    for query_id in ("backup-proof", "rollback-speed"):
        assert rows[query_id]["unscored"].startswith("judge: judge gave no usable reply")
        assert {name: rows[query_id]["metrics"][name] for name in results.METRICS} == {
            name: results.worst(name) for name in results.METRICS
        }
        assert rows[query_id]["metrics"]["oracle_hit"] == 1.0  # no model decides that
    assert found.summary["counts"]["unscored"] == 2
    assert (found.summary["metrics"]["recall"], found.summary["metrics"]["hallucination"]) == (0.0, 1.0)
    assert json.loads((tmp_path / "out" / "ragchecker.json").read_text())["results"] == []
    assert results.read(tmp_path / "out") == found


def test_a_judge_that_cannot_be_understood_leaves_its_case_unscored(workspace, connection, release, tmp_path, converse):
    converse.reply = lambda model_id, prompt: (
        "I cannot help with that." if model_id == "judge" else "Bread is baked at noon."
    )
    asked = request(workspace, release, bedrock(workspace, converse.url))
    found = run.evaluate(workspace, connection, asked, tmp_path / "out")
    assert found.unscored == {"backup-proof", "rollback-speed"}
    assert (found.summary["metrics"]["faithfulness"], found.summary["metrics"]["hallucination"]) == (0.0, 1.0)


def test_a_reader_that_fails_on_one_case_leaves_that_one_unscored(workspace, connection, release, tmp_path, converse):
    def reply(model_id: str, prompt: str) -> str | int:
        if model_id == "judge":
            return '("it", "is", "so")' if "### KG:" in prompt else "Entailment"
        return 500 if "bread" in prompt or "backup proven" in prompt else "It takes milliseconds."

    converse.reply = reply
    asked = request(workspace, release, bedrock(workspace, converse.url))
    found = run.evaluate(workspace, connection, asked, tmp_path / "out")
    rows = {row["query_id"]: row for row in found.rows}
    assert rows["backup-proof"]["unscored"].startswith("reader: reader gave no usable reply")
    assert rows["backup-proof"]["metrics"]["hallucination"] == 1.0
    assert rows["backup-proof"]["metrics"]["reader_gold_usage"] == 0.0
    assert rows["bread"]["unscored"] and not rows["bread"]["abstained"]  # a failure is no "I do not know"
    assert (rows["rollback-speed"]["unscored"], rows["rollback-speed"]["metrics"]["recall"]) == ("", 1.0)
    assert found.summary["counts"]["unscored"] == 2
    assert found.summary["metrics"]["recall"] == 0.5
    assert found.summary["metrics"]["abstention_accuracy"] == 0.0


def test_a_service_that_serves_nobody_stops_the_evaluation(workspace, connection, release, tmp_path, converse):
    converse.reply = lambda model_id, prompt: 403
    with pytest.raises(Unavailable, match="Bedrock refused reader"):
        run.evaluate(workspace, connection, request(workspace, release, bedrock(workspace, converse.url)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_how_many_read_at_once_does_not_change_the_outcome(workspace, connection, release, tmp_path, converse):
    converse.reply = lambda model_id, prompt: 500 if model_id == "judge" else f"Answer {len(prompt)}."
    for workers in (1, 3):
        asked = request(workspace, release, bedrock(workspace, converse.url, max_workers=workers))
        run.evaluate(workspace, connection, asked, tmp_path / str(workers))
    assert (tmp_path / "1" / "case_results.jsonl").read_bytes() == (tmp_path / "3" / "case_results.jsonl").read_bytes()


@pytest.mark.parametrize("audited", [True, False])
def test_every_prompt_is_audited_where_that_is_asked_for(workspace, connection, release, tmp_path, converse, audited):
    converse.reply = lambda model_id, prompt: 500 if model_id == "judge" else "I do not know."
    asked = request(workspace, release, bedrock(workspace, converse.url, prompt_audit=audited))
    asked = dataclasses.replace(asked, audit_file=tmp_path / "audit.jsonl")
    run.evaluate(workspace, connection, asked, tmp_path / "out")
    if audited:
        entries = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        assert sorted(entry["prompt"] for entry in entries) == sorted(converse.prompts)
        assert {entry["temperature"] for entry in entries} == {0.0}
    else:
        assert not (tmp_path / "audit.jsonl").exists()


def test_the_inputs_name_everything_that_was_changed(workspace, release):
    asked = request(workspace, release)
    before = run.inputs_of(asked, "documents", "coverage")
    assert run.inputs_of(request(workspace, release), "documents", "coverage") == before
    other = dataclasses.replace(release, content_digest="0" * 64)
    changes: list[tuple[str, run.Request, str]] = [
        ("cases_digest", request(workspace, release, cases=CASES[:2]), "documents"),
        ("settings_digest", request(workspace, release, bedrock(workspace, "http://127.0.0.1")), "documents"),
        ("content_digest", dataclasses.replace(asked, release=other), "documents"),
        ("gold_corpus_digest", asked, "other documents"),
    ]
    for name, changed, documents in changes:
        after = run.inputs_of(changed, documents, "coverage")
        assert {key for key in before if before[key] != after[key]} == {name}


def test_the_inputs_cover_how_the_readers_embedder_is_used(workspace, release):
    before = run.inputs_of(request(workspace, release), "documents", "coverage")
    path = workspace.configs / "embedders.yaml"
    known = yaml.safe_load(path.read_text(encoding="utf-8"))
    known["all-MiniLM-L6-v2"]["query_prompt"] = "Something about bread: "
    path.write_text(yaml.safe_dump(known), encoding="utf-8")
    assert run.inputs_of(request(workspace, release), "documents", "coverage") != before


def test_a_prefix_is_never_an_answer(workspace, connection, make_config, tmp_path):
    release = build(connection, workspace, make_config(chunk_size=60, prefix_policy="B"))
    asked = [{**CASES[0], "query": "What does the document on backups say in its section on retention?"}]
    found = run.evaluate(workspace, connection, request(workspace, release, cases=asked), tmp_path / "out")
    assert "Document:" not in found.rows[0]["response"]


def build(connection: Connection, workspace: Workspace, config: Any) -> Release:
    documents = scan_folder(workspace.default_corpus, "corpus").documents
    apply_sync(connection, "corpus", plan_sync({}, documents), documents)
    locking.store_config(connection, workspace, config)
    ingesting.ingest(workspace, connection)
    with connection:
        return get_release(connection, config.ingest_run_id)


def request(
    workspace: Workspace,
    release: Release,
    settings: EvaluationSettings | None = None,
    *,
    cases: list[dict[str, Any]] = CASES,
) -> run.Request:
    path: Path = workspace.root / "cases.json"
    path.write_text(json.dumps({"schema_version": 1, "cases": cases}), encoding="utf-8")
    return run.Request(release, case_files.load(path), ("corpus",), settings or evaluation_settings.load(workspace))


def bedrock(workspace: Workspace, url: str, **changes: Any) -> EvaluationSettings:
    """Settings that read and judge over a stand-in, without its rate limit and with one attempt."""
    loaded = evaluation_settings.load(workspace, use_bedrock=True)
    values = {
        **loaded.values,
        "bedrock": {
            **loaded.values["bedrock"],
            "endpoint_url": url,
            "reader_model": "reader",
            "judge_model": "judge",
            "attempts": 1,
        },
    }
    fast = dataclasses.replace(loaded.determinism, bedrock_requests_per_second=1000.0, **changes)
    return dataclasses.replace(loaded, values=values, determinism=fast)
