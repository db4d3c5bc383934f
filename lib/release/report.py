"""report.html: one self-contained page a release, for the screen, for paper and for a screen reader."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.evaluation import lessons, results
from lib.index.releases import Release, find_release, get_release, read_pointer
from lib.platform.clock import timestamp
from lib.platform.errors import GoliveError, redact
from lib.platform.files import read_json, write_text
from lib.platform.workspace import Workspace
from lib.release import plots, receipts

_TEMPLATES = Path(__file__).parent / "templates"
_COMPARED = (
    "chunk_size",
    "overlap_ratio",
    "jaccard_threshold",
    "prefix_policy",
    "embedder_name",
    "sources",
    "retrieval",
    "rerank",
    "filter",
)
_VERDICT = {"verdict", "reasons", "warnings", "metrics", "cases", "produced_by", "baseline_release"}
_SHOWN_LOSSES = 25


@dataclass(frozen=True)
class _Page:
    """What the template is given."""

    release: Release
    live: str | None
    generation: int
    baseline: Release | None
    verdict: dict[str, Any] | None
    receipts: dict[str, receipts.Receipt | None]
    run: dict[str, Any]
    losses: list[dict[str, Any]]


def write(workspace: Workspace, connection: Connection, release_id: str) -> Path:
    """Writes the report of a release from its evidence; what is not there yet is left out and said so."""
    page = _gather(workspace, connection, release_id)
    path = workspace.evidence(release_id) / "report.html"
    write_text(path, _render(page))
    return path


def _gather(workspace: Workspace, connection: Connection, release_id: str) -> _Page:
    folder = workspace.evidence(release_id)
    with connection:
        release = get_release(connection, release_id)
        pointer = read_pointer(connection)
        verdict = _read(folder / "verdict.json", _VERDICT)
        baseline_id = verdict.get("baseline_release") if verdict else None
        baseline = find_release(connection, baseline_id) if baseline_id else _live_before(connection, release_id)
    names = ("ingest", "manifest", "health", "evaluate", "backup", "validate", "promote")
    found = {name: receipts.read(workspace, release_id, name) for name in names}
    return _Page(
        release=release,
        live=pointer.release.release_id if pointer.release else None,
        generation=pointer.generation,
        baseline=baseline,
        verdict=verdict,
        receipts=found,
        run=_read(folder / "run.json", {"steps"}) or {},
        losses=_losses(folder),
    )


def _live_before(connection: Connection, release_id: str) -> Release | None:
    """The release that was live when there is no verdict that names it."""
    live = read_pointer(connection).release
    return live if live and live.release_id != release_id else None


def _read(path: Path, fields: set[str]) -> dict[str, Any] | None:
    """The file's object, where it is one that has these fields."""
    try:
        found = read_json(path, "evidence")
    except GoliveError:
        return None
    return found if isinstance(found, dict) and fields <= found.keys() else None


def _losses(folder: Path) -> list[dict[str, Any]]:
    """Cases whose evidence was lost, with where."""
    try:
        evaluation = results.read(folder / "evaluation")
    except GoliveError:
        return []
    return [
        {"query_id": row["query_id"], "query": row["query"], "lost_at": stage}
        for row in evaluation.rows
        if (stage := lessons.lost_at(row))
    ][:_SHOWN_LOSSES]


def _config_changes(release: Release, baseline: Release | None) -> list[dict[str, Any]]:
    """Every setting, with what the release before it had; the changed ones first."""
    now = _settings(release)
    then = _settings(baseline) if baseline else {}
    rows = [
        {"name": name, "now": value, "then": then.get(name), "changed": bool(baseline) and then.get(name) != value}
        for name, value in now.items()
    ]
    return sorted(rows, key=lambda row: not row["changed"])


def _settings(release: Release) -> dict[str, Any]:
    """The compared settings under dotted names, in the order of the config."""
    values = asdict(release.locked_config)
    found: dict[str, Any] = {}
    for name in _COMPARED:
        value = values[name]
        if isinstance(value, dict):
            found.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            found[name] = ", ".join(value) if isinstance(value, tuple) else value
    return found


def _render(page: _Page) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_secrets,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["size"] = lambda value: f"{value / 1e6:.1f} MB"
    timings = [step for step in page.run.get("steps", []) if step["seconds"]]
    ingest = {
        name: seconds
        for name in ("plan_s", "load_model_s", "embed_s", "index_s", "seal_s")
        if (seconds := page.release.ingest_stats.get(name)) is not None
    }
    metrics = page.verdict["metrics"] if page.verdict else []
    return environment.get_template("report.html.j2").render(
        page=page,
        changes=_config_changes(page.release, page.baseline),
        metric_plot=plots.metrics_svg(metrics) if metrics else "",
        timing_plot=plots.timings_svg([(step["name"], step["seconds"]) for step in timings]) if timings else "",
        timings=timings,
        ingest=ingest,
        total_s=sum(step["seconds"] for step in timings),
        written_at=timestamp(),
        state=_state(page),
    )


def _without_secrets(value: Any) -> Any:
    """A printed value, redacted before it is escaped: in HTML a secret would look different. Markup is ours and stays."""
    return redact(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


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
