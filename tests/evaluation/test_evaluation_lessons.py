"""Lessons: where cases were lost, and what is advised."""

from __future__ import annotations

from typing import Any

import pytest

from lib.evaluation.attribution import LABELS
from lib.evaluation.lessons import SCOPES, learn


def test_the_largest_loss_decides_the_advice():
    found = learn([("p", lost("filter", "filter", "reader", None))], "global")
    assert found["lost"] == counts(filter=2, reader=1)
    assert len(found["advice"]) == 1 and "filter.max_chunks" in found["advice"][0]


@pytest.mark.parametrize(
    ("label", "setting"),
    [
        ("missing document", "sources"),
        ("deduplication", "jaccard_threshold"),
        ("chunk boundary", "chunk_size"),
        ("approximate index", "hnsw_ef_search"),
        ("ranking", "retrieval.snapshot_size"),
        ("filter", "filter.max_tokens"),
        ("reader", "prompt or model"),
        ("unknown", "lost_detail"),
    ],
)
def test_the_advice_follows_the_label(label, setting):
    assert setting in learn([("p", lost(label))], "global")["advice"][0]


def test_a_row_without_a_label_is_known_by_its_stage_alone():
    rows = [stage_row("a", (0, 0, 0)), stage_row("b", (1, 0, 0)), stage_row("c", (1, 1, 0)), stage_row("d", (1, 1, 1))]
    assert learn([("p", rows)], "global")["lost"] == counts(unknown=1, filter=1, reader=1)


def test_nothing_lost_or_nothing_seen_gives_no_advice():
    for seen in ([], [("p", [])], [("p", lost(None, None))]):
        found = learn(seen, "global")
        assert found["lost"] == counts()
        assert found["advice"] == []
        assert found["evaluations"] == len(seen)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_lesson_says_its_scope(scope):
    assert learn([], scope)["scope"] == scope


def test_profile_looks_at_the_newest_ones_kind_of_config_alone():
    seen = [
        ("old", lost("ranking", "ranking")),
        ("new", lost("filter")),
        ("old", lost("reader")),
        ("new", lost("filter")),
    ]
    found = learn(seen, "profile")
    assert (found["evaluations"], found["lost"]) == (2, counts(filter=2))
    assert learn(seen, "global")["lost"] == counts(ranking=2, filter=2, reader=1)


def test_case_names_those_that_every_evaluation_lost_with_the_newest_stage():
    first = [row("a", "ranking"), row("b", "filter"), row("c", None), row("d", "reader")]
    second = [row("a", "reader"), row("b", None), row("c", "filter"), row("d", "reader")]
    found = learn([("p", first), ("q", second)], "case")["cases"]
    assert list(found) == ["a", "d"]
    assert (found["a"]["lost_at"], found["a"]["times"]) == ("reader", 2)
    assert "prompt or model" in found["a"]["advice"]


def test_only_the_case_scope_names_cases():
    assert "cases" not in learn([("p", lost("filter"))], "profile")
    assert "cases" not in learn([("p", lost("filter"))], "global")


def counts(**found: int) -> dict[str, int]:
    return {label: found.get(label, 0) for label in LABELS}


def row(query_id: str, label: str | None) -> dict[str, Any]:
    return {"query_id": query_id, "answerable": True, "lost_at": label}


def stage_row(query_id: str, hits: tuple[int, int, int]) -> dict[str, Any]:
    """As an older Golive wrote it."""
    names = ("oracle_hit", "filter_hit", "reader_gold_usage")
    return {"query_id": query_id, "answerable": True, "metrics": dict(zip(names, map(float, hits), strict=True))}


def lost(*labels: str | None) -> list[dict[str, Any]]:
    return [row(f"q{place}", label) for place, label in enumerate(labels)]
