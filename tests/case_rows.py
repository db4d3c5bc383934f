"""Rows of an evaluation, as ``lib.evaluation.case_rows`` makes them, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
