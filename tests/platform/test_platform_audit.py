"""The audit log only grows, and each entry's hash covers the entry and the one before it."""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import UTC
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from lib.platform import audit, postgres
from lib.platform.errors import Refused
from lib.platform.lease import who

# golive.audit as it was before an entry held a role
_AS_BEFORE = """
CREATE FUNCTION pg_temp.old_hash(e golive.audit_log) RETURNS text LANGUAGE sql AS $$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        e.seq, to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), e.actor, e.action, e.subject,
        e.reason, e.from_digest, e.to_digest, e.previous_hash)::text, 'UTF8')), 'hex')
$$;
CREATE FUNCTION pg_temp.old_audit(a text, b text, c text, d text, e text, f text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    last golive.audit_log;
    entry golive.audit_log;
BEGIN
    SELECT * INTO last FROM golive.audit_log ORDER BY seq DESC LIMIT 1;
    entry := (coalesce(last.seq, 0) + 1, date_trunc('microseconds', clock_timestamp()), a, b, c, d, e, f,
              coalesce(last.hash, ''), '', NULL);
    entry.hash := pg_temp.old_hash(entry);
    INSERT INTO golive.audit_log SELECT entry.*;
END $$;
"""
_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30)


def test_the_first_entry_is_number_one_and_follows_nothing(connection: Connection) -> None:
    with connection:
        audit.record(connection, "lock config", "version", "why")
    (entry,) = _entries(connection)
    assert (entry["seq"], entry["previous_hash"], entry["hash"]) == (1, "", _hash(entry))


def test_an_entry_says_who_did_what_and_why_from_which_digest_to_which(state: Connection) -> None:
    with state:
        audit.record(state, "move pointer", "release-1", "it passed", before="aa", after="bb")
    entry = _entries(state)[-1]
    assert {key: entry[key] for key in ("actor", "action", "subject", "reason", "from_digest", "to_digest")} == {
        "actor": who(),
        "action": "move pointer",
        "subject": "release-1",
        "reason": "it passed",
        "from_digest": "aa",
        "to_digest": "bb",
    }


@given(st.lists(st.tuples(_TEXT, _TEXT, _TEXT, st.none() | _TEXT, st.none() | _TEXT), min_size=1, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_the_chain_of_hashes_can_be_computed_again_by_anybody(
    state: Connection, told: list[tuple[str, str, str, str | None, str | None]]
) -> None:
    before = len(_entries(state))
    for action, subject, reason, old, new in told:
        with state:
            audit.record(state, action, subject, reason, before=old, after=new)
    entries = _entries(state)
    assert [entry["seq"] for entry in entries] == list(range(1, before + len(told) + 1))
    previous = ""
    for entry in entries:
        assert entry["previous_hash"] == previous
        assert entry["hash"] == _hash(entry)
        previous = entry["hash"]


def test_an_entry_lives_and_dies_with_the_transaction_it_tells_of(state: Connection) -> None:
    before = _entries(state)
    audit.record(state, "move pointer", "a", "first try")
    state.rollback()
    assert _entries(state) == before
    with state:
        audit.record(state, "move pointer", "a", "second try")
    *rest, last = _entries(state)
    assert rest == before
    assert (last["seq"], last["reason"]) == (len(before) + 1, "second try")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE golive.audit_log SET reason = 'nicer'",
        "DELETE FROM golive.audit_log",
        "TRUNCATE golive.audit_log",
        "UPDATE golive.audit_log SET reason = 'nicer' WHERE false",
    ],
)
def test_an_entry_is_never_changed_or_removed(statement: str, state: Connection) -> None:
    with state:
        audit.record(state, "lock config", "a", "why")
    before = _entries(state)
    with pytest.raises(psycopg2.Error) as caught, state, state.cursor() as cursor:
        cursor.execute(statement)
    refusal = postgres.translate(caught.value)
    assert isinstance(refusal, Refused)
    assert "golive.audit_log" in refusal.message
    assert _entries(state) == before


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE golive.audit_log SET reason = 'nicer' WHERE seq = 2", 2),
        ("DELETE FROM golive.audit_log WHERE seq = 2", 3),
        ("DELETE FROM golive.audit_log WHERE seq = 1", 2),
        ("UPDATE golive.audit_log SET seq = seq + 10", 11),
        ("UPDATE golive.audit_log SET at = at + interval '1 second' WHERE seq = 3", 3),
        ("UPDATE golive.audit_log SET role = 'somebody else' WHERE seq = 2", 2),
        ("UPDATE golive.audit_log SET role = NULL WHERE seq = 2", 2),
    ],
)
def test_a_log_that_was_tampered_with_is_noticed(damage: str, found: int, connection: Connection) -> None:
    for reason in ("first", "second", "third"):
        with connection:
            audit.record(connection, "lock config", "a", reason)
    with connection:
        assert audit.first_break(connection) is None
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(damage)
    with connection:
        assert audit.first_break(connection) == found


def test_an_entry_names_the_role_that_logged_in(state: Connection) -> None:
    with state:
        audit.record(state, "lock config", "a", "why")
        (logged_in,) = postgres.every(state, "SELECT session_user::text AS role")
    assert _entries(state)[-1]["role"] == logged_in["role"]


def test_entries_of_before_roles_were_recorded_are_still_whole(connection: Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(_AS_BEFORE)
        cursor.execute(
            "SELECT pg_temp.old_audit('me', 'lock config', 'a', reason, NULL, 'd') FROM (VALUES ('x'), ('y')) AS v (reason)"
        )
    with connection:
        audit.record(connection, "move pointer", "a", "a new one after them")
    with connection:
        assert audit.first_break(connection) is None
        entries = list(audit.read(connection))
    assert [entry.role is None for entry in entries] == [True, True, False]
    assert list(audit.find_faults(entries)) == []


@given(st.lists(st.tuples(_TEXT, _TEXT, _TEXT, st.none() | _TEXT, st.none() | _TEXT), min_size=1, max_size=2))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_the_hashes_that_are_computed_here_are_those_of_the_database(
    state: Connection, told: list[tuple[str, str, str, str | None, str | None]]
) -> None:
    for action, subject, reason, old, new in told:
        with state:
            audit.record(state, action, subject, reason, before=old, after=new)
    with state:
        entries = list(audit.read(state))
    assert list(audit.find_faults(entries)) == []
    assert [audit.hash_of(entry) for entry in entries] == [entry["hash"] for entry in _entries(state)]


@pytest.mark.parametrize("at", ["'infinity'", "'-infinity'", "at - 2 * (at - '0001-01-01Z') - interval '1 year'"])
def test_a_time_that_python_has_no_word_for_is_found_too(at: str, connection: Connection) -> None:
    with connection:
        audit.record(connection, "lock config", "a", "first")
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(f"UPDATE golive.audit_log SET at = {at}")
    with connection:
        assert [fault.seq for fault in audit.find_faults(audit.read(connection))] == [1]


def test_a_time_in_the_same_year_before_christ_is_found(connection: Connection) -> None:
    with connection:
        audit.record(connection, "lock config", "a", "first")
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(
            "UPDATE golive.audit_log SET at = (to_char(at, 'YYYY-MM-DD HH24:MI:SS.US') || ' UTC BC')::timestamptz"
            " RETURNING to_char(at, 'YYYY BC')"
        )
        assert (cursor.fetchone() or ("",))[0].endswith("BC")
    with connection:
        assert [fault.seq for fault in audit.find_faults(audit.read(connection))] == [1]


def test_two_writers_stand_in_line(state: Connection, state_url: str) -> None:
    other = postgres.connect(state_url, "other writer")
    watcher = postgres.connect(state_url, "watcher")
    watcher.autocommit = True
    failures: list[Exception] = []
    waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'golive other writer' AND wait_event_type = 'Lock'"
    try:
        audit.record(state, "first", "a", "not committed yet")
        second = threading.Thread(target=_record, args=(other, failures))
        second.start()
        while second.is_alive() and not postgres.every(watcher, waiting):
            pass
        state.commit()
        second.join()
    finally:
        other.close()
        watcher.close()
    assert failures == []
    first, last = _entries(state)[-2:]
    assert (first["action"], last["action"]) == ("first", "second")
    assert last["previous_hash"] == first["hash"] == _hash(first)


def test_a_writer_with_an_old_snapshot_cannot_fork_the_chain(state: Connection, state_url: str) -> None:
    other = postgres.connect(state_url, "other")
    try:
        other.set_session(isolation_level="REPEATABLE READ")
        postgres.every(other, "SELECT count(*) FROM golive.audit_log")
        with state:
            audit.record(state, "first", "a", "meanwhile")
        with pytest.raises(psycopg2.Error), other:
            audit.record(other, "second", "a", "sees no first")
    finally:
        other.close()
    assert _entries(state)[-1]["action"] == "first"


def test_a_reason_holds_no_secret(state: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    with state:
        audit.record(state, "stop", "traffic", "correct-horse leaked, see postgresql://u:hunter22@h")
    assert _entries(state)[-1]["reason"] == "*** leaked, see postgresql://u:***@h"


def test_a_subject_holds_no_secret_either(state: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    with state:
        audit.record(state, "sync documents", "/mnt/correct-horse/docs", "asked for")
    assert "correct-horse" not in _entries(state)[-1]["subject"]


def _record(connection: Connection, failures: list[Exception]) -> None:
    try:
        with connection:
            audit.record(connection, "second", "a", "patient")
    except Exception as error:  # whatever it is, the test shows it
        failures.append(error)


def _entries(connection: Connection) -> list[dict[str, Any]]:
    with connection:
        return postgres.every(connection, "SELECT * FROM golive.audit_log ORDER BY seq")


def _hash(entry: dict[str, Any]) -> str:
    """SHA-256 over the entry as a JSON array, the way the schema's comment tells it."""
    at = entry["at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    names = ("actor", "action", "subject", "reason", "from_digest", "to_digest", "previous_hash")
    role = [] if entry["role"] is None else [entry["role"]]
    text = json.dumps([entry["seq"], at, *(entry[name] for name in names), *role], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
