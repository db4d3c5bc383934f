"""Guardrails: what is out of bounds or unhealthy is named, and no data is never healthy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lib.config.guardrails import check_retrieval_health, validate_config
from lib.config.locked_config import LockedConfig

Make = Callable[..., LockedConfig]


def test_a_sound_config_is_valid(make_config: Make) -> None:
    assert validate_config(make_config()) == {"valid": True, "issues": [], "warnings": []}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_size": 1001}, "chunk_size must be 16 to 1000 tokens, not 1001"),
        ({"overlap_ratio": 0.51}, "overlap_ratio must be 0 to 0.5, not 0.51"),
        ({"jaccard_threshold": 0.49}, "jaccard_threshold must be 0.5 to 1, not 0.49"),
        ({"prefix_policy": "C"}, "prefix_policy must be A or B, not 'C'"),
        ({"chunk_size": 463}, "513 tokens) is over the 512 that the embedder reads"),
        ({"is_locked": False}, "the config is not locked"),
    ],
)
def test_a_config_that_is_out_of_bounds_is_not_valid(changes: dict[str, Any], words: str, make_config: Make) -> None:
    found = validate_config(make_config(**changes))
    assert found["valid"] is False
    assert any(words in issue for issue in found["issues"])


def test_a_warning_leaves_a_config_valid(make_config: Make) -> None:
    config = make_config()
    small = make_config(
        retrieval=type(config.retrieval)(40, 40, 60, 29, "english", 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5)
    )
    assert validate_config(small) == {
        "valid": True,
        "issues": [],
        "warnings": ["snapshot_size is outside the usual 30 to 60"],
    }


def test_full_snapshots_of_clean_chunks_are_healthy(make_config: Make) -> None:
    assert check_retrieval_health(make_config(), [_result(30), _result(40)]) == {
        "healthy": True,
        "queries": 2,
        "bm25_prefix_leakage": 0,
        "over_budget_chunks": 0,
        "avg_snapshot_size": 35.0,
        "issues": [],
    }


def test_no_results_are_neither_healthy_nor_sick(make_config: Make) -> None:
    found = check_retrieval_health(make_config(), [])
    assert found["healthy"] is None
    assert found["avg_snapshot_size"] is None


def test_results_without_chunks_are_not_healthy(make_config: Make) -> None:
    found = check_retrieval_health(make_config(), [_result(0)])
    assert found["healthy"] is False
    assert found["issues"] == ["low retrieval snapshot size: 0.0 on average, 30 expected"]


@pytest.mark.parametrize(("sizes", "healthy"), [((30, 30), True), ((30, 29), False)])
def test_snapshots_hold_thirty_chunks_on_average(sizes: tuple[int, int], healthy: bool, make_config: Make) -> None:
    assert check_retrieval_health(make_config(), [_result(size) for size in sizes])["healthy"] is healthy


def test_one_leaking_chunk_is_found_under_policy_a_and_meant_under_policy_b(make_config: Make) -> None:
    leaking = _result(29)
    leaking["snapshot"].append({"bm25_text": "Document: x\ntext", "source_text": "text", "embedding_token_count": 5})
    found = check_retrieval_health(make_config(prefix_policy="A"), [leaking])
    assert (found["healthy"], found["bm25_prefix_leakage"]) == (False, 1)
    assert found["issues"] == ["BM25 prefix leakage in 1 chunks"]
    assert check_retrieval_health(make_config(prefix_policy="B"), [leaking])["healthy"] is True


@pytest.mark.parametrize(
    ("reads", "tokens", "over"),
    [(512, 510, 0), (512, 511, 1), (8192, 1022, 0), (8192, 1023, 1)],  # less 2 special tokens; 1024 at most
)
def test_a_chunk_that_the_embedder_would_cut_is_over_budget(reads: int, tokens: int, over: int, make_config: Make) -> None:
    config = make_config(embedder_max_sequence_length=reads)
    found = check_retrieval_health(config, [_result(29, tokens=5), _result(31, tokens=5), _result(30, tokens=tokens)])
    assert found["over_budget_chunks"] == over * 30
    assert found["healthy"] is not bool(over)


def _result(size: int, tokens: int = 100) -> dict[str, Any]:
    chunk = {"bm25_text": "text", "source_text": "text", "embedding_token_count": tokens}
    return {"snapshot": [dict(chunk) for _ in range(size)]}
