"""Cases in blocks: the same rows for any number of workers and any order, nothing half-written, and flat memory."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from lib.evaluation import cases as case_files
from lib.evaluation import flow, ragchecker_metrics, results
from lib.evaluation.judges import Judges
from lib.evaluation.offline_judge import LexicalJudge
from lib.evaluation.systems import Answered, parse_reply
from lib.platform.errors import Unavailable
from lib.platform.files import canonical_json, pretty_json

FILES = ("metrics.json", "case_results.jsonl", "ragchecker.json")
FACT = "The pump number {} was built in the year {}."


class Stub:
    """Answers from what its questions say; ``failing`` ones have a problem. ``jitter_s`` shuffles the order of replies."""

    name = "stub"
    patience: int | None = 5

    def __init__(self, workers: int = 1, failing: frozenset[str] = frozenset(), jitter_s: float = 0.0) -> None:
        self.workers, self.failing, self.jitter_s = workers, failing, jitter_s
        self.identity: dict[str, Any] = {"kind": "stub"}
        self.asked: list[str] = []

    def answer(self, query_id: str, query: str) -> Answered:
        self.asked.append(query_id)
        time.sleep(random.Random(query_id).random() * self.jitter_s)
        if query_id in self.failing:
            return Answered("", problem="system: status 500", by_text=True)
        number = int(query_id[1:])
        text = FACT.format(number, 1900 + number)
        contexts = [text, "Nothing of use stands here."] if number % 3 else ["Nothing of use stands here."]
        return parse_reply(
            {"answer": text if number % 4 else "", "contexts": contexts, "snapshot": [*contexts, text]}, query_id
        )

    def close(self) -> None:
        pass


def test_workers_order_and_blocks_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = _cases(tmp_path, 30)
    measure(Stub(), cases, tmp_path / "one")
    measure(Stub(workers=3, jitter_s=0.01), cases, tmp_path / "three")
    monkeypatch.setattr(flow, "_BLOCK", 7)
    measure(Stub(workers=2), cases, tmp_path / "blocks")
    for name in FILES:
        held = (tmp_path / "one" / name).read_bytes()
        assert held == (tmp_path / "three" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes()


def test_the_files_are_those_of_an_evaluation_at_once(tmp_path: Path) -> None:
    cases = _cases(tmp_path, 12)
    found = measure(Stub(failing=frozenset({"q0003"})), cases, tmp_path / "out")
    assert results.read(tmp_path / "out") == found
    lines = b"".join(canonical_json(row) + b"\n" for row in found.rows)
    assert (tmp_path / "out" / "case_results.jsonl").read_bytes() == lines
    summary = pretty_json({**found.summary, "evaluation_digest": found.digest})
    assert (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8") == summary
    labelled = []
    for case in cases:
        answer = Stub().answer(case.query_id, case.query)
        if case.answerable and case.query_id != "q0003":
            passages = [(chunk.chunk_id, chunk.bm25_text) for chunk in answer.context]
            result = ragchecker_metrics.new_result(case.query_id, case.query, case.gt_answer, answer.text, passages)
            LexicalJudge(0.5).label(result)
            labelled.append(result)
    metrics = ragchecker_metrics.compute(labelled)  # all at once, not in blocks
    assert (tmp_path / "out" / "ragchecker.json").read_text() == ragchecker_metrics.to_json(labelled)
    for row in found.rows:
        if row["query_id"] in metrics:
            measured = {name: value for name, value in row["metrics"].items() if name in metrics[row["query_id"]]}
            wanted = {**metrics[row["query_id"]], **dict.fromkeys(row["undefined"])}
            assert measured == wanted


def test_a_question_without_an_answer_counts_with_the_worst_of_everything(tmp_path: Path) -> None:
    found = measure(Stub(failing=frozenset({"q0001", "q0005"})), _cases(tmp_path, 12), tmp_path / "out")
    rows = {row["query_id"]: row for row in found.rows}
    assert rows["q0001"]["unscored"] == "system: status 500"
    assert rows["q0001"]["metrics"]["recall"] == rows["q0001"]["metrics"]["oracle_hit"] == 0.0
    assert rows["q0001"]["metrics"]["hallucination"] == 1.0
    assert {"oracle_hit", "filter_hit", "reader_gold_usage", "answered"} <= set(rows["q0001"]["unmeasured"])
    assert not rows["q0005"]["abstained"]
    assert found.summary["counts"]["unscored"] == 2
    assert found.summary["system"] == {"kind": "stub", "answers_with_a_snapshot": 10}


def test_a_system_that_is_away_is_not_asked_on_and_on(tmp_path: Path) -> None:
    system = Stub(failing=frozenset(f"q{number:04d}" for number in range(3, 30)))
    with pytest.raises(Unavailable, match="stub failed 5 questions in a row"):
        measure(system, _cases(tmp_path, 30), tmp_path / "out")
    assert len(system.asked) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["cases.json"]


def test_an_evaluation_that_breaks_off_leaves_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = _cases(tmp_path, 12)
    before = measure(Stub(), cases, tmp_path / "out")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(Stub(), cases, tmp_path / "out", stop)
    assert results.read(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.json", "out"]


def test_how_long_each_answer_took_stands_beside_the_digest(tmp_path: Path) -> None:
    cases = _cases(tmp_path, 3)
    found = measure(Stub(), cases, tmp_path / "out")
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["query_id"] for line in lines] == [row["query_id"] for row in found.rows]
    timings = json.loads((tmp_path / "out" / "timings.json").read_text())
    assert set(timings) == {"answer_s", "judge_s", "metrics_s", "attribute_s"}


def test_answers_ahead_are_few(tmp_path: Path) -> None:
    system = Stub(workers=2)
    asked_when_first_came = 0
    for number, _ in enumerate(flow.ask_all(system, _cases(tmp_path, 200))):
        asked_when_first_came = asked_when_first_came or len(system.asked)
        assert len(system.asked) <= number + 2 + 2 * 4
    assert len(system.asked) == 200


def measure(system: Stub, cases: list[case_files.Case], folder: Path, *check: Any) -> results.Evaluation:
    subject = flow.Subject(system, cases, {"release_id": "stub"})
    return flow.measure(subject, Judges(LexicalJudge(0.5), (), None), folder, *check)


def _cases(folder: Path, count: int) -> list[case_files.Case]:
    """``count`` cases in the file's reverse order, each sixth without an answer."""
    made = []
    for number in reversed(range(count)):
        fact = FACT.format(number, 1900 + number)
        answerable = number % 6 != 4
        gold = [{"doc_id": f"d{number % 5}.md", "quote": fact}] if answerable else []
        query = f"When was pump {number} built?"
        made.append(
            {"query_id": f"q{number:04d}", "query": query, "gt_answer": fact, "answerable": answerable, "gold": gold}
        )
    path = folder / "cases.json"
    path.write_text(json.dumps({"schema_version": 1, "cases": made}), encoding="utf-8")
    return case_files.without_documents(case_files.load(path))
