"""A COMMIT whose answer was lost: what happened is found out, whichever it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from lib.platform import commit, postgres
from lib.platform.commit import committing
from lib.platform.errors import Unavailable
from tests.platform.broken_commit import Way, way_to


@pytest.fixture
def way(database_url: str) -> Iterator[Way]:
    with closing(postgres.connect(database_url, "test")) as direct, direct, direct.cursor() as cursor:
        cursor.execute("CREATE TABLE written (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
    with tempfile.TemporaryDirectory() as folder, way_to(Path(folder), database_url) as made:  # a socket's path is short
        yield made


def write(way: Way, how: str | None) -> int:
    """Writes one row in a transaction whose COMMIT meets that fate; how many rows it then reads back."""
    connection = postgres.connect(way.url, "test")
    with closing(connection):
        with committing(connection) as transaction, connection.cursor() as cursor:
            cursor.execute("INSERT INTO written VALUES (1)")
            way.lose = how
        with transaction.reading_back() as alive:
            return len(postgres.every(alive, "SELECT * FROM written"))


def rows(url: str) -> int:
    with closing(postgres.connect(url, "test")) as connection, connection:
        return len(postgres.every(connection, "SELECT * FROM written"))


def test_a_commit_that_arrived_and_whose_answer_did_not_is_a_commit(way: Way, database_url: str) -> None:
    assert write(way, "after") == 1
    assert (way.lost, rows(database_url)) == (1, 1)


@pytest.mark.parametrize("how", ["before", "held"])
def test_a_commit_that_did_not_arrive_is_told_and_stays_undone(
    way: Way, database_url: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "_END_AFTER_S", 0.1)
    with pytest.raises(Unavailable, match="lost at COMMIT, and nothing was committed"):
        write(way, how)
    assert (way.lost, rows(database_url)) == (1, 0)
    with (
        closing(postgres.connect(database_url, "test")) as connection,
        connection,
    ):  # nothing of it is left that could commit
        assert postgres.every(connection, "SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL") == []


def test_where_the_database_does_not_answer_nothing_is_claimed(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_ASK_FOR_S", 0.3)
    monkeypatch.setattr(commit, "_connect", lambda address: postgres.connect("postgresql:///?host=/nowhere", "test"))
    with pytest.raises(Unavailable, match="it is not known whether that was carried out") as raised:
        write(way, "after")
    assert "pg_xact_status" in raised.value.hint


def test_a_transaction_without_trouble_ends_as_ever(way: Way, database_url: str) -> None:
    assert write(way, None) == 1
    with closing(postgres.connect(database_url, "test")) as connection:
        with pytest.raises(ZeroDivisionError), committing(connection), connection.cursor() as cursor:
            cursor.execute("DELETE FROM written")
            raise ZeroDivisionError
        assert rows(database_url) == 1
        with pytest.raises(psycopg2.errors.UniqueViolation), committing(connection), connection.cursor() as cursor:
            cursor.execute("INSERT INTO written VALUES (1)")  # refused by COMMIT itself: an answer, and no loss
        assert rows(database_url) == 1


def test_a_transaction_that_wrote_nothing_has_nothing_to_lose(way: Way) -> None:
    connection = postgres.connect(way.url, "test")
    with closing(connection), committing(connection):
        postgres.every(connection, "SELECT 1 AS one")
        way.lose = "before"
    assert way.lost == 1
