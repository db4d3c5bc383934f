"""Plain text tables."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.release.tables import text_table

cells = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)


def test_columns_are_aligned_and_no_line_ends_in_blanks():
    rows = [["backup", "rows"], ["a", "10"], ["longer one", ""]]
    assert text_table(rows) == "backup      rows\na           10\nlonger one"


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=5)))
@hypothesis_settings(deadline=None, derandomize=True, max_examples=50)
def test_every_cell_starts_where_its_column_does(rows):
    lines = text_table(rows).splitlines()
    place = 0
    for column in range(len(rows[0])):
        for line, row in zip(lines, rows, strict=True):
            assert line[place:].startswith(row[column])
        place += max(len(row[column]) for row in rows) + 2
