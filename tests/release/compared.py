"""Evaluations as ``lib.evaluation.run`` leaves them, made up: rows, RAGChecker's labels, and files below a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lib.evaluation import results
from lib.evaluation.ragchecker_metrics import METRICS
from lib.evaluation.results import Evaluation
from lib.platform.files import write_json
from lib.release.case_changes import Side
from tests.case_rows import case_row, write_evaluation

YES, NO = "Entailment", "Neutral"
BEFORE, NOW = "2026-01-01-000000-v1-aaaaaaaa", "2026-01-02-000000-v1-bbbbbbbb"


def row(query_id: str, stage: str | None = None, **changed: Any) -> dict[str, Any]:
    """A case whose evidence was lost at ``stage``; metrics' names replace values, other keywords fields."""
    reached = ("retrieval", "filter", "reader", None).index(stage)
    hits = {name: float(reached > place) for place, name in enumerate(("oracle_hit", "filter_hit", "reader_gold_usage"))}
    metrics = {**hits, "answered": 1.0, **dict.fromkeys(METRICS, 0.5)}
    metrics |= {name: changed.pop(name) for name in list(changed) if name in metrics}
    shown = {"query": f"what about {query_id}?", "tags": ["single"], "response": f"answer to {query_id}"}
    return case_row(query_id, metrics, **{**shown, "snapshot_size": 45, **changed})


def label(query_id: str, claims: dict[str, bool], passages: dict[str, str]) -> dict[str, Any]:
    """What ``ragchecker.json`` holds of a case: whether the answer holds the gold answer's claims; no passage does."""
    return {
        "query_id": query_id,
        "gt_answer_claims": [[claim] for claim in claims],
        "response2answer": [YES if found else NO for found in claims.values()],
        "retrieved2answer": [[NO] * len(passages) for _ in claims],
        "retrieved_context": [{"doc_id": chunk_id, "text": text} for chunk_id, text in passages.items()],
    }


def side(release_id: str, rows: list[dict[str, Any]], labels: list[dict[str, Any]] | None = None, **inputs: Any) -> Side:
    """An evaluation with its labels; keywords replace inputs, and ``judge`` who judged."""
    judge = inputs.pop("judge", "lexical")
    summary = results.summarise(
        rows,
        inputs={"release_id": release_id, "cases_digest": "c1", "settings_digest": "s1", "code_digest": "k1", **inputs},
        produced_by={"reader": "extractive", "judge": judge},
        deduplication_rate=0.2,
    )
    return Side(Evaluation(summary, rows), {item["query_id"]: item for item in labels or []})


def write_side(folder: Path, found: Side) -> None:
    """As an evaluation leaves it."""
    write_evaluation(folder, found.evaluation, json.dumps({"results": list(found.labels.values())}))


def write_cases(path: Path, gold: dict[str, list[tuple[str, str]]]) -> None:
    write_json(
        path,
        {
            "schema_version": 1,
            "cases": [
                {
                    "query_id": query_id,
                    "query": f"what about {query_id}?",
                    "gt_answer": "An answer.",
                    "answerable": True,
                    "gold": [{"doc_id": doc_id, "quote": quote} for doc_id, quote in quotes],
                }
                for query_id, quotes in gold.items()
            ],
        },
    )
