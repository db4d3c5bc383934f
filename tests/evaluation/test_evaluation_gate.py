"""The gate: every verdict worked out by hand, and what no evaluation may talk it into."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config import schemas
from lib.evaluation import results
from lib.evaluation.gate import Verdict, check, judge_gate
from lib.evaluation.results import Evaluation
from lib.platform.errors import ConfigInvalid
from tests.case_rows import case_row

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = yaml.safe_load((PROJECT / "configs" / "gates.yaml").read_text(encoding="utf-8"))
RANK = ("PASS", "INCONCLUSIVE", "ERROR", "FAIL")
PROPERTY = settings(deadline=None, derandomize=True, max_examples=40)
QUARTERS = st.integers(0, 4).map(lambda value: value / 4)


@pytest.mark.parametrize(
    ("limits", "values", "status"),
    [
        ({"floor": 0.5}, [0.5, 0.5], "PASS"),  # exactly at the floor
        ({"floor": 0.5}, [0.25, 0.75], "PASS"),
        ({"floor": 0.5}, [0.25, 0.5], "FAIL"),  # .375
        ({"ceiling": 0.5}, [0.5, 0.5], "PASS"),  # exactly at the ceiling
        ({"ceiling": 0.5}, [0.5, 0.75], "FAIL"),  # .625
        ({"floor": 0.25, "ceiling": 0.5}, [0.25, 0.5], "PASS"),
        ({"floor": 0.25, "ceiling": 0.5}, [0.0, 0.25], "FAIL"),
        ({}, [0.0, 0.0], "PASS"),
    ],
)
def test_floors_and_ceilings_on_a_metrics_mean(limits, values, status):
    found = judge({"recall": {"direction": "higher", **limits}}, evaluation(recall=values))
    assert (found.verdict, found.metrics[0].status) == (status, status)
    assert found.metrics[0].value == sum(values) / 2


def test_a_missed_limit_is_said_in_words():
    found = judge({"recall": {"direction": "higher", "floor": 0.5}}, evaluation(recall=[0.25, 0.5]))
    assert found.reasons == ["recall: 0.375 is under the floor 0.5"]
    found = judge({"hallucination": {"direction": "lower", "ceiling": 0.5}}, evaluation(hallucination=[0.5, 0.75]))
    assert found.reasons == ["hallucination: 0.625 is over the ceiling 0.5"]


def test_a_missed_limit_does_not_hide_the_difference_from_the_baseline():
    gates = {"recall": {"direction": "higher", "floor": 0.5, "margin": 0.125}}
    found = judge(gates, evaluation(recall=[0.25] * 4), evaluation(recall=[0.75] * 4)).metrics[0]
    assert (found.status, found.reason) == ("FAIL", "0.250 is under the floor 0.5")
    assert found.difference is not None
    assert found.difference.mean == -0.5


def test_cases_that_are_all_at_the_floor_meet_it():
    assert judge({"recall": {"direction": "higher", "floor": 0.3}}, evaluation(recall=[0.3] * 10)).verdict == "PASS"


def test_cases_that_are_all_at_the_ceiling_or_at_the_margin_meet_it():
    gates = {"hallucination": {"direction": "lower", "ceiling": 0.3, "margin": 0.1}}
    made, live = evaluation(hallucination=[0.1 + 0.2] * 10), evaluation(hallucination=[0.2] * 10)
    assert 0.1 + 0.2 > 0.3  # in floating point
    assert judge(gates, made, live).verdict == "PASS"


@pytest.mark.parametrize(
    ("candidate", "baseline", "status"),
    [
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "PASS"),  # no difference
        ([0.75, 0.75, 0.75], [0.5, 0.5, 0.5], "PASS"),  # better
        ([0.375, 0.375, 0.375], [0.5, 0.5, 0.5], "PASS"),  # -.125 everywhere: exactly at the margin
        ([0.25] * 5, [0.5] * 5, "FAIL"),  # -.25 everywhere: 1 of 2^5 sign flips is as bad, and it is past the margin
        ([0.25] * 4, [0.5] * 4, "INCONCLUSIVE"),  # 1 of 2^4 is more than one in twenty
        ([1.0, 0.0] * 10, [0.0, 1.0] * 10, "INCONCLUSIVE"),  # +1 and -1: the interval reaches far to both sides
        ([0.375, 0.5] * 10, [0.5, 0.5] * 10, "PASS"),  # shown to be worse, but never by more than the margin
        ([0.0, 0.0, 0.5, 0.5] * 5, [0.5, 0.5, 0.5, 0.5] * 5, "FAIL"),  # -.25 on average
    ],
)
def test_a_difference_from_the_baseline_by_hand(candidate, baseline, status):
    found = judge(
        {"recall": {"direction": "higher", "margin": 0.125}}, evaluation(recall=candidate), evaluation(recall=baseline)
    )
    assert found.verdict == status
    assert found.metrics[0].difference.pairs == len(candidate)


@pytest.mark.parametrize(
    ("metric", "direction", "change", "status"),
    [
        ("recall", "higher", 0.25, "PASS"),
        ("recall", "higher", -0.25, "FAIL"),
        ("hallucination", "lower", 0.25, "FAIL"),
        ("hallucination", "lower", -0.25, "PASS"),
    ],
)
def test_a_difference_is_positive_where_the_candidate_is_better(metric, direction, change, status):
    candidate, baseline = evaluation(**{metric: [0.5 + change] * 5}), evaluation(**{metric: [0.5] * 5})
    (found,) = judge({metric: {"direction": direction, "margin": 0.125}}, candidate, baseline).metrics
    assert found.status == status
    assert found.difference.mean == (0.25 if status == "PASS" else -0.25)
    assert (found.value, found.baseline) == (0.5 + change, 0.5)


def test_cases_are_paired_by_their_id_not_by_their_place():
    candidate, baseline = evaluation(recall=[0.25, 0.5, 1.0]), evaluation(recall=[0.25, 0.5, 1.0])
    baseline.rows.reverse()
    (found,) = judge({"recall": {"direction": "higher", "margin": 0.125}}, candidate, baseline).metrics
    assert (found.difference.low, found.difference.high) == (0.0, 0.0)


def test_without_a_margin_a_worse_candidate_within_its_limits_passes():
    found = judge({"recall": {"direction": "higher"}}, evaluation(recall=[0.0] * 4), evaluation(recall=[1.0] * 4))
    assert (found.verdict, found.metrics[0].difference) == ("PASS", None)


def test_a_first_release_is_judged_by_absolute_limits_alone():
    gates = {"recall": {"direction": "higher", "floor": 0.25, "margin": 0.125}}
    found = judge(gates, evaluation(recall=[0.25, 0.5]))
    assert (found.verdict, found.baseline_release) == ("PASS", None)
    assert found.reasons == ["first release: nothing is live to compare with; every absolute limit is met"]
    assert judge(gates, evaluation(recall=[0.0, 0.25])).verdict == "FAIL"


def test_a_pass_names_the_release_it_was_compared_with():
    live = evaluation(recall=[0.5, 0.5], release_id="live-1")
    found = judge({"recall": {"direction": "higher", "margin": 0.125}}, evaluation(recall=[0.5, 0.5]), live)
    assert found.baseline_release == "live-1"
    assert len(found.reasons) == 1 and "live-1" in found.reasons[0]


@pytest.mark.parametrize(
    ("statuses", "wanted"),
    [
        (["PASS", "PASS"], "PASS"),
        (["PASS", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["INCONCLUSIVE", "ERROR"], "ERROR"),
        (["ERROR", "FAIL"], "FAIL"),
        (["FAIL", "PASS", "ERROR", "INCONCLUSIVE"], "FAIL"),
        (["INCONCLUSIVE", "FAIL"], "FAIL"),
    ],
)
def test_the_verdict_is_the_worst_of_its_metrics(statuses, wanted):
    names = ["recall", "precision", "f1", "faithfulness"]
    outcome = {
        "PASS": ({}, [0.5] * 20, [0.5] * 20),
        "INCONCLUSIVE": ({"margin": 0.125}, [1.0, 0.0] * 10, [0.0, 1.0] * 10),
        "ERROR": ({"margin": 0.125}, [0.5] * 20, [math.nan] * 20),
        "FAIL": ({"floor": 0.75}, [0.5] * 20, [0.5] * 20),
    }
    picked = {name: outcome[status] for name, status in zip(names, statuses, strict=False)}
    found = judge(
        {name: {"direction": "higher", **limits} for name, (limits, _, _) in picked.items()},
        evaluation(**{name: values for name, (_, values, _) in picked.items()}),
        evaluation(**{name: values for name, (_, _, values) in picked.items()}),
    )
    assert [item.status for item in found.metrics] == statuses
    assert found.verdict == wanted
    if wanted != "PASS":  # the reasons are those of the worst alone
        assert {reason.split(":")[0] for reason in found.reasons} == {
            name for name, status in zip(names, statuses, strict=False) if status == wanted
        }


@pytest.mark.parametrize("status", ["FAIL", "INCONCLUSIVE", "ERROR"])
def test_a_metric_that_is_not_critical_never_decides(status):
    limits, values, live = {
        "FAIL": ({"floor": 0.75}, [0.5] * 20, [0.5] * 20),
        "INCONCLUSIVE": ({"margin": 0.125}, [1.0, 0.0] * 10, [0.0, 1.0] * 10),
        "ERROR": ({"margin": 0.125}, [0.5] * 20, [math.nan] * 20),
    }[status]
    found = judge(
        {"recall": {"direction": "higher", "critical": False, **limits}, "f1": {"direction": "higher"}},
        evaluation(recall=values, f1=[0.5] * 20),
        evaluation(recall=live, f1=[0.5] * 20),
    )
    assert (found.verdict, found.metrics[0].status) == ("PASS", status)
    assert [line.split(":")[0] for line in found.warnings] == ["recall"]


def test_gates_that_cannot_decide_anything_do_not_pass():
    found = judge({"recall": {"direction": "higher", "critical": False}}, evaluation(recall=[1.0] * 4))
    assert found.verdict == "ERROR"
    assert found.reasons == ["no metric is critical: nothing is left to decide by"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_metric_without_a_value_is_an_error(value):
    made = evaluation(recall=[0.5] * 4)
    made.summary["metrics"]["recall"] = value
    found = judge({"recall": {"direction": "higher", "floor": 0.25}}, made)
    assert (found.verdict, found.metrics[0].value) == ("ERROR", None)
    assert found.reasons == ["recall: no value"]


def test_a_metric_that_the_evaluation_does_not_have_is_an_error():
    made = evaluation(recall=[0.5] * 4)
    del made.summary["metrics"]["deduplication_rate"]
    assert judge({"deduplication_rate": {"direction": "higher", "floor": 0.1}}, made).verdict == "ERROR"


def test_abstention_is_an_error_where_no_case_asks_for_it_and_judged_where_some_do():
    gates = {"abstention_accuracy": {"direction": "higher", "floor": 0.75, "margin": 0.125}}
    assert judge(gates, evaluation(recall=[0.5] * 4)).verdict == "ERROR"
    abstains = evaluation(recall=[0.5] * 4, abstained=[True, True, True, False])  # .75
    assert judge(gates, abstains, abstains).verdict == "PASS"
    assert judge(gates, evaluation(recall=[0.5] * 4, abstained=[True, True, False, False])).verdict == "FAIL"


def test_a_case_without_a_value_is_an_error_not_a_guess():
    made = evaluation(recall=[0.5] * 4)
    made.rows[2]["metrics"]["recall"] = math.nan
    found = judge({"recall": {"direction": "higher", "margin": 0.125}}, made, evaluation(recall=[0.5] * 4))
    assert found.verdict == "ERROR"
    assert "not finite" in found.reasons[0]


@pytest.mark.parametrize("name", ["cases_digest", "settings_digest"])
def test_a_baseline_on_other_cases_or_settings_is_an_error(name):
    live = evaluation(recall=[0.5] * 4)
    live.summary["inputs"][name] = "another"
    found = judge({"recall": {"direction": "higher", "margin": 0.125}}, evaluation(recall=[0.5] * 4), live)
    assert found.verdict == "ERROR"
    assert name in found.reasons[0]


def test_a_baseline_with_another_set_of_cases_is_an_error():
    found = judge(
        {"recall": {"direction": "higher", "margin": 0.125}}, evaluation(recall=[0.5] * 4), evaluation(recall=[0.5] * 5)
    )
    reason = "the baseline was measured on other cases"
    assert (found.verdict, found.reasons) == ("ERROR", [f"recall: {reason}", reason])


@pytest.mark.parametrize(("cases", "verdict"), [(4, "PASS"), (3, "INCONCLUSIVE")])
def test_too_few_answerable_cases_are_inconclusive(cases, verdict):
    made = evaluation(recall=[1.0] * cases, abstained=[True] * 10)
    found = judge({"recall": {"direction": "higher"}}, made, min_cases=4)
    assert found.verdict == verdict
    assert found.cases["answerable"] == cases


@pytest.mark.parametrize(("unscored", "verdict"), [(0, "PASS"), (1, "PASS"), (2, "INCONCLUSIVE")])
def test_more_unscored_cases_than_the_share_are_inconclusive(unscored, verdict):
    made = without_scores(evaluation(recall=[1.0] * 8), range(unscored))  # 1 of 8 is exactly the share
    found = judge({"recall": {"direction": "higher"}}, made, max_unscored_share=0.125)
    assert found.verdict == verdict
    if unscored == 2:
        assert found.reasons == ["2 of 8 cases are unscored"]


def test_a_failed_limit_outweighs_too_few_cases():
    found = judge({"recall": {"direction": "higher", "floor": 0.5}}, evaluation(recall=[0.25] * 3), min_cases=4)
    assert found.verdict == "FAIL"


def test_a_baseline_that_was_hardly_scored_does_not_let_a_worse_candidate_pass():
    gates = {"recall": {"direction": "higher", "margin": 0.125}}
    worse, live = evaluation(recall=[0.5] * 40), evaluation(recall=[1.0] * 40)
    assert judge(gates, worse, live, max_unscored_share=0.125).verdict == "FAIL"
    assert judge(gates, worse, without_scores(live, range(30)), max_unscored_share=0.125).verdict != "PASS"


def test_a_case_that_the_baseline_has_no_score_for_does_not_speak_for_the_candidate():
    gates = {"recall": {"direction": "higher", "margin": 0.125}}
    worse, live = evaluation(recall=[0.75] * 40), evaluation(recall=[1.0] * 40)
    (found,) = judge(gates, worse, without_scores(live, range(10)), max_unscored_share=0.25).metrics
    assert (found.status, found.difference.pairs, found.difference.mean) == ("FAIL", 40, -0.25)


def test_a_case_that_the_baseline_has_no_score_for_counts_as_its_best():
    gates = {"hallucination": {"direction": "lower", "margin": 0.125}}
    made = evaluation(hallucination=[0.5] * 20)
    (found,) = judge(gates, made, without_scores(made, range(10)), max_unscored_share=0.5).metrics
    assert found.difference.mean == -0.25  # half of the cases are held against an unknown 0
    assert found.status == "FAIL"


def test_a_value_is_the_worst_that_unscored_cases_allow_beside_the_best():
    (found,) = judge({"recall": {"direction": "higher"}}, without_scores(evaluation(recall=[0.5] * 4), [0])).metrics
    assert (found.value, found.upper) == (0.375, 0.625)


def test_undefined_values_are_compared_where_both_sides_have_one():
    made, live = evaluation(hallucination=[0.5] * 12), evaluation(hallucination=[0.5] * 12)
    for side, place in ((made, 0), (live, 1)):
        side.rows[place] |= {
            "undefined": ["hallucination"],
            "metrics": {**side.rows[place]["metrics"], "hallucination": None},
        }
    (found,) = judge({"hallucination": {"direction": "lower", "margin": 0.125}}, made, live).metrics
    assert (found.status, found.difference.pairs) == ("PASS", 10)


def test_cases_about_one_document_are_one_sample():
    gates = {"recall": {"direction": "higher", "margin": 0.125}}
    made, live = evaluation(recall=[0.25] * 6 + [0.5] * 14), evaluation(recall=[0.5] * 20)
    assert judge(gates, made, live).metrics[0].difference.p_harm == 2**-6
    for row in made.rows[:6]:
        row["documents"] = ["one.md"]
    (found,) = judge(gates, made, live).metrics
    assert (found.difference.p_harm, found.difference.clusters) == (0.5, 15)
    assert (found.status, found.difference.mean) == ("INCONCLUSIVE", pytest.approx(-0.075))


def test_too_few_documents_are_inconclusive_but_for_an_identical_candidate():
    gates = {"recall": {"direction": "higher", "margin": 0.125}}
    made, live = evaluation(recall=[0.5] * 20), evaluation(recall=[0.5] * 20)
    for place, row in enumerate(made.rows):
        row["documents"] = [f"{place % 3}.md"]
    assert judge(gates, made, live, min_documents=4).verdict == "PASS"
    better = copy.deepcopy(made)
    for row in better.rows:
        row["metrics"]["recall"] = 0.75
    found = judge(gates, better, live, min_documents=4)
    assert found.verdict == "INCONCLUSIVE"
    assert "cases about 3 documents say too little, 4 are needed" in found.reasons[0]
    assert judge(gates, better, live, min_documents=3).verdict == "PASS"


def test_harm_is_held_against_chance_over_all_critical_metrics_together():
    metrics = ("recall", "precision", "f1", "faithfulness")
    gates = {name: {"direction": "higher", "margin": 0.125} for name in metrics}
    live = evaluation(**{name: [0.5] * 20 for name in metrics})
    made = evaluation(**{name: [0.5] * 20 for name in metrics} | {"recall": [0.0] * 6 + [0.5] * 14})
    (alone,) = judge({"recall": gates["recall"]}, made, live).metrics
    assert (alone.status, alone.difference.p_harm_adjusted) == ("FAIL", 2**-6)
    together = judge(gates, made, live).metrics[0]
    assert (together.status, together.difference.p_harm_adjusted) == ("INCONCLUSIVE", 4 * 2**-6)
    for name in metrics[1:]:  # what only warns is no part of the family
        gates[name]["critical"] = False
    assert judge(gates, made, live).metrics[0].difference.p_harm_adjusted == 2**-6


def test_an_inconclusive_metric_says_how_many_cases_would_settle_it():
    made, live = evaluation(recall=[0.0, 1.0, 0.5, 0.5] * 5), evaluation(recall=[0.5] * 20)
    found = judge({"recall": {"direction": "higher", "margin": 0.125}}, made, live)
    (metric,) = found.metrics
    assert metric.status == "INCONCLUSIVE"
    # the mean is 0: the interval has to shrink from its half width to the margin, and shrinks with the root of the cases
    wanted = math.ceil(20 * (metric.difference.low / 0.125) ** 2)
    assert metric.needed_cases == wanted > 20
    assert f"about {wanted} cases would settle it" in found.reasons[0]


def test_a_judges_noise_widens_the_interval():
    gates = {"recall": {"direction": "higher", "margin": 0.125}}
    made, live = evaluation(recall=[0.5] * 20), evaluation(recall=[0.5] * 20)
    for side, sd in ((made, 0.03), (live, 0.04)):
        side.summary["judge_noise"] = {"recall": {"sd": sd, "sd_from_cases": 0.01}}
    (found,) = judge(gates, made, live).metrics
    assert found.difference.standard_error == 0.05
    assert found.difference.low == pytest.approx(-0.05 * 1.959964) and found.difference.high == -found.difference.low
    assert found.status == "PASS"
    live.summary["judge_noise"]["recall"]["sd"] = 0.08
    assert judge(gates, made, live).verdict == "INCONCLUSIVE"
    live.summary["judge_noise"]["recall"]["sd"] = None  # to be measured, and it could not be
    assert judge(gates, made, live).reasons == ["recall: the judge's noise could not be measured"]


def test_a_floor_over_its_ceiling_is_refused():
    check({**SHIPPED})
    with pytest.raises(ConfigInvalid, match=r"metrics\.recall: the floor 0\.5 is over the ceiling 0\.25"):
        check({"metrics": {"recall": {"floor": 0.5, "ceiling": 0.25}}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"recall": {"direction": "higher", "floor": 1.5}},
        {"recall": {"direction": "hihger"}},
        {"recal": {"direction": "higher"}},
        {"recall": {"direction": "higher", "critical": "no"}},
        {"recall": {"floor": 0.5}},
    ],
)
def test_gates_that_say_something_wrong_are_refused(wrong):
    with pytest.raises(ConfigInvalid):
        schemas.check({**SHIPPED, "metrics": wrong}, "gates", lambda dotted: dotted)


def test_a_baseline_with_too_many_unscored_cases_is_said_in_words():
    made = evaluation(recall=[1.0] * 4)
    found = judge({"recall": {"direction": "higher"}}, made, without_scores(made, [0]))
    assert (found.verdict, found.reasons) == ("INCONCLUSIVE", ["1 of the baseline's 4 cases are unscored"])


def test_the_schema_refuses_a_margin_where_no_case_has_a_value():
    wrong = {**SHIPPED, "metrics": {"deduplication_rate": {"direction": "higher", "margin": 0.1}}}
    with pytest.raises(ConfigInvalid, match=r"metrics\.deduplication_rate\.margin: unknown key 'margin'"):
        schemas.check(wrong, "gates", lambda dotted: dotted)


def test_a_margin_on_the_deduplication_rate_gives_a_verdict():
    made = evaluation(recall=[0.5] * 4)
    found = judge({"deduplication_rate": {"direction": "higher", "margin": 0.125}}, made, made)
    assert found.verdict in RANK


def test_a_verdict_as_values_holds_its_metrics_and_their_intervals():
    made = evaluation(recall=[0.5] * 4)
    values = judge({"recall": {"direction": "higher", "margin": 0.125}}, made, made).to_dict()
    assert values["verdict"] == "PASS"
    assert values["metrics"][0]["difference"] == {
        "mean": 0.0,
        "low": 0.0,
        "high": 0.0,
        "pairs": 4,
        "clusters": 4,
        "standard_error": 0.0,
        "p_harm": 1.0,
        "p_harm_adjusted": 1.0,
        "minimum_detectable": None,
    }


@PROPERTY
@given(st.lists(st.tuples(QUARTERS, QUARTERS), min_size=2, max_size=30), st.sampled_from(["higher", "lower"]))
def test_an_identical_candidate_always_passes_against_itself(values, direction):
    recall, hallucination = zip(*values, strict=True)
    made = evaluation(recall=recall, hallucination=hallucination)
    gates = {name: {"direction": direction, "margin": 0.0} for name in ("recall", "hallucination")}
    assert judge(gates, made, copy.deepcopy(made)).verdict == "PASS"


@pytest.mark.parametrize("metric", SHIPPED["metrics"])
def test_leaving_cases_unscored_never_improves_a_metric_of_the_shipped_gates(metric):
    direction = SHIPPED["metrics"][metric]["direction"]
    values = {name: [0.25, 0.5, 0.75, 1.0] for name in results.CASE_METRICS}
    made = evaluation(**values)
    before = made.summary["metrics"][metric]
    for count in range(1, 5):
        after = without_scores(made, range(count)).summary["metrics"][metric]
        assert after <= before if direction == "higher" else after >= before


@PROPERTY
@given(
    pairs=st.lists(st.tuples(QUARTERS, QUARTERS, QUARTERS, QUARTERS), min_size=3, max_size=30),
    chosen=st.sets(st.integers(0, 29), min_size=1),
    share=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_leaving_cases_unscored_never_makes_a_verdict_pass(pairs, chosen, share):
    ours_recall, theirs_recall, ours_false, theirs_false = zip(*pairs, strict=True)
    candidate = evaluation(recall=ours_recall, hallucination=ours_false)
    live = evaluation(recall=theirs_recall, hallucination=theirs_false)
    gates = {
        "recall": {"direction": "higher", "floor": 0.25, "margin": 0.125},
        "hallucination": {"direction": "lower", "ceiling": 0.75, "margin": 0.125},
    }
    unscored = without_scores(candidate, [place for place in chosen if place < len(pairs)])
    before = judge(gates, candidate, live, max_unscored_share=share)
    after = judge(gates, unscored, live, max_unscored_share=share)
    assert before.verdict == "PASS" or after.verdict != "PASS"


@PROPERTY
@given(
    pairs=st.lists(st.tuples(QUARTERS, QUARTERS), min_size=2, max_size=20),
    dropped=st.sets(st.integers(0, 19), min_size=1),
    margin=st.sampled_from([{}, {"margin": 0.125}]),
)
def test_dropping_cases_never_makes_a_verdict_pass(pairs, dropped, margin):
    """Where the digest of the cases is the same all the same, as a bug could have it."""
    ours, theirs = zip(*pairs, strict=True)
    kept = [row for place, row in enumerate(evaluation(recall=ours).rows) if place not in dropped]
    fewer, live = summarised(kept, "r1"), evaluation(recall=theirs)
    gates = {"recall": {"direction": "higher", "floor": 0.25, **margin}}
    same = len(kept) == len(pairs)
    assert same or judge(gates, fewer, live, min_cases=0).verdict in ("ERROR", "FAIL")
    assert same or judge(gates, live, fewer, min_cases=0).verdict in ("ERROR", "FAIL")


@PROPERTY
@given(
    values=st.lists(QUARTERS, min_size=2, max_size=12),
    place=st.integers(0, 11),
    broken=st.sampled_from([math.nan, math.inf, -math.inf]),
    side=st.sampled_from([0, 1]),
)
def test_a_number_that_is_none_is_never_passed(values, place, broken, side):
    sides = [evaluation(recall=values), evaluation(recall=values)]
    rows = copy.deepcopy(sides[side].rows)
    rows[place % len(rows)]["metrics"]["recall"] = broken
    sides[side] = summarised(rows, "r1")
    assert judge({"recall": {"direction": "higher", "margin": 0.125}}, *sides).verdict == "ERROR"


@PROPERTY
@given(st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=30), st.sampled_from([0.0, 0.0625, 0.25]))
def test_a_wider_margin_never_makes_a_verdict_worse(pairs, margin):
    ours, theirs = zip(*pairs, strict=True)
    verdicts = [
        judge(
            {"recall": {"direction": "higher", "margin": wide}}, evaluation(recall=ours), evaluation(recall=theirs)
        ).verdict
        for wide in (margin, margin + 0.125)
    ]
    assert RANK.index(verdicts[1]) <= RANK.index(verdicts[0])


def test_an_unchanged_release_is_called_worse_no_more_often_than_alpha():
    """A/A: candidate and baseline differ by chance alone, on three metrics that move together."""
    generator = np.random.default_rng(11)
    gates = {name: {"direction": "higher", "margin": 0.02} for name in ("recall", "precision", "f1")}
    blocked = sum(judge(gates, *drawn(generator, lost=0.0)).verdict == "FAIL" for _ in range(120))
    assert blocked <= 11  # 6 of 120 expected at most; the binomial has more than 11 in two of a hundred such tests


def test_a_release_that_lost_a_quarter_of_its_documents_is_never_passed_and_mostly_failed():
    generator = np.random.default_rng(12)
    gates = {name: {"direction": "higher", "margin": 0.02} for name in ("recall", "precision", "f1")}
    verdicts = [judge(gates, *drawn(generator, lost=0.25)).verdict for _ in range(20)]
    assert "PASS" not in verdicts
    assert verdicts.count("FAIL") >= 15


def drawn(generator: np.random.Generator, lost: float) -> tuple[Evaluation, Evaluation]:
    """Two evaluations of 60 cases about 30 documents; the first lost all that it had on some of the documents."""
    of_document, of_case = np.repeat(generator.uniform(0.2, 0.8, 30), 2), generator.normal(0, 0.1, 60)
    sides = []
    for share in (lost, 0.0):
        gone = np.repeat(generator.random(30) < share, 2)
        chance = np.repeat(generator.normal(0, 0.1, 30), 2)
        values = {
            name: np.where(
                gone, 0.0, np.clip(of_document + of_case + chance + generator.normal(0, 0.05, 60), 0, 1)
            ).tolist()
            for name in ("recall", "precision", "f1")
        }
        made = evaluation(**values)
        for place, row in enumerate(made.rows):
            row["documents"] = [f"{place // 2}.md"]
        sides.append(made)
    return sides[0], sides[1]


def judge(
    metrics: Mapping[str, Any],
    candidate: Evaluation,
    baseline: Evaluation | None = None,
    *,
    min_cases: int = 2,
    max_unscored_share: float = 0.0,
    min_documents: int = 2,
) -> Verdict:
    gates = {
        "min_cases": min_cases,
        "max_unscored_share": max_unscored_share,
        "min_documents": min_documents,
        "confidence": 0.95,
        "alpha": 0.05,
        "power": 0.8,
        "resamples": 1000,
        "metrics": metrics,
    }
    return judge_gate(candidate, baseline, gates, seed=42)


def evaluation(*, abstained: Sequence[bool] = (), release_id: str = "r1", **values: Sequence[float]) -> Evaluation:
    """One answerable case for each value, and one unanswerable one for each of ``abstained``; other metrics are 1 or 0."""
    count = len(next(iter(values.values())))
    rows = [
        case_row(
            f"q{place:02}",
            {name: values[name][place] if name in values else 1.0 - results.worst(name) for name in results.CASE_METRICS},
        )
        for place in range(count)
    ]
    rows += [case_row(f"u{place:02}", None, abstained=said) for place, said in enumerate(abstained)]
    return summarised(rows, release_id)


def without_scores(made: Evaluation, places: Sequence[int]) -> Evaluation:
    """The same with some cases as a failed judge leaves them."""
    rows = copy.deepcopy(made.rows)
    for place in places:
        worst = {name: results.worst(name) for name in results.METRICS}
        rows[place] |= {
            "unscored": "judge: no reply",
            "unmeasured": sorted(worst),
            "metrics": {**rows[place]["metrics"], **worst},
        }
    return summarised(rows, made.summary["inputs"]["release_id"])


def summarised(rows: list[dict[str, Any]], release_id: str) -> Evaluation:
    inputs = {"release_id": release_id, "cases_digest": "c", "settings_digest": "s"}
    return Evaluation(results.summarise(rows, inputs=inputs, produced_by={}, deduplication_rate=0.2), rows)
