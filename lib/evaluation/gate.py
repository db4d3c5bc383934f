"""The gate: metrics and limits in, a verdict out. Pure.

A metric fails if its mean misses a floor or ceiling, or if harm is shown on the same cases: the interval of the paired
differences lies below zero and reaches past the margin, and Holm's test over all metrics that decide says that it is no
chance. It passes if the whole interval is within the margin, and is inconclusive in between. The verdict is the worst of
its metrics: FAIL, ERROR, INCONCLUSIVE, PASS. A case without a score counts as the candidate's worst, the baseline's best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lib.evaluation.results import Evaluation
from lib.evaluation.significance import Difference, Sampling, adjust, difference_by_case, needed_cases
from lib.platform.errors import ConfigInvalid

_SEVERITY = ("PASS", "INCONCLUSIVE", "ERROR", "FAIL")
_ROUNDING = 1e-9  # a mean of cases that are all at a limit may miss it by a few last bits


@dataclass(frozen=True)
class MetricVerdict:
    """One metric's part in the verdict. ``difference`` is positive where the candidate is better.

    ``value`` counts an unscored case as its worst, ``upper`` as its best; they are equal where every case is scored.
    ``needed_cases``: about how many would settle an inconclusive difference; None where no number would.
    """

    metric: str
    status: str
    reason: str
    value: float | None
    upper: float | None = None
    baseline: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    margin: float | None = None
    difference: Difference | None = None
    needed_cases: int | None = None
    critical: bool = True


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


def check(gates: Mapping[str, Any]) -> None:
    """Raises ConfigInvalid where limits contradict each other, which a schema cannot say."""
    for name, limits in gates["metrics"].items():
        if limits.get("floor", -math.inf) > limits.get("ceiling", math.inf):
            raise ConfigInvalid(f"metrics.{name}: the floor {limits['floor']:g} is over the ceiling {limits['ceiling']:g}")


def judge_gate(candidate: Evaluation, baseline: Evaluation | None, gates: Mapping[str, Any], seed: int) -> Verdict:
    """Decides whether a release may go live.

    Args:
        baseline: the evaluation of what is live on the same cases; None for a first release, which is judged by the
            absolute limits alone.
        gates: the values of ``configs/gates.yaml``.
    """
    metrics = _judge_metrics(candidate, baseline, gates, seed)
    overall = [(item.status, f"{item.metric}: {item.reason}") for item in metrics if item.critical]
    overall += _whole_run(candidate, baseline, gates)
    verdict = max((status for status, _ in overall), key=_SEVERITY.index)
    reasons = [reason for status, reason in overall if status == verdict and status != "PASS"]
    if verdict == "PASS":
        reasons = [_passed(baseline)]
    return Verdict(
        verdict=verdict,
        reasons=reasons,
        warnings=[f"{item.metric}: {item.reason}" for item in metrics if not item.critical and item.status != "PASS"],
        metrics=metrics,
        baseline_release=baseline.summary["inputs"]["release_id"] if baseline else None,
        cases=candidate.summary["counts"],
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
    if not any(limits.get("critical", True) for limits in gates["metrics"].values()):
        found.append(("ERROR", "no metric is critical: nothing is left to decide by"))
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
        if baseline.query_ids != candidate.query_ids:
            found.append(("ERROR", "the baseline was measured on other cases"))
    return found


def _judge_metrics(
    candidate: Evaluation, baseline: Evaluation | None, gates: Mapping[str, Any], seed: int
) -> list[MetricVerdict]:
    """Each metric by its limits, and by its difference from the baseline; harm is tested over all that decide together."""
    sampling = Sampling(gates["confidence"], gates["power"], gates["resamples"], seed)
    found: dict[str, Difference | str] = {}
    if baseline is not None:
        same_cases, documents = candidate.query_ids == baseline.query_ids, candidate.documents
        for name, limits in gates["metrics"].items():
            if "margin" in limits and not same_cases:
                found[name] = "the baseline was measured on other cases"
            elif "margin" in limits:
                found[name] = _difference(name, limits["direction"], candidate, baseline, documents, sampling)
    for critical in (True, False):
        family = {
            name: difference
            for name, difference in found.items()
            if isinstance(difference, Difference) and gates["metrics"][name].get("critical", True) is critical
        }
        found.update(adjust(family))
    return [
        _judge_metric(name, limits, candidate, baseline, gates, found.get(name))
        for name, limits in gates["metrics"].items()
    ]


def _difference(
    name: str,
    direction: str,
    candidate: Evaluation,
    baseline: Evaluation,
    documents: Mapping[str, str],
    sampling: Sampling,
) -> Difference | str:
    """The paired difference of one metric, or why there is none; ``documents``: what each case is about."""
    ours, theirs = candidate.values(name), baseline.upper_values(name)
    noise_sd = math.hypot(candidate.judge_noise(name), baseline.judge_noise(name))
    if not math.isfinite(noise_sd):
        return "the judge's noise could not be measured"
    try:
        return difference_by_case(ours, theirs, direction, documents, sampling, noise_sd=noise_sd)
    except ValueError as error:
        return str(error)


def _judge_metric(
    name: str,
    limits: Mapping[str, Any],
    candidate: Evaluation,
    baseline: Evaluation | None,
    gates: Mapping[str, Any],
    found: Difference | str | None,
) -> MetricVerdict:
    value = candidate.summary["metrics"].get(name)
    verdict = MetricVerdict(
        metric=name,
        status="PASS",
        reason="within its limits",
        value=value,
        upper=candidate.upper_mean(name),
        baseline=baseline.summary["metrics"].get(name) if baseline else None,
        floor=limits.get("floor"),
        ceiling=limits.get("ceiling"),
        margin=limits.get("margin"),
        difference=found if isinstance(found, Difference) else None,
        critical=limits.get("critical", True),
    )
    if value is None or not math.isfinite(value):
        return replace(verdict, status="ERROR", reason="no value", value=None, upper=None)
    if missed := _missed_limit(value, limits):
        return replace(verdict, status="FAIL", reason=missed)
    if isinstance(found, str):
        return replace(verdict, status="ERROR", reason=found)
    return _judge_difference(verdict, found, gates) if found else verdict


def _missed_limit(value: float, limits: Mapping[str, Any]) -> str | None:
    if "floor" in limits and value < limits["floor"] - _ROUNDING:
        return f"{value:.3f} is under the floor {limits['floor']:g}"
    if "ceiling" in limits and value > limits["ceiling"] + _ROUNDING:
        return f"{value:.3f} is over the ceiling {limits['ceiling']:g}"
    return None


def _judge_difference(verdict: MetricVerdict, found: Difference, gates: Mapping[str, Any]) -> MetricVerdict:
    """A metric within its limits, judged by its difference from the baseline."""
    margin = verdict.margin or 0.0
    interval = (
        f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] over {found.pairs} cases"
        f" of {found.clusters} documents, margin {margin:g}"
    )
    if found.clusters < gates["min_documents"] and (found.low, found.high) != (0.0, 0.0):
        reason = f"cases about {found.clusters} documents say too little, {gates['min_documents']} are needed: {interval}"
        return replace(verdict, status="INCONCLUSIVE", reason=reason)
    if found.low >= -margin - _ROUNDING:
        return replace(verdict, reason=f"not worse: {interval}")
    if found.high < 0 and found.p_harm_adjusted <= gates["alpha"]:
        return replace(verdict, status="FAIL", reason=f"worse than the baseline: {interval}")
    needed = needed_cases(found, margin, gates["alpha"])
    settles = f"about {needed} cases would settle it" if needed else "no number of such cases would settle it"
    reason = f"could be worse than the baseline: {interval}; {settles}"
    return replace(verdict, status="INCONCLUSIVE", reason=reason, needed_cases=needed)
