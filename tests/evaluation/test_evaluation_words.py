"""Words: what the offline reader and judge compare."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation.words import stems


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The backups ARE restored.", ["backup", "restor"]),
        ("restoring, restores; restored", ["restor", "restor", "restor"]),
        ("What is it that they do?", []),
        ("", []),
        ("1,000 rows", ["1000", "row"]),
        ("1,234,567 bytes", ["1234567", "byte"]),
        ("3.5 seconds", ["3.5", "second"]),
        ("from 02:00 to 02:05", ["02", "00", "02", "05"]),
        ("17 % of 26 hours.", ["17", "26", "hour"]),
        ("450-token chunks", ["450", "token", "chunk"]),
        ("Straße", ["strass"]),
        ("pg_dump", ["pg_dump"]),
    ],
)
def test_stems_by_hand(text, wanted):
    assert stems(text) == wanted


def test_repeated_words_are_kept_in_order():
    assert stems("table, index, table") == ["tabl", "index", "tabl"]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.sampled_from(["Backups", "the", "restore", "1,000", "3.5", "is", "tables", "und"]), max_size=8))
def test_case_blanks_and_function_words_make_no_difference(words):
    found = stems(" ".join(words))
    assert stems(" ".join(words).upper()) == found
    assert stems("\n".join(words)) == found
    assert stems(" ".join(word for word in words if word not in ("the", "is"))) == found
