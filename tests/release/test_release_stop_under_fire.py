"""An emergency stop while others hold locks, and under load from clients that may only read."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from lib.platform import postgres
from lib.platform.errors import Unavailable
from lib.release import traffic
from tests.release.staged import Project

_IN_THE_WAY = {
    "an uncommitted grant": "GRANT SELECT ON {table} TO {role}",
    "a table that is rewritten": "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
    "a locked audit log": "LOCK TABLE golive.audit_log IN SHARE ROW EXCLUSIVE MODE",
    "a pointer that is being moved": "SELECT FROM golive.pointer FOR UPDATE",
}


@pytest.fixture
def role(live: Project) -> Iterator[str]:
    """A login that may do what a client needs, and nothing else."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    live.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    tables = "golive.pointer, golive.releases, golive.traffic, golive.superseded, golive.changed_chunks"
    for right in ("USAGE ON SCHEMA golive", f"SELECT ON {tables}"):
        live.execute(sql.SQL(f"GRANT {right} TO {{}}").format(sql.Identifier(name)))
    live.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(live.release().table, sql.Identifier(name)))
    yield name
    with suppress(psycopg2.errors.UndefinedObject):
        live.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


@pytest.fixture
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test need not wait for as long as an operator would."""
    monkeypatch.setattr(traffic, "_LOCK_TRIES", 2)
    monkeypatch.setattr(traffic, "_RECORD_TRIES", 2)
    monkeypatch.setattr(traffic, "_LOCK_TIMEOUT", "50ms")


@pytest.mark.parametrize("way", _IN_THE_WAY)
@pytest.mark.usefixtures("few_tries")
def test_no_lock_of_others_keeps_queries_from_being_refused_and_a_second_stop_completes_the_first(
    live: Project, role: str, way: str
) -> None:
    table = live.release().table
    with closing(live.connect()) as other:
        with other.cursor() as cursor:
            cursor.execute(sql.SQL(_IN_THE_WAY[way]).format(table=table, role=sql.Identifier(role)))
        with suppress(Unavailable):
            traffic.stop(live.connection, "fire")
        with pytest.raises(psycopg2.Error, match="fire"):
            live.ask("SELECT * FROM golive.route('a client')")
        other.rollback()
    assert traffic.stop(live.connection, "again").reason == "fire"
    assert actions(live) == [("stop queries", "fire")]
    assert not may_read(live, role)
    traffic.resume(live.connection, "sealed")
    assert actions(live) == [("stop queries", "fire"), ("resume queries", "sealed")]
    assert may_read(live, role)


@pytest.mark.usefixtures("few_tries")
def test_a_stop_that_could_not_be_recorded_is_told_and_recorded_before_the_resume(live: Project) -> None:
    with closing(live.connect()) as other:
        with other.cursor() as cursor:
            cursor.execute(_IN_THE_WAY["a locked audit log"])
        with pytest.raises(Unavailable, match="ARE stopped"):
            traffic.stop(live.connection, "fire")
        assert traffic.read(live.connection).state == "stopped"
        assert actions(live) == []
        other.rollback()
    traffic.resume(live.connection, "sealed")
    assert actions(live) == [("stop queries", "fire"), ("resume queries", "sealed")]


def test_a_table_that_stays_open_is_named(live: Project, role: str, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(live.connect()) as other:
        with other.cursor() as cursor:
            cursor.execute(sql.SQL(_IN_THE_WAY["a table that is rewritten"]).format(table=live.release().table))
        assert traffic.stop(live.connection, "fire").state == "stopped"
        assert live.release().table_name in capsys.readouterr().err
        other.rollback()
    assert may_read(live, role)
    traffic.stop(live.connection, "again")
    assert not may_read(live, role)


def test_once_stopped_no_reader_that_asks_without_a_pause_is_answered_until_the_resume(live: Project, role: str) -> None:
    clients = [Asking(make_dsn(live.url, user=role)) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: all(client.answered for client in clients))
        traffic.stop(live.connection, "fire")
        stopped = time.perf_counter()
        wait_until(lambda: all(client.refused for client in clients))
        refused = [client.refused for client in clients]
        wait_until(lambda: all(client.refused > before for client, before in zip(clients, refused, strict=True)))
        assert [began for client in clients for began in client.answered if began > stopped] == []
        counts = [len(client.answered) for client in clients]
        traffic.resume(live.connection, "sealed")
        wait_until(lambda: all(len(client.answered) > count for client, count in zip(clients, counts, strict=True)))
    finally:
        for client in clients:
            client.over.set()
            client.join()
    assert [client.errors for client in clients] == [[]] * len(clients)


class Asking(threading.Thread):
    """Routes, then reads the table that the route named, each in a transaction of its own."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.answered: list[float] = []
        self.refused = 0
        self.errors: list[str] = []
        self._address = address

    def run(self) -> None:
        with closing(psycopg2.connect(self._address)) as connection:
            connection.autocommit = True
            while not self.over.is_set() and not self.errors:
                began = time.perf_counter()
                try:
                    (route,) = postgres.every(connection, "SELECT table_schema, table_name FROM golive.route('a client')")
                    table = postgres.table_identifier(route["table_schema"], route["table_name"])
                    postgres.every(connection, sql.SQL("SELECT id FROM {} LIMIT 1").format(table))
                except psycopg2.Error as error:
                    # the stop can come between route and search, which then finds its right taken
                    if error.pgcode not in ("GL001", "42501"):
                        self.errors.append(str(error))
                    self.refused += 1
                else:
                    self.answered.append(began)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in 30 seconds"
        time.sleep(0.005)


def actions(live: Project) -> list[tuple[str, str]]:
    rows = live.ask("SELECT action, reason FROM golive.audit_log WHERE subject = 'traffic' ORDER BY seq")
    return [(row["action"], row["reason"]) for row in rows]


def may_read(live: Project, role: str) -> bool:
    table = postgres.quoted_name(live.release().table_schema, live.release().table_name)
    return bool(live.ask("SELECT has_table_privilege(%s, %s, 'SELECT') AS may", (role, table))[0]["may"])
