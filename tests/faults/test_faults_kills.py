"""SIGKILL at every place that is named in the code. The names are found in the source: a new one is killed at too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.faults import killing
from tests.faults.cases import Case, reached

# Which steps reach the places of a prefix, and the row that they prove.
STEPS_OF = {
    "lock": (["lock"], "lock.kill"),
    "ingest": (["ingest"], "ingest.kill"),
    "backup": (["backup"], "backup.kill"),
    "restore": (["restore table", "restore fresh", "restore pointer"], "restore.kill"),
    "promote": (["promote"], "promote.kill"),
    "audit_head": (["promote"], "promote.kill"),
    "traffic": (["stop", "resume", "stop by force"], "rollback.between"),
    "roles": (["roles"], "roles.kill"),
}
# Places whose kills are tests of their own, and the file in which they are.
ELSEWHERE = {
    "file": "tests/faults/test_faults_kills.py",
    "evaluate": "tests/faults/test_faults_evaluation.py",
    "database": "tests/faults/test_faults_embedded.py",
    "copy": "tests/release/test_release_backup_targets.py",
    "fetch": "tests/release/test_release_backup_targets.py",
    "prune": "tests/release/test_release_retention.py",
    "s3": "tests/platform/test_platform_s3.py",
    "sinks": "tests/faults/test_faults_rollback.py",
    "store": "tests/platform/test_platform_stores.py",
}
# Reached only while somebody else does something: a lock on the audit log, a query in flight.
ELSEWHERE_PLACES = {
    "traffic.record": "tests/scripts/test_scripts_traffic.py",
    "traffic.terminate": "tests/scripts/test_scripts_traffic.py",
}
NAMES = killing.names_in_code()
FILE_STEPS = {
    "lock": "lock.kill",
    "backup": "backup.kill",
    "restore table": "restore.kill",
    "restore fresh": "restore.kill",
    "promote": "promote.kill",
}


def _prefix(name: str) -> str:
    return name.partition(".")[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In a short run, each way of writing a file is broken in one step, and every step in one way."""
    if "file_place" in metafunc.fixturenames:
        every = metafunc.config.getoption("--fault-rounds") > 1
        places = [name for name in NAMES if _prefix(name) == "file"]
        metafunc.parametrize(
            ("step", "file_place"),
            [
                pytest.param(step, place, marks=pytest.mark.fault(row))
                for step, row in FILE_STEPS.items()
                for place in places
                if every or step == "lock" or place == "file.rename"
            ],
        )


def test_every_place_in_the_code_has_a_step_that_is_killed_at_it() -> None:
    assert {_prefix(name) for name in NAMES} <= STEPS_OF.keys() | ELSEWHERE.keys()
    for prefix in {_prefix(name) for name in NAMES} & ELSEWHERE.keys():
        text = (PROJECT / ELSEWHERE[prefix]).read_text(encoding="utf-8")
        assert "KILLED" in text or (f"{prefix}." in text and "=kill" in text), f"nothing kills at {prefix}."
    for place, file in ELSEWHERE_PLACES.items():
        assert f'"{place}=kill"' in (PROJECT / file).read_text(encoding="utf-8"), f"nothing kills at {place}"


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(name, marks=pytest.mark.fault(STEPS_OF[_prefix(name)][1]))
        for name in NAMES
        if _prefix(name) in STEPS_OF and name not in ELSEWHERE_PLACES
    ],
)
def test_killed_at_a_step_boundary_all_holds_and_the_same_command_ends_it(
    place: str, open_case: Callable[[str], Case], rounds: int, tmp_path: Path
) -> None:
    candidates, killed = STEPS_OF[_prefix(place)][0], 0
    for step in candidates:
        if (rounds > 1 or not killed) and place in reached(open_case, step, tmp_path):
            _kill_and_repeat(step, place, open_case, rounds, tmp_path)
            killed += 1
    assert killed, f"no run of {candidates} ever reaches {place}"


def test_killed_while_a_file_is_written_it_is_there_whole_or_not_at_all(
    step: str, file_place: str, open_case: Callable[[str], Case], rounds: int, tmp_path: Path
) -> None:
    _kill_and_repeat(step, file_place, open_case, rounds, tmp_path)


def _kill_and_repeat(step: str, place: str, open_case: Callable[[str], Case], rounds: int, tmp_path: Path) -> None:
    """Kills at the last time that the place is reached, and in a longer run at each time, up to the number of rounds."""
    times = reached(open_case, step, tmp_path).count(place)
    assert times, f"{step} never reaches {place}"
    for time_reached in range(max(1, times - rounds + 1), times + 1):
        case = open_case(step)
        done = case.run(**killing.at(place, time_reached=time_reached))
        assert done.code == killing.KILLED, f"not killed at {place}, time {time_reached}: {done}"
        case.repeat()
