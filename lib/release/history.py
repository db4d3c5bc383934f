"""Metrics over releases: every verdict in time order, with honest gaps, and marks where numbers cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.platform import postgres
from lib.platform.clock import timestamp
from lib.platform.files import digest_of, write_text
from lib.platform.workspace import Workspace
from lib.release import evidence, plots
from lib.release.tables import number, text_table

SHOWN = ("oracle_hit_rate", "filter_hit_rate", "claim_recall", "recall", "precision", "faithfulness", "answer_rate")


@dataclass(frozen=True)
class Point:
    """One verdict. ``comparable``: with the point before it; ``changed`` says what differs, or that nobody knows."""

    release_id: str
    decided_at: str
    verdict: str
    state: str
    baseline: str | None
    metrics: dict[str, float | None]
    cases_digest: str
    judge: str | None
    comparable: bool
    changed: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.release_id.rpartition("-")[0]


def read(workspace: Workspace, connection: Connection) -> list[Point]:
    """Every verdict of this database, oldest first."""
    with connection:
        rows = postgres.every(connection, postgres.read_sql(__file__, "verdict_history"))
    return points_of(rows, [_judge_of(workspace, row) for row in rows])


def points_of(rows: Sequence[Mapping[str, Any]], judges: Sequence[str | None]) -> list[Point]:
    """Verdicts as points; ``judges`` names who produced each one's numbers, None where that is not known. Pure."""
    points: list[Point] = []
    for place, (row, judge) in enumerate(zip(rows, judges, strict=True)):
        changed = []
        if place and row["cases_digest"] != rows[place - 1]["cases_digest"]:
            changed.append("other cases")
        if place and judge != judges[place - 1] and None not in (judge, judges[place - 1]):
            changed.append("another reader or judge")
        if place and None in (judge, judges[place - 1]):
            changed.append("reader and judge not known")
        points.append(
            Point(
                release_id=row["release_id"],
                decided_at=timestamp(row["decided_at"]),
                verdict=row["verdict"],
                state=row["state"],
                baseline=row["baseline"],
                metrics=dict(row["metrics"]),
                cases_digest=row["cases_digest"],
                judge=judge,
                comparable=not changed,
                changed=tuple(changed),
            )
        )
    return points


def _judge_of(workspace: Workspace, row: Mapping[str, Any]) -> str | None:
    """Who read, judged and measured, with the digest of their settings: from ``verdict.json`` where it is that verdict."""
    content = evidence.read_object(workspace.evidence(row["release_id"]) / "verdict.json", {"produced_by", "inputs"})
    if content is None or digest_of(content) != row["verdict_digest"]:
        return None
    made = ", ".join(f"{role} {name}" for role, name in sorted(content["produced_by"].items()))
    return f"{made}, settings {str(content['inputs'].get('settings_digest'))[:12]}"


def named(points: Sequence[Point], asked: Sequence[str]) -> list[str]:
    """The metrics to show: those asked for, else of the usual ones those that were ever measured."""
    return list(asked) or [name for name in SHOWN if any(point.metrics.get(name) is not None for point in points)]


def to_dict(points: Sequence[Point]) -> dict[str, Any]:
    return {"verdicts": [asdict(point) for point in points]}


def to_text(points: Sequence[Point], metrics: Sequence[str]) -> str:
    """The history for a terminal; a line of its own says where numbers cannot be compared with those above."""
    if not points:
        return "no verdict in this database yet: make golive"
    rows = [["decided", "release", "verdict", "state", *metrics]]
    for point in points:
        shown = [number(point.metrics.get(name)) for name in metrics]
        rows.append([point.decided_at, point.release_id, point.verdict, point.state, *shown])
    lines = text_table(rows).split("\n")
    found = [lines[0]]
    for point, line in zip(points, lines[1:], strict=True):
        if point.changed:
            found.append(f"-- not comparable with the lines above: {', '.join(point.changed)}")
        found.append(line)
    return "\n".join(found)


def svg(points: Sequence[Point], metrics: Sequence[str]) -> str:
    """The plot as an SVG document."""
    drawn = [
        {
            "label": point.label,
            "passed": point.verdict == "PASS",
            "comparable": point.comparable,
            "metrics": point.metrics,
        }
        for point in points
    ]
    return plots.history_svg(metrics, drawn)


def write_svg(path: Path, points: Sequence[Point], metrics: Sequence[str]) -> None:
    """Writes the plot as a file of its own."""
    write_text(path, svg(points, metrics))
