"""Backups: what races with one, what fails under one, and clocks that are wrong."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from lib.platform.files import read_json
from tests.conftest import PROJECT, administer, sql
from tests.faults import killing, proxy
from tests.faults.cases import Case, reached
from tests.faults.disks import small_disk
from tests.faults.invariants import visible_backups
from tests.faults.steps import newest_backup

# runs a script with a clock that is wrong by so many days: argument 1
_WRONG_CLOCK = f"""
import runpy, sys
from datetime import timedelta
sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / "scripts")!r}]
from lib.platform import clock
right, days = clock.now, float(sys.argv[1])
clock.now = lambda: right() + timedelta(days=days)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.fault("backup.truncate")
def test_a_truncate_of_the_documents_that_races_gives_all_of_them_or_none(open_case: Callable[[str], Case]) -> None:
    case = open_case("backup")
    with _racing(case, "TRUNCATE documents") as process:
        pass
    done = killing.finish(process)
    assert done.code == 0, done
    (folder,) = visible_backups(case.project.workspace)
    assert read_json(folder / "manifest.json", "manifest")["documents"]["rows"] == 0
    case.repeat()


@pytest.mark.fault("backup.truncate")
def test_a_chunk_table_that_is_emptied_under_a_backup_is_not_backed_up(open_case: Callable[[str], Case]) -> None:
    case = open_case("backup")
    table = case.project.release(case.project.live_id()).table_name
    with _racing(case, f"SET LOCAL session_replication_role = replica; TRUNCATE {table}") as process:
        pass
    done = killing.finish(process)
    assert done.code == 14, done
    assert "not what was sealed" in done.err
    assert visible_backups(case.project.workspace) == []
    assert case.project.pointer().generation == case.before.generation


@pytest.mark.fault("backup.alter")
def test_a_table_that_is_altered_under_a_backup_is_backed_up_as_it_is_proven(
    open_case: Callable[[str], Case], empty_database: str
) -> None:
    case = open_case("backup")
    with _racing(case, "ALTER TABLE documents ADD COLUMN owner text DEFAULT 'me'") as process:
        pass
    done = killing.finish(process)
    assert done.code == 0, done
    case.repeat()
    backup = "--backup-id", newest_backup(case.project), "--from-another-system"
    restore = killing.script("restore_production_state", *backup)
    restored = killing.run(restore, DATABASE_URL=empty_database)
    if restored.code == 15:  # altered before the snapshot: the backup holds a column that a new table has not
        assert "lacks a column" in restored.err, restored
        with closing(psycopg2.connect(empty_database)) as elsewhere, elsewhere, elsewhere.cursor() as cursor:
            cursor.execute("ALTER TABLE documents ADD COLUMN owner text DEFAULT 'me'")
        restored = killing.run(restore, DATABASE_URL=empty_database)
    assert restored.code == 0, restored


@pytest.mark.fault("backup.rls")
def test_a_role_from_whom_rows_are_hidden_makes_no_backup(open_case: Callable[[str], Case], server: str) -> None:
    case = open_case("backup")
    role = f"hidden_{secrets.token_hex(4)}"
    for command in (
        f"CREATE ROLE {role} LOGIN",
        f"GRANT ALL ON SCHEMA golive, public TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA golive, public TO {role}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA golive, public TO {role}",
        f"GRANT CREATE ON DATABASE {case.project.connection.info.dbname} TO {role}",
        "ALTER TABLE documents ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY visible ON documents TO {role} USING (id LIKE '%pointer%')",
    ):
        case.project.execute(command)
    try:
        done = case.run(DATABASE_URL=case.project.url.replace("postgres@", f"{role}@"))
        assert done.code == 15, done
        assert "row-level security" in done.err or "row security" in done.err
        assert visible_backups(case.project.workspace) == []
        case.repeat()
    finally:
        case.project.execute(f"DROP OWNED BY {role}")
        administer(server, sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.mark.fault("backup.terminated")
@pytest.mark.parametrize("sessions", ["golive backup%", "golive lease%"])
def test_a_backup_whose_sessions_are_terminated_says_so(sessions: str, open_case: Callable[[str], Case]) -> None:
    case = open_case("backup")
    terminated = threading.Event()
    with proxy.before(case.project.url) as line, closing(case.project.connect()) as other:

        def at_query(number: int, query: str) -> proxy.Fate:
            if query.startswith("COPY ") and not terminated.is_set():
                terminated.set()
                with other, other.cursor() as cursor:
                    cursor.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name LIKE %s AND datname = current_database()",
                        (sessions,),
                    )
                    assert cursor.rowcount
            return proxy.Fate.PASS

        line.at_query = at_query
        done = case.run(DATABASE_URL=line.url)
    assert done.code == 13, done
    assert sessions == "golive lease%" or visible_backups(case.project.workspace) == []
    case.repeat()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        *[pytest.param(w, "ENOSPC", marks=pytest.mark.fault("backup.disk")) for w in ("open", "write", "fsync", "close")],
        *[pytest.param(w, "EIO", marks=pytest.mark.fault("backup.eio")) for w in ("fsync", "sync_folder")],
    ],
)
def test_a_file_that_cannot_be_written_leaves_no_backup_and_no_rest(
    where: str, what: str, open_case: Callable[[str], Case], rounds: int, tmp_path: Path
) -> None:
    places = reached(open_case, "backup", tmp_path)
    for place in sorted({place for place in places if place.rpartition(".")[2] == where}):
        for time_reached in range(1, places.count(place) + 1)[:rounds]:
            case = open_case("backup")
            done = case.run(**killing.at(place, what, time_reached))
            assert done.code == 13, done
            assert "cannot write" in done.err
            if time_reached == 1:  # a later one may be a file that is written when the backup stands
                _nothing_left(case)
            case.repeat()


@pytest.mark.fault("backup.disk")
def test_a_real_disk_that_is_full_leaves_no_backup_and_with_room_the_same_command_makes_one(
    open_case: Callable[[str], Case],
) -> None:
    case = open_case("backup")
    with small_disk(case.project.workspace.backups, 16_384) as disk:
        done = case.run()
        assert done.code == 13, done
        assert "no space left on device" in done.err
        _nothing_left(case)
        disk.grow()
        case.repeat()


@pytest.mark.fault("backup.limit")
def test_a_limit_on_a_files_size_leaves_no_backup(open_case: Callable[[str], Case]) -> None:
    case = open_case("backup")
    command = case.step.command(case.project)
    done = killing.run(["/bin/sh", "-c", 'ulimit -f 2; exec "$@"', "sh", *command])
    assert done.code == 13, done
    assert "file too large" in done.err
    _nothing_left(case)
    case.repeat()


@pytest.mark.fault("backup.clock")
def test_backups_of_clocks_a_day_apart_are_all_listed_whole_and_hide_none(open_case: Callable[[str], Case]) -> None:
    case = open_case("backup")
    command = case.step.command(case.project)
    for days in ("-1", "1", "0"):
        done = killing.run([sys.executable, "-c", _WRONG_CLOCK, days, *command[1:]])
        assert done.code == 0, done
    listed = killing.run(killing.script("restore_production_state", "--list", "--json")).json["backups"]
    assert [row["usable"] for row in listed] == [True] * 3
    assert len({row["created_at"][:10] for row in listed}) == 3
    for row in listed:
        checked = killing.run(killing.script("restore_production_state", "--backup-id", row["backup_id"], "--check"))
        assert checked.code == 0, checked
    promoted = killing.run(killing.script("promote_production_config"))
    assert promoted.code == 0, promoted
    for row in listed:
        restored = killing.run(killing.script("restore_production_state", "--backup-id", row["backup_id"]))
        assert restored.code == 0, restored
        assert case.project.live_id() == case.before.live


@contextmanager
def _racing(case: Case, command: str) -> Iterator[killing.Running]:
    """A command that is not committed yet when a backup comes to the table, and is committed while that waits for it."""
    with closing(case.project.connect()) as other, other.cursor() as cursor:
        cursor.execute(command)
        process = case.start()
        _await_a_wait(case.project.connection, process)
        yield process
        other.commit()


def _await_a_wait(connection: Connection, process: killing.Running) -> None:
    while process.poll() is None:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT FROM pg_stat_activity WHERE application_name LIKE 'golive backup%' AND wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            if cursor.rowcount:
                return
        time.sleep(0.01)


def _nothing_left(case: Case) -> None:
    workspace = case.project.workspace
    assert not workspace.backups.is_dir() or list(workspace.backups.iterdir()) == []
