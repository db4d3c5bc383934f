"""Lessons: where the last evaluations lost cases (retrieval, filter, reader), and which setting to try next. Pure.

Lessons advise people. They are written beside the metrics and never change a number or a verdict.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

SCOPES = ("case", "profile", "global")
_STAGES = ("retrieval", "filter", "reader")
_ADVICE = {
    "retrieval": "raise retrieval.vector_top_k, retrieval.bm25_top_k or retrieval.snapshot_size, or try another chunk_size",
    "filter": "raise filter.max_chunks or filter.max_tokens, or set rerank.model to a cross-encoder",
    "reader": "the evidence was shown and not used: look at the reader's prompt or model, or show it fewer chunks",
}


def lost_at(row: Mapping[str, Any]) -> str | None:
    """The first stage that lost an answerable case's evidence; None where the answer used it."""
    if not row["answerable"]:
        return None
    metrics = row["metrics"]
    for stage, metric in zip(_STAGES, ("oracle_hit", "filter_hit", "reader_gold_usage"), strict=True):
        if not metrics[metric]:
            return stage
    return None


def learn(evaluations: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], scope: str) -> dict[str, Any]:
    """Counts losses by stage and advises on the largest.

    Args:
        evaluations: ``(profile, rows)``, newest last; a profile names the kind of config (embedder and prefix policy).
        scope: ``case``: cases lost in every evaluation; ``profile``: the newest one's profile; ``global``: all.
    """
    if scope == "profile" and evaluations:
        evaluations = [item for item in evaluations if item[0] == evaluations[-1][0]]
    losses = Counter(stage for _, rows in evaluations for row in rows if (stage := lost_at(row)))
    found: dict[str, Any] = {
        "scope": scope,
        "evaluations": len(evaluations),
        "lost": {stage: losses[stage] for stage in _STAGES},
        "advice": [_ADVICE[stage] for stage, count in losses.most_common(1) if count],
    }
    if scope == "case":
        stages: defaultdict[str, list[str | None]] = defaultdict(list)
        for _, rows in evaluations:
            for row in rows:
                stages[row["query_id"]].append(lost_at(row))
        found["cases"] = {
            query_id: {"lost_at": seen[-1], "times": len(seen), "advice": _ADVICE[str(seen[-1])]}
            for query_id, seen in sorted(stages.items())
            if seen and all(seen)
        }
    return found
