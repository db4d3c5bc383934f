"""Promotion: readers and holders of locks, a COMMIT whose answer is lost, two promoters, a PostgreSQL that dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lib.platform import embedded
from tests.faults import killing, proxy
from tests.faults.cases import Case
from tests.faults.steps import newest_release

_MOVE = "UPDATE golive.pointer SET generation"


@pytest.mark.fault("promote.reader")
def test_a_long_reader_does_not_hold_a_promotion_up(open_case: Callable[[str], Case]) -> None:
    case = open_case("promote")
    with closing(case.project.connect()) as reader, reader, reader.cursor() as cursor:
        for release in case.project.releases():
            cursor.execute(f"SELECT count(*) FROM {release.table_name}")
        cursor.execute("SELECT * FROM golive.pointer, golive.releases, documents")
        done = case.run()
        assert done.code == 0, done
    case.step.done(case.project)
    case.repeat()


@pytest.mark.fault("promote.locked")
def test_who_holds_the_pointer_makes_a_promotion_end_after_a_bounded_wait(open_case: Callable[[str], Case]) -> None:
    case = open_case("promote")
    with closing(case.project.connect()) as holder, holder, holder.cursor() as cursor:
        cursor.execute("SELECT * FROM golive.pointer FOR UPDATE")
        done = case.run()
        assert done.code == 13, done
        assert "locked by another session" in done.err
        holder.rollback()
    assert case.project.pointer().generation == case.before.generation
    case.repeat()


@pytest.mark.fault("promote.commit")
@pytest.mark.parametrize("fate", [proxy.Fate.LOST, proxy.Fate.ANSWER_LOST])
def test_a_commit_whose_answer_is_lost_is_not_told_as_the_opposite_of_what_happened(
    fate: proxy.Fate, open_case: Callable[[str], Case]
) -> None:
    case = open_case("promote")
    with proxy.before(case.project.url) as line:

        def at_query(number: int, query: str) -> proxy.Fate:
            moved = any(_MOVE in earlier for earlier in line.queries)
            return fate if query == "COMMIT" and moved else proxy.Fate.PASS

        line.at_query = _once(at_query)
        done = case.run(DATABASE_URL=line.url)
    moved = case.project.live_id() == newest_release(case.project)
    assert moved == (fate is proxy.Fate.ANSWER_LOST)
    assert done.code == (0 if moved else 13), done
    assert moved or "nothing was committed" in done.err, done
    case.repeat()


@pytest.mark.fault("promote.two")
def test_of_two_promoters_one_moves_the_pointer_and_the_other_is_told(
    open_case: Callable[[str], Case], tmp_path: Path
) -> None:
    case = open_case("promote")
    both = [case.start(), case.start()]
    done = [killing.finish(process) for process in both]
    codes = sorted(each.code for each in done)
    assert codes in ([0, 0], [0, 11]), done
    said = " ".join(each.out + each.err for each in done)
    assert "live already" in said or "another run is at work: promote_production_config" in said
    case.step.done(case.project)
    assert case.project.pointer().generation == case.before.generation + 1
    case.repeat()


@pytest.mark.parametrize(
    ("step", "query"),
    [
        pytest.param("promote", _MOVE, marks=pytest.mark.fault("promote.postgres")),
        pytest.param("restore table", "COPY ", marks=pytest.mark.fault("restore.postgres")),
        pytest.param("backup", "COPY ", marks=pytest.mark.fault("backup.postgres")),
    ],
)
def test_a_postgresql_that_is_killed_under_a_step_is_started_by_the_next_which_ends_it(
    step: str, query: str, open_own: Callable[[str], Case]
) -> None:
    case = open_own(step)
    postmaster = embedded._postmaster(embedded.data_folder(case.project.workspace))[0]
    killed = threading.Event()
    with proxy.before(case.project.url) as line:

        def at_query(number: int, text: str) -> proxy.Fate:
            if text.startswith(query) and not killed.is_set():
                killed.set()
                os.kill(postmaster, signal.SIGKILL)
                return proxy.Fate.LOST  # its sessions outlive it by a moment, in which one could still answer
            return proxy.Fate.PASS

        line.at_query = at_query
        done = case.run(DATABASE_URL=line.url)
    assert killed.is_set(), line.queries
    assert done.code == 13, done
    again = case.run()
    assert again.code == 0, again
    case.reconnect()
    case.step.done(case.project)
    case.repeat()


def _once(decide: Callable[[int, str], proxy.Fate]) -> Callable[[int, str], proxy.Fate]:
    """Until it first says something else than to pass."""
    over = threading.Event()

    def at_query(number: int, query: str) -> proxy.Fate:
        fate = proxy.Fate.PASS if over.is_set() else decide(number, query)
        if fate is not proxy.Fate.PASS:
            over.set()
        return fate

    return at_query
