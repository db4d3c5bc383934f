"""The embedded PostgreSQL is started when it is needed, found again, and survives being killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest

from lib.platform import embedded, postgres
from lib.platform.errors import Unavailable
from lib.platform.workspace import Workspace


def test_it_is_started_once_and_then_found_again(home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.stop(home)
    capsys.readouterr()
    url = postgres.address(home)
    assert capsys.readouterr() == ("", "starting the embedded PostgreSQL in .local/postgres\n")
    started = _ask(url, "SELECT pg_postmaster_start_time()")
    assert postgres.address(home) == embedded.address(home) == url
    assert capsys.readouterr() == ("", "")
    assert _ask(url, "SELECT pg_postmaster_start_time()") == started


def test_it_lies_in_the_project_and_listens_to_nobody_outside(home: Workspace) -> None:
    url = embedded.address(home)
    assert _ask(url, "SHOW data_directory") == str(home.root / ".local" / "postgres")
    assert _ask(url, "SHOW listen_addresses") == ""


def test_what_was_stored_outlasts_a_stop(home: Workspace) -> None:
    _ask(embedded.address(home), "CREATE TABLE kept_over_stop AS SELECT 7 AS x", fetch=False)
    assert embedded.stop(home) is True
    assert embedded.stop(home) is False
    assert not (embedded.data_folder(home) / "postmaster.pid").exists()
    assert _ask(embedded.address(home), "SELECT x FROM kept_over_stop") == 7


def test_the_client_programs_are_of_the_servers_own_version(home: Workspace) -> None:
    told = subprocess.check_output([embedded.client("psql"), "--version"], text=True)
    assert told.split()[2] == str(_ask(embedded.address(home), "SHOW server_version")).split()[0]


def test_after_a_kill_it_comes_back_with_what_was_committed(home: Workspace) -> None:
    url = embedded.address(home)
    _ask(url, "CREATE TABLE kept_over_kill AS SELECT 7 AS x", fetch=False)
    os.kill(_postmaster(home), signal.SIGKILL)
    assert _ask(embedded.address(home), "SELECT x FROM kept_over_kill") == 7


def test_no_second_server_starts_while_a_session_of_the_killed_one_still_writes(home: Workspace) -> None:
    url = embedded.address(home)
    session = psycopg2.connect(url)
    backend = session.info.backend_pid
    work = threading.Thread(target=_endless_work, args=(session,))
    work.start()
    while not _ask(url, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {backend} AND query LIKE '%LOOP%'"):
        pass
    orphan = os.pidfd_open(backend)
    os.kill(_postmaster(home), signal.SIGKILL)
    try:
        with pytest.raises(Unavailable, match="the embedded PostgreSQL does not start") as caught:
            embedded.address(home)
        assert "still in use" in caught.value.detail
        assert not select.select([orphan], [], [], 0)[0], "the old session was gone: nothing was tested"
    finally:
        os.kill(backend, signal.SIGKILL)
        select.select([orphan], [], [], 60)
        os.close(orphan)
        work.join()
        session.close()
    assert _ask(embedded.address(home), "SELECT 1") == 1


def test_a_pid_that_belongs_to_another_program_by_now_is_not_the_server(home: Workspace) -> None:
    embedded.address(home)
    embedded.stop(home)
    _write_pid_file(home, os.getpid())
    assert embedded.stop(home) is False
    _write_pid_file(home, os.getpid())
    assert _ask(embedded.address(home), "SELECT 1") == 1
    assert _postmaster(home) != os.getpid()


@pytest.mark.parametrize("content", ["", "not a number\n", "1\n", "999999999\n/nowhere\n1\n5432\n/nowhere\n"])
def test_a_damaged_pid_file_does_not_keep_it_from_starting(content: str, home: Workspace) -> None:
    embedded.address(home)
    embedded.stop(home)
    (embedded.data_folder(home) / "postmaster.pid").write_text(content)
    assert _ask(embedded.address(home), "SELECT 1") == 1


def test_the_server_of_another_project_is_never_stopped(home: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path)
    url = embedded.address(other)
    pid = _postmaster(other)
    embedded.address(home)
    embedded.stop(home)
    _write_pid_file(home, pid)
    try:
        with suppress(subprocess.CalledProcessError):
            embedded.stop(home)
        assert _ask(url, "SELECT 1") == 1
    finally:
        (embedded.data_folder(home) / "postmaster.pid").unlink(missing_ok=True)
        embedded.stop(other)


def test_a_project_that_was_moved_under_its_server_still_stops_it(tmp_path: Path) -> None:
    embedded.address(Workspace(tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "after")
    assert embedded.stop(Workspace(tmp_path / "after")) is True
    assert not (embedded.data_folder(Workspace(tmp_path / "after")) / "postmaster.pid").exists()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(home: Workspace) -> None:
    embedded.address(home)
    embedded.stop(home)
    settings = embedded.data_folder(home) / "postgresql.conf"
    sound = settings.read_text()
    settings.write_text(sound + "\nno_such_setting = 1\n")
    try:
        with pytest.raises(Unavailable, match="the embedded PostgreSQL does not start") as caught:
            embedded.address(home)
    finally:
        settings.write_text(sound)
    assert "no_such_setting" in caught.value.detail
    assert "DATABASE_URL" in caught.value.hint


def test_a_first_start_that_was_killed_is_done_again(tmp_path: Path) -> None:
    home = Workspace(tmp_path)
    data = embedded.data_folder(home)
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    try:
        assert _ask(embedded.address(home), "SELECT 1") == 1
    finally:
        embedded.stop(home)


def test_what_an_unfinished_start_left_is_kept_beside(tmp_path: Path) -> None:
    home = Workspace(tmp_path)
    data = embedded.data_folder(home)
    data.mkdir(parents=True)
    (data / "something").write_text("of somebody")
    try:
        embedded.address(home)
    finally:
        embedded.stop(home)
    (kept,) = home.local.glob("postgres-unfinished-*/something")
    assert kept.read_text() == "of somebody"
    assert not list(home.local.glob("postgres-new-*"))


def test_two_first_starts_at_the_same_time_find_one_server(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from lib.platform import embedded; from lib.platform.workspace import Workspace\n"
        "print(embedded.address(Workspace(Path(sys.argv[1]))))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    try:
        starts = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
        first, second = (start.communicate(timeout=120)[0] for start in starts)
        assert first == second
        assert _ask(first.strip(), "SELECT 1") == 1
    finally:
        embedded.stop(Workspace(tmp_path))


def _ask(url: str, query: str, *, fetch: bool = True) -> object:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0] if fetch else None
    finally:
        connection.close()


def _postmaster(home: Workspace) -> int:
    return int((embedded.data_folder(home) / "postmaster.pid").read_text().splitlines()[0])


def _write_pid_file(home: Workspace, pid: int) -> None:
    data = embedded.data_folder(home)
    (data / "postmaster.pid").write_text(f"{pid}\n{data}\n1700000000\n5432\n{data}\n\n  1  1\nready   \n")


def _endless_work(session: psycopg2.extensions.connection) -> None:
    with suppress(psycopg2.Error), session.cursor() as cursor:
        cursor.execute("DO $$ BEGIN FOR i IN 1..2000000000 LOOP END LOOP; END $$")


def test_a_folder_that_the_package_cannot_take_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="a blank in its name"):
        embedded.address(Workspace(tmp_path / "my project"))
    assert not (tmp_path / "my project").exists()
