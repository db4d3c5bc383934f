"""The shadow build: backends and servers that die under it, and vectors that are none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.platform import embedded
from tests.faults import killing
from tests.faults.building import NotANumber, ingest
from tests.faults.cases import Case
from tests.faults.forking import Forked

_SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'golive shadow ingest' AND datname = current_database()"
)


@pytest.mark.fault("ingest.terminated")
def test_a_build_whose_backend_is_terminated_says_so_and_goes_on_when_run_again(
    open_case: Callable[[str], Case], tmp_path: Path
) -> None:
    case = open_case("ingest")
    process, mark = _in_the_middle(case, tmp_path)
    assert case.project.ask(f"SELECT pg_terminate_backend(pid) FROM ({_SESSIONS}) AS sessions")
    mark.unlink()
    _fails_clearly(case, process)
    case.repeat()


@pytest.mark.fault("ingest.backend")
def test_a_build_whose_backend_is_killed_with_all_of_postgresql_loses_no_committed_batch(
    open_own: Callable[[str], Case], tmp_path: Path
) -> None:
    case = open_own("ingest")
    process, mark = _in_the_middle(case, tmp_path)
    loaded = _rows(case)
    for row in case.project.ask(_SESSIONS):
        os.kill(row["pid"], signal.SIGKILL)
    mark.unlink()
    assert killing.finish(process).code == 13
    case.reconnect()
    assert case.project.release().state == "building"
    assert _rows(case) >= loaded > 0
    case.repeat()


@pytest.mark.fault("ingest.postgres")
def test_a_build_under_which_postgresql_is_killed_starts_it_again_when_run_again(
    open_own: Callable[[str], Case], tmp_path: Path
) -> None:
    case = open_own("ingest")
    process, mark = _in_the_middle(case, tmp_path)
    os.kill(embedded._postmaster(embedded.data_folder(case.project.workspace))[0], signal.SIGKILL)
    mark.unlink()
    assert killing.finish(process).code == 13
    done = case.run()
    assert done.code == 0, done
    case.reconnect()
    case.step.done(case.project)
    case.repeat()


@pytest.mark.fault("ingest.nan")
def test_vectors_that_are_none_are_refused_with_the_chunks_name_and_nothing_is_sealed(
    open_case: Callable[[str], Case],
) -> None:
    case = open_case("ingest")
    done = killing.finish(Forked(lambda: ingest(case.project.workspace, NotANumber()), {}))
    assert done.code == 14, done
    assert "pointer.md#" in done.err
    assert case.project.release().state == "building"
    case.repeat()


def _in_the_middle(case: Case, folder: Path) -> tuple[killing.Running, Path]:
    """A build that waits when its first batch is in the table and the second is not."""
    mark = folder / "mark"
    process = case.start(**killing.at("ingest.load_batch", f"wait:{mark}", 2))
    killing.until(mark, process)
    return process, mark


def _fails_clearly(case: Case, process: killing.Running) -> None:
    done = killing.finish(process)
    assert done.code == 13, done
    assert "the database failed or went away" in done.err
    assert case.project.release().state == "building"


def _rows(case: Case) -> int:
    return int(case.project.ask(f"SELECT count(*) AS n FROM {case.project.release().table_name}")[0]["n"])
