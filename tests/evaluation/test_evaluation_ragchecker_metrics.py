"""RAGChecker's metrics: a labelled example by hand, its authors' own example, and its command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.evaluation import ragchecker_metrics
from lib.evaluation.ragchecker_metrics import LOWER_IS_BETTER, METRICS, compute, compute_by_cli, new_result, to_json
from lib.platform.errors import Unavailable
from tests.conftest import SHARED_DATA

EXAMPLE = SHARED_DATA / "ragchecker" / "checking_outputs.json"
E, N, C = "Entailment", "Neutral", "Contradiction"

# Four claims of the ground truth (A), five of the response (R), three passages (P).
ANSWER_TO_RESPONSE = [E, E, N, C, N]  # the ground truth entails R1 and R2
RESPONSE_TO_ANSWER = [E, N, C, N]  # the response entails A1
RETRIEVED_TO_ANSWER = [[E, N, N], [N, E, N], [N, N, N], [C, E, N]]  # A1 is in P1, A2 and A4 in P2, A3 nowhere
RETRIEVED_TO_RESPONSE = [
    [E, N, N],  # R1: right, in P1
    [N, N, C],  # R2: right, in no passage
    [N, E, E],  # R3: wrong, in P2 (which is relevant) and in P3
    [N, N, E],  # R4: wrong, in P3 alone (which is irrelevant)
    [N, N, N],  # R5: wrong, in no passage
]
BY_HAND = {
    "precision": 2 / 5,  # R1, R2
    "recall": 1 / 4,  # A1
    "f1": 4 / 13,  # 2 * 2/5 * 1/4 / (2/5 + 1/4) = 1/5 / (13/20)
    "claim_recall": 3 / 4,  # A1, A2, A4
    "context_precision": 2 / 3,  # P1, P2
    "context_utilization": 1 / 3,  # of A1, A2, A4 the response uses A1
    "noise_sensitivity_in_relevant": 1 / 5,  # R3
    "noise_sensitivity_in_irrelevant": 1 / 5,  # R4
    "hallucination": 1 / 5,  # R5
    "self_knowledge": 1 / 5,  # R2
    "faithfulness": 3 / 5,  # R1, R3, R4
}


def test_the_eleven_metrics_of_an_example_by_hand():
    assert set(BY_HAND) == set(METRICS) and len(METRICS) == 11
    assert compute([example("q")])["q"] == pytest.approx(BY_HAND, abs=1e-15)


def test_an_answer_without_claims_has_no_hallucination_and_no_faithfulness():
    silent = example("q")
    silent.response, silent.response_claims = "", []
    silent.answer2response, silent.retrieved2response = [], []
    silent.response2answer = [N, N, N, N]
    metrics = compute([silent])["q"]
    assert {name for name, value in metrics.items() if value} == {"claim_recall", "context_precision"}


def test_every_case_has_its_own_metrics_whatever_stands_beside_it():
    perfect = example("other")
    perfect.answer2response = [E] * 5
    both = compute([example("q"), perfect])
    assert both["q"] == compute([example("q")])["q"]
    assert both["other"]["precision"] == 1.0


def test_a_result_without_labels_is_not_guessed_at():
    with pytest.raises(AssertionError, match="a label is missing"):
        compute([new_result("q", "?", "Seven.", "Seven.", [("1", "Seven.")])])


def test_the_authors_own_example_gives_their_own_numbers():
    if not EXAMPLE.exists():
        pytest.skip(f"{EXAMPLE} is not on this machine")
    published = json.loads(EXAMPLE.read_text(encoding="utf-8"))["results"]
    found = compute([restored(row) for row in published])
    assert len(published) == 2
    for row in published:
        assert found[row["query_id"]] == row["metrics"]


def test_the_authors_own_example_gives_their_overall_numbers():
    if not EXAMPLE.exists():
        pytest.skip(f"{EXAMPLE} is not on this machine")
    published = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    found = compute([restored(row) for row in published["results"]])
    overall = {name: value for group in published["metrics"].values() for name, value in group.items()}
    assert set(overall) == set(METRICS)
    for name, value in overall.items():  # in percent, to one decimal
        assert round(100 * sum(metrics[name] for metrics in found.values()) / len(found), 1) == value


def test_ragcheckers_command_line_gives_the_same_as_this_process(tmp_path):
    rows = json.loads(EXAMPLE.read_text(encoding="utf-8"))["results"] if EXAMPLE.exists() else []
    assert compute_by_cli([example("q"), *map(restored, rows)], tmp_path) == compute([example("q"), *map(restored, rows)])


def test_a_command_line_that_fails_is_unavailable_and_says_why(tmp_path, monkeypatch):
    package = tmp_path / "ragchecker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("print('not heard')\nraise ValueError('no metric today')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Unavailable, match="ragchecker's command line failed") as caught:
        compute_by_cli([example("q")], tmp_path)
    assert "ValueError: no metric today" in caught.value.detail
    assert "--bypass-cli" in caught.value.hint


def test_a_command_line_that_hangs_is_unavailable(tmp_path, monkeypatch):
    package = tmp_path / "ragchecker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ragchecker_metrics, "_CLI_TIMEOUT_S", 0.5)
    with pytest.raises(Unavailable, match="ragchecker's command line failed") as caught:
        compute_by_cli([example("q")], tmp_path)
    assert caught.value.detail == "no result after 0.5 s"


def test_equal_results_give_equal_files_in_ragcheckers_own_form():
    from ragchecker import RAGResults

    measured = example("q")
    compute([measured])
    assert list(measured.metrics) == list(METRICS)  # the package itself leaves them in an order that changes
    text = to_json([example("q"), example("é")])
    assert to_json([example("q"), example("é")]) == text
    read = RAGResults.from_json(text)
    assert read.results == [example("q"), example("é")]
    assert to_json([]).endswith("\n")


def test_passages_keep_the_readers_order():
    result = new_result("q", "?", "A.", "B.", [("c2", "two"), ("c1", "one")])
    assert [(document.doc_id, document.text) for document in result.retrieved_context] == [("c2", "two"), ("c1", "one")]


def test_what_is_better_lower_is_named():
    noise = {"noise_sensitivity_in_relevant", "noise_sensitivity_in_irrelevant"}
    assert {"hallucination", "self_knowledge", *noise} == LOWER_IS_BETTER


def example(query_id: str) -> Any:
    result = new_result(query_id, "?", "A.", "R.", [("1", "P1"), ("2", "P2"), ("3", "P3")])
    result.gt_answer_claims = [[f"A{number}"] for number in (1, 2, 3, 4)]
    result.response_claims = [[f"R{number}"] for number in (1, 2, 3, 4, 5)]
    result.answer2response = list(ANSWER_TO_RESPONSE)
    result.response2answer = list(RESPONSE_TO_ANSWER)
    result.retrieved2answer = [list(labels) for labels in RETRIEVED_TO_ANSWER]
    result.retrieved2response = [list(labels) for labels in RETRIEVED_TO_RESPONSE]
    return result


def restored(row: dict[str, Any]) -> Any:
    """A published result's claims and labels, without its metrics."""
    passages = [(context["doc_id"], context["text"]) for context in row["retrieved_context"]]
    result = new_result(row["query_id"], row["query"], row["gt_answer"], row["response"], passages)
    for name in ("gt_answer_claims", "response_claims", "answer2response", "response2answer"):
        setattr(result, name, row[name])
    result.retrieved2answer, result.retrieved2response = row["retrieved2answer"], row["retrieved2response"]
    return result
