"""The rollback as ``make rollback`` does it: stop, restore, validate, resume; killed between any two."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from lib.platform import audit_sinks, embedded
from tests.faults import killing
from tests.faults.cases import Case
from tests.faults.killing import KILLED
from tests.faults.steps import newest_backup


@pytest.mark.fault("rollback.between")
@pytest.mark.parametrize("step", ["restore table", "restore pointer"])
def test_queries_stay_refused_until_a_rollback_that_was_killed_is_done(step: str, open_case: Callable[[str], Case]) -> None:
    case = open_case(step)
    assert killing.run(killing.script("emergency_stop", "--reason", "a rollback")).code == 0
    assert case.run(**killing.at("file.rename")).code == KILLED
    case.check()
    _refused(case)
    case.repeat()
    _refused(case)
    backup_id = newest_backup(case.project)
    assert killing.run(killing.script("validate_rollback", "--backup-id", backup_id)).code == 0
    assert killing.run(killing.script("resume_operations", "--reason", "done")).code == 0
    assert case.project.ask("SELECT release_id FROM golive.route()") == [{"release_id": case.before.then}]


@pytest.mark.fault("rollback.restart")
def test_a_stop_outlasts_a_postgresql_that_is_killed(open_own: Callable[[str], Case]) -> None:
    case = open_own("stop")
    assert case.run().code == 0
    os.kill(embedded._postmaster(embedded.data_folder(case.project.workspace))[0], signal.SIGKILL)
    case.reconnect()
    _refused(case)
    case.repeat()
    assert killing.run(killing.script("resume_operations", "--reason", "done")).code == 0
    assert case.project.ask("SELECT release_id FROM golive.route()") == [{"release_id": case.before.live}]


@pytest.mark.fault("rollback.sinks")
def test_a_rollback_goes_on_while_webhook_and_audit_file_are_down(open_case: Callable[[str], Case], tmp_path: Path) -> None:
    case, file = open_case("restore pointer"), tmp_path / "away" / "audit.jsonl"
    sinks = {audit_sinks.FILE: str(file), audit_sinks.WEBHOOK: "http://127.0.0.1:1/services/hunter22"}
    stopped = killing.run(killing.script("emergency_stop", "--reason", "a rollback"), **sinks)
    assert (stopped.code, stopped.err.count("what was done stands in the audit log")) == (0, 2), stopped
    assert "hunter22" not in stopped.err
    assert case.run(**sinks).code == 0
    backup_id = newest_backup(case.project)
    assert killing.run(killing.script("validate_rollback", "--backup-id", backup_id), **sinks).code == 0
    resume = killing.script("resume_operations", "--reason", "done")
    assert killing.run(resume, **sinks).code == 0
    assert case.project.ask("SELECT release_id FROM golive.route()") == [{"release_id": case.before.then}]

    file.parent.mkdir()
    stop = killing.script("emergency_stop", "--reason", "once more")
    assert killing.run(stop, **sinks, **killing.at("sinks.file")).code == KILLED
    _refused(case)
    assert killing.run(resume, **sinks).code == 0
    told = [json.loads(line)["seq"] for line in file.read_text().splitlines()]
    assert told == [row["seq"] for row in case.project.ask("SELECT seq FROM golive.audit_log ORDER BY seq")]


def _refused(case: Case) -> None:
    with pytest.raises(psycopg2.Error, match="queries are stopped"):
        case.project.ask("SELECT release_id FROM golive.route()")
