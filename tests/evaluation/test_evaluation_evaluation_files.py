"""What a killed evaluation leaves beside its folder, and who removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from lib.evaluation.evaluation_files import EvaluationFiles

PROJECT = Path(__file__).resolve().parents[2]
RUNNING = """
import sys
from pathlib import Path
from lib.evaluation.evaluation_files import EvaluationFiles
with EvaluationFiles(Path(sys.argv[1])) as files:
    files.add({"query_id": "q0", "metrics": None}, None, {"answer_ms": 1.0})
    print("running", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_evaluation_left_is_removed_by_the_next_one_and_one_that_runs_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    killed, running = _start(folder), _start(folder)
    try:
        assert len(_staging(tmp_path)) == 2
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert len(_staging(tmp_path)) == 2
        with EvaluationFiles(folder):
            assert len(_staging(tmp_path)) == 2  # its own, and the one that runs
        (left,) = _staging(tmp_path)
        assert sorted(path.name for path in left.iterdir()) == ["answers.jsonl", "case_results.jsonl", "ragchecker.json"]
    finally:
        running.communicate("")
    assert running.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_none_of_an_evaluations_stays(tmp_path: Path) -> None:
    kept = [tmp_path / ".evaluation.mine" / "notes.txt", tmp_path / ".evaluations.x" / "case_results.jsonl"]
    for path in kept:
        path.parent.mkdir()
        path.write_text("mine")
    (tmp_path / ".evaluation.file").write_text("mine")
    (tmp_path / ".evaluation.link").symlink_to(kept[1].parent)
    (tmp_path / ".evaluation.dead").mkdir()
    with EvaluationFiles(tmp_path / "evaluation"):
        pass
    names = [".evaluation.file", ".evaluation.link", ".evaluation.mine", ".evaluations.x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(path.read_text() == "mine" for path in kept)


def _start(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNING, str(folder)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def _staging(parent: Path) -> list[Path]:
    return sorted(parent.glob(".evaluation.*"))
