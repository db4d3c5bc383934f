"""The hard caps hold exactly at the cap and refuse the first value beyond it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config.bounds import check_bounds, check_token_budget

_SOUND: dict[str, Any] = {
    "chunk_size": 450,
    "overlap_ratio": 0.1,
    "jaccard_threshold": 0.8,
    "prefix_policy": "A",
    "retrieval": {"vector_top_k": 40, "bm25_top_k": 40, "snapshot_size": 45, "hnsw_ef_search": 100},
    "filter": {"max_chunks": 6, "max_tokens": 3000},
}
_BELOW, _ABOVE = -math.inf, math.inf


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chunk_size", 16),
        ("chunk_size", 1000),
        ("overlap_ratio", 0),
        ("overlap_ratio", 0.5),
        ("jaccard_threshold", 0.5),
        ("jaccard_threshold", 1),
        ("prefix_policy", "A"),
        ("prefix_policy", "B"),
        ("retrieval.snapshot_size", 30),
        ("retrieval.snapshot_size", 60),
        ("retrieval.hnsw_ef_search", 40),
        ("filter.max_tokens", 450),
    ],
)
def test_a_value_exactly_at_its_cap_is_allowed(key: str, value: Any) -> None:
    found = check_bounds(_with(**{key: value}))
    assert (found.issues, found.warnings) == ([], [])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("chunk_size", 15, "16 to 1000 tokens, not 15"),
        ("chunk_size", 1001, "16 to 1000 tokens, not 1001"),
        ("overlap_ratio", math.nextafter(0, _BELOW), "0 to 0.5"),
        ("overlap_ratio", math.nextafter(0.5, _ABOVE), "0 to 0.5"),
        ("overlap_ratio", math.nan, "not nan"),
        ("overlap_ratio", math.inf, "not inf"),
        ("jaccard_threshold", math.nextafter(0.5, _BELOW), "0.5 to 1"),
        ("jaccard_threshold", math.nextafter(1, _ABOVE), "0.5 to 1"),
        ("jaccard_threshold", math.nan, "not nan"),
        ("prefix_policy", "a", "A or B, not 'a'"),
        ("prefix_policy", "C", "A or B, not 'C'"),
        ("prefix_policy", "", "A or B, not ''"),
        ("retrieval.snapshot_size", 81, "snapshot_size 81 is over the 80 candidates fetched"),
        ("retrieval.hnsw_ef_search", 39, "at least vector_top_k"),
        ("filter.max_tokens", 449, "no room for one whole chunk"),
    ],
)
def test_the_first_value_beyond_a_cap_is_refused_by_name(key: str, value: Any, words: str) -> None:
    (issue,) = check_bounds(_with(**{key: value})).issues
    assert issue[0] == key
    assert words in issue[1]


@pytest.mark.parametrize("size", [29, 61, 80])
def test_an_unusual_snapshot_is_a_warning_only(size: int) -> None:
    found = check_bounds(_with(**{"retrieval.snapshot_size": size}))
    assert found.issues == []
    assert found.warnings == [("retrieval.snapshot_size", "snapshot_size is outside the usual 30 to 60")]


def test_every_value_that_is_out_of_bounds_is_told_at_once() -> None:
    found = check_bounds(_with(chunk_size=0, overlap_ratio=1, jaccard_threshold=0, prefix_policy="C"))
    assert [key for key, _ in found.issues] == ["chunk_size", "overlap_ratio", "jaccard_threshold", "prefix_policy"]


@given(
    st.integers(-2000, 2000), st.floats(allow_nan=True), st.floats(allow_nan=True), st.sampled_from(["A", "B", "C", "AB"])
)
@settings(deadline=None, derandomize=True, max_examples=120)
def test_what_is_allowed_is_within_every_cap(size: int, overlap: float, jaccard: float, policy: str) -> None:
    values = _with(chunk_size=size, overlap_ratio=overlap, jaccard_threshold=jaccard, prefix_policy=policy)
    before = copy.deepcopy(values)
    within = size in range(16, 1001) and 0 <= overlap <= 0.5 and 0.5 <= jaccard <= 1 and policy in ("A", "B")
    assert (not check_bounds(values).issues) == within
    assert repr(values) == repr(before)


@pytest.mark.parametrize(
    ("chunk_size", "reads", "over"),
    [
        # a chunk, 48 tokens of prefix and 2 special ones: 974 + 50 = 1024, 462 + 50 = 512
        (974, 1024, None),
        (975, 1024, "1025 tokens) is over the budget of 1024"),
        (975, 8192, "1025 tokens) is over the budget of 1024"),
        (974, 1_000_000, None),
        (462, 512, None),
        (463, 512, "513 tokens) is over the 512 that the embedder reads"),
        (450, 256, "500 tokens) is over the 256 that the embedder reads"),
    ],
)
def test_a_chunk_with_its_prefix_must_fit_what_the_embedder_reads(chunk_size: int, reads: int, over: str | None) -> None:
    told = check_token_budget(chunk_size, reads)
    assert told is None if over is None else told is not None and over in told


def _with(**changes: Any) -> dict[str, Any]:
    values = copy.deepcopy(_SOUND)
    for dotted, value in changes.items():
        head, _, rest = dotted.partition(".")
        if rest:
            values[head][rest] = value
        else:
            values[head] = value
    return values
