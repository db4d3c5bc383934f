"""Paired differences: the interval is BCa's, and holds the truth about as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from lib.evaluation.significance import Difference, paired_difference

BASELINE = [0.5, 0.75, 0.25, 1.0, 0.0, 0.5, 0.5, 0.75, 1.0, 0.25]
CANDIDATE = [0.75, 0.75, 0.5, 1.0, 0.25, 0.25, 0.75, 1.0, 1.0, 1.0]


def test_the_interval_is_the_one_that_scipy_gives():
    found = compare(CANDIDATE, BASELINE, confidence=0.9, resamples=5000)
    wanted = bootstrap(
        (np.subtract(CANDIDATE, BASELINE),),
        np.mean,
        confidence_level=0.9,
        n_resamples=5000,
        method="BCa",
        rng=np.random.default_rng(42),
    ).confidence_interval
    assert (found.low, found.high) == (wanted.low, wanted.high)


def test_the_mean_is_that_of_the_differences():
    # +.25 0 +.25 0 +.25 -.25 +.25 +.25 0 +.75 = 1.75 over 10 pairs
    found = compare(CANDIDATE, BASELINE)
    assert found.mean == pytest.approx(0.175, abs=1e-15)
    assert found.pairs == 10
    assert found.low < found.mean < found.high


def test_a_seed_decides_the_interval():
    candidate = [value / 7 for value in range(20)]
    baseline = [math.sqrt(value) for value in range(20)]
    assert compare(candidate, baseline) == compare(candidate, baseline)
    assert compare(candidate, baseline) != compare(candidate, baseline, seed=43)


def test_more_confidence_needs_a_wider_interval():
    narrow, wide = compare(CANDIDATE, BASELINE, confidence=0.8), compare(CANDIDATE, BASELINE, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(("shift", "pairs"), [(0.0, 5), (0.25, 5), (-0.25, 5), (0.5, 1)])
def test_equal_differences_need_no_bootstrap(shift, pairs):
    baseline = [0.5] * pairs
    assert compare([value + shift for value in baseline], baseline) == Difference(shift, shift, shift, pairs)


def test_where_bca_has_no_answer_an_interval_is_given_all_the_same():
    found = compare([0.0, 0.0, 1e-200], [0.0, 0.0, 0.0])  # the cubes and squares in BCa's acceleration are 0 / 0
    assert 0.0 <= found.low <= found.mean <= found.high <= 1e-200


@pytest.mark.parametrize(
    ("candidate", "baseline"),
    [([], []), ([0.5], []), ([0.5, 0.5], [0.5]), ([math.nan, 0.5], [0.5, 0.5]), ([0.5], [math.nan]), ([math.inf], [0.5])],
)
def test_what_cannot_be_paired_is_refused(candidate, baseline):
    with pytest.raises(ValueError, match=r"pairs are needed|not finite"):
        compare(candidate, baseline)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_interval_is_finite_and_within_the_differences(pairs):
    candidate, baseline = zip(*pairs, strict=True)
    found = compare(candidate, baseline)
    differences = np.subtract(candidate, baseline)
    assert differences.min() - 1e-12 <= found.low <= found.high <= differences.max() + 1e-12


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=8, max_size=20))
def test_swapping_the_two_sides_turns_the_mean_around(pairs):
    candidate, baseline = ([value / 8 for value in side] for side in zip(*pairs, strict=True))
    assert compare(candidate, baseline).mean == -compare(baseline, candidate).mean


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(200):
        baseline = generator.choice([0.0, 0.5, 1.0], size=40, p=[0.2, 0.3, 0.5])
        change = generator.choice([-0.5, 0.0, 0.5], size=40, p=[0.25, 0.65, 0.1])  # its mean is -0.075
        found = compare(list(baseline + change), list(baseline))
        held += found.low <= -0.075 <= found.high
    # 190 of 200 expected; the binomial's standard deviation is 3.1, and a bootstrap of 40 pairs is a little too narrow.
    assert 176 <= held <= 199


def compare(candidate, baseline, *, confidence=0.95, resamples=1000, seed=42):
    return paired_difference(candidate, baseline, confidence=confidence, resamples=resamples, seed=seed)
