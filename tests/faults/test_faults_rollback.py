"""The rollback as ``make rollback`` does it: stop, restore, validate, resume; killed between any two."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psycopg2
import pytest

from lib.platform import embedded
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


def _refused(case: Case) -> None:
    with pytest.raises(psycopg2.Error, match="queries are stopped"):
        case.project.ask("SELECT release_id FROM golive.route()")
