"""Content digests notice every change that decides an answer; sealed tables refuse to change."""

from __future__ import annotations

import hashlib
import io
import struct

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extras import execute_values

from lib.index.chunk_table import create_chunk_table
from lib.index.seal import Content, content_of, seal
from lib.platform import postgres
from lib.platform.errors import Refused

TABLE = "document_chunks_test"
COLUMNS = {
    "id": "a#0",
    "doc_id": "a",
    "chunk_index": 0,
    "embedding_text": "prefix",
    "bm25_text": "text",
    "embedding_token_count": 3,
    "bm25_token_count": 2,
    "chunk_version": "v1",
    "ingest_run_id": "r1",
    "span_start": 0,
    "span_end": 4,
    "doc_sha256": "00",
    "duplicates": "[]",
    "embedding": "[1,0.5,-2]",
    "bm25_weights": "{2:0.25,7:1.5}/1000000000",
}
ROWS = [
    COLUMNS,
    {**COLUMNS, "id": "a#1", "chunk_index": 1, "bm25_text": "other 'text'\n\\ 日本語", "span_start": 4, "span_end": 9},
    {**COLUMNS, "id": "b#0", "doc_id": "b", "embedding": "[0,0,1]", "bm25_weights": "{}/1000000000"},
]


@pytest.fixture(scope="module")
def database(new_database):
    with new_database() as connection:
        yield connection


@pytest.fixture
def connection(database):
    """A connection to a database without chunk tables; shared, because a table is all that a test here needs."""
    yield database
    database.rollback()
    with database, database.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'documents'")
        for (name,) in cursor.fetchall():
            cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))


@pytest.fixture
def table(connection):
    """A chunk table with three rows."""
    return filled(connection, TABLE, ROWS)


def test_the_digest_is_the_hash_of_the_sorted_row_hashes(connection):
    filled(connection, TABLE, [COLUMNS])
    # the record's text; a vector's width, 0 and floats; a sparse vector's width, entries, 0, indices (from 0) and floats
    record = b"(a#0,a,0,prefix,text,3,2,v1,r1,0,4,00,[])"
    vector = struct.pack(">hh3f", 3, 0, 1.0, 0.5, -2.0)
    weights = struct.pack(">iii2i2f", 1_000_000_000, 2, 0, 1, 6, 0.25, 1.5)
    row = hashlib.sha256(record + vector + weights).digest()
    assert content(connection) == Content(1, hashlib.sha256(row).hexdigest())


def test_an_empty_table_has_the_digest_of_nothing_and_a_missing_one_has_none(connection):
    filled(connection, TABLE, [])
    assert content(connection) == Content(0, hashlib.sha256(b"").hexdigest())
    with connection:
        assert content_of(connection, "public", "document_chunks_gone") is None


def test_the_order_of_rows_and_when_they_were_made_make_no_difference(connection, table):
    filled(connection, "document_chunks_other", ROWS[::-1])
    execute(connection, "UPDATE document_chunks_other SET created_at = '2001-01-01'")
    assert content(connection).row_count == 3
    assert content(connection) == content(connection, "document_chunks_other")


@pytest.mark.parametrize(
    "change",
    [
        "id = 'a#9'",
        "doc_id = 'z'",
        "chunk_index = 7",
        "embedding_text = 'Prefix'",
        "bm25_text = bm25_text || ' '",
        "embedding_token_count = 4",
        "bm25_token_count = 3",
        "chunk_version = 'v2'",
        "ingest_run_id = 'r2'",
        "span_start = 1",
        "span_end = 10",
        "doc_sha256 = '01'",
        """duplicates = '[{"doc_id": "b"}]'""",
        "embedding = '[1,0.5,-2.0000002]'",
        "bm25_weights = '{2:0.25,7:1.5000001}/1000000000'",
        "bm25_weights = '{2:0.25,8:1.5}/1000000000'",
        "bm25_weights = NULL",
    ],
)
def test_any_change_of_any_row_changes_the_digest(connection, table, change):
    before = content(connection)
    for row in ROWS[:2]:
        execute(connection, f"UPDATE {TABLE} SET {change} WHERE id = %s", (row["id"],))
        assert content(connection).digest != before.digest
        assert content(connection).row_count == 3
        execute(connection, sql.SQL("TRUNCATE {}").format(table))
        fill(connection, TABLE, ROWS)
        assert content(connection) == before


@pytest.mark.parametrize(
    "command",
    [
        "DELETE FROM {} WHERE id = 'a#1'",
        "INSERT INTO {} SELECT (jsonb_populate_record(t, '{{\"id\": \"c#0\"}}')).* FROM {} t WHERE id = 'a#0'",
        "UPDATE {} SET bm25_text = CASE id WHEN 'a#0' THEN 'other' ELSE 'text' END WHERE id IN ('a#0', 'b#0')",
        "UPDATE {} SET (embedding_text, bm25_text) = ROW(embedding_text || ',x', '') WHERE id = 'a#0'",
    ],
)
def test_more_fewer_or_exchanged_rows_change_the_digest(connection, table, command):
    before = content(connection)
    execute(connection, sql.SQL(command).format(*[table] * command.count("{}")))
    assert content(connection).digest != before.digest


def test_values_that_move_between_columns_change_the_digest(connection):
    filled(connection, "one", [{**COLUMNS, "embedding_text": "a,b", "bm25_text": "c"}])
    filled(connection, "two", [{**COLUMNS, "embedding_text": "a", "bm25_text": "b,c"}])
    assert content(connection, "one").digest != content(connection, "two").digest


WRITES = [
    "INSERT INTO {} (id) VALUES ('x')",
    "INSERT INTO {} SELECT * FROM {} ON CONFLICT DO NOTHING",
    "UPDATE {} SET bm25_text = 'x'",
    "UPDATE {} SET bm25_text = 'x' WHERE false",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "MERGE INTO {} t USING (SELECT 'a#0' AS id) s ON t.id = s.id WHEN MATCHED THEN DELETE",
]


@pytest.mark.parametrize("write", WRITES)
def test_a_sealed_table_refuses_every_write(connection, table, write):
    with connection:
        seal(connection, table)
    before = content(connection)
    with pytest.raises(psycopg2.Error, match=rf"table public\.{TABLE} is sealed") as caught:
        execute(connection, sql.SQL(write).format(*[table] * write.count("{}")))
    assert isinstance(postgres.translate(caught.value), Refused)
    assert content(connection) == before


@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_sealed_table_refuses_copy(connection, table, form):
    stream = io.BytesIO()
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(sql.SQL("COPY {} TO STDOUT (FORMAT {})").format(table, sql.SQL(form)), stream)
        seal(connection, table)
    before = content(connection)
    stream.seek(0)
    with pytest.raises(psycopg2.Error, match="is sealed: insert refused"), connection, connection.cursor() as cursor:
        cursor.copy_expert(sql.SQL("COPY {} FROM STDIN (FORMAT {})").format(table, sql.SQL(form)), stream)
    assert content(connection) == before


def test_sealing_again_changes_nothing_and_other_tables_stay_open(connection, table):
    other = filled(connection, "document_chunks_other", ROWS)
    for _ in range(2):
        with connection:
            seal(connection, table)
    execute(connection, sql.SQL("DELETE FROM {}").format(other))
    assert content(connection, "document_chunks_other").row_count == 0
    assert content(connection).row_count == 3


def test_a_seal_that_is_rolled_back_is_none(connection, table):
    with pytest.raises(RuntimeError), connection:
        seal(connection, table)
        raise RuntimeError
    execute(connection, sql.SQL("DELETE FROM {}").format(table))
    assert content(connection).row_count == 0


def test_names_are_quoted(connection):
    name = 'Chunks "v1"; DROP TABLE documents --'
    table = filled(connection, name, ROWS)
    with connection:
        seal(connection, table)
    assert content(connection, name).row_count == 3
    with pytest.raises(psycopg2.Error, match="is sealed"):
        execute(connection, sql.SQL("DELETE FROM {}").format(table))


def filled(connection, name: str, rows: list[dict]) -> sql.Identifier:
    table = postgres.table_identifier("public", name)
    with connection:
        create_chunk_table(connection, table, 3)
    fill(connection, name, rows)
    return table


def fill(connection, name: str, rows: list[dict]) -> None:
    command = sql.SQL("INSERT INTO {} ({}) VALUES %s").format(
        sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    )
    with connection, connection.cursor() as cursor:
        if rows:
            execute_values(cursor, command, [tuple(row.values()) for row in rows])


def content(connection, name: str = TABLE) -> Content:
    with connection:
        found = content_of(connection, "public", name)
    assert found is not None
    return found


def execute(connection, command, parameters=None) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(command, parameters)
