"""Plots: the same numbers give the same bytes, and words stay words."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from lib.release import plots

METRICS = [
    {"metric": "recall", "value": 0.7, "baseline": 0.6, "floor": 0.45, "ceiling": None, "status": "PASS"},
    {"metric": "hallucination", "value": 0.4, "baseline": None, "floor": None, "ceiling": 0.3, "status": "FAIL"},
]


def test_equal_metrics_give_equal_bytes():
    assert plots.metrics_svg(METRICS) == plots.metrics_svg([dict(item) for item in METRICS])
    assert plots.metrics_svg(METRICS) != plots.metrics_svg([{**METRICS[0], "value": 0.2}, METRICS[1]])


def test_equal_timings_give_equal_bytes_and_name_every_step_with_its_seconds():
    timings = [("ingest", 12.34), ("evaluate", 56.78)]
    assert plots.timings_svg(timings) == plots.timings_svg(list(timings))
    found = words(plots.timings_svg(timings))
    assert {"ingest", "evaluate", "12.3 s", "56.8 s"} <= set(found)


def test_every_rate_is_named_and_a_count_is_not_drawn_as_a_rate():
    snapshot = {**METRICS[0], "metric": "avg_snapshot_size", "value": 45.0}
    found = words(plots.metrics_svg([*METRICS, snapshot]))
    assert {"recall", "hallucination"} <= set(found)
    assert "avg_snapshot_size" not in found


@pytest.mark.parametrize("metrics", [[], [{**METRICS[0], "value": None}]])
def test_without_a_value_there_is_no_plot(metrics):
    assert plots.metrics_svg(metrics) == ""


def test_a_plot_is_one_svg_element_hidden_from_screen_readers():
    root = ElementTree.fromstring(plots.metrics_svg(METRICS))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("aria-hidden"), root.get("focusable")) == ("true", "false")


def test_a_name_cannot_bring_markup_into_a_plot():
    svg = plots.timings_svg([("<script>alert(1)</script>", 1.0)])
    assert "<script" not in svg
    assert "<script>alert(1)</script>" in words(svg)


def words(svg: str) -> list[str]:
    """The texts in an SVG, stripped."""
    return [element.text.strip() for element in ElementTree.fromstring(svg).iter() if element.text and element.text.strip()]
