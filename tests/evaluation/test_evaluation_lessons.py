"""Lessons: where cases were lost, and what is advised."""

from __future__ import annotations

from typing import Any

import pytest

from lib.evaluation.lessons import SCOPES, learn, lost_at

LOST = {"retrieval": (0, 0, 0), "filter": (1, 0, 0), "reader": (1, 1, 0), None: (1, 1, 1)}


@pytest.mark.parametrize(
    ("hits", "stage"),
    [
        ((1, 1, 1), None),
        ((0, 0, 0), "retrieval"),
        ((1, 0, 0), "filter"),
        ((1, 1, 0), "reader"),
        ((0, 1, 1), "retrieval"),  # the first stage counts
        ((1, 0, 1), "filter"),
    ],
)
def test_a_case_is_lost_at_the_first_stage_that_missed(hits, stage):
    assert lost_at(row("q", hits)) == stage


def test_an_unanswerable_case_is_never_lost():
    assert lost_at({"query_id": "u", "answerable": False, "metrics": None}) is None


def test_the_largest_loss_decides_the_advice():
    found = learn([("p", lost("filter", "filter", "reader", None))], "global")
    assert found["lost"] == {"retrieval": 0, "filter": 2, "reader": 1}
    assert len(found["advice"]) == 1 and "filter.max_chunks" in found["advice"][0]
    assert "retrieval.snapshot_size" in learn([("p", lost("retrieval"))], "global")["advice"][0]
    assert "prompt or model" in learn([("p", lost("reader"))], "global")["advice"][0]


def test_nothing_lost_or_nothing_seen_gives_no_advice():
    for seen in ([], [("p", [])], [("p", lost(None, None))]):
        found = learn(seen, "global")
        assert found["lost"] == {"retrieval": 0, "filter": 0, "reader": 0}
        assert found["advice"] == []
        assert found["evaluations"] == len(seen)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_lesson_says_its_scope(scope):
    assert learn([], scope)["scope"] == scope


def test_profile_looks_at_the_newest_ones_kind_of_config_alone():
    seen = [
        ("old", lost("retrieval", "retrieval")),
        ("new", lost("filter")),
        ("old", lost("reader")),
        ("new", lost("filter")),
    ]
    found = learn(seen, "profile")
    assert (found["evaluations"], found["lost"]) == (2, {"retrieval": 0, "filter": 2, "reader": 0})
    assert learn(seen, "global")["lost"] == {"retrieval": 2, "filter": 2, "reader": 1}


def test_case_names_those_that_every_evaluation_lost_with_the_newest_stage():
    first = [row("a", LOST["retrieval"]), row("b", LOST["filter"]), row("c", LOST[None]), row("d", LOST["reader"])]
    second = [row("a", LOST["reader"]), row("b", LOST[None]), row("c", LOST["filter"]), row("d", LOST["reader"])]
    found = learn([("p", first), ("q", second)], "case")["cases"]
    assert list(found) == ["a", "d"]
    assert (found["a"]["lost_at"], found["a"]["times"]) == ("reader", 2)
    assert "prompt or model" in found["a"]["advice"]


def test_only_the_case_scope_names_cases():
    assert "cases" not in learn([("p", lost("filter"))], "profile")
    assert "cases" not in learn([("p", lost("filter"))], "global")


def row(query_id: str, hits: tuple[int, int, int]) -> dict[str, Any]:
    names = ("oracle_hit", "filter_hit", "reader_gold_usage")
    return {"query_id": query_id, "answerable": True, "metrics": dict(zip(names, map(float, hits), strict=True))}


def lost(*stages: str | None) -> list[dict[str, Any]]:
    return [row(f"q{place}", LOST[stage]) for place, stage in enumerate(stages)]
