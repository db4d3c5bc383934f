"""Plain text tables for a terminal, and how values stand in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows (the first one is the head) in aligned columns, without lines around them."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def interval(difference: Mapping[str, Any]) -> str:
    """A paired difference's mean and interval."""
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def status_of(item: Mapping[str, Any]) -> str:
    """A metric's status as it is shown: what does not decide is a warning, and no failure."""
    decides = item["critical"] if "critical" in item else item.get("level", "block") == "block"
    return str(item["status"]) if decides or item["status"] == "PASS" else "warning"


# What a metric says, for people who do not know RAGChecker's names (arXiv 2408.08067).
MEASURES = {
    "oracle_hit_rate": "share of cases whose gold evidence was retrieved at all",
    "filter_hit_rate": "share of cases whose gold evidence reached the reader",
    "reader_gold_usage": "share of cases whose answer uses gold evidence that it was shown",
    "answer_rate": "share of answerable cases with an answer that says anything",
    "precision": "share of an answer's claims that the gold answer holds",
    "recall": "share of the gold answer's claims that the answer holds",
    "f1": "precision and recall in one number, their harmonic mean",
    "claim_recall": "share of the gold answer's claims that the passages hold",
    "faithfulness": "share of an answer's claims that the passages hold",
    "context_precision": "share of passages that hold a claim of the gold answer",
    "context_utilization": "share of the gold claims in the passages that the answer holds too",
    "hallucination": "share of an answer's claims that are wrong and in no passage; lower is better",
    "noise_sensitivity_in_relevant": "share of claims that are wrong and come from a passage with gold; lower is better",
    "noise_sensitivity_in_irrelevant": "share of claims that are wrong and come from any other passage; lower is better",
    "self_knowledge": "share of claims that are right and in no passage; lower is better",
    "abstention_accuracy": "share of unanswerable cases that it abstains from",
    "avg_snapshot_size": "chunks retrieved for a question, before the filter",
    "deduplication_rate": "share of chunks that were dropped as near-duplicates",
}
