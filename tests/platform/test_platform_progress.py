"""Progress is for the person who watches: on stderr, a bar only on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from lib.platform.progress import Progress


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
