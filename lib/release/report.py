"""Reports of releases and of other systems: report.html for people, report.md for a pull request, junit.xml for CI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.index.releases import Release, find_release, get_release, read_pointer
from lib.platform.clock import timestamp
from lib.platform.errors import NotFound, redactor
from lib.platform.files import write_text
from lib.platform.workspace import Workspace
from lib.release import case_changes, comparing, evidence, excerpts, exports, judged, pages, plots, receipts
from lib.release.case_changes import CaseChange
from lib.release.excerpts import Piece
from lib.release.judged import Judged

FILES = ("report.html", "report.md", "junit.xml")
_LARGEST_PAGE = 900_000  # bytes for 200 cases; texts are cut shorter where a page would be larger
_ROOMS = (excerpts.ROOM, 60, 20, 8)
_LONGEST_MARKDOWN = 65_000  # GitHub takes comments of 65,536 characters
_LISTED = (20, 10, 5, 2, 0)  # cases and reasons in Markdown: the first number that fits
_STEPS = ("ingest", "manifest", "health", "evaluate", "backup", "validate", "promote")


@dataclass(frozen=True)
class _Page:
    """What only the report of a release has, beside its verdict."""

    release: Release
    live: str | None
    generation: int
    baseline: Release | None
    receipts: dict[str, receipts.Receipt | None]
    run: dict[str, Any]


def publish(workspace: Workspace, connection: Connection, release_id: str, *, quiet: bool = False) -> str:
    """Writes the report of a release and, under GitHub Actions, tells it there; returns where the page stands.

    Args:
        quiet: stdout belongs to a JSON document.
    """
    path = write(workspace, connection, release_id)
    exports.tell_github(path.parent, release_id, quiet=quiet)
    return workspace.show(path)


def publish_system(workspace: Workspace, folder: Path, *, quiet: bool = False) -> str:
    """As ``publish``, for the verdict on a system of one's own that stands in a folder."""
    path = write_system(workspace, folder)
    exports.tell_github(folder, judged.read_system(workspace, folder).name, quiet=quiet)
    return workspace.show(path)


def require_system(folder: Path) -> Path:
    """The folder, where a verdict on a system of one's own stands in it; raises NotFound where none does."""
    if evidence.read_object(folder / "verdict.json", {"baseline_folder"}) is None:
        raise NotFound(f"no verdict on a system in {folder}", hint="scripts/evaluate_system.py makes one")
    return folder


def write(workspace: Workspace, connection: Connection, release_id: str) -> Path:
    """Writes ``report.html`` of a release from its evidence, and ``report.md`` and ``junit.xml`` beside it.

    What is not there yet is left out and said so. Returns the path of the page.
    """
    found = judged.read_release(workspace, release_id)
    page = _gather(workspace, connection, found)
    return _write(found, _values(page, found), page.run.get("steps", []))


def write_system(workspace: Workspace, folder: Path) -> Path:
    """As ``write``, for the verdict on a system of one's own that stands in a folder; no database is asked."""
    found = judged.read_system(workspace, folder)
    return _write(found, {"page": None, "state": _state_of_system(found)}, [])


def comparison_page(found: comparing.Comparison) -> str:
    """A page of two releases side by side."""
    return pages.render_html(
        "compare.html.j2",
        found=found,
        forest=plots.forest(found.metrics),
        moves=case_changes.count_moves(found.cases),
        outcomes=judged.outcomes(found.cases),
        unanswerable=judged.unanswerable(found.cases),
        words_of=case_changes.words_of,
        written_at=timestamp(),
    )


def _write(found: Judged, values: dict[str, Any], steps: Sequence[dict[str, Any]]) -> Path:
    """Writes the three files; ``values`` are those that the judged thing itself does not have."""
    values = {**values, "written_at": timestamp()}
    clean = cache(redactor())  # each room asks for the same texts again
    for room in _ROOMS:
        shown = {**judged.values(found, found.cases(room, clean)), **values}
        text = pages.render_html("report.html.j2", **shown)
        if len(text.encode()) <= _LARGEST_PAGE * max(1.0, len(shown["cases"]) / 200):
            break
    write_text(found.folder / "report.md", _markdown(shown))
    write_text(found.folder / "junit.xml", exports.junit(found.name, found.verdict, steps))
    write_text(found.folder / "report.html", text)
    return found.folder / "report.html"


def _gather(workspace: Workspace, connection: Connection, found: Judged) -> _Page:
    with connection:
        release = get_release(connection, found.name)
        pointer = read_pointer(connection)
        baseline_id = found.verdict.get("baseline_release") if found.verdict else None
        baseline = find_release(connection, baseline_id) if baseline_id else _live_before(connection, found.name)
    return _Page(
        release=release,
        live=pointer.release.release_id if pointer.release else None,
        generation=pointer.generation,
        baseline=baseline,
        receipts={name: receipts.read(workspace, found.name, name) for name in _STEPS},
        run=evidence.run_of(found.folder) or {},
    )


def _live_before(connection: Connection, release_id: str) -> Release | None:
    """The release that was live when there is no verdict that names it."""
    live = read_pointer(connection).release
    return live if live and live.release_id != release_id else None


def _values(page: _Page, found: Judged) -> dict[str, Any]:
    """What the page and the Markdown of a release are rendered from, beside its verdict."""
    timings = _timings(page)
    then = page.baseline.locked_config if page.baseline else None
    return {
        "page": page,
        "state": _state(page, found),
        "changes": comparing.settings_changes(page.release.locked_config, then),
        "timings": timings,
        "total_s": sum(step["seconds"] for step in timings),
        "ingest": {
            name: seconds
            for name in ("plan_s", "load_model_s", "embed_s", "index_s", "seal_s")
            if (seconds := page.release.ingest_stats.get(name)) is not None
        },
    }


def _timings(page: _Page) -> list[dict[str, Any]]:
    """Seconds by step: of the last run, else of each step the last time that it was done."""
    if page.run:
        return [step for step in page.run["steps"] if step["seconds"]]
    done = ((name, receipt) for name, receipt in page.receipts.items() if receipt)
    return [{"name": name, "seconds": receipt.seconds} for name, receipt in done if receipt.seconds]


def _markdown(values: dict[str, Any]) -> str:
    """The Markdown with as many cases as fit into a comment."""
    cases: list[CaseChange] = values["cases"]
    top = [case for case in cases if case.move in ("worse", "unscored") or (case.move == "new" and not case.good)]
    text = ""
    for listed in _LISTED:
        text = pages.render_markdown("report.md.j2", **values, top=top, listed=listed, plain=_plain)
        if len(text) <= _LONGEST_MARKDOWN:
            break
    return text


def _plain(pieces: Sequence[Piece]) -> str:
    return "".join(f" […{piece.text}…] " if piece.kind == "gap" else piece.text for piece in pieces) or "no answer"


def _state(page: _Page, found: Judged) -> dict[str, str]:
    """The first line of a release's report: is it live, and if not, why."""
    verdict = found.verdict["verdict"] if found.verdict else None
    answers = f"{page.live} still answers queries" if page.live else "nothing is live yet"
    if page.live == page.release.release_id:
        why = f"answers queries since generation {page.generation} of the pointer"
        if verdict in (None, "PASS"):
            return {"word": "LIVE", "kind": "good", "why": why}
        return {"word": "LIVE", "kind": "bad", "why": f"{why}; its newest verdict is {verdict}"}
    if page.release.state in ("retired", "rolled_back"):
        word, why = page.release.state.replace("_", " "), f"was live; {page.live or 'nothing'} answers queries since"
        return {"word": word.upper(), "kind": "bad", "why": why}
    stopped = next((step for step in page.run.get("steps", []) if step["state"] == "stopped here"), None)
    if verdict in ("FAIL", "INCONCLUSIVE", "ERROR") and (stopped is None or stopped["name"] == "evaluate"):
        return {"word": verdict, "kind": "bad", "why": f"not promoted; {answers}"}
    if stopped:
        why = f"at the step {stopped['name']} (exit {stopped['exit_code']}); not promoted; {answers}"
        return {"word": "STOPPED", "kind": "bad", "why": why}
    return {"word": "NOT LIVE", "kind": "bad", "why": f"{'passed, ' if verdict == 'PASS' else ''}not promoted; {answers}"}


def _state_of_system(found: Judged) -> dict[str, str]:
    """The first line of the report of a system of one's own."""
    if found.verdict is None:
        return {"word": "NOT EVALUATED", "kind": "bad", "why": "there is no verdict in this folder"}
    baseline = found.verdict["baseline_release"]
    against = f"compared with {baseline} on the same cases" if baseline else "compared with nothing: no baseline was given"
    word = found.verdict["verdict"]
    return {"word": word, "kind": "good" if word == "PASS" else "bad", "why": against}
