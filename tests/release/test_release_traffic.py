"""Stopping and resuming: through the database, for everybody, at once."""

from __future__ import annotations

import psycopg2
import pytest

from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, NotFound
from lib.release import traffic

ROUTE = "SELECT release_id, table_name FROM golive.route()"


@pytest.fixture
def client(live):
    """A query client's own session, opened before anything is stopped."""
    made = live.connect()
    yield made
    made.close()


def test_a_stop_refuses_the_next_query_of_a_session_that_was_open_before(live, client):
    assert route(client)["release_id"] == live.live_id()
    traffic.stop(live.connection, "wrong answers")
    with pytest.raises(psycopg2.Error) as raised:
        route(client)
    assert raised.value.pgcode == "GL001"
    assert "wrong answers" in str(raised.value)
    traffic.resume(live.connection, "answers are right again")
    assert route(client)["release_id"] == live.live_id()


def test_a_stop_outlives_the_session_that_asked_for_it(live):
    other = live.connect()
    traffic.stop(other, "fire")
    other.close()
    with pytest.raises(psycopg2.Error, match="fire"):
        route(live.connection)
    live.connection.rollback()
    assert (traffic.read(live.connection).state, traffic.read(live.connection).reason) == ("stopped", "fire")


def test_a_second_stop_keeps_the_first_reason_and_moment(live):
    first = traffic.stop(live.connection, "the first")
    assert traffic.stop(live.connection, "the second") == first
    assert first.reason == "the first"


def test_each_change_is_recorded_once_with_its_reason(live):
    for _ in range(2):
        traffic.stop(live.connection, "why it was stopped")
    for _ in range(2):
        traffic.resume(live.connection, "why it goes on")
    entries = live.ask("SELECT action, reason FROM golive.audit_log WHERE subject = 'traffic' ORDER BY seq")
    assert entries == [
        {"action": "stop queries", "reason": "why it was stopped"},
        {"action": "resume queries", "reason": "why it goes on"},
    ]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM {table} WHERE chunk_index = 0",
        "UPDATE {table} SET embedding = (SELECT embedding FROM {table} ORDER BY id LIMIT 1)",
        "DROP TABLE {table}",
    ],
)
def test_a_damaged_release_is_not_resumed(live, damage):
    traffic.stop(live.connection, "damaged")
    live.tamper(damage)
    with pytest.raises(IntegrityMismatch, match=live.live_id()):
        traffic.resume(live.connection, "try")
    assert (traffic.read(live.connection).state, traffic.read(live.connection).reason) == ("stopped", "damaged")


def test_a_damaged_release_can_be_stopped(live):
    live.tamper("DROP TABLE {table}")
    assert traffic.stop(live.connection, "damaged").state == "stopped"


def test_nothing_live_can_be_stopped_and_not_resumed(sealed):
    assert traffic.stop(sealed.connection, "before the first release").state == "stopped"
    with pytest.raises(NotFound, match="no release is live"):
        traffic.resume(sealed.connection, "try")
    assert traffic.read(sealed.connection).state == "stopped"


def test_reading_back_what_is_live_says_release_table_rows_and_digest(live):
    release = live.release()
    assert traffic.check_live(live.connection) == {
        "release_id": release.release_id,
        "table": release.table_name,
        "rows": 3,
        "digest": release.content_digest,
    }


def test_a_fresh_database_answers_queries_and_says_since_when(connection):
    found = traffic.read(connection)
    assert found.state == "open"
    assert found.to_dict()["changed_at"].endswith("Z")


def test_a_secret_in_a_reason_is_told_to_nobody(live, client, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correcthorse")
    traffic.stop(live.connection, "cannot log in with correcthorse")
    with pytest.raises(psycopg2.Error) as raised:
        route(client)
    assert "correcthorse" not in str(raised.value)


def route(connection) -> dict:
    with connection:
        found = postgres.one(connection, ROUTE)
    assert found is not None
    return found
