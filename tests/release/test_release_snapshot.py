"""A snapshot that several sessions read: one state, whatever others do meanwhile, or a clear error."""

from __future__ import annotations

import threading
import time

import psycopg2.errors
import pytest
from psycopg2 import sql

from lib.index.seal import content
from lib.platform import postgres
from lib.platform.errors import Unavailable
from lib.release import snapshot
from lib.release.table_copies import Part, copy_in, copy_out, parts_of, row_hashes

TABLE = sql.Identifier("public", "counted")
COLUMNS = ("number", "text")


@pytest.fixture
def table(connection):
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE counted (number integer, text text)")
        cursor.execute("INSERT INTO counted SELECT n, repeat(n::text, 200) FROM generate_series(1, 9000) AS n")
    return connection


def elsewhere(connection, command: str) -> None:
    other = postgres.beside(connection, "another session")
    with other, other.cursor() as cursor:
        cursor.execute(command)
    other.close()


def count(connection) -> int:
    found = postgres.one(connection, "SELECT count(*) AS rows FROM counted")
    assert found is not None
    return int(found["rows"])


def test_every_session_sees_the_state_of_the_first_one(table):
    with snapshot.exported(table, lambda: [TABLE], 2) as crew:
        elsewhere(table, "INSERT INTO counted VALUES (0, 'late')")
        assert crew.run([count, count, count], meanwhile=lambda: elsewhere(table, "DELETE FROM counted")) == [9000] * 3
        assert count(table) == 9000
    assert count(table) == 0


def test_the_parts_of_a_table_are_all_of_it_once(table, tmp_path):
    with snapshot.exported(table, lambda: [TABLE], 2) as crew:
        parts = parts_of(table, Part(TABLE, COLUMNS), 3)
        assert len(parts) == 3
        jobs = [lambda c, p=part, n=n: copy_out(c, p, tmp_path / f"{n}.rows.zst") for n, part in enumerate(parts)]
        assert sum(done["rows"] for done in crew.run(jobs)) == 9000
        copied = content(table, row_hashes(TABLE, COLUMNS))
    with table, table.cursor() as cursor:
        cursor.execute("CREATE TABLE again (LIKE counted)")
        for number in range(3):
            copy_in(table, sql.Identifier("public", "again"), COLUMNS, tmp_path / f"{number}.rows.zst")
        assert content(table, row_hashes(sql.Identifier("public", "again"), COLUMNS)) == copied


@pytest.mark.parametrize("command", ["TRUNCATE counted", "ALTER TABLE counted ADD more text", "DROP TABLE counted"])
def test_who_would_empty_or_change_a_table_waits_until_it_is_read(table, command):
    other = threading.Thread(target=elsewhere, args=(table, command))
    with snapshot.exported(table, lambda: [TABLE], 2):
        other.start()
        deadline = time.monotonic() + 30
        while postgres.one(table, "SELECT FROM pg_locks WHERE NOT granted") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert count(table) == 9000
    other.join(timeout=30)
    assert not other.is_alive()


def test_a_table_that_is_held_all_the_time_is_told(table, monkeypatch):
    monkeypatch.setattr(snapshot, "_LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(snapshot, "_LOCK_TRIES", 2)
    holding = postgres.beside(table, "another session")
    with holding.cursor() as cursor:
        cursor.execute("LOCK TABLE counted IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(Unavailable, match="is being changed"), snapshot.exported(table, lambda: [TABLE], 2):
        pass
    holding.close()
    assert count(table) == 9000


def test_rows_that_row_security_would_hide_are_an_error_and_not_left_out(table):
    with table, table.cursor() as cursor:
        cursor.execute("CREATE ROLE snapshot_guest LOGIN; GRANT SELECT ON counted TO snapshot_guest")
        cursor.execute("ALTER TABLE counted ENABLE ROW LEVEL SECURITY")
        cursor.execute("CREATE POLICY few ON counted USING (number < 10)")
    guest = postgres.connect(str(table.dsn).replace("user=postgres", "user=snapshot_guest"), "test")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), snapshot.exported(guest, lambda: [TABLE], 1) as crew:
        crew.run([count])
    guest.close()
    with table, table.cursor() as cursor:
        cursor.execute("DROP OWNED BY snapshot_guest; DROP ROLE snapshot_guest")


def test_the_first_failure_ends_what_the_others_do(table):
    def slow(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(600)")

    def failing(connection) -> None:
        time.sleep(0.2)
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"), snapshot.exported(table, lambda: [TABLE], 2) as crew:
        crew.run([slow, failing])


def test_a_file_has_as_many_columns_as_its_part(table, tmp_path):
    said = copy_out(table, Part(TABLE, ["number"], pages=(0, 10)), tmp_path / "few.rows.zst")
    table.rollback()
    assert 0 < said["rows"] < 9000
