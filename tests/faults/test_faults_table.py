"""The table of the fault matrix says ``held`` only of what ran and held; docs/promises.md names tests that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.promises import DOCUMENT, is_a_test, named_tests
from tests.faults.rows import ROWS, Row

HERE = Row("a", "step", "fault", "all holds")
ELSEWHERE = Row("b", "step", "fault", "all holds", elsewhere=("tests/x.py::test_x", "tests/x.py::test_y"))


@pytest.mark.parametrize(
    ("row", "found", "expected"),
    [
        (HERE, table.Found(passed=["t"]), "held"),
        (HERE, table.Found(), "NOT RUN: it has no test yet"),
        (HERE, table.Found(passed=["t"], failed=["u"]), "FAILED"),
        (HERE, table.Found(passed=["t"], not_run={"u": "no root"}), "NOT RUN: no root"),
        (HERE, table.Found(failed=["t"], not_run={"u": "no root"}), "FAILED"),
        (ELSEWHERE, table.Found(passed=["tests/x.py::test_x", "tests/x.py::test_y[1]"]), "held"),
        (ELSEWHERE, table.Found(passed=["tests/x.py::test_x"]), "NOT RUN: tests/x.py::test_y did not run"),
    ],
)
def test_a_row_has_held_only_where_each_of_its_tests_ran_and_passed(row: Row, found: table.Found, expected: str) -> None:
    assert found.result(row) == expected


def test_the_table_is_put_between_its_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    target.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.replace(target, "new")
    assert target.read_text() == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"


def test_the_recorder_takes_results_from_the_reports_of_tests(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    recorder = table.Recorder(page)
    skipped = ("file", 1, "Skipped: no root")
    for row_id, outcome, when, why in [
        ("lock.two", "passed", "setup", None),
        ("lock.two", "passed", "call", None),
        ("lock.kill", "skipped", "setup", skipped),
        ("lock.query", "failed", "call", "it broke"),
        ("ingest.kill", "failed", "setup", "it broke"),
    ]:
        report = pytest.TestReport(
            f"t::{row_id}", ("t", 1, "t"), {}, outcome, why, when, user_properties=[("fault", row_id)]
        )
        recorder.pytest_runtest_logreport(report)
    rows = {row.row_id: recorder.found[row.row_id].result(row) for row in ROWS}
    expected = {"lock.two": "held", "lock.kill": "NOT RUN: no root", "lock.query": "FAILED", "ingest.kill": "FAILED"}
    assert {row_id: rows[row_id] for row_id in expected} == expected
    assert rows["gate.config"] == "NOT RUN: it has no test yet"


def test_every_test_that_the_promises_name_is_there() -> None:
    names = named_tests()
    assert len(names) >= 10
    assert [name for name in names if not is_a_test(name)] == []


def test_every_row_stands_in_the_page_and_every_promise_has_a_test() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for row in ROWS:
        assert f"| {row.step} | {row.fault} |" in text, f"{row.row_id}: make faults"
    promises = text.split("\n## The fault matrix")[0].split("\n- **")[1:]
    assert promises and all("`tests/" in promise for promise in promises)
