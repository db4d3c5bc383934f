"""Lessons: where the last evaluations lost cases, and which setting to try next. Pure.

Lessons advise people. They are written beside the metrics and never change a number or a verdict.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lib.evaluation.attribution import LABELS, label_of

SCOPES = ("case", "profile", "global")
_ADVICE = {
    "unknown": "where the evidence was lost could not be told: lost_detail in case_results.jsonl says why",
    "missing document": "the documents that hold the gold are not in the table: sync them, name their source in sources",
    "deduplication": "raise jaccard_threshold: chunks that say otherwise are dropped as near-duplicates",
    "chunk boundary": "raise chunk_size or overlap_ratio: evidence is cut between chunks",
    "approximate index": "raise retrieval.hnsw_ef_search, or hnsw_m and hnsw_ef_construction: exact search finds it",
    "ranking": "raise retrieval.vector_top_k, retrieval.bm25_top_k or retrieval.snapshot_size, or try another chunk_size,"
    " prefix_policy or embedder",
    "filter": "raise filter.max_chunks or filter.max_tokens, or set rerank.model to a cross-encoder",
    "reader": "the evidence was shown and not used: look at the reader's prompt or model, or show it fewer chunks",
}


def learn(evaluations: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], scope: str) -> dict[str, Any]:
    """Counts losses by label and advises on the largest.

    Args:
        evaluations: ``(profile, rows)``, newest last; a profile names the kind of config (embedder and prefix policy).
        scope: ``case``: cases lost in every evaluation; ``profile``: the newest one's profile; ``global``: all.
    """
    if scope == "profile" and evaluations:
        evaluations = [item for item in evaluations if item[0] == evaluations[-1][0]]
    losses = Counter(label for _, rows in evaluations for row in rows if (label := label_of(row)))
    found: dict[str, Any] = {
        "scope": scope,
        "evaluations": len(evaluations),
        "lost": {label: losses[label] for label in LABELS},
        "advice": [_ADVICE[label] for label, _ in losses.most_common(1)],
    }
    if scope == "case":
        labels: defaultdict[str, list[str | None]] = defaultdict(list)
        for _, rows in evaluations:
            for row in rows:
                labels[row["query_id"]].append(label_of(row))
        found["cases"] = {
            query_id: {"lost_at": seen[-1], "times": len(seen), "advice": _ADVICE[str(seen[-1])]}
            for query_id, seen in sorted(labels.items())
            if seen and all(seen)
        }
    return found
