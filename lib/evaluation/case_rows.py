"""One case's row: what was found, shown, answered and measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.evaluation import cases as case_files
from lib.evaluation import ragchecker_metrics, results
from lib.evaluation.cases import Case, evidence_found
from lib.evaluation.offline_judge import supports
from lib.evaluation.systems import Answered

_GOLD_USED = 0.5  # share of a gold quote's words that an answer holds to count as using it


def make_row(
    case: Case, answer: Answered, labelled: Any, metrics: Mapping[str, float] | None, reason: str
) -> dict[str, Any]:
    """The row of one case.

    Args:
        answer: with its passages ``placed``. labelled: the RAGChecker result, None where nobody judged.
        metrics: RAGChecker's, None where there are none. reason: why the case is unscored, else "".
    """
    snapshot, context = answer.snapshot, answer.context
    row: dict[str, Any] = {
        "query_id": case.query_id,
        "query": case.query,
        "answerable": case.answerable,
        "tags": list(case.tags),
        "documents": sorted({gold.doc_id for gold in case.gold}),
        "response": answer.text,
        "abstained": answer.abstained and not reason,
        "unscored": reason,
        "record": dict(answer.record),
        "snapshot_size": len(snapshot),
        "snapshot": [[chunk.chunk_id, chunk.fused_score, chunk.rerank_score] for chunk in snapshot],
        "context": [chunk.chunk_id for chunk in context],
        "claims": {
            "response": len(labelled.response_claims) if labelled else 0,
            "gt_answer": len(labelled.gt_answer_claims) if labelled else 0,
        },
        "unmeasured": [],
        "undefined": [],
        "metrics": None,
    }
    if case.answerable:
        shown = [gold for gold in case.gold if case_files.covered(gold, context)]
        row["unmeasured"] = _unmeasured(answer, measured=metrics is not None)
        if labelled:
            claims = row["claims"]["response"]
            row["undefined"] = ragchecker_metrics.undefined_metrics(response_claims=claims, passages=len(context))
        row["metrics"] = {
            "oracle_hit": float(evidence_found(case, snapshot)),
            "filter_hit": float(evidence_found(case, context)),
            "reader_gold_usage": float(any(supports(answer.text, gold.quote, _GOLD_USED) for gold in shown)),
            "answered": float(row["claims"]["response"] > 0),
            **(metrics or {name: results.worst(name) for name in ragchecker_metrics.METRICS}),
            **dict.fromkeys(row["undefined"]),
        }
    return row


def _unmeasured(answer: Answered, *, measured: bool) -> list[str]:
    """Metrics of an answerable case that nobody could measure: all that need an answer, or its judgement.

    Golive's own system has retrieved even where its reader failed; of an external one that failed, nothing is known.
    """
    if measured:
        return []
    unread = ["reader_gold_usage"] if answer.problem else []
    unknown = ["oracle_hit", "filter_hit"] if answer.problem and answer.by_text else []
    return sorted([*ragchecker_metrics.METRICS, "answered", *unread, *unknown])
