"""A judge's noise: how far the metrics move when the same answers are judged again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# One judging: query_id -> metric -> value; None where a metric has no meaning for an answer.
Judging = Mapping[str, Mapping[str, float | None]]


def measure_noise(judgings: Sequence[Judging]) -> dict[str, dict[str, Any]]:
    """The noise of each metric over two or more judgings of the same answers.

    Returns:
        metric -> ``sd``: the sample standard deviation of the metric's mean between the judgings; ``sd_from_cases``: the
        same as it follows from the cases' own variances if they err independently, sqrt(sum of variances) / cases, which
        few judgings estimate better; ``disagreement``: the share of cases that were not judged alike each time;
        ``repeats`` and ``cases``. The first three are None where no case has the metric in every judging.
    """
    if len(judgings) < 2:
        raise ValueError("noise is what differs between two judgings or more")
    names = sorted({name for values in judgings[0].values() for name in values})
    return {name: _of_metric(name, judgings) for name in names}


def noise_sd(summary: Mapping[str, Any], metric: str) -> float | None:
    """The standard deviation that one judging adds to a metric's mean: the larger of the two estimates.

    None where the answers were judged once, or no judge decides the metric; infinite where noise was to be measured and
    could not be. The noise of a difference between two evaluations is the root of the sum of their squares.
    """
    found = (summary.get("judge_noise") or {}).get(metric)
    if found is None:
        return None
    return math.inf if found["sd"] is None else max(found["sd"], found["sd_from_cases"])


def _of_metric(name: str, judgings: Sequence[Judging]) -> dict[str, Any]:
    cases = []
    for query_id in sorted(judgings[0]):
        values = [judging.get(query_id, {}).get(name) for judging in judgings]
        known = [value for value in values if value is not None]
        if len(known) == len(judgings):
            cases.append(known)
    noise: dict[str, Any] = {"sd": None, "sd_from_cases": None, "disagreement": None}
    if cases:
        means = [statistics.fmean(values) for values in zip(*cases, strict=True)]
        noise = {
            "sd": statistics.stdev(means),
            "sd_from_cases": math.sqrt(math.fsum(statistics.variance(values) for values in cases)) / len(cases),
            "disagreement": sum(len(set(values)) > 1 for values in cases) / len(cases),
        }
    return {**noise, "repeats": len(judgings), "cases": len(cases)}
