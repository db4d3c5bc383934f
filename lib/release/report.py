"""The report of a release: report.html for people, report.md for a pull request, junit.xml for CI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.index.releases import Release, find_release, get_release, read_pointer
from lib.platform.clock import timestamp
from lib.platform.errors import redactor
from lib.platform.files import write_text
from lib.platform.workspace import Workspace
from lib.release import case_changes, comparing, evidence, exports, pages, plots, receipts, tables
from lib.release.case_changes import CaseChange, Cut, Piece, Side

FILES = ("report.html", "report.md", "junit.xml")
_LARGEST_PAGE = 900_000  # bytes for 200 cases; passages and answers are cut shorter where a page would be larger
_ROOMS = (case_changes.ROOM, 60, 20)
_LONGEST_MARKDOWN = 65_000  # GitHub takes comments of 65,536 characters
_LISTED = (20, 10, 5, 2, 0)  # cases and reasons in Markdown: the first number that fits


@dataclass(frozen=True)
class _Page:
    """What the templates are given."""

    folder: Path
    release: Release
    live: str | None
    generation: int
    baseline: Release | None
    verdict: dict[str, Any] | None
    receipts: dict[str, receipts.Receipt | None]
    run: dict[str, Any]
    evaluated: _Evaluated | None
    cases: list[CaseChange]


def write(workspace: Workspace, connection: Connection, release_id: str) -> Path:
    """Writes ``report.html`` of a release from its evidence, and ``report.md`` and ``junit.xml`` beside it.

    What is not there yet is left out and said so. Returns the path of the page.
    """
    page = _gather(workspace, connection, release_id)
    for room in _ROOMS:
        page = replace(page, cases=page.evaluated.cases(room) if page.evaluated else [])
        text = pages.render_html("report.html.j2", **_values(page))
        if len(text.encode()) <= _LARGEST_PAGE * max(1.0, len(page.cases) / 200):
            break
    folder = page.folder
    write_text(folder / "report.md", _markdown(_values(page)))
    write_text(folder / "junit.xml", exports.junit(release_id, page.verdict, page.run.get("steps", [])))
    write_text(folder / "report.html", text)
    return folder / "report.html"


def comparison_page(found: comparing.Comparison) -> str:
    """A page of two releases side by side."""
    return pages.render_html(
        "compare.html.j2",
        found=found,
        forest=plots.forest(found.metrics),
        moves=case_changes.count_moves(found.cases),
        written_at=timestamp(),
    )


def _gather(workspace: Workspace, connection: Connection, release_id: str) -> _Page:
    folder = workspace.evidence(release_id)
    verdict = evidence.read_object(folder / "verdict.json", exports.VERDICT_FIELDS)
    with connection:
        release = get_release(connection, release_id)
        pointer = read_pointer(connection)
        baseline_id = verdict.get("baseline_release") if verdict else None
        baseline = find_release(connection, baseline_id) if baseline_id else _live_before(connection, release_id)
    names = ("ingest", "manifest", "health", "evaluate", "backup", "validate", "promote")
    return _Page(
        folder=folder,
        release=release,
        live=pointer.release.release_id if pointer.release else None,
        generation=pointer.generation,
        baseline=baseline,
        verdict=verdict,
        receipts={name: receipts.read(workspace, release_id, name) for name in names},
        run=evidence.read_object(folder / "run.json", {"steps"}) or {},
        evaluated=_evaluated(workspace, folder, verdict),
        cases=[],
    )


def _live_before(connection: Connection, release_id: str) -> Release | None:
    """The release that was live when there is no verdict that names it."""
    live = read_pointer(connection).release
    return live if live and live.release_id != release_id else None


@dataclass(frozen=True)
class _Evaluated:
    """The evaluation that the verdict is about, with that of the baseline and the gold of the cases where they stand."""

    candidate: Side
    baseline: Side | None
    gold: dict[str, list[tuple[str, str]]]

    def cases(self, room: int) -> list[CaseChange]:
        return case_changes.changes_of(self.candidate, self.baseline, self.gold, Cut(room, redactor()))


def _evaluated(workspace: Workspace, folder: Path, verdict: dict[str, Any] | None) -> _Evaluated | None:
    candidate = evidence.read_side(folder / "evaluation")
    if candidate is None:
        return None
    if verdict is None or verdict.get("metrics_digest") != candidate.evaluation.digest:
        return _Evaluated(candidate, None, {})
    gold = evidence.gold_of(workspace, verdict["cases_file"], candidate.evaluation.summary["inputs"]["cases_digest"])
    return _Evaluated(candidate, evidence.baseline_side(workspace, verdict), gold)


def _values(page: _Page) -> dict[str, Any]:
    """What the page and the Markdown are rendered from."""
    timings = [step for step in page.run.get("steps", []) if step["seconds"]]
    metrics = page.verdict["metrics"] if page.verdict else []
    then = page.baseline.locked_config if page.baseline else None
    return {
        "page": page,
        "state": _state(page),
        "changes": comparing.settings_changes(page.release.locked_config, then),
        "forest": plots.forest(metrics),
        "levels": plots.levels(metrics),
        "status_of": tables.status_of,
        "cases": page.cases,
        "compared": page.evaluated is not None and page.evaluated.baseline is not None,
        "moves": case_changes.count_moves(page.cases),
        "deciding": case_changes.DECIDING,
        "timings": timings,
        "total_s": sum(step["seconds"] for step in timings),
        "ingest": {
            name: seconds
            for name in ("plan_s", "load_model_s", "embed_s", "index_s", "seal_s")
            if (seconds := page.release.ingest_stats.get(name)) is not None
        },
        "written_at": timestamp(),
    }


def _markdown(values: dict[str, Any]) -> str:
    """The Markdown with as many cases as fit into a comment."""
    cases: list[CaseChange] = values["cases"]
    top = [case for case in cases if case.move in ("worse", "unscored") or (case.move == "new" and case.lost_at)]
    text = ""
    for listed in _LISTED:
        text = pages.render_markdown("report.md.j2", **values, top=top, listed=listed, plain=_plain, stage=_stage)
        if len(text) <= _LONGEST_MARKDOWN:
            break
    return text


def _plain(pieces: Sequence[Piece]) -> str:
    return "".join(f" […{piece.text}…] " if piece.kind == "gap" else piece.text for piece in pieces) or "no answer"


def _stage(name: str | None) -> str:
    return f"lost at {name}" if name else "answer used its evidence"


def _state(page: _Page) -> dict[str, str]:
    """The first line of the report: is it live, and if not, why."""
    verdict = page.verdict["verdict"] if page.verdict else None
    if page.live == page.release.release_id:
        return {"word": "LIVE", "kind": "good", "why": f"answers queries since generation {page.generation} of the pointer"}
    if page.release.state in ("retired", "rolled_back"):
        word, why = page.release.state.replace("_", " "), f"was live; {page.live} answers queries since"
        return {"word": word.upper(), "kind": "bad", "why": why}
    stopped = next((step for step in page.run.get("steps", []) if step["state"] == "stopped here"), None)
    if verdict in ("FAIL", "INCONCLUSIVE", "ERROR") and (stopped is None or stopped["name"] == "evaluate"):
        return {"word": verdict, "kind": "bad", "why": "not promoted; what was live still answers queries"}
    if stopped:
        return {
            "word": "STOPPED",
            "kind": "bad",
            "why": f"at the step {stopped['name']} (exit {stopped['exit_code']}); not promoted",
        }
    return {"word": "NOT LIVE", "kind": "bad", "why": "not promoted; what was live still answers queries"}
