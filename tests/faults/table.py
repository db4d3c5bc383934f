"""The table of the fault matrix with its results, written into docs/promises.md by ``make faults``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lib.platform.files import write_json, write_text
from tests.conftest import PROJECT
from tests.faults.rows import ROWS, Row

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
HELD = "held"


@dataclass
class Found:
    """What the tests of a row came to."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)

    def result(self, row: Row) -> str:
        """``held`` only where every test of the row ran and passed."""
        if self.failed:
            return "FAILED"
        if self.not_run:
            return f"NOT RUN: {next(iter(self.not_run.values()))}"
        missing = [name for name in row.elsewhere if not any(test.startswith(name) for test in self.passed)]
        if missing or not self.passed:
            return f"NOT RUN: {f'{missing[0]} did not run' if missing else 'it has no test yet'}"
        return HELD

    def tests(self) -> list[str]:
        """The tests without their parameters."""
        return sorted({name.partition("[")[0] for name in (*self.passed, *self.failed, *self.not_run)})


class Recorder:
    """Collects reports and writes the table when the session ends; the session fails unless every row held."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.found: defaultdict[str, Found] = defaultdict(Found)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        rows = [str(value) for name, value in report.user_properties if name == "fault"]
        rows += [row.row_id for row in ROWS if any(report.nodeid.startswith(name) for name in row.elsewhere)]
        for row_id in rows:
            found = self.found[row_id]
            if report.failed:
                found.failed.append(report.nodeid)
            elif report.skipped:
                found.not_run[report.nodeid] = _reason(report)
            elif report.when == "call":
                found.passed.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        results = {row.row_id: self.found[row.row_id].result(row) for row in ROWS}
        write_json(PROJECT / ".local" / "faults.json", {
            row.row_id: {"step": row.step, "fault": row.fault, "must_hold": row.must_hold, "result": results[row.row_id],
                         "passed": len(self.found[row.row_id].passed), "tests": self.found[row.row_id].tests()}
            for row in ROWS
        })  # fmt: skip
        rounds = session.config.getoption("--fault-rounds")
        short = "; a short run, which breaks each step in some of its places and files" if rounds == 1 else ""
        replace(self._target, f"{render(self.found)}\n\nWritten by a run with `--fault-rounds {rounds}`{short}.")
        wanting = [row_id for row_id, result in results.items() if result != HELD]
        if wanting:
            print(f"\nfault matrix: {len(wanting)} of {len(ROWS)} rows did not hold or did not run: {', '.join(wanting)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.line(f"fault matrix written into {self._target}")


def render(found: dict[str, Found]) -> str:
    """The table as Markdown."""
    lines = ["| step | fault | what must hold | result | tests |", "| --- | --- | --- | --- | --- |"]
    for row in ROWS:
        seen = found.get(row.row_id, Found())
        count = f"{len(seen.passed)} runs: " if len(seen.passed) > 1 else ""
        names = ", ".join(f"`{name}`" for name in seen.tests())
        lines.append(f"| {row.step} | {row.fault} | {row.must_hold} | {seen.result(row)} | {count}{names} |")
    return "\n".join(lines)


def replace(target: Path, text: str) -> None:
    """Puts the table between the markers of the file."""
    before, begin, rest = target.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{target} lacks {BEGIN} or {END}"
    write_text(target, f"{before}{BEGIN}\n{text}\n{END}{after}")


def _reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
    return str(reason).removeprefix("Skipped: ") or "skipped"
