"""The gate: metrics and limits in, a verdict out. Pure.

A metric fails if its mean misses a floor or ceiling, or if it is shown to be worse than the baseline on the same cases:
the interval of the paired differences lies below zero and reaches past the margin. It is inconclusive if the interval
reaches past the margin without showing harm. The verdict is the worst of its metrics: FAIL, ERROR, INCONCLUSIVE, PASS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lib.evaluation.results import Evaluation
from lib.evaluation.significance import Difference, paired_difference

_SEVERITY = ("PASS", "INCONCLUSIVE", "ERROR", "FAIL")
_ROUNDING = 1e-9  # a mean of cases that are all at a limit may miss it by a few last bits


@dataclass(frozen=True)
class MetricVerdict:
    """One metric's part in the verdict. ``difference`` is positive where the candidate is better."""

    metric: str
    status: str
    reason: str
    value: float | None
    baseline: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    margin: float | None = None
    difference: Difference | None = None
    level: str = "block"


@dataclass(frozen=True)
class Verdict:
    """The gate's decision; ``reasons`` say in words what decided it."""

    verdict: str
    reasons: list[str]
    warnings: list[str]
    metrics: list[MetricVerdict]
    baseline_release: str | None
    cases: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge_gate(candidate: Evaluation, baseline: Evaluation | None, gates: Mapping[str, Any], seed: int) -> Verdict:
    """Decides whether a release may go live.

    Args:
        baseline: the evaluation of what is live on the same cases; None for a first release, which is judged by the
            absolute limits alone.
        gates: the values of ``configs/gates.yaml``.
    """
    counts = candidate.summary["counts"]
    metrics = [_judge_metric(name, limits, candidate, baseline, gates, seed) for name, limits in gates["metrics"].items()]
    overall = [(item.status, f"{item.metric}: {item.reason}") for item in metrics if item.level == "block"]
    overall += _whole_run(candidate, baseline, gates)
    verdict = max((status for status, _ in overall), key=_SEVERITY.index)
    reasons = [reason for status, reason in overall if status == verdict and status != "PASS"]
    if verdict == "PASS":
        reasons = [_passed(baseline)]
    return Verdict(
        verdict=verdict,
        reasons=reasons,
        warnings=[f"{item.metric}: {item.reason}" for item in metrics if item.level == "warn" and item.status != "PASS"],
        metrics=metrics,
        baseline_release=baseline.summary["inputs"]["release_id"] if baseline else None,
        cases=counts,
    )


def _passed(baseline: Evaluation | None) -> str:
    if baseline is None:
        return "first release: nothing is live to compare with; every absolute limit is met"
    return (
        f"every absolute limit is met, and nothing is worse than {baseline.summary['inputs']['release_id']} by its margin"
    )


def _whole_run(candidate: Evaluation, baseline: Evaluation | None, gates: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the evaluation as a whole."""
    found = []
    if all(limits.get("level") == "warn" for limits in gates["metrics"].values()):
        found.append(("ERROR", "every metric is at level warn: nothing is left to decide by"))
    answerable = candidate.summary["counts"]["answerable"]
    if answerable < gates["min_cases"]:
        found.append(("INCONCLUSIVE", f"{answerable} answerable cases, at least {gates['min_cases']} are needed"))
    for whose, evaluation in (("", candidate), ("the baseline's ", baseline)):
        if evaluation is None:
            continue
        counts = evaluation.summary["counts"]
        if counts["cases"] and counts["unscored"] / counts["cases"] > gates["max_unscored_share"]:
            found.append(("INCONCLUSIVE", f"{counts['unscored']} of {whose}{counts['cases']} cases are unscored"))
    if baseline is not None:
        for name in ("cases_digest", "settings_digest"):
            if baseline.summary["inputs"][name] != candidate.summary["inputs"][name]:
                found.append(("ERROR", f"the baseline has another {name}: it is not comparable"))
    return found


def _judge_metric(
    name: str,
    limits: Mapping[str, Any],
    candidate: Evaluation,
    baseline: Evaluation | None,
    gates: Mapping[str, Any],
    seed: int,
) -> MetricVerdict:
    value = candidate.summary["metrics"].get(name)
    common: dict[str, Any] = {
        "metric": name,
        "value": value,
        "baseline": baseline.summary["metrics"].get(name) if baseline else None,
        "floor": limits.get("floor"),
        "ceiling": limits.get("ceiling"),
        "margin": limits.get("margin"),
        "level": limits.get("level", "block"),
    }
    if value is None or not math.isfinite(value):
        common["value"] = None
        return MetricVerdict(status="ERROR", reason="no value", **common)
    missed = _missed_limit(value, limits)
    if baseline is None or "margin" not in limits:
        return MetricVerdict(status="FAIL" if missed else "PASS", reason=missed or "within its limits", **common)
    status, reason, difference = _against_baseline(name, limits, candidate, baseline, gates, seed)
    if missed:
        status, reason = "FAIL", missed
    return MetricVerdict(status=status, reason=reason, difference=difference, **common)


def _missed_limit(value: float, limits: Mapping[str, Any]) -> str | None:
    if "floor" in limits and value < limits["floor"] - _ROUNDING:
        return f"{value:.3f} is under the floor {limits['floor']:g}"
    if "ceiling" in limits and value > limits["ceiling"] + _ROUNDING:
        return f"{value:.3f} is over the ceiling {limits['ceiling']:g}"
    return None


def _against_baseline(
    name: str, limits: Mapping[str, Any], candidate: Evaluation, baseline: Evaluation, gates: Mapping[str, Any], seed: int
) -> tuple[str, str, Difference | None]:
    """``(status, reason, difference)`` of a metric with a margin."""
    ours, theirs = candidate.values(name), baseline.values(name)
    if ours.keys() != theirs.keys():
        return "ERROR", "the baseline was measured on other cases", None
    sign = 1.0 if limits["direction"] == "higher" else -1.0
    # the baseline's unscored cases hold the worst values, which would make the candidate look better
    pairs = sorted(ours.keys() - baseline.unscored)
    try:
        found = paired_difference(
            [sign * ours[key] for key in pairs],
            [sign * theirs[key] for key in pairs],
            confidence=gates["confidence"],
            resamples=gates["resamples"],
            seed=seed,
        )
    except ValueError as error:
        return "ERROR", str(error), None
    margin = limits["margin"]
    interval = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] over {found.pairs} cases, margin {margin:g}"
    if found.low >= -margin - _ROUNDING:
        return "PASS", f"not worse: {interval}", found
    if found.high < 0:
        return "FAIL", f"worse than the baseline: {interval}", found
    return "INCONCLUSIVE", f"could be worse than the baseline: {interval}", found
