"""The main job from end to end, on the embedded PostgreSQL, with a third of the bundled handbook and real models.

The tests run in order and share one project folder: a first release, nothing to do, a refused release, a good one, a
damaged table, a rollback.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("backups", "chunking", "evaluation", "retrieval")


class Project:
    """A user's project folder, driven by make."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.remembered: dict[str, str] = {}

    def make(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            ["make", "-C", str(PROJECT), "--no-print-directory", *arguments],
            env={**os.environ, "GOLIVE_HOME": str(self.root)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout + done.stderr

    def script(self, name: str, *arguments: str) -> dict:
        done = subprocess.run(
            [str(PROJECT / ".venv/bin/python"), str(PROJECT / "scripts" / f"{name}.py"), *arguments, "--json"],
            env={**os.environ, "GOLIVE_HOME": str(self.root)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return {"code": done.returncode, **json.loads(done.stdout)}

    def evidence(self, release_id: str) -> Path:
        return self.root / "metrics" / "golive" / release_id

    def database(self):
        return psycopg2.connect(self.make("-s", "db-url")[1].strip().splitlines()[-1])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "configs", root / "configs", ignore=shutil.ignore_patterns("locked_configs"))
    for part in PARTS:
        shutil.copytree(PROJECT / "eval" / "corpus" / part, root / "eval" / "corpus" / part)
    every = json.loads((PROJECT / "eval" / "test_cases.json").read_text(encoding="utf-8"))
    every["cases"] = [
        case
        for case in every["cases"]
        if case["query_id"].startswith(PARTS) and all(gold["doc_id"].startswith(PARTS) for gold in case["gold"])
    ]
    (root / "eval" / "test_cases.json").write_text(json.dumps(every), encoding="utf-8")
    made = Project(root)
    yield made
    made.make("db-stop")


def test_the_first_release_goes_live(project):
    code, said = project.make("golive")
    assert code == 0, said
    live = project.script("status")
    assert live["generation"] == 1
    assert live["table"].startswith("document_chunks_20")
    assert "first release" in (project.evidence(live["live"]) / "verdict.txt").read_text(encoding="utf-8")
    report = (project.evidence(live["live"]) / "report.html").read_text(encoding="utf-8")
    assert ">LIVE<" in report
    assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(\s*["']?http|@import|<script[^>]""", report)
    project.remembered["first"] = live["live"]


def test_a_second_run_changes_nothing_and_says_so(project):
    before = fingerprint(project.root)
    code, said = project.make("golive")
    assert code == 0, said
    assert "nothing to do" in said
    assert fingerprint(project.root) == before
    assert project.script("status")["generation"] == 1


def test_evaluating_twice_gives_the_same_bytes(project, tmp_path):
    done = project.script("ragchecker_official_evaluation", "--outdir", str(tmp_path), "--bypass-cli", "--stable")
    assert done["code"] == 0
    release = project.remembered["first"]
    for file in ("metrics.json", "case_results.jsonl", "ragchecker.json"):
        again, first = (folder / file for folder in (tmp_path / release, project.evidence(release) / "evaluation"))
        assert again.read_bytes() == first.read_bytes(), file


def test_a_worse_config_is_refused_and_the_report_says_why(project):
    code, said = project.make("golive", "CHUNK_SIZE=40")
    assert code != 0
    assert "Error 3" in said, said
    status = project.script("status")
    assert status["live"] == project.remembered["first"]
    assert status["generation"] == 1
    refused = status["active_config"]
    assert refused != status["live"]
    verdict = json.loads((project.evidence(refused) / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["verdict"] == "FAIL"
    assert verdict["baseline_release"] == status["live"]
    report = (project.evidence(refused) / "report.html").read_text(encoding="utf-8")
    assert ">FAIL<" in report
    assert verdict["reasons"][0].split(":")[0] in report


def test_promoting_the_refused_release_by_hand_is_refused(project):
    done = project.script("promote_production_config")
    assert done["code"] == 15
    assert "is not promoted" in done["error"]
    assert project.script("status")["live"] == project.remembered["first"]


def test_a_good_change_goes_live_and_is_compared_with_the_release_before(project):
    candidate = project.root / "configs" / "candidate.yaml"
    text = candidate.read_text(encoding="utf-8")
    candidate.write_text(text.replace("hnsw_ef_search: 100", "hnsw_ef_search: 120"), encoding="utf-8")
    code, said = project.make("golive")
    assert code == 0, said
    live = project.script("status")
    assert live["live"] != project.remembered["first"]
    assert live["generation"] == 2
    verdict = json.loads((project.evidence(live["live"]) / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["baseline_release"] == project.remembered["first"]
    project.remembered["second"] = live["live"]


def test_rolling_back_moves_only_the_pointer_while_the_table_stands(project):
    backup = project.script("restore_production_state", "--list")["backups"][0]
    assert backup["restores"] == project.remembered["first"]
    tables = table_names(project)
    code, said = project.make("rollback", f"BACKUP={backup['backup_id']}")
    assert code == 0, said
    live = project.script("status")
    assert live["live"] == project.remembered["first"]
    assert live["traffic"]["state"] == "open"
    assert table_names(project) == tables
    assert answers(project) == project.remembered["first"]


@pytest.mark.parametrize("damage", ["DELETE FROM {} WHERE chunk_index = 0", "DROP TABLE {}"])
def test_a_damaged_table_comes_back_with_the_same_rows(project, damage):
    sound = project.script("validate_rollback")
    assert sound["valid"]
    rows = next(check["found"] for check in sound["checks"] if check["name"] == "rows")
    table = project.script("status")["table"]
    with project.database() as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER ALL").format(sql.Identifier(table)))
        cursor.execute(sql.SQL(damage).format(sql.Identifier(table)))
    assert project.script("production_health_monitor")["overall_healthy"] is False
    assert project.script("resume_operations")["code"] == 14
    backup = project.script("restore_production_state", "--list")["backups"][0]["backup_id"]
    code, said = project.make("rollback", f"BACKUP={backup}")
    assert code == 0, said
    after = project.script("validate_rollback")
    assert after["valid"]
    assert next(check["found"] for check in after["checks"] if check["name"] == "rows") == rows
    assert answers(project) == project.remembered["first"]


def test_stopped_queries_are_refused_until_they_are_resumed(project):
    assert project.make("stop", "REASON=looking into it")[0] == 0
    done = project.script("query_index", "how is a backup proven?")
    assert done["code"] == 15
    assert "looking into it" in done["error"]
    assert project.make("resume")[0] == 0
    assert answers(project) == project.remembered["first"]


def test_releasing_after_a_rollback_is_a_new_release(project):
    """What was rolled back never comes back by itself: the same config is locked, built and judged anew."""
    done = project.script("lock_production_config", "--dry-run", "--source", "corpus")
    assert done["reused"] is False
    assert project.remembered["second"] in done["why"]
    assert "rolled back" in done["why"]


def answers(project: Project) -> str:
    """The release that answers a question now; the right passage must be in its answer."""
    done = project.script("query_index", "How do I prove that a backup can be restored?")
    assert done["code"] == 0
    assert any("backups/" in chunk["doc_id"] for chunk in done["context"])
    return done["release_id"]


def table_names(project: Project) -> set[str]:
    with project.database() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'document_chunks%'")
        return {name for (name,) in cursor.fetchall()}


def fingerprint(root: Path) -> dict[str, str]:
    """Every file of the project but the database's own."""
    files = (path for path in root.rglob("*") if path.is_file() and ".local/postgres" not in str(path))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
