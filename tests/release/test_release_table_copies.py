"""Tables to files and back: the same rows, or a difference that count and digest show."""

from __future__ import annotations

import hashlib

import psycopg2
import pytest
import zstandard
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg2 import sql

from lib.index.chunk_table import create_chunk_table
from lib.index.seal import content_of
from lib.platform.errors import IntegrityMismatch
from lib.release.table_copies import Part, columns_of, copy_in, copy_out, documents_content

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


def test_a_chunk_table_copied_out_and_in_has_the_same_rows_and_digest(sealed, tmp_path):
    release = sealed.release()
    path, target = tmp_path / "chunks.rows.zst", sql.Identifier("public", "copied")
    with sealed.connection:
        columns = columns_of(sealed.connection, "public", release.table_name, ["embedding"])
        said = copy_out(sealed.connection, Part(release.table, columns, 384), path)
        create_chunk_table(sealed.connection, target, release.locked_config.embedder_dimension)
        copy_in(sealed.connection, target, columns, path)
        content = content_of(sealed.connection, "public", "copied")
    assert (content.row_count, content.digest) == (release.row_count, release.content_digest)
    assert said == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size, "rows": 3}


@given(st.lists(st.tuples(texts, texts), max_size=5, unique_by=lambda row: row[0]))
@hypothesis_settings(
    deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_comes_back_as_it_was(connection, tmp_path, rows):
    path = tmp_path / "any.rows.zst"
    with connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS one, two; CREATE TABLE one (a text, b text); CREATE TABLE two (LIKE one)")
        cursor.executemany("INSERT INTO one VALUES (%s, %s)", rows)
        copy_out(connection, Part(sql.Identifier("public", "one"), ["a", "b"]), path)
        copy_in(connection, sql.Identifier("public", "two"), ["a", "b"], path)
        cursor.execute("SELECT a, b FROM two")
        assert sorted(cursor.fetchall()) == sorted(rows)


def test_the_columns_of_a_table_are_named_in_their_order(connection):
    with connection, connection.cursor() as cursor:
        cursor.execute('CREATE TABLE odd ("Second one" text, a integer, "select" text); ALTER TABLE odd DROP COLUMN a')
        assert columns_of(connection, "public", "odd") == ["Second one", "select"]
        assert columns_of(connection, "public", "nothing") == []


def test_a_copy_that_fails_leaves_no_file(sealed, tmp_path):
    with pytest.raises(psycopg2.errors.UndefinedTable):
        copy_out(sealed.connection, Part(sql.Identifier("public", "nothing"), ["id"]), tmp_path / "new" / "x.rows.zst")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("form", ["rows", "copy"])
def test_a_file_that_does_not_decompress_is_damage(connection, tmp_path, form):
    path = tmp_path / f"documents.{form}.zst"
    path.write_bytes(b"this is no zstd frame")
    with pytest.raises(IntegrityMismatch, match="documents"):
        copy_in(connection, sql.Identifier("public", "documents"), ["id"], path)


@pytest.mark.parametrize("form", ["rows", "copy"])
def test_a_file_that_decompresses_to_something_else_is_damage(connection, tmp_path, form):
    path = tmp_path / f"documents.{form}.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"this is no COPY file"))
    with pytest.raises(IntegrityMismatch, match="documents"):
        copy_in(connection, sql.Identifier("public", "documents"), ["id"], path)


def test_the_digest_of_documents_covers_content_and_not_the_order_or_time(sealed):
    def digest() -> str:
        with sealed.connection:
            return documents_content(sealed.connection, "public").digest

    before = digest()
    sealed.execute("UPDATE documents SET updated_at = 'epoch' WHERE path = 'backups.md'")
    sealed.execute("CREATE TABLE moved AS SELECT * FROM documents ORDER BY id DESC; TRUNCATE documents")
    sealed.execute("INSERT INTO documents SELECT * FROM moved")
    assert digest() == before
    for column in ("title", "content", "sha256", "source", "path"):
        sealed.execute(f"UPDATE documents SET {column} = {column} || 'x' WHERE id = 'corpus/backups.md'")
        assert digest() != before
        sealed.execute(f"UPDATE documents SET {column} = left({column}, -1) WHERE id = 'corpus/backups.md'")
    assert digest() == before
