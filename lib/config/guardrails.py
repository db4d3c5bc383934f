"""Production guardrails: is a locked config within bounds, and does what is retrieved look healthy? Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lib.config.bounds import SNAPSHOT_RANGE, SPECIAL_TOKENS, TOKEN_BUDGET, check_bounds, check_token_budget
from lib.config.locked_config import LockedConfig


def validate_config(config: LockedConfig) -> dict[str, Any]:
    """``{valid, issues, warnings}`` of a locked config."""
    found = check_bounds(asdict(config))
    issues = [message for _, message in found.issues]
    over = check_token_budget(config.chunk_size, config.embedder_max_sequence_length)
    if over:
        issues.append(over)
    if not config.is_locked:
        issues.append("the config is not locked")
    return {"valid": not issues, "issues": issues, "warnings": [message for _, message in found.warnings]}


def check_retrieval_health(config: LockedConfig, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Health of a batch of retrievals.

    Args:
        results: one mapping a query with ``snapshot``: a list of chunks, each with ``bm25_text``, ``source_text``
            and ``embedding_token_count``.

    Returns:
        ``{healthy, queries, bm25_prefix_leakage, over_budget_chunks, avg_snapshot_size, issues}``; ``healthy`` is
        None where there is nothing to judge, because no data is never healthy.
    """
    chunks = [chunk for result in results for chunk in result["snapshot"]]
    leaking = sum(1 for chunk in chunks if chunk["bm25_text"] != chunk["source_text"]) if config.prefix_policy == "A" else 0
    budget = min(TOKEN_BUDGET, config.embedder_max_sequence_length) - SPECIAL_TOKENS
    over = sum(1 for chunk in chunks if chunk["embedding_token_count"] > budget)
    average = len(chunks) / len(results) if results else None
    issues = []
    if leaking:
        issues.append(f"BM25 prefix leakage in {leaking} chunks")
    if over:
        issues.append(f"{over} chunks are over the budget of {budget} tokens")
    if average is not None and average < SNAPSHOT_RANGE[0]:
        issues.append(f"low retrieval snapshot size: {average:.1f} on average, {SNAPSHOT_RANGE[0]} expected")
    return {
        "healthy": None if not results else not issues,
        "queries": len(results),
        "bm25_prefix_leakage": leaking,
        "over_budget_chunks": over,
        "avg_snapshot_size": average,
        "issues": issues,
    }
