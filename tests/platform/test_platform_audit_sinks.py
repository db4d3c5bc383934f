"""Audit sinks: a file that misses nothing, a webhook that is told once, and commands that neither of them can stop."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from lib.platform import audit, audit_sinks
from tests.json_service import Service, serving

SECRET = "T0123456/hunter22hunter22"
DONE = (200, b"ok", {})


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    audit.take_recorded()
    for name in (audit_sinks.FILE, audit_sinks.WEBHOOK):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "audit.jsonl"
    monkeypatch.setenv(audit_sinks.FILE, str(path))
    return path


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(Service(path=f"/services/{SECRET}", replies=[DONE])) as service:
        monkeypatch.setenv(audit_sinks.WEBHOOK, service.url)
        yield service


def do(connection: Connection, *subjects: str) -> None:
    """Records and tells, as a command does."""
    for subject in subjects:
        with connection:
            audit.record(connection, "promote", subject, "it passed", after="aa")
    audit_sinks.tell(connection)


def subjects_in(path: Path) -> list[str]:
    return [json.loads(line)["subject"] for line in path.read_text().splitlines()]


def test_the_file_gets_every_entry_once_and_as_it_stands_in_the_log(state: Connection, file: Path) -> None:
    do(state, "one", "two")
    do(state, "three")
    with state:
        entries = list(audit.read(state))
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [audit.Entry(**line) for line in lines] == entries
    assert list(audit.find_faults(audit.Entry(**line) for line in lines)) == []


def test_an_entry_is_one_line_for_every_reader(state: Connection, file: Path) -> None:
    odd = "a\u0085b\u2028c\x9b2Jd\x0be\nf"
    do(state, odd)
    assert file.read_text().isascii()
    assert subjects_in(file)[-1] == odd
    with state:
        assert len(file.read_text().splitlines()) == len(list(audit.read(state)))


def test_what_was_recorded_while_the_file_was_away_is_in_it_afterwards(
    state: Connection, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    do(state, "one")
    monkeypatch.setenv("GOLIVE_FAILPOINT", "sinks.file=ENOSPC")
    do(state, "two")
    assert "GOLIVE_AUDIT_LOG: the file: no space left on device; what was done stands" in capsys.readouterr().err
    monkeypatch.delenv("GOLIVE_FAILPOINT")
    do(state, "three")
    assert subjects_in(file)[-3:] == ["one", "two", "three"]


@pytest.mark.parametrize("rest", [b'{"seq": 3, "at": "2026', b"\xff\xfe", b'{"seq": "many"}'])
def test_after_a_line_that_was_cut_off_the_entry_follows_whole(state: Connection, file: Path, rest: bytes) -> None:
    do(state, "one")
    with file.open("ab") as stream:
        stream.write(rest)
    do(state, "two")
    lines = file.read_bytes().splitlines()
    assert lines[-2] == rest
    assert [json.loads(line)["subject"] for line in (lines[-3], lines[-1])] == ["one", "two"]


def test_a_file_of_another_log_is_not_gone_on_with(
    state: Connection, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(state, "one")
    whole = file.read_text()
    for changed in (whole.replace('"hash": "', '"hash": "0'), whole.replace('"seq": ', '"seq": 1000')):
        file.write_text(changed)
        do(state, "two")
        assert "of another log, or that entry was changed" in capsys.readouterr().err
        assert file.read_text() == changed


@pytest.mark.parametrize("where", ["", "nowhere/audit.jsonl", "/dev/full"])
def test_what_is_no_file_that_can_be_written_is_told(
    state: Connection, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(audit_sinks.FILE, str(tmp_path / where))
    do(state, "one")
    assert capsys.readouterr().err.startswith("GOLIVE_AUDIT_LOG: ")


def test_who_comes_second_leaves_its_entries_to_the_next(
    state: Connection, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with file.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        do(state, "one")
    assert "another command is writing to the file" in capsys.readouterr().err
    do(state, "two")
    assert subjects_in(file)[-2:] == ["one", "two"]


def test_a_webhook_is_told_what_this_command_did_and_nothing_else(state: Connection, webhook: Service) -> None:
    with state:
        audit.record(state, "promote", "of another command", "it passed")
    audit.take_recorded()
    do(state, "mine")
    audit_sinks.tell(state)
    (told,) = webhook.requests
    assert [entry["subject"] for entry in told["entries"]] == ["mine"]
    assert told["text"].startswith("promote mine: it passed (")


def test_what_was_undone_is_not_told(state: Connection, webhook: Service) -> None:
    audit.record(state, "promote", "undone", "it passed")
    state.rollback()
    audit_sinks.tell(state)
    assert webhook.requests == []


@pytest.mark.parametrize("reply", [(500, b"", {}), (302, b"", {"Location": "http://127.0.0.1:1/"}), (0, b"", {})])
def test_a_webhook_that_fails_is_told_without_its_secret(
    state: Connection, webhook: Service, reply: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook.replies = [reply]
    do(state, "one")
    assert len(webhook.requests) == 1
    said = capsys.readouterr().err
    assert said.startswith("GOLIVE_WEBHOOK_URL: ") and said.count("\n") == 1
    assert "hunter" not in said


def test_a_webhook_that_never_answers_or_is_not_there_holds_nothing_up(
    state: Connection, webhook: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_sinks, "_TIMEOUT_S", 0.2)
    webhook.slow_s = 60
    started = time.monotonic()
    do(state, "one")
    monkeypatch.setenv(audit_sinks.WEBHOOK, f"http://127.0.0.1:1/{SECRET}")
    do(state, "two")
    monkeypatch.setenv(audit_sinks.WEBHOOK, f"gopher://host/{SECRET}")
    do(state, "three")
    assert time.monotonic() - started < 30
    said = capsys.readouterr().err
    assert said.count("GOLIVE_WEBHOOK_URL: ") == 3 and "hunter" not in said
