"""Rows of an evaluation and its files, as an evaluation leaves them, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.evaluation.results import Evaluation
from lib.platform.files import write_json, write_json_lines, write_text


def case_row(query_id: str, metrics: Mapping[str, float | None] | None, **changes: Any) -> dict[str, Any]:
    """A scored case about no document in particular; without ``metrics`` an unanswerable one."""
    return {
        "query_id": query_id,
        "query": "what?",
        "answerable": metrics is not None,
        "tags": [],
        "documents": [],
        "response": "that",
        "abstained": False,
        "unscored": "",
        "unmeasured": [],
        "undefined": [],
        "snapshot_size": 40,
        "claims": {"response": 1, "gt_answer": 1},
        "metrics": None if metrics is None else dict(metrics),
        **changes,
    }


def write_evaluation(folder: Path, evaluation: Evaluation, ragchecker_json: str = "[]\n") -> None:
    """The files of an evaluation that others read, without its times; ragchecker is not imported for them."""
    write_text(folder / "ragchecker.json", ragchecker_json)
    write_json_lines(folder / "case_results.jsonl", [dict(row) for row in evaluation.rows])
    write_json(folder / "metrics.json", {**evaluation.summary, "evaluation_digest": evaluation.digest})
