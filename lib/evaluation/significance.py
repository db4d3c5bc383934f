"""Paired differences, clustered by source document: intervals, harm, what would have been seen. Pure and seeded.

Cases about one document stand or fall together, so that documents are resampled and not cases.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH = 1000
_HELD_VALUES = 1_000_000  # of resamples at a time
_MOST_CASES = 1_000_000


@dataclass(frozen=True)
class Sampling:
    """How differences are tested. ``power`` is the one with which the least detectable loss is noticed."""

    confidence: float
    power: float
    resamples: int
    seed: int


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences (positive: the candidate is better), its interval, and what stands behind it.

    ``p_harm``: how often a mean this low comes up where candidate and baseline are interchangeable; adjusted by Holm over
    the metrics that were tested together. ``standard_error`` is the documents' bootstrap's, with the judge's noise in it.
    ``minimum_detectable``: the loss that these cases would show with the wanted power; None where no case differs.
    """

    mean: float
    low: float
    high: float
    pairs: int
    clusters: int
    standard_error: float
    p_harm: float
    p_harm_adjusted: float
    minimum_detectable: float | None


def paired_difference(
    candidate: Sequence[float],
    baseline: Sequence[float],
    clusters: Sequence[str],
    sampling: Sampling,
    *,
    noise_sd: float = 0.0,
) -> Difference:
    """The mean of ``candidate - baseline`` with a BCa bootstrap interval over clusters (Efron, JASA 1987).

    Harm is tested by flipping the signs of clusters, which is exact where the two are interchangeable (Fisher, 1935;
    clustered: Winkler et al., NeuroImage 2015).

    Args:
        clusters: of each pair; pairs of one cluster are drawn and flipped together.
        noise_sd: standard deviation of the mean between judgings of the same answers; widens the interval.

    Raises:
        ValueError: no pairs, or a value that is not finite.
    """
    import numpy as np

    if not candidate or not len(candidate) == len(baseline) == len(clusters):
        raise ValueError("pairs are needed")
    differences = np.asarray(candidate, dtype=float) - np.asarray(baseline, dtype=float)
    if not np.isfinite(differences).all():
        raise ValueError("a value is not finite")
    _, places = np.unique(np.asarray(clusters), return_inverse=True)
    sums, counts = np.bincount(places, weights=differences).astype(float), np.bincount(places).astype(float)
    mean = float(differences.mean())
    if float(np.ptp(differences)) == 0.0:
        low = high = mean
        error = 0.0
    else:
        low, high, error = _bootstrap(sums, counts, sampling)
    low, high, error = _with_noise(mean, low, high, error, noise_sd, sampling)
    p_harm = _p_harm(sums, sampling)
    detectable = (_z((1 + sampling.confidence) / 2) + _z(sampling.power)) * error  # Bloom, Evaluation Review 1995
    return Difference(mean, low, high, len(differences), len(sums), error, p_harm, p_harm, detectable or None)


def difference_by_case(
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    direction: str,
    documents: Mapping[str, str],
    sampling: Sampling,
    *,
    noise_sd: float = 0.0,
) -> Difference:
    """``paired_difference`` over the cases that both sides have a value of, by ``query_id``; cases about one of
    ``documents`` are a cluster, and ``direction`` (``higher`` or ``lower``) says which side is better.
    """
    pairs = sorted(ours.keys() & theirs.keys())
    sign = 1.0 if direction == "higher" else -1.0
    return paired_difference(
        [sign * ours[key] for key in pairs],
        [sign * theirs[key] for key in pairs],
        [documents[key] for key in pairs],
        sampling,
        noise_sd=noise_sd,
    )


def adjust(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same with ``p_harm_adjusted`` by Holm's step-down over all of them (Scandinavian Journal of Statistics, 1979)."""
    adjusted, largest = {}, 0.0
    ordered = sorted(found.items(), key=lambda item: item[1].p_harm)
    for place, (name, difference) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * difference.p_harm))
        adjusted[name] = replace(difference, p_harm_adjusted=largest)
    return {name: adjusted[name] for name in found}


def needed_cases(found: Difference, margin: float, alpha: float) -> int | None:
    """About how many cases would settle an open difference, if its mean and its spread stay as they are.

    Where the mean is within the margin: until the interval is. Where it is not: until harm shows at ``alpha``. None where
    no number of cases that anybody would write does it.
    """
    slack = found.mean + margin
    if slack > 0:
        ratio = (found.mean - found.low) / slack
    elif found.mean < 0:
        ratio = _z(1 - alpha) * found.standard_error / -found.mean
    else:
        return None
    cases = found.pairs * max(1.0, ratio * ratio)
    return max(found.pairs + 1, math.ceil(cases)) if cases < _MOST_CASES else None


def _bootstrap(sums: NDArray[np.float64], counts: NDArray[np.float64], sampling: Sampling) -> tuple[float, float, float]:
    """``(low, high, standard error)`` of the mean over all pairs, clusters resampled whole.

    scipy draws. The interval is its BCa, but with the jackknife in closed form: scipy's takes time with the square of the
    number of clusters, which is hours for 100,000.
    """
    import numpy as np
    from scipy.stats import bootstrap

    def mean(sums: Any, counts: Any, axis: int = -1) -> Any:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            (sums, counts),
            mean,
            paired=True,
            confidence_level=sampling.confidence,
            n_resamples=sampling.resamples,
            batch=_batch(len(sums)),
            method="percentile",
            rng=np.random.default_rng(sampling.seed),
        )
    interval = _bca(found.bootstrap_distribution, sums, counts, sampling.confidence)
    if interval is None:  # BCa has no answer for a few degenerate samples
        interval = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return *interval, float(found.standard_error)


def _bca(
    means: NDArray[np.float64], sums: NDArray[np.float64], counts: NDArray[np.float64], confidence: float
) -> tuple[float, float] | None:
    """The bias-corrected and accelerated interval (Efron and Tibshirani, 1993, 14.10 and 14.15); None where there is none.

    Args:
        means: the resampled ones. A cluster left out leaves (sum - its sum) / (count - its count).
    """
    import numpy as np

    if len(sums) < 2:
        return None
    mean = sums.sum() / counts.sum()
    below = float((means < mean).mean() + (means <= mean).mean()) / 2
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    moved = left_out.mean() - left_out
    spread = float((moved**2).sum())
    if not 0 < below < 1 or not spread:
        return None
    bias, acceleration = _z(below), float((moved**3).sum()) / (6 * spread**1.5)
    shares = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        reach = bias + _z(tail)
        if 1 - acceleration * reach <= 0:
            return None
        shares.append(NormalDist().cdf(bias + reach / (1 - acceleration * reach)))
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def _batch(values: int) -> int:
    """How many resamples of so many values are held at a time; more or fewer change no number."""
    return max(1, min(_BATCH, _HELD_VALUES // max(1, values)))


def _with_noise(
    mean: float, low: float, high: float, error: float, noise_sd: float, sampling: Sampling
) -> tuple[float, float, float]:
    """The judge's noise is independent of which documents were drawn: the two add up as squares."""
    if not noise_sd:
        return low, high, error
    reach = _z((1 + sampling.confidence) / 2) * noise_sd
    return mean - math.hypot(mean - low, reach), mean + math.hypot(high - mean, reach), math.hypot(error, noise_sd)


def _p_harm(sums: NDArray[np.float64], sampling: Sampling) -> float:
    """The share of sign flips of the clusters whose sum is at most the one that was seen: of all, or of so many drawn."""
    import numpy as np
    from scipy.stats import monte_carlo_test, permutation_test

    moved = sums[sums != 0]  # a cluster without a difference looks the same either way
    if len(moved) < 2:
        return 0.5 if len(moved) and moved[0] < 0 else 1.0
    settings: dict[str, Any] = {"alternative": "less", "batch": _batch(len(moved)), "vectorized": True}
    generator = np.random.default_rng(sampling.seed)
    if 2 ** len(moved) <= sampling.resamples:
        found = permutation_test(
            (moved,), np.sum, permutation_type="samples", n_resamples=sampling.resamples, rng=generator, **settings
        )
        return float(found.pvalue)

    def flipped(size: tuple[int, ...]) -> NDArray[np.float64]:
        signs = 1.0 - 2.0 * generator.integers(2, size=size, dtype=np.int8)
        return np.asarray(moved * signs)

    # permutation_test would sort each pair, and takes twenty times as long
    found = monte_carlo_test(moved, flipped, np.sum, n_resamples=sampling.resamples, **settings)
    return float(found.pvalue)


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
