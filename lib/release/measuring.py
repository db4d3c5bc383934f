"""Measuring a release for its own sake: RAGChecker's metrics into a folder, with lessons out of the last evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.evaluation import cases as case_files
from lib.evaluation import lessons, results, run
from lib.evaluation.settings import EvaluationSettings
from lib.index.releases import Release, find_release, get_release, read_pointer
from lib.platform.errors import GoliveError, Refused, UsageError
from lib.platform.files import write_json
from lib.platform.workspace import Workspace
from lib.release.tables import number


@dataclass(frozen=True)
class Request:
    """What to measure and where to write it; ``lessons_scope`` is None where no lessons are wanted."""

    cases_path: Path
    outdir: Path
    release_id: str | None
    bypass_cli: bool
    lessons_scope: str | None
    lessons_window: int
    fresh_judging: bool = False


def plan(
    workspace: Workspace, connection: Connection, settings: EvaluationSettings, request: Request
) -> tuple[run.Request, Path]:
    """What will be evaluated, and the folder ``outdir/<release_id>`` that it is written to.

    Raises:
        Refused: the release is not sealed. UsageError: a window under one.
    """
    if request.lessons_window < 1:
        raise UsageError("--lessons-window must be at least 1")
    release = _release(workspace, connection, request.release_id)
    if release.content_digest is None:
        raise Refused(f"{release.release_id} is not built yet", hint="scripts/shadow_ingest.py")
    folder = request.outdir / release.release_id
    asked = run.Request(
        release,
        case_files.load(request.cases_path),
        release.locked_config.sources,
        settings,
        bypass_cli=request.bypass_cli,
        audit_file=folder / "prompt_audit.jsonl",
        fresh_judging=request.fresh_judging,
    )
    return asked, folder


def measure(workspace: Workspace, connection: Connection, settings: EvaluationSettings, request: Request) -> dict[str, Any]:
    """Evaluates a sealed release and returns what was measured; raises as ``plan``."""
    asked, folder = plan(workspace, connection, settings, request)
    release = asked.release
    evaluation = run.evaluate(workspace, connection, asked, folder)
    found: dict[str, Any] = {
        "release_id": release.release_id,
        "folder": workspace.show(folder.resolve()),
        **evaluation.summary,
    }
    if request.lessons_scope:
        seen = _last_evaluations(connection, request)
        found["lessons"] = lessons.learn(seen, request.lessons_scope)
        write_json(folder / "lessons.json", found["lessons"])
    return found


def to_text(found: dict[str, Any]) -> str:
    lines = [f"{name:<32} {number(value)}" for name, value in found["metrics"].items()]
    lines.append("produced by: " + ", ".join(f"{role} {name}" for role, name in found["produced_by"].items()))
    if "lessons" in found:
        lost = ", ".join(f"{count} at {label}" for label, count in found["lessons"]["lost"].items() if count)
        lines.append(f"lost over the last {found['lessons']['evaluations']} evaluations: {lost or 'nothing'}")
        lines += [f"lesson: {line}" for line in found["lessons"]["advice"]]
    lines.append(f"written: {found['folder']}")
    return "\n".join(lines)


def _release(workspace: Workspace, connection: Connection, release_id: str | None) -> Release:
    with connection:
        if release_id:
            return get_release(connection, release_id)
        live = read_pointer(connection).release
        return live or get_release(connection, store.read_active(workspace).ingest_run_id)


def _last_evaluations(connection: Connection, request: Request) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The newest evaluations below ``outdir``, oldest first, each with its config's profile."""
    folders = sorted(request.outdir.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)[
        -request.lessons_window :
    ]
    found = []
    for path in folders:
        try:
            rows = results.read(path.parent).rows
        except GoliveError:
            continue
        with connection:
            release = find_release(connection, path.parent.name)
        profile = f"{release.config['embedder_name']}/{release.config['prefix_policy']}" if release else "unknown"
        found.append((profile, rows))
    return found
