"""SIGKILL at moments that no name in the code marks: at a query, after so many bytes, after so many milliseconds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from tests.faults import killing, proxy
from tests.faults.cases import Case
from tests.faults.killing import KILLED

_SEED = 20261126
AT_QUERIES = {
    "lock": "lock.query",
    "restore table": "restore.query",
    "restore fresh": "restore.query",
    "promote": "promote.query",
    "stop": "rollback.between",
    "resume": "rollback.between",
}
AT_RANDOM = {**AT_QUERIES, "ingest": "ingest.random", "backup": "backup.bytes"}
_sizes: dict[str, tuple[int, int]] = {}


class Doom:
    """Kills a run from within the proxy, whether or not ``Popen`` has returned yet."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self._process: killing.Running | None = None

    def start(self, case: Case, line: proxy.Proxy) -> killing.Running:
        self._process = case.start(DATABASE_URL=line.url)
        self._there.set()
        return self._process

    def come(self) -> None:
        assert self._there.wait(60) and self._process
        self._process.kill()


@pytest.mark.parametrize("step", [pytest.param(step, marks=pytest.mark.fault(row)) for step, row in AT_QUERIES.items()])
def test_killed_before_a_query_all_holds_and_the_same_command_ends_it(
    step: str, open_case: Callable[[str], Case], rounds: int
) -> None:
    queries, _ = _size(step, open_case)
    for number in _spread(queries, rounds, step):
        case, doom = open_case(step), Doom()
        with proxy.before(case.project.url) as line:

            def at_query(now: int, query: str, number: int = number, doom: Doom = doom) -> proxy.Fate:
                if now < number:
                    return proxy.Fate.PASS
                doom.come()
                return proxy.Fate.LOST

            line.at_query = at_query
            assert killing.finish(doom.start(case, line)).code == KILLED, f"query {number} of {queries}"
        case.repeat()


@pytest.mark.fault("backup.bytes")
def test_a_backup_killed_after_so_many_bytes_is_not_seen_and_the_next_one_is_whole(
    open_case: Callable[[str], Case], rounds: int
) -> None:
    _, size = _size("backup", open_case)
    for limit in _spread(size, 2 * rounds, "bytes"):
        case, doom = open_case("backup"), Doom()
        with proxy.before(case.project.url) as line:

            def at_bytes(passed: int, limit: int = limit, doom: Doom = doom) -> bool:
                if passed < limit:
                    return True
                doom.come()
                return False

            line.at_bytes = at_bytes
            assert killing.finish(doom.start(case, line)).code == KILLED, f"{limit} of {size} bytes"
        case.repeat()


@pytest.mark.parametrize("step", [pytest.param(step, marks=pytest.mark.fault(row)) for step, row in AT_RANDOM.items()])
def test_killed_at_a_random_moment_all_holds_and_the_same_command_ends_it(
    step: str, open_case: Callable[[str], Case], rounds: int
) -> None:
    chosen = random.Random(f"{_SEED} {step}")
    started = time.monotonic()
    assert open_case(step).run().code == 0
    whole_s = time.monotonic() - started
    for _ in range(rounds):
        case = open_case(step)
        process = case.start()
        time.sleep(chosen.uniform(0.2, 0.9) * whole_s)
        process.kill()
        assert killing.finish(process).code in (KILLED, 0)
        case.repeat()


def _size(step: str, open_case: Callable[[str], Case]) -> tuple[int, int]:
    """How many queries and bytes a whole run takes; measured once."""
    if step not in _sizes:
        case = open_case(step)
        with proxy.before(case.project.url) as line:
            done = case.run(DATABASE_URL=line.url)
            assert done.code == 0, done
            _sizes[step] = (len(line.queries), line.passed_bytes)
    return _sizes[step]


def _spread(total: int, count: int, what: str) -> list[int]:
    """So many numbers from 1 to ``total``, one drawn from each of as many equal parts."""
    chosen = random.Random(f"{_SEED} {what}")
    count = min(count, total)
    return [chosen.randint(1 + total * part // count, total * (part + 1) // count) for part in range(count)]
