"""Locking a config: what the kills of test_faults_kills.py and test_faults_moments.py leave out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import killing
from tests.faults.cases import Case


@pytest.mark.fault("lock.two")
def test_of_two_that_lock_at_once_one_is_told_who_is_at_work(open_case: Callable[[str], Case], tmp_path: Path) -> None:
    case, mark = open_case("lock"), tmp_path / "mark"
    first = case.start(**killing.at("lock.commit", f"wait:{mark}"))
    killing.until(mark, first)
    second = case.run()
    assert second.code == 11
    assert f"another run is at work: lock_production_config by {_who(second.err)}, pid {first.pid}" in second.err
    mark.unlink()
    assert killing.finish(first).code == 0
    case.step.done(case.project)
    case.repeat()


def _who(said: str) -> str:
    return said.partition(" by ")[2].partition(", pid")[0]
