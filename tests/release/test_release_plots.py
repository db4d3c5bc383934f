"""Plots: places on one scale, a shape for each status, and the same numbers give the same bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from lib.release import plots


def metric(name, status="PASS", low=None, high=None, **more):
    difference = None if low is None else {"mean": (low + high) / 2, "low": low, "high": high}
    return {
        "metric": name,
        "status": status,
        "value": 0.5,
        "floor": None,
        "ceiling": None,
        "margin": None,
        "difference": difference,
        **more,
    }


def test_all_differences_share_one_scale_with_zero_and_the_margins_on_it():
    found = plots.forest([metric("a", low=-0.2, high=0.0), metric("b", low=0.1, high=0.3, margin=0.1), metric("c")])
    assert found is not None
    assert (found.least, found.most) == (-0.2, 0.3)
    assert set(found.rows) == {"a", "b"}
    left, right = found.rows["a"].low, found.rows["b"].high
    assert (left, right) == (10.0, 230.0)
    assert found.zero == found.rows["a"].high == pytest.approx(left + (right - left) * 0.4, abs=0.1)
    assert found.rows["b"].margin == pytest.approx(left + (right - left) * 0.2, abs=0.1)
    assert found.rows["b"].low < found.rows["b"].mean < found.rows["b"].high


def test_without_a_difference_there_is_no_forest_and_equal_values_still_have_a_place():
    assert plots.forest([metric("a")]) is None
    found = plots.forest([metric("a", low=0.0, high=0.0)])
    assert found is not None
    assert found.rows["a"].mean == found.zero == 120.0


def test_every_status_has_a_shape_of_its_own():
    shapes = [
        plots.levels([metric("a", status, level=level)])["a"].shape
        for status, level in (
            ("PASS", "block"),
            ("FAIL", "warn"),
            ("INCONCLUSIVE", "block"),
            ("ERROR", "block"),
            ("FAIL", "block"),
        )
    ]
    assert len(set(shapes)) == len(shapes)


def test_a_level_is_a_rate_with_its_limits():
    rows = plots.levels([metric("a", floor=0.0, ceiling=1.0), metric("b", value=45.0), metric("c", value=None)])
    assert rows == {"a": plots.LevelRow(value=120.0, floor=10.0, ceiling=230.0, shape="circle")}


def test_the_history_has_a_panel_a_metric_and_keeps_words_as_words():
    points = [
        {"label": f"<b>{n}</b>", "passed": n != 1, "comparable": True, "metrics": {"recall": value}}
        for n, value in enumerate((0.5, None, 0.7))
    ]
    text = plots.history_svg(["recall", "f1"], points)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {element.text.strip() for element in root.iter() if element.text and element.text.strip()}
    assert {"recall", "f1 (never measured)", "<b>0</b>"} <= words
    assert text == plots.history_svg(["recall", "f1"], points)
