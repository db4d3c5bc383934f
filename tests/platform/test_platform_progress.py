"""Progress is for the person who watches: on stderr, a bar only on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from lib.platform.progress import Progress, duration, muted


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
    assert last.startswith(f"embedding [{'#' * 28}] 4/4 chunks, 0 s left")
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
    moments = iter([0.0, 50.0, 100.0, 110.0, 1000.0])
    with Progress("evaluating", 1000, "cases", clock=lambda: next(moments)) as progress:
        progress.advance(10)  # after 50 s: too early for a line
        progress.advance(10)  # after 100 s: 20 of 1000 done, 98 % are left, which take 4900 s
        progress.advance(10)
        progress.advance(970)
    assert capsys.readouterr().err == "evaluating: 20 of 1000 cases, 82 min left\nevaluating: 1000 of 1000 cases\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h")]
)
def test_a_duration_is_said_in_the_unit_that_suits_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
