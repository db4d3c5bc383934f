"""Results: means by hand, and files that come back as they were written or are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation import results
from lib.evaluation.ragchecker_metrics import compute, new_result, undefined_metrics
from lib.evaluation.results import Evaluation
from lib.platform.errors import ConfigInvalid, NotFound
from tests.case_rows import case_row
from tests.case_rows import write_evaluation as write

FILES = ("metrics.json", "case_results.jsonl")


def test_means_are_over_the_answerable_cases():
    made = evaluation(
        row("a", recall=0.5, oracle_hit=1.0, snapshot_size=30),
        row("b", recall=0.25, oracle_hit=0.0, snapshot_size=36),
        row("c", answerable=False, abstained=True, snapshot_size=45),
        row("d", answerable=False, abstained=False, snapshot_size=45),
    )
    metrics = made.summary["metrics"]
    assert metrics["recall"] == 0.375  # (.5 + .25) / 2
    assert metrics["oracle_hit_rate"] == 0.5  # 1 of 2
    assert metrics["avg_snapshot_size"] == 39.0  # (30 + 36 + 45 + 45) / 4
    assert metrics["abstention_accuracy"] == 0.5  # 1 of 2
    assert metrics["deduplication_rate"] == 0.125


def test_every_metric_of_ragchecker_has_a_mean():
    assert set(results.METRICS) <= set(evaluation(row("a")).summary["metrics"])


def test_counts_say_what_stands_behind_the_means():
    made = evaluation(
        row("a"),
        row("b", claims={"response": 0, "gt_answer": 2}),
        row("c", unscored="judge: no reply"),
        row("d", answerable=False, unscored="reader: no reply"),
        row("e", unscored="judge: no reply", claims={"response": 0, "gt_answer": 0}),  # nobody knows what it claims
    )
    assert made.summary["counts"] == {
        "cases": 5,
        "answerable": 4,
        "unanswerable": 1,
        "unscored": 3,
        "answers_without_claims": 1,
        "undefined": {},
    }


def test_a_mean_over_no_case_is_no_number():
    metrics = evaluation(row("a", answerable=False)).summary["metrics"]
    assert metrics["recall"] is None and metrics["oracle_hit_rate"] is None
    assert evaluation(row("a")).summary["metrics"]["abstention_accuracy"] is None


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        ("recall", {"a": 0.5, "b": 0.25}),
        ("oracle_hit_rate", {"a": 1.0, "b": 0.0}),
        ("filter_hit_rate", {"a": 1.0, "b": 1.0}),
        ("abstention_accuracy", {"c": 1.0}),
        ("avg_snapshot_size", {"a": 40.0, "b": 40.0, "c": 30.0}),
    ],
)
def test_a_metrics_values_are_those_that_its_mean_was_taken_of(metric, wanted):
    made = evaluation(
        row("a", recall=0.5),
        row("b", recall=0.25, oracle_hit=0.0),
        row("c", answerable=False, abstained=True, snapshot_size=30),
    )
    assert made.values(metric) == wanted
    assert made.summary["metrics"][metric] == pytest.approx(sum(wanted.values()) / len(wanted))


def test_an_unscored_case_counts_with_the_worst_value():
    assert {name for name in results.METRICS if results.worst(name) == 1.0} == {
        "hallucination",
        "noise_sensitivity_in_relevant",
        "noise_sensitivity_in_irrelevant",
        "self_knowledge",
    }
    assert results.worst("recall") == 0.0


def test_what_is_undefined_for_an_answer_is_left_out_and_counted():
    silent = row("b", undefined=["hallucination"], hallucination=None, claims={"response": 0, "gt_answer": 2})
    made = evaluation(row("a", hallucination=0.5), silent)
    assert made.summary["metrics"]["hallucination"] == 0.5
    assert made.summary["counts"]["undefined"] == {"hallucination": 1}
    assert made.values("hallucination") == made.upper_values("hallucination") == {"a": 0.5}
    assert evaluation(silent).summary["metrics"]["hallucination"] is None


def test_metrics_that_ragchecker_calls_perfect_without_claims_or_passages_are_undefined():
    for claims, passages in ((0, 3), (2, 0)):
        result = new_result("q", "?", "Seven stay.", "", [(str(rank), "text") for rank in range(passages)])
        result.gt_answer_claims, result.response2answer, result.retrieved2answer = (
            [["s"]],
            ["Neutral"],
            [["Neutral"] * passages],
        )
        result.response_claims, result.answer2response = [["c"]] * claims, ["Neutral"] * claims
        result.retrieved2response = [["Neutral"] * passages] * claims
        perfect = {name for name, value in compute([result])["q"].items() if value == 1.0 - results.worst(name)}
        assert perfect == set(undefined_metrics(response_claims=claims, passages=passages))
    assert undefined_metrics(response_claims=1, passages=1) == []


def test_what_nobody_measured_is_bounded_from_both_sides():
    made = evaluation(
        row("a", recall=0.5, hallucination=0.25),
        row("b", recall=0.0, hallucination=1.0, unscored="judge: no reply", unmeasured=["hallucination", "recall"]),
        row("c", answerable=False, unscored="reader: no reply"),
    )
    assert made.values("recall") == {"a": 0.5, "b": 0.0}
    assert made.upper_values("recall") == {"a": 0.5, "b": 1.0}
    assert made.upper_values("hallucination") == {"a": 0.25, "b": 0.0}
    assert (made.values("abstention_accuracy"), made.upper_values("abstention_accuracy")) == ({"c": 0.0}, {"c": 1.0})
    assert (made.summary["metrics"]["recall"], made.upper_mean("recall")) == (0.25, 0.75)
    assert made.upper_mean("deduplication_rate") == made.summary["metrics"]["deduplication_rate"]


def test_a_case_is_about_the_first_document_of_its_gold_or_about_itself():
    assert evaluation(row("a", documents=["d1", "d2"]), row("b")).documents == {"a": "d1", "b": "b"}


def test_what_is_written_is_read_back(tmp_path):
    made = evaluation(row("a", recall=1 / 3, response="Zürich – 東京 🙂"), row("b", answerable=False))
    write(tmp_path, made)
    found = results.read(tmp_path)
    assert found == made
    assert found.digest == made.digest


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(alphabet=st.characters(codec="utf-8")), st.floats(0, 1))
def test_any_answer_and_any_number_come_back(tmp_path_factory, text, number):
    folder = tmp_path_factory.mktemp("results")
    made = evaluation(row("a", recall=number, response=text, query=text))
    write(folder, made)
    assert results.read(folder) == made


@pytest.mark.parametrize("line_end", ["\u2028", "\u2029", "\x85"])
def test_an_answer_with_a_unicode_line_end_comes_back(tmp_path, line_end):
    made = evaluation(row("a", response=f"one{line_end}two"))
    write(tmp_path, made)
    assert results.read(tmp_path) == made


def test_equal_evaluations_give_equal_bytes(tmp_path):
    for folder in ("one", "two"):
        write(tmp_path / folder, evaluation(row("a", recall=0.1 + 0.2), row("b")))
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_order_of_keys_does_not_change_the_bytes_or_the_digest(tmp_path):
    made = evaluation(row("a"))
    turned = Evaluation(dict(reversed(made.summary.items())), [dict(reversed(item.items())) for item in made.rows])
    write(tmp_path / "one", made)
    write(tmp_path / "two", turned)
    assert turned.digest == made.digest
    assert (tmp_path / "one" / "case_results.jsonl").read_bytes() == (tmp_path / "two" / "case_results.jsonl").read_bytes()


@pytest.mark.parametrize("change", [{"recall": 0.75}, {"response": "other"}, {"abstained": True}, {"snapshot_size": 41}])
def test_the_digest_covers_every_row(change):
    assert evaluation(row("a", **change)).digest != evaluation(row("a")).digest


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("case_results.jsonl", '"recall":0.5', '"recall":0.9'),
        ("case_results.jsonl", '"unscored":"no reply"', '"unscored":""'),
        ("case_results.jsonl", '{"abstained', '{"extra":1,"abstained'),
        ("metrics.json", '"recall": 0.5', '"recall": 0.9'),
        ("metrics.json", '"cases_digest": "c"', '"cases_digest": "d"'),
        ("metrics.json", '"unscored": 1', '"unscored": 0'),
        ("metrics.json", '"evaluation_digest"', '"another_digest"'),
    ],
)
def test_a_file_that_was_changed_by_hand_is_refused(tmp_path, name, old, new):
    write(tmp_path, evaluation(row("a", recall=0.5, unscored="no reply")))
    path = tmp_path / name
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigInvalid, match="do not belong together") as caught:
        results.read(tmp_path)
    assert caught.value.hint == "evaluate again"


@pytest.mark.parametrize("kept", [0, 1])
def test_rows_that_are_gone_are_noticed(tmp_path, kept):
    write(tmp_path, evaluation(row("a"), row("b")))
    path = tmp_path / "case_results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    with pytest.raises(ConfigInvalid, match="do not belong together"):
        results.read(tmp_path)


def test_rows_that_are_cut_or_missing_are_refused_by_name(tmp_path):
    write(tmp_path, evaluation(row("a")))
    path = tmp_path / "case_results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigInvalid, match=r"case_results\.jsonl cannot be read"):
        results.read(tmp_path)
    path.unlink()
    with pytest.raises(ConfigInvalid, match=r"case_results\.jsonl cannot be read"):
        results.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"a": NaN}',
        "[]",
    ],
)
def test_metrics_that_are_no_json_object_are_refused(tmp_path, content):
    write(tmp_path, evaluation(row("a")))
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ConfigInvalid):
        results.read(tmp_path)


def test_a_folder_without_metrics_is_no_evaluation(tmp_path):
    with pytest.raises(NotFound, match="no evaluation in"):
        results.read(tmp_path)
    write(tmp_path, evaluation(row("a")))
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(NotFound):
        results.read(tmp_path)


def test_every_row_stands_on_a_line_of_its_own(tmp_path):
    write(tmp_path, evaluation(row("a", response="one\ntwo"), row("b")))
    lines = (tmp_path / "case_results.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["query_id"] for line in lines[:-1]] == ["a", "b"]
    assert lines[-1] == ""


def row(query_id: str, **changes: Any) -> dict[str, Any]:
    metrics = {name: changes.pop(name, 1.0) for name in results.CASE_METRICS}
    return case_row(query_id, metrics if changes.get("answerable", True) else None, **changes)


def evaluation(*rows: dict[str, Any]) -> Evaluation:
    inputs = {"release_id": "r1", "cases_digest": "c"}
    summary = results.summarise(list(rows), inputs=inputs, produced_by={"reader": "r"}, deduplication_rate=0.125)
    return Evaluation(summary, list(rows))
