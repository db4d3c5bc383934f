"""Paired differences: the interval is BCa's over documents, harm is an exact test, and both err as often as they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from lib.evaluation import significance
from lib.evaluation.significance import Difference, Sampling, adjust, needed_cases, paired_difference

BASELINE = [0.5, 0.75, 0.25, 1.0, 0.0, 0.5, 0.5, 0.75, 1.0, 0.25]
CANDIDATE = [0.75, 0.75, 0.5, 1.0, 0.25, 0.25, 0.75, 1.0, 1.0, 1.0]
EIGHTHS = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda pair: (pair[0] / 8, pair[1] / 8))


def test_the_interval_of_independent_cases_is_the_one_that_scipy_gives():
    found = compare(CANDIDATE, BASELINE, confidence=0.9, resamples=5000)
    wanted = bootstrap(
        (np.subtract(CANDIDATE, BASELINE),),
        np.mean,
        confidence_level=0.9,
        n_resamples=5000,
        method="BCa",
        rng=np.random.default_rng(42),
    )
    interval = wanted.confidence_interval
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.standard_error == pytest.approx(wanted.standard_error)


def test_the_interval_of_clusters_of_one_size_is_that_of_their_means():
    clusters = [f"d{place // 2}" for place in range(10)]
    means = np.subtract(CANDIDATE, BASELINE).reshape(5, 2).mean(axis=1)
    wanted = bootstrap((means,), np.mean, n_resamples=5000, method="BCa", rng=np.random.default_rng(42)).confidence_interval
    found = compare(CANDIDATE, BASELINE, clusters=clusters, resamples=5000)
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert (found.pairs, found.clusters) == (10, 5)


@pytest.mark.parametrize("seed", range(8))
def test_the_interval_of_clusters_of_any_size_is_the_one_that_scipy_gives(seed):
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, 4, size=15)
    clusters = [f"d{place:02}" for place, count in enumerate(counts) for _ in range(count)]
    values = draw.integers(-2, 3, size=len(clusters)) / 4 * (draw.random(len(clusters)) < 0.6)
    places = np.repeat(np.arange(15), counts)
    sums = np.bincount(places, weights=values)
    wanted = bootstrap(
        (sums, counts.astype(float)),
        lambda sums, counts, axis=-1: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        n_resamples=999,
        method="BCa",
        rng=np.random.default_rng(42),
    ).confidence_interval
    found = compare(values.tolist(), [0.0] * len(values), clusters=clusters, resamples=999)
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))


def test_how_many_resamples_are_held_at_a_time_changes_no_number(monkeypatch):
    whole = compare(CANDIDATE * 20, BASELINE * 20, resamples=2000)
    monkeypatch.setattr(significance, "_HELD_VALUES", 200 * 7)
    assert compare(CANDIDATE * 20, BASELINE * 20, resamples=2000) == whole


def test_many_sign_flips_are_drawn_and_their_share_is_that_of_a_normal_sum():
    """400 clusters of ±1 that sum up to -30: a sum of flips has the standard deviation 20, and -30 ± 1 is 1.45 of it."""
    differences = [1.0] * 185 + [-1.0] * 215
    found = compare(differences, [0.0] * 400, resamples=20000)
    assert found.p_harm == pytest.approx(NormalDist().cdf(-29 / 20), abs=0.01)


def test_the_mean_is_that_of_the_differences():
    # +.25 0 +.25 0 +.25 -.25 +.25 +.25 0 +.75 = 1.75 over 10 pairs
    found = compare(CANDIDATE, BASELINE)
    assert found.mean == pytest.approx(0.175, abs=1e-15)
    assert found.pairs == 10
    assert found.low < found.mean < found.high


def test_cases_that_stand_or_fall_together_say_less():
    generator = np.random.default_rng(3)
    change = np.repeat(generator.choice([-0.5, 0.5], size=10), 6)
    baseline = np.full(60, 0.5)
    alone = compare(list(baseline + change), list(baseline))
    together = compare(list(baseline + change), list(baseline), clusters=[f"d{place // 6}" for place in range(60)])
    assert together.high - together.low > 2 * (alone.high - alone.low)  # the root of 6 is 2.4


def test_a_seed_decides_the_interval():
    candidate = [value / 7 for value in range(20)]
    baseline = [math.sqrt(value) for value in range(20)]
    assert compare(candidate, baseline) == compare(candidate, baseline)
    assert compare(candidate, baseline) != compare(candidate, baseline, seed=43)


def test_more_confidence_needs_a_wider_interval():
    narrow, wide = compare(CANDIDATE, BASELINE, confidence=0.8), compare(CANDIDATE, BASELINE, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(("shift", "pairs", "p_harm"), [(0.0, 5, 1.0), (0.25, 5, 1.0), (-0.25, 5, 2**-5), (-0.5, 1, 0.5)])
def test_equal_differences_need_no_bootstrap(shift, pairs, p_harm):
    found = compare([0.5 + shift] * pairs, [0.5] * pairs)
    assert (found.mean, found.low, found.high, found.p_harm) == (shift, shift, shift, p_harm)
    assert found.minimum_detectable is None


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
@given(st.lists(EIGHTHS, min_size=8, max_size=20))
def test_swapping_the_two_sides_turns_the_mean_around(pairs):
    candidate, baseline = zip(*pairs, strict=True)
    assert compare(candidate, baseline).mean == -compare(baseline, candidate).mean


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.lists(EIGHTHS, min_size=1, max_size=8))
def test_harm_is_the_share_of_all_sign_flips_that_are_as_bad(pairs):
    differences = [ours - theirs for ours, theirs in pairs]
    flips = [
        sum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(pairs))
    ]
    found = compare(*zip(*pairs, strict=True))
    assert found.p_harm == pytest.approx(sum(value <= sum(differences) for value in flips) / len(flips))


def test_holms_adjustment_by_hand():
    found = {name: difference(p_harm=p) for name, p in (("a", 0.02), ("b", 0.01), ("c", 0.04), ("d", 0.9))}
    adjusted = {name: item.p_harm_adjusted for name, item in adjust(found).items()}
    # in order: 4 x .01; 3 x .02; 2 x .04; 1 x .9, each at least the one before it
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.08, "d": 0.9})
    assert list(adjusted) == ["a", "b", "c", "d"]


def test_no_adjusted_p_value_is_over_one_or_under_an_earlier_one():
    adjusted = adjust({"a": difference(p_harm=0.4), "b": difference(p_harm=0.3), "c": difference(p_harm=0.9)})
    assert [adjusted[name].p_harm_adjusted for name in "bac"] == pytest.approx([0.9, 0.9, 0.9])


def test_the_minimum_detectable_loss_is_the_one_that_is_noticed_with_the_power():
    """A textbook value: 1.96 + 0.84 standard errors; and a loss of that size is found that often."""
    found = compare(CANDIDATE, BASELINE, resamples=5000)
    assert found.minimum_detectable == pytest.approx((1.959964 + 0.841621) * found.standard_error)


@pytest.mark.parametrize(
    ("mean", "low", "error", "margin", "wanted"),
    [
        (0.0, -0.2, 0.1, 0.1, 400),  # the interval has to become half as wide: four times the cases
        (0.05, -0.1, 0.1, 0.05, 226),  # from .15 to .1 wide: 100 x 2.25, up because .15 / .1 is a little over 1.5 in binary
        (-0.2, -0.5, 0.1, 0.1, 101),  # worse than the margin already, by two standard errors: it is nearly shown
        (-0.1, -0.3, 0.1, 0.05, 271),  # 1.645 standard errors of .1 to show -.1: 100 x 2.706
        (0.0, -0.2, 0.1, 0.0, None),  # exactly at the margin: never
    ],
)
def test_the_cases_that_would_settle_it_by_hand(mean, low, error, margin, wanted):
    found = Difference(mean, low, -low, 100, 100, error, 0.5, 0.5, None)
    assert needed_cases(found, margin, 0.05) == wanted


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


def compare(
    candidate: Sequence[float],
    baseline: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 42,
) -> Difference:
    clusters = [str(place) for place in range(len(candidate))] if clusters is None else clusters
    return paired_difference(candidate, baseline, clusters, Sampling(confidence, 0.8, resamples, seed))


def difference(*, p_harm: float) -> Difference:
    return Difference(0.0, -0.1, 0.1, 10, 10, 0.05, p_harm, p_harm, None)
