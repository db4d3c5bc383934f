"""What the database knows about releases, and what the pointer names."""

from __future__ import annotations

import psycopg2.errors
import pytest
from psycopg2 import sql

from lib.index.releases import find_release, get_release, read_pointer
from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, NotFound


def test_a_locked_release_is_found_with_its_config_and_table(connection, make_config, lock_release):
    config = make_config()
    release = lock_release(connection, config)
    assert release.release_id == config.ingest_run_id
    assert release.locked_config == config
    assert release.table == sql.Identifier("public", "document_chunks_2026_01_02_030405_v1")
    assert (release.state, release.corpus_digest, release.content_digest, release.row_count) == ("locked", None, None, None)
    with connection:
        assert find_release(connection, config.ingest_run_id) == release


def test_a_release_that_was_never_locked_here_is_not_found(connection):
    with connection:
        assert find_release(connection, "2026-01-02-030405-v1-00000000") is None
        with pytest.raises(NotFound, match="2026-01-02-030405-v1-00000000 is not known to this database"):
            get_release(connection, "2026-01-02-030405-v1-00000000")


def test_a_config_that_was_changed_in_the_database_is_noticed(connection, make_config, lock_release):
    release = lock_release(connection, make_config())
    with connection, connection.cursor() as cursor:
        cursor.execute("""UPDATE golive.releases SET config = jsonb_set(config, '{chunk_size}', '100')""")
    with connection, pytest.raises(IntegrityMismatch, match="does not match its config_hash"):
        _ = get_release(connection, release.release_id).locked_config


def test_the_pointer_names_nothing_before_the_first_promotion(connection):
    with connection:
        pointer = read_pointer(connection)
    assert (pointer.generation, pointer.release, pointer.reason) == (0, None, "set up")


def test_the_pointer_names_a_release_with_who_moved_it_and_why(connection, make_config, lock_release):
    release = lock_release(connection, make_config())
    move(connection, release.release_id)
    with connection:
        pointer = read_pointer(connection)
    assert pointer.release == release
    assert (pointer.generation, pointer.moved_by, pointer.reason) == (1, "tester", "test")


def test_the_pointer_cannot_name_a_release_that_is_not_there_or_have_a_second_row(connection):
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        move(connection, "2026-01-02-030405-v1-00000000")
    with pytest.raises(psycopg2.errors.UniqueViolation), connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO golive.pointer (generation, moved_by, reason) VALUES (9, 'x', 'x')")


def test_a_locked_pointer_cannot_be_moved_by_another_session_until_the_transaction_ends(connection, database_url):
    other = postgres.connect(database_url, "test")
    try:
        with connection:
            read_pointer(connection, lock=True)
            with pytest.raises(psycopg2.errors.LockNotAvailable), other, other.cursor() as cursor:
                cursor.execute("SELECT FROM golive.pointer FOR UPDATE NOWAIT")
            with other:
                assert read_pointer(other).generation == 0
        with other:
            assert read_pointer(other, lock=True).generation == 0
    finally:
        other.close()


def move(connection, release_id: str) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE golive.pointer SET generation = generation + 1, release_id = %s, moved_by = 'tester', reason = 'test'",
            (release_id,),
        )
