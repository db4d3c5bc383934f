"""A judge's noise: golden values by hand, and what it is where nothing could be measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation.judge_noise import measure_noise, noise_sd


def test_noise_by_hand():
    judgings = [
        {"a": {"recall": 0.5}, "b": {"recall": 1.0}},
        {"a": {"recall": 1.0}, "b": {"recall": 1.0}},
        {"a": {"recall": 0.0}, "b": {"recall": 1.0}},
    ]
    # means .75, 1, .5: deviations 0, .25, -.25; variance .125 / 2. Case a: variance .5 / 2, case b: none
    assert measure_noise(judgings) == {
        "recall": {"sd": 0.25, "sd_from_cases": 0.25, "disagreement": 0.5, "repeats": 3, "cases": 2}
    }


def test_errors_that_cancel_out_by_chance_are_still_noise():
    judgings = [{"a": {"f1": 0.0}, "b": {"f1": 1.0}}, {"a": {"f1": 1.0}, "b": {"f1": 0.0}}]
    found = measure_noise(judgings)
    assert (found["f1"]["sd"], found["f1"]["disagreement"]) == (0.0, 1.0)
    assert found["f1"]["sd_from_cases"] == 0.5  # variances .5 and .5: sqrt(1) / 2
    assert noise_sd({"judge_noise": found}, "f1") == 0.5


def test_a_case_counts_where_every_judging_has_the_metric():
    judgings = [{"a": {"recall": 0.5}, "b": {"recall": None}}, {"a": {"recall": 0.5}, "b": {"recall": 1.0}}]
    assert measure_noise(judgings)["recall"]["cases"] == 1


def test_noise_that_was_asked_for_and_not_measured_is_without_bounds():
    found = measure_noise([{"a": {"hallucination": None}}, {"a": {"hallucination": None}}])
    assert found["hallucination"]["sd"] is None
    assert noise_sd({"judge_noise": found}, "hallucination") == math.inf


@pytest.mark.parametrize("summary", [{}, {"judge_noise": None}, {"judge_noise": {"recall": {"sd": 0.1}}}])
def test_where_answers_were_judged_once_there_is_no_noise_to_tell(summary):
    assert noise_sd(summary, "oracle_hit_rate") is None


def test_one_judging_is_not_enough():
    with pytest.raises(ValueError, match="two judgings"):
        measure_noise([{"a": {"recall": 1.0}}])


_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(_VALUES, st.integers(2, 5))
def test_a_judge_that_agrees_with_itself_has_none(values, repeats):
    judging = {str(number): {"f1": value} for number, value in enumerate(values)}
    found = measure_noise([judging] * repeats)["f1"]
    assert (found["sd"], found["sd_from_cases"], found["disagreement"]) == (0.0, 0.0, 0.0)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(_VALUES, min_size=2, max_size=5))
def test_the_order_of_the_judgings_does_not_matter(columns):
    size = min(map(len, columns))
    judgings = [{str(n): {"f1": column[n]} for n in range(size)} for column in columns]
    found, reverse = measure_noise(judgings)["f1"], measure_noise(judgings[::-1])["f1"]
    assert found["sd"] == pytest.approx(reverse["sd"], abs=1e-12)
    assert 0 <= found["sd"] <= 1
