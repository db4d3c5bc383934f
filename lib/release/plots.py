"""Plots as SVG text: deterministic, with text kept as text, to be put into a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

_INK, _OTHER, _GRID = "#14532d", "#b45309", "#d4d4d8"
_BAD = "#b91c1c"
_SALT = "golive"
_ID = re.compile(r'(\bid="|href="#|url\(#)')


def metrics_svg(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Each rate with its baseline (hollow), its limits (ticks) and its status by the marker's shape."""
    rates = [item for item in metrics if item["value"] is not None and 0 <= item["value"] <= 1]
    if not rates:
        return ""
    figure, axes = _figure(7.2, 0.34 * len(rates) + 0.9)
    for place, item in enumerate(reversed(rates)):
        good = item["status"] == "PASS"
        axes.plot([0, 1], [place, place], color=_GRID, linewidth=0.6, zorder=1)
        for limit in (item["floor"], item["ceiling"]):
            if limit is not None:
                axes.plot([limit, limit], [place - 0.3, place + 0.3], color=_OTHER, linewidth=2, zorder=2)
        if item["baseline"] is not None:
            axes.plot(
                [item["baseline"]], [place], "o", markerfacecolor="white", markeredgecolor=_INK, markersize=8, zorder=3
            )
        axes.plot(
            [item["value"]],
            [place],
            "o" if good else "X",
            color=_INK if good else _BAD,
            markersize=6 if good else 8,
            zorder=4,
        )
    axes.set_yticks(range(len(rates)), [item["metric"] for item in reversed(rates)])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("filled: this release, hollow: baseline, upright tick: floor or ceiling, cross: missed")
    return _svg(figure, "metrics")


def timings_svg(timings: Sequence[tuple[str, float]]) -> str:
    """Seconds a step, longest at its place in the order."""
    figure, axes = _figure(7.2, 0.32 * len(timings) + 0.8)
    names = [name for name, _ in reversed(timings)]
    values = [seconds for _, seconds in reversed(timings)]
    axes.barh(range(len(names)), values, color=_INK, height=0.6)
    for place, seconds in enumerate(values):
        axes.text(seconds, place, f" {seconds:.1f} s", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, max(values) * 1.15)
    axes.set_xlabel("seconds")
    return _svg(figure, "timings")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": _SALT, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    """The figure's ``<svg>`` element, its ids prefixed with ``name`` because several plots share a page.

    It is hidden from screen readers: a table beside it says the same.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True)
    text = _ID.sub(rf"\1{name}-", stream.getvalue())
    return text[text.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
