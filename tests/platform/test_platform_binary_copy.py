"""Binary COPY: what goes in comes out, and its bytes are those that PostgreSQL itself writes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.platform import binary_copy, postgres

COLUMNS = {
    "Te xt": binary_copy.text,
    "number": binary_copy.int4,
    "facts": binary_copy.jsonb,
    "embedding": binary_copy.vector,
}
TABLE = sql.Identifier("copied")

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)
_ROWS = st.lists(
    st.tuples(
        _TEXT,
        st.integers(-(2**31), 2**31 - 1),
        st.dictionaries(_TEXT, _TEXT | st.integers(-1000, 1000) | st.none(), max_size=3),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def table(server: str) -> Iterator[Connection]:
    """A connection with an empty table of three-dimensional vectors that goes with it."""
    connection = postgres.connect(server, "test")
    postgres.require_pgvector(connection)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            'CREATE TEMPORARY TABLE copied (line serial, "Te xt" text, number integer, facts jsonb, embedding vector(3))'
        )
    yield connection
    connection.close()


def copied(table: Connection, rows: list[tuple]) -> None:
    with table.cursor() as cursor:
        values = [(text, number, json.dumps(facts), np.array(vector, np.float32)) for text, number, facts, vector in rows]
        binary_copy.copy_binary(cursor, TABLE, COLUMNS, values)


@given(_ROWS)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_rows_that_were_copied_are_read_back_as_they_were(table: Connection, rows: list[tuple]) -> None:
    try:
        copied(table, rows)
        with table.cursor() as cursor:
            cursor.execute('SELECT "Te xt", number, facts, embedding::real[] FROM copied ORDER BY line')
            found = [(text, number, facts, np.array(vector, np.float32).tolist()) for text, number, facts, vector in cursor]
    finally:
        table.rollback()
    assert found == rows


def test_the_bytes_are_those_that_postgresql_writes(table: Connection) -> None:
    rows = [("a\tb\\N 日本", -5, {"key": [1, None]}, [1.0, -0.5, 3.25]), ("", 2**31 - 1, {}, [0.0, 1e-30, -1e30])]
    values = [(text, number, json.dumps(facts), np.array(vector, np.float32)) for text, number, facts, vector in rows]
    copied(table, rows)
    written = io.BytesIO()
    with table.cursor() as cursor:
        names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        command = sql.SQL("COPY (SELECT {} FROM copied ORDER BY line) TO STDOUT (FORMAT binary)").format(names)
        cursor.copy_expert(command, written)
    table.rollback()
    assert b"".join(binary_copy.encode(list(COLUMNS.values()), values)) == written.getvalue()


def test_more_rows_than_a_piece_holds_arrive_in_order(table: Connection) -> None:
    copied(table, [(f"row {number}" * 50, number, {}, [1, 2, 3]) for number in range(1000)])
    with table.cursor() as cursor:
        cursor.execute("SELECT number FROM copied ORDER BY line")
        assert [row[0] for row in cursor] == list(range(1000))
    table.rollback()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x", 1, {}, [1.0, float("nan"), 2.0]), "NaN not allowed"),
        (("x", 1, {}, [1.0, 2.0]), "expected 3 dimensions"),
        (("nul\0", 1, {}, [1.0, 2.0, 3.0]), "invalid byte sequence"),
    ],
)
def test_a_value_that_the_server_refuses_leaves_no_row_of_the_call(table: Connection, row: tuple, message: str) -> None:
    with pytest.raises(psycopg2.DataError, match=message):
        copied(table, [("good", 1, {}, [1.0, 2.0, 3.0]), row])
    table.rollback()
    with table.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM copied")
        assert cursor.fetchone() == (0,)
    table.rollback()


def test_rows_that_fail_while_they_are_made_raise_their_own_error(table: Connection) -> None:
    def rows() -> Iterator[tuple]:
        yield "good", 1, "{}", np.zeros(3, np.float32)
        raise KeyError("a fault of ours")

    with pytest.raises((KeyError, psycopg2.Error)), table.cursor() as cursor:
        binary_copy.copy_binary(cursor, TABLE, COLUMNS, rows())
    table.rollback()
