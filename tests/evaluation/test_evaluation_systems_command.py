"""A command as the system: whatever it does, each question comes back with an answer or with the reason for none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib.evaluation.systems import Answered
from lib.evaluation.systems_command import CommandLimits, CommandSystem
from lib.platform.errors import NotFound

_LOOP = """
import json, os, sys, time
def reply(asked, **more):
    made = {"query_id": asked["query_id"], "answer": asked["query"].upper(), "contexts": ["x"], **more}
    print(json.dumps(made), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    query = asked["query"]
"""
Make = Callable[..., CommandSystem]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[CommandSystem] = []

    def make(body: str, *, max_in_flight: int = 1, timeout_s: float = 20, attempts: int = 2) -> CommandSystem:
        (tmp_path / "rag.py").write_text(_LOOP + body)
        limits = CommandLimits(timeout_s, 20 if timeout_s > 1 else 2, attempts, max_in_flight, 10_000)
        made.append(CommandSystem("rag", [sys.executable, "rag.py"], tmp_path, limits))
        return made[-1]

    yield make
    for system in made:
        system.close()


def test_questions_go_through_one_process(make: Make) -> None:
    system = make("    reply(asked, record={'seed': os.getpid()})\n")
    one, two = system.answer("q1", "größer\nzweite Zeile"), system.answer("q2", "b")
    assert (one.text, two.text) == ("GRÖSSER\nZWEITE ZEILE", "B")
    assert one.record == two.record
    assert one.timings["latency_ms"] > 0


def test_replies_may_come_in_any_order(make: Make) -> None:
    body = (
        "    held = [*globals().get('held', []), asked]\n    if len(held) == 4:\n        [reply(a) for a in held[::-1]]\n"
    )
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(make(body, max_in_flight=4).answer, "abcd", "abcd"))
    assert [answer.text for answer in found] == ["A", "B", "C", "D"]


@pytest.mark.parametrize("max_in_flight", [1, 3])
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    os._exit(3) if 'bad' in query else reply(asked)\n", "the command ended with exit code 3"),
        ("    print('Traceback', file=sys.stderr) or sys.exit(1) if 'bad' in query else reply(asked)\n", ": Traceback"),
        ("    print('loading', flush=True) if 'bad' in query else reply(asked)\n", "a line that is not JSON: 'loading'"),
        ("    reply({**asked, 'query_id': 'q99'} if 'bad' in query else asked)\n", "answers no question on its way"),
        ("    reply(asked, more='x' * 20_000) if 'bad' in query else reply(asked)\n", "a line of over 10000 bytes"),
        ("    reply(asked, answer=1) if 'bad' in query else reply(asked)\n", "answer must be of type string"),
        ("    reply(asked, error='no index') if 'bad' in query else reply(asked)\n", "it reports an error: no index"),
    ],
)
def test_only_the_question_that_breaks_it_fails(make: Make, body: str, problem: str, max_in_flight: int) -> None:
    found = _ask_all(make(body, max_in_flight=max_in_flight), ["a", "b", "bad", "c", "d"], max_in_flight)
    assert [answer.text for answer in found] == ["A", "B", "", "C", "D"]
    assert problem in found[2].problem
    assert [bool(answer.problem) for answer in found] == [False, False, True, False, False]
    assert not found[2].abstained


@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_a_command_that_hangs_is_started_again(make: Make, max_in_flight: int) -> None:
    body = "    time.sleep(60) if 'bad' in query else reply(asked)\n"
    system = make(body, max_in_flight=max_in_flight, timeout_s=0.5, attempts=1)
    found = _ask_all(system, ["a", "bad", "b"], max_in_flight)
    assert [answer.text for answer in found] == ["A", "", "B"]
    assert "no reply in" in found[1].problem


def test_a_command_that_dies_once_is_asked_again(make: Make, tmp_path: Path) -> None:
    body = "    if not os.path.exists('died'):\n        open('died', 'w').close()\n        os._exit(1)\n    reply(asked)\n"
    assert make(body).answer("q1", "a").text == "A"


def test_a_question_longer_than_a_pipe_does_not_block_a_command_that_never_reads(make: Make) -> None:
    system = make("", timeout_s=0.5, attempts=1)
    system._command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert "no reply in" in system.answer("q1", "long " * 100_000).problem


def test_a_command_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    system = CommandSystem("rag", ["./nowhere"], tmp_path, CommandLimits(1, 1, 1, 1, 1000))
    with pytest.raises(NotFound, match=r"cannot be started: \./nowhere"):
        system.answer("q1", "a")


def test_another_program_text_is_another_identity(make: Make) -> None:
    one, same, other = make("    reply(asked)\n"), make("    reply(asked)\n"), make("    reply(asked, more=1)\n")
    assert one.identity == same.identity != other.identity


def test_closing_ends_the_process(make: Make, tmp_path: Path) -> None:
    system = make("    reply(asked)\nopen('left', 'w').close()\n")
    system.answer("q1", "a")
    system.close()
    assert (tmp_path / "left").exists()  # its stdin ended, and it had the time to leave by itself


def _ask_all(system: CommandSystem, queries: list[str], workers: int) -> list[Answered]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(system.answer, [f"q{number}" for number in range(len(queries))], queries))
