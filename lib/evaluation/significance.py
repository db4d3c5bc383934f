"""Paired differences and their confidence intervals. Pure; the seed is an argument."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

_BATCH = 1000


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences (positive: the candidate is better) and its interval."""

    mean: float
    low: float
    high: float
    pairs: int


def paired_difference(
    candidate: Sequence[float], baseline: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Difference:
    """The mean of ``candidate - baseline`` with a BCa bootstrap interval (Efron, JASA 1987), over pairs.

    Raises:
        ValueError: no pairs, or a value that is not finite.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if not candidate or len(candidate) != len(baseline):
        raise ValueError("pairs are needed")
    differences = np.asarray(candidate, dtype=float) - np.asarray(baseline, dtype=float)
    if not np.isfinite(differences).all():
        raise ValueError("a value is not finite")
    mean = float(differences.mean())
    if float(np.ptp(differences)) == 0.0:
        return Difference(mean, mean, mean, len(differences))
    low, high = math.nan, math.nan
    for method in ("BCa", "percentile"):  # BCa has no answer for a few degenerate samples
        if math.isfinite(low) and math.isfinite(high):
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interval = bootstrap(
                (differences,),
                np.mean,
                confidence_level=confidence,
                n_resamples=resamples,
                batch=_BATCH,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Difference(mean, low, high, len(differences))
