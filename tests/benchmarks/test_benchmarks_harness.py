"""Benchmarks: systems take turns, a ratio says who is better, a missed target is said, and the file has the agreed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import harness, run
from tests.benchmarks.harness import Comparison, Run


def test_systems_take_turns_and_their_facts_stay_with_the_run() -> None:
    order: list[str] = []
    runs = harness.alternate({"ours": lambda: order.append("ours"), "peer": lambda: order.append("peer") or {"rows": 3}}, 2)
    assert order == ["ours", "peer", "ours", "peer"]
    assert [item.system for item in runs] == order
    assert [item.facts for item in runs] == [{}, {"rows": 3}, {}, {"rows": 3}]


def test_the_median_and_the_fastest_are_taken_over_a_systems_own_runs() -> None:
    runs = [Run("a", 5.0), Run("b", 2.0), Run("a", 1.0), Run("b", 9.0), Run("a", 3.0), Run("b", 2.0)]
    assert harness.median_s(runs, "a") == 3.0
    assert harness.fastest(runs, ["a", "b"]) == "b"


@pytest.mark.parametrize(("ratio", "target", "said"), [(1.0, 1.0, "reached"), (0.99, 1.0, "MISSED"), (0.1, None, "")])
def test_a_missed_target_is_said(ratio: float, target: float | None, said: str) -> None:
    first = harness.to_text([Comparison("speed", ratio, target, "peer", [Run("ours", 1.0)])]).splitlines()[0]
    assert first.split(")")[-1].strip().startswith(said)
    assert ("MISSED" in first) == (said == "MISSED")


def test_the_file_has_the_agreed_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    rows = [Comparison("first", 2.0, 1.5, "peer", [Run("ours", 1.0, {"rows": 7}), Run("peer", 2.0)])]
    found = json.loads(harness.write("speed", rows).read_text(encoding="utf-8"))
    assert {"name", "ratio", "target", "against", "runs", "machine"} <= set(found)
    assert (found["name"], found["ratio"], found["target"], found["against"]) == ("speed", 2.0, 1.5, "peer")
    assert found["runs"] == [{"system": "ours", "seconds": 1.0, "rows": 7}, {"system": "peer", "seconds": 2.0}]
    assert found["comparisons"][0]["name"] == "first"


def test_every_name_has_its_module_and_every_module_its_name() -> None:
    modules = {path.stem.removeprefix("bench_") for path in Path(run.__file__).parent.glob("bench_*.py")}
    assert modules == set(run.NAMES)
