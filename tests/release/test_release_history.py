"""The history says which numbers can be compared and which cannot, and has gaps where nothing was measured."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lib.release import history
from lib.release.history import points_of
from tests.release.staged import write_verdict


def verdict(number, cases="c1", **metrics):
    return {
        "release_id": f"2026-01-0{number}-000000-v1-aaaaaaaa",
        "verdict": "PASS",
        "cases_digest": cases,
        "verdict_digest": "d",
        "baseline": None,
        "metrics": metrics or {"recall": 0.5},
        "decided_at": datetime(2026, 1, number, tzinfo=UTC),
        "state": "sealed",
    }


@pytest.mark.parametrize(
    ("cases", "judges", "changed"),
    [
        (("c1", "c1"), ("lexical", "lexical"), ()),
        (("c1", "c2"), ("lexical", "lexical"), ("other cases",)),
        (("c1", "c1"), ("lexical", "bedrock"), ("another reader or judge",)),
        (("c1", "c1"), (None, None), ("reader and judge not known",)),
        (("c1", "c2"), ("lexical", None), ("other cases", "reader and judge not known")),
    ],
)
def test_what_changed_between_two_verdicts_is_marked(cases, judges, changed):
    first, second = points_of([verdict(1, cases[0]), verdict(2, cases[1])], judges)
    assert first.comparable
    assert second.changed == changed
    assert second.comparable == (not changed)


def test_a_metric_that_was_not_measured_is_a_gap():
    points = points_of([verdict(1, recall=0.5), verdict(2, recall=None), verdict(3)], ["j"] * 3)
    points[2].metrics.clear()
    lines = history.to_text(points, ["recall"]).split("\n")
    assert [line.split()[-1] for line in lines] == ["recall", "0.500", "-", "-"]
    assert history.named(points, []) == ["recall"]


def test_a_line_stands_where_numbers_stop_being_comparable():
    lines = history.to_text(points_of([verdict(1), verdict(2, "c2")], ["j", "j"]), ["recall"]).split("\n")
    assert lines[2] == "-- not comparable with the lines above: other cases"


def test_nothing_decided_yet_is_said():
    assert "no verdict" in history.to_text([], [])


def test_the_plot_joins_only_what_can_be_compared():
    joined = history.svg(points_of([verdict(1), verdict(2)], ["j", "j"]), ["recall"])
    parted = history.svg(points_of([verdict(1), verdict(2, "c2")], ["j", "j"]), ["recall"])
    assert "stroke-dasharray" not in joined
    assert "stroke-dasharray" in parted
    assert joined == history.svg(points_of([verdict(1), verdict(2)], ["j", "j"]), ["recall"])


def test_verdicts_are_read_from_the_database_with_their_judge(second):
    first = second.live_id()
    points = history.read(second.workspace, second.connection)
    assert [point.release_id for point in points] == [first, second.release().release_id]
    assert all(point.judge and point.judge.startswith("judge lexical, reader extractive, settings ") for point in points)
    assert points[1].comparable
    assert points[1].baseline == first
    assert points[0].metrics["oracle_hit_rate"] == 0.9
    write_verdict(second, "FAIL", oracle_hit_rate=0.1)
    points = history.read(second.workspace, second.connection)
    assert [point.verdict for point in points] == ["PASS", "PASS", "FAIL"]
    assert points[1].judge is None, "verdict.json is that of a later verdict now"
    assert points[2].changed == ("reader and judge not known",)
