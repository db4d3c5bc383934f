"""Hard caps and sanity of a config. Pure: values and facts in, findings out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

MAX_CHUNK_SIZE = 1000
MIN_CHUNK_SIZE = 16
MAX_OVERLAP_RATIO = 0.5
MIN_JACCARD_THRESHOLD = 0.5
TOKEN_BUDGET = 1024
MAX_PREFIX_TOKENS = 48  # longer prefixes are shortened to this many tokens
SPECIAL_TOKENS = 2  # what a BERT-type tokenizer puts around a text; token counts elsewhere leave them out
PREFIX_POLICIES = ("A", "B")
SNAPSHOT_RANGE = (30, 60)


@dataclass(frozen=True)
class Findings:
    """``issues`` forbid the config, ``warnings`` do not; each names the dotted key it is about."""

    issues: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


def check_bounds(values: dict[str, Any]) -> Findings:
    """Checks what can be said without the model: the caps on numbers, the prefix policy, the snapshot's size."""
    found = Findings()
    size, overlap, jaccard = values["chunk_size"], values["overlap_ratio"], values["jaccard_threshold"]
    if not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
        found.issues.append(("chunk_size", f"chunk_size must be {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE} tokens, not {size}"))
    if not (math.isfinite(overlap) and 0 <= overlap <= MAX_OVERLAP_RATIO):
        found.issues.append(("overlap_ratio", f"overlap_ratio must be 0 to {MAX_OVERLAP_RATIO}, not {overlap}"))
    if not (math.isfinite(jaccard) and MIN_JACCARD_THRESHOLD <= jaccard <= 1):
        found.issues.append(("jaccard_threshold", f"jaccard_threshold must be {MIN_JACCARD_THRESHOLD} to 1, not {jaccard}"))
    if values["prefix_policy"] not in PREFIX_POLICIES:
        found.issues.append(("prefix_policy", f"prefix_policy must be A or B, not {values['prefix_policy']!r}"))
    retrieval = values["retrieval"]
    reachable = retrieval["vector_top_k"] + retrieval["bm25_top_k"]
    if reachable < retrieval["snapshot_size"]:
        found.issues.append(
            (
                "retrieval.snapshot_size",
                f"snapshot_size {retrieval['snapshot_size']} is over the {reachable} candidates fetched",
            )
        )
    if not SNAPSHOT_RANGE[0] <= retrieval["snapshot_size"] <= SNAPSHOT_RANGE[1]:
        low, high = SNAPSHOT_RANGE
        found.warnings.append(("retrieval.snapshot_size", f"snapshot_size is outside the usual {low} to {high}"))
    if retrieval["hnsw_ef_search"] < retrieval["vector_top_k"]:
        found.issues.append(("retrieval.hnsw_ef_search", "hnsw_ef_search must be at least vector_top_k"))
    if not found.issues and values["filter"]["max_tokens"] < size:
        found.issues.append(("filter.max_tokens", "filter.max_tokens leaves no room for one whole chunk"))
    return found


def check_token_budget(chunk_size: int, max_sequence_length: int, prompt_tokens: int = 0) -> str | None:
    """Why a chunk with its prefix would be cut, or None.

    Args:
        max_sequence_length: what the embedder really reads, special tokens included; text beyond it is dropped in silence.
        prompt_tokens: of the prompt that the embedder puts before every document.
    """
    needed = chunk_size + MAX_PREFIX_TOKENS + prompt_tokens + SPECIAL_TOKENS
    prompt = f" + prompt {prompt_tokens}" if prompt_tokens else ""
    parts = f"{chunk_size} + prefix {MAX_PREFIX_TOKENS}{prompt} + special {SPECIAL_TOKENS} = {needed} tokens"
    if needed > TOKEN_BUDGET:
        return f"a chunk with its prefix ({parts}) is over the budget of {TOKEN_BUDGET}"
    if needed > max_sequence_length:
        return f"a chunk with its prefix ({parts}) is over the {max_sequence_length} that the embedder reads"
    return None
