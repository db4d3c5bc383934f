"""Excerpts: the gold is marked whole or in part, and every letter is shown or counted."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.release.excerpts import Cut, Piece, pieces_of, spans_of


@pytest.mark.parametrize(
    ("text", "quote", "marked"),
    [
        ("before the gold itself after", "the gold itself", ["the gold itself"]),
        ("before the\n gold itself after", "the gold itself", ["the\n gold itself"]),
        ("gold itself stands here. And more", "this is where the gold itself stands here.", ["gold itself stands here."]),
        ("a lead, then the gold begins with this", "the gold begins with this and goes on", ["the gold begins with this"]),
        ("begins with this and", "the gold begins with this and goes on", ["begins with this and"]),
        ("only a few words", "words of a quote that is elsewhere", []),
        ("x (a+b)* y", "(a+b)*", ["(a+b)*"]),
        ("twice gold, twice gold", "twice gold", ["twice gold", "twice gold"]),
    ],
)
def test_a_quote_or_the_part_that_a_passage_holds_is_marked(text, quote, marked):
    pieces = pieces_of(text, [quote])
    assert [piece.text for piece in pieces if piece.kind == "gold"] == marked
    assert "".join(piece.text for piece in pieces) == text


def test_what_is_far_from_the_gold_is_left_out_and_counted():
    pieces = pieces_of("a" * 500 + "GOLD IS HERE" + "b" * 300, ["GOLD IS HERE"], room=100)
    assert pieces == (
        Piece("gap", "400 characters"),
        Piece("text", "a" * 100),
        Piece("gold", "GOLD IS HERE"),
        Piece("text", "b" * 100),
        Piece("gap", "200 characters"),
    )


@given(st.text("ab \n", max_size=300), st.lists(st.text("ab \n", max_size=30), max_size=3), st.integers(1, 40))
def test_every_letter_is_shown_or_counted(text, quotes, room):
    pieces = pieces_of(text, quotes, room)
    shown = sum(len(piece.text) for piece in pieces if piece.kind != "gap")
    left_out = sum(int(piece.text.split()[0]) for piece in pieces if piece.kind == "gap")
    assert shown + left_out == len(text)
    for piece in pieces:
        assert piece.kind == "gap" or piece.text in text


def test_a_line_is_one_line_and_says_that_it_was_cut():
    assert Cut(room=5).line("a\n b\tc") == "a b c"
    assert Cut(room=5).line("x" * 21) == "x" * 20 + " […]"
    assert Cut(room=5).line("x" * 20) == "x" * 20


def test_a_secret_is_taken_out_before_a_text_is_cut():
    cut = Cut(room=5, clean=lambda text: text.replace("secret", "***"))
    assert cut.line("x" * 18 + "secret") == "x" * 18 + "**" + " […]"
    assert cut.text("y" * 39 + "secret" + "z" * 60)[0] == Piece("text", "y" * 39 + "*")


@given(st.text("ab \n\t", max_size=40), st.text("ab \n\t", max_size=8))
def test_a_quote_is_found_wherever_its_words_stand_in_a_row(text, quote):
    words = quote.split()
    pattern = r"\s+".join(map(re.escape, words))
    expected = [match.span() for match in re.finditer(pattern, text)] if words else []
    assert not expected or spans_of(text, quote) == expected
    assert expected or not any(" ".join(text[a:b].split()) == " ".join(words) for a, b in spans_of(text, quote))
