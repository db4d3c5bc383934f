"""Calibrating the gate with real builds: what is unchanged passes, what is planted is told, nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lib.evaluation import calibration as simulation
from lib.evaluation import settings
from lib.index import shadow
from lib.platform.errors import ConfigInvalid, Refused, Unavailable, UsageError
from lib.platform.files import write_json
from lib.release import calibration
from tests.conftest import PROJECT
from tests.release.staged import STATE, Project

GATES = """
min_cases: 2
max_unscored_share: 0.02
min_documents: 2
confidence: 0.95
alpha: 0.05
power: 0.8
resamples: 1000
metrics:
  oracle_hit_rate: {direction: higher, margin: 0.05}
  recall:          {direction: higher, margin: 0.08}
"""
TABLES = "SELECT relname FROM pg_class WHERE relname LIKE 'calibration%'"


@pytest.fixture
def project(evaluated: Project) -> Project:
    """Two releases of three documents, the first live, under gates for as few cases."""
    (evaluated.workspace.configs / "gates.yaml").write_text(GATES, encoding="utf-8")
    return evaluated


def test_a_calibration_of_what_is_live(project, monkeypatch):
    monkeypatch.setattr(calibration, "_EFFORT", simulation.Effort(trials=20, resamples=99))
    before = project.ask(STATE)
    planned = plan(project, only=["drop_documents", "shuffle_embeddings", "leak_prefixes"])
    found = calibration.calibrate(project.workspace, project.connection, planned)
    assert planned.release.release_id == project.live_id() == found["release_id"]

    unchanged = found["unchanged"]
    assert (unchanged["verdict"], unchanged["digests_equal"], unchanged["cases_equal"]) == ("PASS", True, True)
    assert unchanged["health"] == "PASS"

    planted = found["regressions"]
    assert list(planted) == ["drop_documents", "shuffle_embeddings", "leak_prefixes"]
    dropped = planted["drop_documents"]
    assert dropped["caught"] and "oracle_hit_rate" in dropped["noticed_by"]
    assert dropped["lost"]["missing document"] > 0 == unchanged["lost"]["missing document"]
    assert dropped["rows"] < unchanged["rows"]
    leaked = planted["leak_prefixes"]
    assert leaked["caught"] and leaked["unhealthy"] == ["prefix_leakage"]
    assert planted["shuffle_embeddings"]["unhealthy"] == []
    assert found["caught"] == sum(item["caught"] for item in planted.values())

    assert project.ask(STATE) == before, "nothing is released, judged or audited"
    assert project.ask(TABLES) == []
    assert json.loads(planned.path.read_text(encoding="utf-8")) == json.loads(json.dumps(found))


def test_a_trial_that_fails_leaves_no_table(project):
    cases = json.loads(project.workspace.default_cases.read_text(encoding="utf-8"))
    cases["cases"][0]["gold"][0]["quote"] = "No document says this."
    write_json(project.workspace.default_cases, cases)
    with pytest.raises(ConfigInvalid, match="1 quotes do not stand in the corpus"):
        calibration.calibrate(project.workspace, project.connection, plan(project))
    assert project.ask(TABLES) == []
    assert not plan(project).path.exists()


def test_documents_that_change_meanwhile_end_it(project, monkeypatch):
    read = shadow.read_corpus

    def one_less(*arguments: Any) -> Any:
        documents, digest = read(*arguments)
        return documents[:-1], digest

    monkeypatch.setattr(shadow, "read_corpus", one_less)
    with pytest.raises(Unavailable, match="the documents changed"):
        calibration.calibrate(project.workspace, project.connection, plan(project, only=["chunk_60"]))
    assert project.ask(TABLES) == []


def test_a_killed_calibration_leaves_no_table(project):
    command = [sys.executable, str(PROJECT / "scripts" / "calibrate_gate.py"), "--only", "drop_documents"]
    process = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL)
    try:
        assert within(120, lambda: project.ask(TABLES)), "no scratch table was made"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert within(30, lambda: not project.ask(TABLES)), "PostgreSQL drops it with the session"


def test_a_pooler_that_hands_sessions_on_is_refused(project, monkeypatch):
    monkeypatch.setattr("lib.platform.postgres.has_own_session", lambda connection: False)
    with pytest.raises(Refused, match="needs a session of its own"):
        calibration.calibrate(project.workspace, project.connection, plan(project))


def test_a_plan_changes_nothing_and_says_what_cannot_be_planted(project, run_script):
    before = project.ask(STATE)
    done = run_script("calibrate_gate", "--dry-run", "--json")
    assert done.code == 0
    assert (done.json["release_id"], done.json["cases"]) == (project.live_id(), 5)
    assert len(done.json["planted"]) + len(done.json["skipped"]) == 6
    assert project.ask(STATE) == before and not Path(done.json["file"]).exists()
    assert run_script("calibrate_gate", "--only", "nothing").code == 2


def test_an_unknown_regression_is_wrong_usage(project):
    with pytest.raises(UsageError, match="no planted regression 'x'"):
        plan(project, only=["x"])


def test_the_text_says_what_was_missed_by_hand():
    item: dict[str, Any] = {"what": "x is y", "verdict": "PASS", "caught": False, "noticed_by": [], "unhealthy": []}
    item["lost"] = {"ranking": 3}
    caught = {
        **item,
        "verdict": "FAIL",
        "caught": True,
        "noticed_by": ["a", "b", "c", "d"],
        "unhealthy": ["prefix_leakage"],
    }
    found = {
        "release_id": "r1",
        "documents": 78,
        "unchanged": {"verdict": "PASS", "digests_equal": True, "lost": {"ranking": 1, "filter": 0}},
        "regressions": {"one": item, "two": caught},
        "skipped": {"three": "it is so already"},
        "caught": 1,
        "simulated": None,
        "file": "metrics/calibration/r1.json",
    }
    assert calibration.to_text(found).splitlines() == [
        "r1 built twice from 78 documents, equal digests: PASS",
        "  lost without a fault: ranking 1",
        "planted  evaluation  noticed by                                   cases lost, more than without",
        "one      PASS        NOTHING                                      ranking +2",
        "two      FAIL        a, b, c, 1 more, health gate prefix_leakage  ranking +2",
        "not planted: three: it is so already",
        "caught: 1 of 2",
        "MISSED: one: x is y; a release like this would pass: it loses 2 cases more",
        "error rates of the gate: not known, there is nothing to compare",
        "written: metrics/calibration/r1.json",
    ]
    item["lost"] = {"filter": 1}
    assert "a release like this would pass: on these cases it loses no more" in calibration.to_text(found)
    assert not calibration.passed(found)
    assert calibration.passed({**found, "caught": 2})
    assert not calibration.passed({**found, "regressions": {}, "caught": 0}), "nothing planted, nothing known"
    assert not calibration.passed({**found, "caught": 2, "unchanged": {"verdict": "INCONCLUSIVE"}})


def plan(project: Project, **changes: Any) -> calibration.Plan:
    return calibration.plan(
        project.workspace,
        project.connection,
        settings.load(project.workspace),
        cases_path=project.workspace.default_cases,
        **changes,
    )


def within(seconds: float, holds: Any) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False
