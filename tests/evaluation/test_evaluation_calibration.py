"""The gate's error rates: what is simulated, and that an unchanged release is failed no more often than alpha."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lib.evaluation import calibration, results
from lib.evaluation.calibration import Effort, estimate, rate_of, to_text
from lib.evaluation.results import CASE_METRICS, Evaluation
from tests.case_rows import case_row

GATES: dict[str, Any] = {
    "min_cases": 1,
    "max_unscored_share": 0.02,
    "min_documents": 10,
    "confidence": 0.95,
    "alpha": 0.05,
    "power": 0.8,
    "resamples": 10000,
    "metrics": {
        "recall": {"direction": "higher", "floor": 0.9, "margin": 0.08},
        "oracle_hit_rate": {"direction": "higher", "margin": 0.05},
        "hallucination": {"direction": "lower", "margin": 0.05},
        "avg_snapshot_size": {"direction": "higher", "floor": 99},
        "deduplication_rate": {"direction": "higher", "floor": 0.1, "critical": False},
    },
}
QUICK = Effort(trials=25, resamples=199, shares=(0.03, 0.5))


def test_an_unchanged_release_is_never_blocked_and_a_great_loss_always_noticed():
    """Against itself nothing differs; absolute limits, which this release misses by far, are left out."""
    found = estimate(evaluation(40), None, GATES, 42, QUICK)
    assert (found["compared_with"], found["documents"]) == ("itself", 40)
    assert found["false_block"]["rate"] == found["false_fail"]["rate"] == 0.0
    assert [item["lost"] for item in found["power"]] == [0.03, 0.5]
    assert found["power"][1]["rate"] == 1.0 > found["power"][0]["rate"]


def test_a_case_without_gold_is_no_document_that_could_be_lost():
    base = evaluation(20)
    unanswerable = [case_row(f"u{n}", None) for n in range(30)]
    rows = [*base.rows, *unanswerable]
    summary = results.summarise(rows, inputs=base.summary["inputs"], produced_by={}, deduplication_rate=0.2)
    found = estimate(Evaluation(summary, rows), None, GATES, 42, replace(QUICK, trials=20, shares=(1.0,)))
    assert found["documents"] == 20
    assert found["power"][0]["rate"] == 1.0


def test_the_same_inputs_give_the_same_rates():
    first, second = (estimate(evaluation(20), evaluation(20, seed=2), GATES, 42, QUICK) for _ in range(2))
    assert first == second
    assert first["compared_with"] == "release-2"


@pytest.mark.parametrize("documents", [0, 1])
def test_what_cannot_be_compared_has_no_rates(documents):
    found = estimate(evaluation(documents), None, GATES, 42, QUICK)
    assert found is None
    assert to_text(found).endswith("not known, there is nothing to compare")


def test_other_cases_have_no_rates():
    assert estimate(evaluation(20), evaluation(21), GATES, 42, QUICK) is None


def test_a_release_that_differs_by_chance_is_failed_no_more_often_than_alpha():
    """Metrics that move together, hits that are 0 or 1, differences that the margin does not forgive: FAIL within alpha."""
    limits = {"direction": "higher", "margin": 0.0}
    gates = {**GATES, "metrics": dict.fromkeys(("recall", "oracle_hit_rate", "claim_recall"), limits)}
    effort = Effort(trials=400, resamples=199, cases=400 * 60, shares=())
    found = estimate(evaluation(30), evaluation(30, seed=2), gates, 42, effort)
    assert found["false_fail"]["trials"] == 400
    assert found["false_fail"]["low"] <= gates["alpha"]
    assert found["false_fail"]["rate"] > 0.0, "a test that never fails anything shows nothing"
    assert found["false_block"]["rate"] >= found["false_fail"]["rate"]


def test_only_what_stands_on_the_evidence_is_lost_with_a_document():
    row = evaluation(1).rows[0]
    fallen = calibration._without_evidence(dict(row))["metrics"]
    assert {name for name in CASE_METRICS if fallen[name] != row["metrics"][name]} <= set(calibration._OF_EVIDENCE)
    assert fallen["recall"] == fallen["oracle_hit"] == 0.0
    assert fallen["faithfulness"] == row["metrics"]["faithfulness"]


def test_an_undefined_value_stays_undefined_and_an_unanswerable_case_as_it_is():
    row = evaluation(1).rows[0]
    undefined = {**row, "metrics": {**row["metrics"], "precision": None}}
    assert calibration._without_evidence(undefined)["metrics"]["precision"] is None
    assert calibration._without_evidence({**row, "metrics": None})["metrics"] is None


def test_a_large_evaluation_is_simulated_less_often():
    found = estimate(evaluation(40), None, GATES, 42, replace(QUICK, cases=40 * 2 * 22))
    assert found["false_block"]["trials"] == 22


def test_of_a_very_large_evaluation_some_documents_are_simulated(monkeypatch):
    monkeypatch.setattr(calibration, "_MOST_CASES", 39)
    found = estimate(evaluation(60), evaluation(60, seed=2), GATES, 42, QUICK)
    assert (found["documents"], found["of_documents"]) == (20, 60)  # two cases each: 40 are the first that are enough
    assert found == estimate(evaluation(60), evaluation(60, seed=2), GATES, 42, QUICK)
    assert estimate(evaluation(60), None, GATES, 42, QUICK)["false_block"]["rate"] == 0.0


def test_the_line_beside_a_verdict_by_hand():
    """By hand for 0 of 60: Wilson's upper end is z²/(60 + z²) = 0.0602."""
    none = vars(rate_of(0, 60))
    assert (none["rate"], none["low"], none["high"]) == (0.0, 0.0, pytest.approx(0.0602, abs=1e-4))
    power = [{"lost": 0.05, **vars(rate_of(30, 60))}, {"lost": 0.1, **vars(rate_of(60, 60))}]
    found = {"compared_with": "itself", "documents": 60, "of_documents": 60, "false_block": none, "power": power}
    assert "error rates of the gate (simulated on 60 of its 900 documents): " in to_text({**found, "of_documents": 900})
    assert to_text(found) == (
        "error rates of the gate: it would block an unchanged release in 0.0% [0%, 6%],"
        " and notice a loss of 5% of the documents in 50.0% [38%, 62%], of 10% of the documents in 100.0% [94%, 100%]"
    )


def evaluation(documents: int, seed: int = 1) -> Evaluation:
    """Two cases a document; hits and values of a case move together, and with those of its document."""
    draw = np.random.default_rng(seed)

    def level() -> float:
        return float(draw.uniform(0.3, 0.9))

    rows = []
    for document in range(documents):
        share = level()
        for case in range(2):
            hit = float(draw.random() < share)
            values = {name: round(hit * level(), 1) for name in CASE_METRICS}
            values |= {"oracle_hit": hit, "hallucination": 0.0, "faithfulness": 1.0}
            rows.append(case_row(f"{document:03}-{case}", values, documents=[f"{document}.md"]))
    inputs = {"release_id": f"release-{seed}", "cases_digest": "c", "settings_digest": "s"}
    return Evaluation(results.summarise(rows, inputs=inputs, produced_by={}, deduplication_rate=0.2), rows)
