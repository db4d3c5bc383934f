"""What an evaluation leaves: a row a case, means, inputs, and who produced them; as values and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.evaluation.ragchecker_metrics import LOWER_IS_BETTER, METRICS
from lib.evaluation.rows import digest_of_evaluation, read_rows
from lib.platform.errors import ConfigInvalid, NotFound
from lib.platform.files import read_json, write_json, write_json_lines, write_text, writing

CASE_METRICS = ("oracle_hit", "filter_hit", "reader_gold_usage", *METRICS)
_MEAN_NAMES = {"oracle_hit": "oracle_hit_rate", "filter_hit": "filter_hit_rate"}


@dataclass(frozen=True)
class Evaluation:
    """One release evaluated on one file of cases.

    ``rows`` are per case, in ``query_id`` order; ``summary`` holds ``inputs`` (digests of all that decided the result),
    ``produced_by``, ``counts`` and the ``metrics``' means.
    """

    summary: dict[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def digest(self) -> str:
        return digest_of_evaluation(self.summary, self.rows)

    @property
    def unscored(self) -> set[str]:
        """The ``query_id`` of every case whose values stand in for ones that nobody could measure."""
        return {row["query_id"] for row in self.rows if row["unscored"]}

    def values(self, metric: str) -> dict[str, float]:
        """``query_id`` → value of a metric by its mean's name; for a rate over unanswerable cases, those.

        Empty where no case has a value, as of the ``deduplication_rate``.
        """
        if metric == "abstention_accuracy":
            return {row["query_id"]: float(row["abstained"]) for row in self.rows if not row["answerable"]}
        if metric == "avg_snapshot_size":
            return {row["query_id"]: float(row["snapshot_size"]) for row in self.rows}
        name = {mean: case for case, mean in _MEAN_NAMES.items()}.get(metric, metric)
        if name not in CASE_METRICS:
            return {}
        return {row["query_id"]: float(row["metrics"][name]) for row in self.rows if row["answerable"]}


def worst(metric: str) -> float:
    """The value that an unscored case counts with: missing data can only lower a score."""
    return 1.0 if metric in LOWER_IS_BETTER else 0.0


def summarise(
    rows: Sequence[Mapping[str, Any]],
    *,
    inputs: Mapping[str, Any],
    produced_by: Mapping[str, str],
    deduplication_rate: float | None,
) -> dict[str, Any]:
    """Means over the answerable cases, with the counts behind them."""
    answerable = [row for row in rows if row["answerable"]]
    unanswerable = [row for row in rows if not row["answerable"]]
    metrics: dict[str, float | None] = {
        _MEAN_NAMES.get(name, name): _mean([row["metrics"][name] for row in answerable]) for name in CASE_METRICS
    }
    metrics["avg_snapshot_size"] = _mean([row["snapshot_size"] for row in rows])
    metrics["abstention_accuracy"] = _mean([float(row["abstained"]) for row in unanswerable])
    metrics["deduplication_rate"] = deduplication_rate
    return {
        "inputs": dict(inputs),
        "produced_by": dict(produced_by),
        "counts": {
            "cases": len(rows),
            "answerable": len(answerable),
            "unanswerable": len(unanswerable),
            "unscored": sum(1 for row in rows if row["unscored"]),
            "answers_without_claims": sum(
                1 for row in answerable if row["claims"]["response"] == 0 and not row["unscored"]
            ),
        },
        "metrics": metrics,
    }


def write(folder: Path, evaluation: Evaluation, ragchecker_json: str, timings: Mapping[str, Any]) -> None:
    """Writes the evaluation's files; ``metrics.json`` last, so that a folder that has one is whole.

    Equal evaluations give equal bytes in all but ``timings.json``.
    """
    with writing(folder):
        (folder / "metrics.json").unlink(missing_ok=True)
    write_text(folder / "ragchecker.json", ragchecker_json)
    write_json(folder / "timings.json", dict(timings))
    write_json_lines(folder / "case_results.jsonl", [dict(row) for row in evaluation.rows])
    write_json(folder / "metrics.json", {**evaluation.summary, "evaluation_digest": evaluation.digest})


def read(folder: Path) -> Evaluation:
    """Raises NotFound where there is no whole evaluation, ConfigInvalid where its files do not belong together."""
    if not (folder / "metrics.json").exists():
        raise NotFound(f"no evaluation in {folder}", hint="scripts/production_evaluation.py --skip-ingest")
    summary = read_json(folder / "metrics.json", "metrics")
    if not isinstance(summary, dict):
        raise ConfigInvalid(f"{folder}/metrics.json is not a JSON object", hint="evaluate again")
    recorded = summary.pop("evaluation_digest", None)
    try:
        rows = read_rows(folder / "case_results.jsonl")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(f"{folder}/case_results.jsonl cannot be read: {error}") from error
    found = Evaluation(summary, rows)
    if found.digest != recorded:
        raise ConfigInvalid(f"the files in {folder} do not belong together", hint="evaluate again")
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
