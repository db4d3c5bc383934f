"""Measuring: a release's metrics in a folder of its own, with lessons out of the last evaluations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from lib.evaluation import results
from lib.evaluation import settings as evaluation_settings
from lib.index.documents import apply_sync, plan_sync, scan_folder, standing_documents
from lib.index.releases import Release, get_release
from lib.platform.errors import NotFound, Refused, UsageError
from lib.platform.workspace import Workspace
from lib.release import ingesting, locking, measuring
from tests.case_rows import case_row, write_evaluation

QUOTE = "A backup is proven by restoring it into fresh tables."
METRIC_FILES = ("metrics.json", "case_results.jsonl", "ragchecker.json")


@pytest.fixture
def release(connection, workspace, make_config) -> Release:
    """The active release, sealed; nothing is live."""
    return build(connection, workspace, make_config(chunk_size=60))


def test_what_was_measured_is_returned_and_stands_in_the_releases_folder(workspace, connection, release):
    found = measure(workspace, connection)
    folder = workspace.root / "out" / release.release_id
    assert (found["release_id"], found["folder"]) == (release.release_id, f"out/{release.release_id}")
    evaluation = results.read(folder)
    assert {name: found[name] for name in evaluation.summary} == evaluation.summary
    assert found["metrics"]["oracle_hit_rate"] == 1.0
    assert "lessons" not in found and not (folder / "lessons.json").exists()


def test_measuring_again_gives_the_same_bytes(workspace, connection, release):
    folder = workspace.root / "out" / release.release_id
    measure(workspace, connection)
    before = [(folder / name).read_bytes() for name in METRIC_FILES]
    measure(workspace, connection, lessons_scope="global")
    assert [(folder / name).read_bytes() for name in METRIC_FILES] == before


def test_what_is_live_is_measured_unless_a_release_is_named(workspace, connection, release, make_config):
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.pointer SET release_id = %s", (release.release_id,))
    newer = build(connection, workspace, make_config(chunk_size=80, chunk_version="2026-02-02-000000-v1"))
    assert measure(workspace, connection)["release_id"] == release.release_id
    assert measure(workspace, connection, release_id=newer.release_id)["release_id"] == newer.release_id


def test_a_release_that_nobody_locked_is_not_found(workspace, connection, release):
    with pytest.raises(NotFound, match="release nobody-knows is not known"):
        measure(workspace, connection, release_id="nobody-knows")


def test_a_release_that_is_not_built_is_refused_and_nothing_is_written(workspace, connection, make_config):
    locking.store_config(connection, workspace, make_config())
    with pytest.raises(Refused, match="is not built yet"):
        measure(workspace, connection)
    assert not (workspace.root / "out").exists()


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_under_one_is_wrong_usage(workspace, connection, release, window):
    with pytest.raises(UsageError, match="--lessons-window"):
        measure(workspace, connection, lessons_scope="global", lessons_window=window)
    assert not (workspace.root / "out").exists()


def test_lessons_are_written_beside_the_metrics(workspace, connection, release):
    found = measure(workspace, connection, lessons_scope="case")
    written = workspace.root / "out" / release.release_id / "lessons.json"
    assert json.loads(written.read_text(encoding="utf-8")) == found["lessons"]
    assert found["lessons"]["scope"] == "case"
    assert found["lessons"]["evaluations"] == 1


@pytest.mark.parametrize(("window", "ranking", "filter_losses"), [(1, 0, 0), (2, 0, 3), (3, 2, 3), (9, 2, 3)])
def test_the_window_looks_at_the_newest_evaluations(workspace, connection, release, window, ranking, filter_losses):
    earlier(workspace, "old", age=200, losses=2, label="ranking")
    earlier(workspace, "newer", age=100, losses=3, label="filter")
    lessons = measure(workspace, connection, lessons_scope="global", lessons_window=window)["lessons"]
    assert lessons["evaluations"] == min(window, 3)
    assert {name: count for name, count in lessons["lost"].items() if count} == {
        name: count for name, count in (("ranking", ranking), ("filter", filter_losses)) if count
    }


def test_profile_leaves_out_other_kinds_of_config(workspace, connection, release, make_config):
    earlier(workspace, "of-no-known-release", age=100, losses=3, label="filter")
    other = build(connection, workspace, make_config(prefix_policy="B", chunk_version="2026-02-02-000000-v1"))
    earlier(workspace, other.release_id, age=90, losses=3, label="filter")
    lessons = measure(workspace, connection, release_id=release.release_id, lessons_scope="profile")["lessons"]
    assert (lessons["evaluations"], lessons["lost"]["filter"]) == (1, 0)


def test_an_evaluation_that_cannot_be_read_is_passed_over(workspace, connection, release):
    earlier(workspace, "damaged", age=100, losses=3, label="filter")
    (workspace.root / "out" / "damaged" / "case_results.jsonl").write_text("{}\n")
    lessons = measure(workspace, connection, lessons_scope="global")["lessons"]
    assert (lessons["evaluations"], lessons["lost"]["filter"]) == (1, 0)


def test_what_was_measured_as_text_by_hand():
    found = {
        "folder": "out/r1",
        "metrics": {"recall": 0.5, "abstention_accuracy": None},
        "produced_by": {"reader": "extractive(x)", "judge": "lexical(0.5)"},
        "lessons": {"evaluations": 2, "lost": {"ranking": 1, "filter": 0, "reader": 2}, "advice": ["raise it"]},
    }
    assert measuring.to_text(found).splitlines() == [
        f"{'recall':<32} 0.500",
        f"{'abstention_accuracy':<32} -",
        "produced by: reader extractive(x), judge lexical(0.5)",
        "lost over the last 2 evaluations: 1 at ranking, 2 at reader",
        "lesson: raise it",
        "written: out/r1",
    ]


def measure(workspace: Workspace, connection: Connection, **changes: Any) -> dict[str, Any]:
    case = {
        "query_id": "q1",
        "query": QUOTE,
        "gt_answer": QUOTE,
        "answerable": True,
        "gold": [{"doc_id": "backups.md", "quote": QUOTE}],
    }
    path: Path = workspace.root / "cases.json"
    path.write_text(json.dumps({"schema_version": 1, "cases": [case]}), encoding="utf-8")
    values = {"release_id": None, "bypass_cli": True, "lessons_scope": None, "lessons_window": 5, **changes}
    asked = measuring.Request(cases_path=path, outdir=workspace.root / "out", **values)
    return measuring.measure(workspace, connection, evaluation_settings.load(workspace), asked)


def build(connection: Connection, workspace: Workspace, config: Any) -> Release:
    documents = scan_folder(workspace.default_corpus, "corpus").documents
    apply_sync(connection, "corpus", plan_sync(standing_documents(connection, "corpus"), documents), documents)
    locking.store_config(connection, workspace, config)
    ingesting.ingest(workspace, connection)
    with connection:
        return get_release(connection, config.ingest_run_id)


def earlier(workspace: Workspace, name: str, *, age: int, losses: int, label: str) -> None:
    """An evaluation that was written ``age`` seconds ago and lost so many cases in one way."""
    rows = [case_row(f"q{place}", dict.fromkeys(results.CASE_METRICS, 1.0)) | {"lost_at": label} for place in range(losses)]
    summary = results.summarise(rows, inputs={}, produced_by={}, deduplication_rate=None)
    folder = workspace.root / "out" / name
    write_evaluation(folder, results.Evaluation(summary, rows))
    written = folder / "metrics.json"
    then = written.stat().st_mtime - age
    os.utime(written, (then, then))
