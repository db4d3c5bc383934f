"""What an evaluation leaves: a row a case, means, inputs, and who produced them; as values and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.evaluation.judge_noise import noise_sd
from lib.evaluation.ragchecker_metrics import LOWER_IS_BETTER, METRICS
from lib.evaluation.rows import digest_of_evaluation, read_rows
from lib.platform.errors import ConfigInvalid, NotFound
from lib.platform.files import read_json

CASE_METRICS = ("oracle_hit", "filter_hit", "reader_gold_usage", "answered", *METRICS)
_MEAN_NAMES = {"oracle_hit": "oracle_hit_rate", "filter_hit": "filter_hit_rate", "answered": "answer_rate"}
_CASE_NAMES = {mean: case for case, mean in _MEAN_NAMES.items()}


@dataclass(frozen=True)
class Evaluation:
    """One release evaluated on one file of cases.

    ``rows`` are per case, in ``query_id`` order; ``summary`` holds ``inputs`` (digests of all that decided the result),
    ``produced_by``, ``counts`` and the ``metrics``' means. In a row's ``metrics``, those that are ``unmeasured`` hold their
    worst value, because missing data can only lower a score, and those that are ``undefined`` for its answer hold None.
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

    @property
    def query_ids(self) -> set[str]:
        return {row["query_id"] for row in self.rows}

    @property
    def documents(self) -> dict[str, str]:
        """``query_id`` → the document that a case is about: the first of its gold, or the case itself where it has none."""
        return {row["query_id"]: (row["documents"] or [row["query_id"]])[0] for row in self.rows}

    def values(self, metric: str) -> dict[str, float]:
        """``query_id`` → value of a metric by its mean's name; for a rate over unanswerable cases, those.

        Cases where it is undefined are left out; all are, as of the ``deduplication_rate``, where no case has a value.
        """
        return self._values(metric, at_best=False)

    def upper_values(self, metric: str) -> dict[str, float]:
        """The same with the best that an unmeasured value could be in place of the worst."""
        return self._values(metric, at_best=True)

    def upper_mean(self, metric: str) -> float | None:
        """A metric's mean if all that is unmeasured were at its best; that of no case is the mean as it is."""
        values = self.upper_values(metric)
        return sum(values.values()) / len(values) if values else self.summary["metrics"].get(metric)

    def judge_noise(self, metric: str) -> float:
        """Standard deviation that judging once adds to a metric's mean; 0 where nothing is known of it, infinite where it
        was to be measured and could not be.
        """
        return noise_sd(self.summary, metric) or 0.0

    def _values(self, metric: str, *, at_best: bool) -> dict[str, float]:
        if metric == "avg_snapshot_size":
            return {row["query_id"]: float(row["snapshot_size"]) for row in self.rows}
        if metric == "abstention_accuracy":
            return {
                row["query_id"]: float(row["abstained"] or (at_best and bool(row["unscored"])))
                for row in self.rows
                if not row["answerable"]
            }
        name = _CASE_NAMES.get(metric, metric)
        return {
            row["query_id"]: 1.0 - worst(name) if at_best and name in row["unmeasured"] else float(row["metrics"][name])
            for row in self.rows
            if name in CASE_METRICS and row["answerable"] and row["metrics"][name] is not None
        }


def worst(metric: str) -> float:
    """The value that an unmeasured case counts with: missing data can only lower a score."""
    return 1.0 if metric in LOWER_IS_BETTER else 0.0


def summarise(
    rows: Sequence[Mapping[str, Any]],
    *,
    inputs: Mapping[str, Any],
    produced_by: Mapping[str, str],
    deduplication_rate: float | None,
) -> dict[str, Any]:
    """Means over the answerable cases for which a metric is defined, with the counts behind them."""
    answerable = [row for row in rows if row["answerable"]]
    unanswerable = [row for row in rows if not row["answerable"]]
    metrics: dict[str, float | None] = {
        _MEAN_NAMES.get(name, name): _mean([v for row in answerable if (v := row["metrics"][name]) is not None])
        for name in CASE_METRICS
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
            "undefined": {
                name: count for name in METRICS if (count := sum(name in row["undefined"] for row in answerable))
            },
        },
        "metrics": metrics,
    }


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
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{folder}/case_results.jsonl cannot be read: {error}") from error
    found = Evaluation(summary, rows)
    if found.digest != recorded:
        raise ConfigInvalid(f"the files in {folder} do not belong together", hint="evaluate again")
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
