"""Progress is for the person who watches: on stderr, a bar only on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from lib.platform.progress import Progress, duration, muted


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_each_quarter_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("embedding", 8, "chunks") as progress:
        for _ in range(8):
            progress.advance()
    assert capsys.readouterr() == ("", "".join(f"embedding: {done} of 8 chunks\n" for done in (2, 4, 6, 8)))


def test_big_steps_never_print_more_than_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("loading", 100, "rows") as progress:
        progress.advance(90)
        progress.advance(10)
    assert capsys.readouterr().err == "loading: 90 of 100 rows\nloading: 100 of 100 rows\n"


def test_within_muted_nothing_shows_and_after_it_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with muted(), Progress("a part", 2, "rows") as progress:
        progress.advance(2)
    with Progress("the whole", 2, "rows") as progress:
        progress.advance(2)
    assert (progress.done, capsys.readouterr().err) == (2, "the whole: 2 of 2 rows\n")


def test_nothing_to_do_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("loading", 0, "rows") as progress:
        progress.advance(0)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_bar_ends_full_and_on_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("embedding", 4, "chunks") as progress:
        for _ in range(4):
            progress.advance()
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith(f"embedding [{'#' * 28}] 4/4 chunks ")
    assert last.endswith("\n")
    assert capsys.readouterr().out == ""


def test_a_bar_that_is_cut_off_shows_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(KeyboardInterrupt), Progress("embedding", 4, "chunks") as progress:
        progress.advance()
        raise KeyboardInterrupt
    # one of four: a quarter of 28 places
    assert f"[{'#' * 7}{'.' * 21}] 1/4 chunks" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_work_that_takes_a_while_says_what_is_left_and_once_a_minute_where_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with Progress(
        "evaluating", 1000, "cases", clock=clock
    ) as progress:  # after 100 s: 10 cases took 50 s, so 980 take 4900 s
        for moment, cases in ((50, 10), (100, 10), (110, 10), (1000, 970)):
            clock.now = moment
            progress.advance(cases)
    assert capsys.readouterr().err == "evaluating: 20 of 1000 cases, 82 min left\nevaluating: 1000 of 1000 cases\n"


def test_loading_before_the_first_case_is_no_part_of_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("evaluating", 400, "cases", clock=clock) as progress:
        clock.now += 130  # models are loaded, for over two minutes
        progress.advance()
        for _ in range(99):  # half a second each
            clock.now += 0.5
            progress.advance()
    assert capsys.readouterr().err.splitlines() == [
        "evaluating: 1 of 400 cases",
        "evaluating: 100 of 400 cases, 2 min left",  # 300 cases of half a second
    ]


def test_the_time_left_is_told_from_the_latest_work(capsys: pytest.CaptureFixture[str]) -> None:
    """The first half was stored and took no time; the second half has to be judged."""
    clock = Clock()
    with Progress("evaluating", 1000, "cases", clock=clock) as progress:
        progress.advance()
        progress.advance(499)
        for _ in range(250):
            clock.now += 100.0
            progress.advance()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "evaluating: 750 of 1000 cases, 7 h left"  # 250 cases of 100 s, as in the window of the latest 32


def test_a_unit_may_take_several_steps(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("evaluating", 4, "cases", clock=clock, steps=3) as progress:
        for _ in range(12):
            clock.now += 6.0
            progress.advance()
    assert capsys.readouterr().err.splitlines() == [
        "evaluating: 1 of 4 cases, 54 s left",  # 9 steps of 6 s
        "evaluating: 2 of 4 cases, 36 s left",
        "evaluating: 3 of 4 cases, 18 s left",
        "evaluating: 4 of 4 cases",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h")]
)
def test_a_duration_is_said_in_the_unit_that_suits_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
