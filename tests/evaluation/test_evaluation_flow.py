"""Cases in blocks: the same rows for any number of workers and any order, nothing half-written, and flat memory."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation import cases as case_files
from lib.evaluation import flow, ragchecker_metrics, results
from lib.evaluation.gate import judge_gate
from lib.evaluation.judge import Judge
from lib.evaluation.judges import Judges
from lib.evaluation.offline_judge import LexicalJudge
from lib.evaluation.systems import Answered, System, parse_reply
from lib.evaluation.systems_http import HttpLimits, HttpSystem
from lib.platform.errors import Unavailable
from lib.platform.files import canonical_json, pretty_json
from lib.platform.model_client import ModelFailed
from tests.conftest import PROJECT
from tests.json_service import Answer, Service, serving

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


SHIPPED = yaml.safe_load((PROJECT / "configs" / "gates.yaml").read_text(encoding="utf-8"))
RANK = ("PASS", "INCONCLUSIVE", "ERROR", "FAIL")


@settings(deadline=None, derandomize=True, max_examples=12)
@given(lost=st.sets(st.integers(0, 17), min_size=1))
def test_a_judge_that_fails_on_any_cases_never_raises_a_score_nor_betters_a_verdict(
    lost: set[int], judged: tuple[list[case_files.Case], results.Evaluation, Path]
) -> None:
    cases, whole, folder = judged
    failing = measure(Stub(), cases, folder, judge=Failing(frozenset(f"q{number:04d}" for number in lost)))
    answerable = {row["query_id"] for row in whole.rows if row["answerable"]}
    assert failing.unscored == {f"q{number:04d}" for number in lost} & answerable
    for name, before in whole.summary["metrics"].items():
        after = failing.summary["metrics"][name]
        limits = SHIPPED["metrics"].get(name, {})
        falls = limits.get("direction", "lower" if name in ragchecker_metrics.LOWER_IS_BETTER else "higher") == "higher"
        assert before is None or (after <= before + 1e-12 if falls else after >= before - 1e-12), name
    for floor in (0.0, whole.summary["metrics"]["recall"]):
        gates = {
            **SHIPPED,
            "min_cases": 2,
            "min_documents": 2,
            "resamples": 500,
            "metrics": {"recall": {"direction": "higher", "floor": floor, "margin": 0.05}},
        }
        verdicts = [judge_gate(found, whole, gates, 42).verdict for found in (whole, failing)]
        assert RANK.index(verdicts[1]) >= RANK.index(verdicts[0])
        assert (verdicts[1] == "PASS") is (failing.unscored == set())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[case_files.Case], results.Evaluation, Path]:
    """18 cases, their evaluation with a judge that works, and a folder for others."""
    folder = tmp_path_factory.mktemp("judged")
    cases = _cases(folder, 18)
    return cases, measure(Stub(), cases, folder / "whole"), folder / "failing"


class Failing(LexicalJudge):
    """The offline judge, but for some cases that it cannot judge."""

    def __init__(self, lost: frozenset[str]) -> None:
        super().__init__(0.5)
        self._lost = lost

    def label(self, result: Any) -> None:
        if result.query_id in self._lost:
            raise ModelFailed("no usable reply")
        super().label(result)


def test_an_endpoint_that_fails_on_some_cases_leaves_those_unscored_and_never_passes(tmp_path: Path) -> None:
    def answer(asked: dict[str, str]) -> Answer:
        if asked["query_id"] in ("q0001", "q0005"):
            return 500, b"<html>internal error</html>", {}
        text = FACT.format(int(asked["query_id"][1:]), 1900 + int(asked["query_id"][1:]))
        return 200, json.dumps({"answer": text, "contexts": [text]}).encode(), {}

    with serving(Service(answer=answer)) as service:
        limits = HttpLimits(timeout_s=20, attempts=2, max_in_flight=3, max_reply_bytes=10_000)
        system = HttpSystem("rag", service.url, limits, allow_internal=True, sleep=lambda _: None)
        found = measure(system, _cases(tmp_path, 12), tmp_path / "out")
        assert len(service.requests) == 12 + 2  # each of the two a second time
    assert found.unscored == {"q0001", "q0005"}
    assert all("status 500" in row["unscored"] for row in found.rows if row["unscored"])
    assert found.summary["metrics"]["oracle_hit_rate"] == found.summary["metrics"]["recall"] == 0.8  # of 10 answerable
    gates = {**SHIPPED, "min_cases": 2, "metrics": {"recall": {"direction": "higher", "floor": 0.1}}}
    assert judge_gate(found, None, gates, 42).verdict == "INCONCLUSIVE"


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


def measure(
    system: System, cases: list[case_files.Case], folder: Path, *check: Any, judge: Judge | None = None
) -> results.Evaluation:
    subject = flow.Subject(system, cases, {"release_id": "stub", "cases_digest": "c", "settings_digest": "s"})
    return flow.measure(subject, Judges(judge or LexicalJudge(0.5), (), None), folder, *check)


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
