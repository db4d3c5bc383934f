"""The plot of a search: every trial by quality and latency, and by quality and index size. Deterministic."""

from __future__ import annotations

from collections.abc import Mapping

from lib.release import plots
from lib.release.optimizing import Outcome
from lib.release.optimizing_study import Trial

_INK, _PALE, _GRID, _LIMIT = "#14532d", "#a1a1aa", "#d4d4d8", "#52525b"


def pareto_svg(quality: str, limits: Mapping[str, float], found: Outcome) -> str:
    """SVG text. A front over three objectives is drawn twice: what seems beaten in one panel is not in the other."""
    figure, panels = plots.new_figure(8.0, 8.0, 2)
    measured = [trial for trial in found.trials if trial.objectives]
    front = {trial.number for trial in found.front}
    for axes, place, label in zip(
        panels, (1, 2), ("latency beside the candidate's (ratio)", "index size (MB)"), strict=True
    ):
        for trial in measured:
            x, y = _at(trial, place)
            if trial.number in front:
                axes.plot([x], [y], _marker(found, trial), color=_INK, markersize=_size(found, trial), zorder=3)
            else:
                face = _PALE if trial.number else "white"
                axes.plot([x], [y], _marker(found, trial), color=_PALE, markerfacecolor=face, markersize=5, zorder=2)
        axes.axvline(_limit(limits, found, place), color=_LIMIT, linestyle=(0, (3, 3)), linewidth=0.8)
        for text, trials in _labels(found, place).items():
            axes.annotate(text, trials, textcoords="offset points", xytext=(6, 5), fontsize=7, color=_INK)
        axes.margins(x=0.08, y=0.1)
        axes.set_ylabel(quality)
        axes.set_xlabel(label)
        axes.grid(color=_GRID, linewidth=0.5)
    panels[0].set_title(
        "dark: the front · pale: beaten by another trial · diamond: the candidate · star: the winner · dashed: its limit",
        loc="left",
        fontsize=8,
    )
    return plots.to_svg(figure, "pareto")


def _at(trial: Trial, place: int) -> tuple[float, float]:
    assert trial.objectives is not None
    return (trial.objectives[place] / (1e6 if place == 2 else 1), trial.objectives[0])


def _limit(limits: Mapping[str, float], found: Outcome, place: int) -> float:
    """What the winner may not be beyond, on a panel's own scale."""
    return limits["latency_ratio"] if place == 1 else limits["index_ratio"] * _at(found.trials[0], place)[0]


def _marker(found: Outcome, trial: Trial) -> str:
    if trial.number == 0:
        return "D"
    return "*" if found.winner and found.winner.number == trial.number else "o"


def _size(found: Outcome, trial: Trial) -> float:
    return 12 if _marker(found, trial) == "*" else 6


def _labels(found: Outcome, place: int) -> dict[str, tuple[float, float]]:
    """Numbers of the front's trials and the base's at their places; those of one place share a label."""
    at: dict[tuple[float, float], list[str]] = {}
    for trial in [found.trials[0], *(trial for trial in found.front if trial.number)]:
        at.setdefault(_at(trial, place), []).append(str(trial.number) if trial.number else "candidate")
    return {", ".join(names): where for where, names in at.items()}
