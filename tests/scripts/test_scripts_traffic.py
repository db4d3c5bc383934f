"""Stop and resume as commands: what they say and exit with, and that a kill anywhere leaves one state or the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing

import psycopg2
import pytest

from lib.platform import postgres
from lib.release import traffic
from tests.benchmarks import cutover_load
from tests.conftest import PROJECT

BOUNDARIES = {  # the state that a kill leaves there, and how many grants are taken by then
    "traffic.begin": ("open", 0),
    "traffic.commit": ("open", 0),
    "traffic.privileges": ("stopped", 0),
    "traffic.read_back": ("stopped", 1),
}


@pytest.fixture
def url(database_url, workspace):
    """A database with a live release that has a table and no seal."""
    with closing(postgres.connect(database_url, "test")) as connection:
        postgres.create_state(connection)
        cutover_load.move(connection, cutover_load.make_releases(connection, rows=20)[0])
    return database_url


def script(name: str, *arguments: str, **environment: str) -> tuple[int, dict]:
    command = [sys.executable, str(PROJECT / "scripts" / f"{name}.py"), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    return done.returncode, json.loads(done.stdout or "{}")


def test_a_query_in_flight_is_told_and_then_ended(url):
    with closing(psycopg2.connect(url)) as client:
        with client.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM document_chunks_384")
        code, said = script("emergency_stop", "--drain", "0.1")
        assert (code, said["after"]["state"], said["ended"]) == (13, "stopped", 0)
        assert [session["pid"] for session in said["in_flight"]] == [client.info.backend_pid]
        code, said = script("emergency_stop", "--force", "--dry-run")
        assert (code, len(said["in_flight"])) == (0, 1)
        code, said = script("emergency_stop", "--force")
        assert (code, said["ended"], said["in_flight"]) == (0, 1, [])


def test_what_does_not_validate_stays_stopped(url):
    script("emergency_stop")
    code, said = script("resume_operations")
    assert (code, "is damaged" in said["error"]) == (14, True)
    assert state(url) == "stopped"


@pytest.mark.parametrize("seconds", ["-1", "nan", "1e9"])
def test_a_drain_that_is_no_time_is_refused_and_stops_nothing(url, seconds):
    assert script("emergency_stop", f"--drain={seconds}")[0] == 2
    assert state(url) == "open"


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_kill_leaves_queries_open_or_stopped_and_the_next_stop_is_whole(url, boundary):
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("GRANT SELECT ON document_chunks_384 TO PUBLIC")
    assert script("emergency_stop", GOLIVE_FAILPOINT=f"{boundary}=kill")[0] == -9
    assert (state(url), taken(url)) == BOUNDARIES[boundary]
    assert script("emergency_stop")[0] == 0
    assert (state(url), taken(url)) == ("stopped", 1)


def test_a_kill_before_queries_in_flight_are_ended_leaves_queries_stopped_and_the_next_stop_ends_them(url):
    with closing(psycopg2.connect(url)) as client:
        with client.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM document_chunks_384")
        assert script("emergency_stop", "--force", GOLIVE_FAILPOINT="traffic.terminate=kill")[0] == -9
        assert state(url) == "stopped"
        code, said = script("emergency_stop", "--force")
        assert (code, said["ended"]) == (0, 1)


def test_a_kill_before_a_stop_is_recorded_leaves_queries_stopped_and_the_next_stop_records_it(url):
    recorded = "SELECT FROM golive.audit_log WHERE action = 'stop queries'"
    with closing(psycopg2.connect(url)) as holder:
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE golive.audit_log IN SHARE ROW EXCLUSIVE MODE")
        assert script("emergency_stop", GOLIVE_FAILPOINT="traffic.record=kill")[0] == -9
        assert state(url) == "stopped"
    assert script("emergency_stop")[0] == 0
    with closing(postgres.connect(url, "test")) as connection, connection:
        assert len(postgres.every(connection, recorded)) == 1


def state(url: str) -> str:
    with closing(postgres.connect(url, "test")) as connection:
        return traffic.read(connection).state


def taken(url: str) -> int:
    with closing(postgres.connect(url, "test")) as connection, connection:
        return len(postgres.every(connection, "SELECT FROM golive.stopped_grants"))
