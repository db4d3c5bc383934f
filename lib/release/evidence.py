"""Reading what evaluations left below ``metrics/golive/``: for reports, comparisons and the history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.evaluation import cases as case_files
from lib.evaluation import results
from lib.platform.errors import GoliveError
from lib.platform.files import read_json
from lib.platform.workspace import Workspace
from lib.release.case_changes import Side

VERDICT_FIELDS = {"verdict", "reasons", "warnings", "metrics", "cases", "produced_by", "baseline_release"}
_RUN_FIELDS = {"steps", "finished_at"}


def read_object(path: Path, fields: set[str]) -> dict[str, Any] | None:
    """The file's object, where it is one that has these fields."""
    try:
        found = read_json(path, "evidence")
    except GoliveError:
        return None
    return found if isinstance(found, dict) and fields <= found.keys() else None


def run_of(folder: Path) -> dict[str, Any] | None:
    """The last run of ``make golive`` on a release; None where it was evaluated again since: that run is history."""
    run = read_object(folder / "run.json", _RUN_FIELDS)
    evaluated = read_object(folder / "receipts" / "evaluate.json", {"finished_at"})
    if run and evaluated and str(evaluated["finished_at"]) > str(run["finished_at"]):
        return None
    return run


def read_side(folder: Path) -> Side | None:
    """A whole evaluation with its labels; None where there is none. Without readable labels, the rows alone."""
    try:
        evaluation = results.read(folder)
    except GoliveError:
        return None
    return Side(evaluation, _labels(folder / "ragchecker.json"))


def baseline_side(workspace: Workspace, verdict: Mapping[str, Any]) -> Side | None:
    """The evaluation that a verdict compared with: in the baseline's own evidence, else beside the verdict.

    None too where what is found there was since measured on other cases, by another judge, or gives other means.
    """
    release_id = verdict.get("baseline_release")
    if not release_id:
        return None
    means = {item["metric"]: item["baseline"] for item in verdict["metrics"]}
    for folder in (workspace.evidence(verdict["release_id"]) / "baseline", workspace.evidence(release_id) / "evaluation"):
        side = read_side(folder)
        if side is None or side.release_id != release_id:
            continue
        inputs, measured = side.evaluation.summary["inputs"], side.evaluation.summary["metrics"]
        same_cases = inputs.get("cases_digest") == verdict["inputs"].get("cases_digest")
        if same_cases and all(measured.get(name) == mean for name, mean in means.items() if mean is not None):
            return side
    return None


def sides_of(workspace: Workspace, release_id: str) -> list[Side]:
    """Every evaluation of a release that stands: its own, and those made when it was somebody's baseline."""
    root = workspace.evidence(release_id).parent
    folders = [workspace.evidence(release_id) / "evaluation", *sorted(root.glob("*/baseline"), reverse=True)]
    sides = [side for folder in folders if (side := read_side(folder)) is not None]
    return [side for side in sides if side.release_id == release_id]


def gold_of(workspace: Workspace, cases_file: str, cases_digest: str) -> dict[str, list[tuple[str, str]]]:
    """``query_id`` → (document, quote); empty where the file is gone or is no longer the one that was judged by."""
    try:
        found = case_files.load(workspace.root / cases_file)
    except GoliveError:
        return {}
    if found.digest != cases_digest:
        return {}
    return {case.query_id: [(gold.doc_id, gold.quote) for gold in case.gold] for case in found.cases}


def _labels(path: Path) -> dict[str, dict[str, Any]]:
    found = read_object(path, {"results"})
    rows = found["results"] if found else []
    if not isinstance(rows, list):
        return {}
    return {row["query_id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("query_id"), str)}
