"""Plots: the forest of paired differences as coordinates for a page, the history as SVG text. Deterministic."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.release.tables import status_of

WIDTH = 240  # of a row's drawing, in its own units
_PAD = 10
_INK, _GRID, _BAD, _BREAK = "#14532d", "#d4d4d8", "#b91c1c", "#52525b"
_SALT = "golive"
_ID = re.compile(r'(\bid="|href="#|url\(#)')
# A status has a shape of its own, so that none depends on colour.
SHAPES = {
    "PASS": "circle",
    "warning": "triangle",
    "INCONCLUSIVE": "diamond",
    "ERROR": "square",
    "FAIL": "cross",
    "better": "circle",
    "same": "diamond",
    "worse": "cross",
}


@dataclass(frozen=True)
class ForestRow:
    """x of one metric's interval, mean and margin tick; ``shape`` by its status."""

    low: float
    mean: float
    high: float
    margin: float | None
    shape: str


@dataclass(frozen=True)
class Forest:
    """Differences on one scale: x of zero, the scale's ends as numbers, and a row a metric that has a difference."""

    zero: float
    least: float
    most: float
    rows: dict[str, ForestRow]


@dataclass(frozen=True)
class LevelRow:
    """x of a rate and of its limits on the scale 0 to 1; for releases that are compared with nothing."""

    value: float
    floor: float | None
    ceiling: float | None
    shape: str


def forest(metrics: Sequence[Mapping[str, Any]]) -> Forest | None:
    """The coordinates of all differences; None where there is none."""
    drawn = [item for item in metrics if item.get("difference")]
    if not drawn:
        return None
    ends = [0.0]
    for item in drawn:
        ends += [item["difference"]["low"], item["difference"]["high"]]
        ends += [-item["margin"]] if item.get("margin") is not None else []
    least, most = min(ends), max(ends)
    if most - least <= 0:
        least, most = -0.01, 0.01

    def x(value: float) -> float:
        return round(_PAD + (value - least) / (most - least) * (WIDTH - 2 * _PAD), 1)

    rows = {
        item["metric"]: ForestRow(
            low=x(item["difference"]["low"]),
            mean=x(item["difference"]["mean"]),
            high=x(item["difference"]["high"]),
            margin=None if item.get("margin") is None else x(-item["margin"]),
            shape=SHAPES[status_of(item)],
        )
        for item in drawn
    }
    return Forest(x(0.0), least, most, rows)


def levels(metrics: Sequence[Mapping[str, Any]]) -> dict[str, LevelRow]:
    """Metric → coordinates, for those that lie between 0 and 1."""

    def x(value: float | None) -> float | None:
        return None if value is None else round(_PAD + value * (WIDTH - 2 * _PAD), 1)

    return {
        item["metric"]: LevelRow(x(item["value"]) or 0.0, x(item["floor"]), x(item["ceiling"]), SHAPES[status_of(item)])
        for item in metrics
        if item["value"] is not None and 0 <= item["value"] <= 1
    }


def history_svg(metrics: Sequence[str], points: Sequence[Mapping[str, Any]]) -> str:
    """A panel a metric over the verdicts in their order.

    A line joins neighbours that can be compared and both have a value; an upright dashed line stands where the cases or
    the judge changed. Circle: PASS; cross: anything else.

    Args:
        points: each with ``label``, ``passed``, ``comparable`` (with the point before it) and ``metrics``.
    """
    figure, panels = new_figure(max(6.0, 0.7 * len(points) + 2.5), 1.5 * len(metrics) + 1.2, len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        values = [point["metrics"].get(metric) for point in points]
        for place, point in enumerate(points):
            value = values[place]
            if place and not point["comparable"]:
                axes.axvline(place - 0.5, color=_BREAK, linestyle=(0, (3, 3)), linewidth=0.8)
            before = values[place - 1] if place else None
            if value is not None and before is not None and point["comparable"]:
                axes.plot([place - 1, place], [before, value], color=_INK, linewidth=1.2, zorder=2)
            if value is not None:
                marker, colour = ("o", _INK) if point["passed"] else ("X", _BAD)
                axes.plot([place], [value], marker, color=colour, markersize=6, zorder=3)
        known = [value for value in values if value is not None]
        if known and min(known) >= 0 and max(known) <= 1:
            axes.set_ylim(-0.05, 1.05)
        axes.set_xlim(-0.6, len(points) - 0.4)
        axes.set_title(metric if known else f"{metric} (never measured)", loc="left", fontsize=9)
        axes.grid(axis="y", color=_GRID, linewidth=0.5)
        axes.set_xticks(range(len(points)), [""] * len(points))
    panels[-1].set_xticks(range(len(points)), [point["label"] for point in points], rotation=40, ha="right", fontsize=7)
    panels[-1].set_xlabel("circle: PASS · cross: not passed · dashed: other cases or another judge from here on")
    return to_svg(figure, "history")


def new_figure(width: float, height: float, panels: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": _SALT, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(panels, squeeze=False)[:, 0]
    for panel in axes:
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure, axes


def to_svg(figure: Any, name: str) -> str:
    """The figure's ``<svg>`` element, its ids prefixed with ``name``."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), facecolor="white")
    text = _ID.sub(rf"\1{name}-", stream.getvalue())
    return text[text.index("<svg") :].rstrip() + "\n"
