"""The embedded PostgreSQL: killed on its first start, and a socket that somebody else has."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from lib.platform import embedded
from lib.platform.workspace import Workspace
from tests.faults import killing
from tests.faults.killing import KILLED
from tests.platform.managed import _server_user

_URL = killing.script("database", "url", "--json")
_PLACES = [name for name in killing.names_in_code() if name.startswith("database.")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A project without a server."""
    monkeypatch.setenv("GOLIVE_HOME", str(tmp_path))
    workspace = Workspace(tmp_path)
    yield workspace
    embedded.stop(workspace)


@pytest.mark.fault("embedded.kill")
@pytest.mark.parametrize("place", _PLACES)
def test_killed_in_its_first_start_the_next_one_makes_a_whole_server(place: str, home: Workspace) -> None:
    assert killing.run(_URL, **killing.at(place)).code == KILLED
    data = embedded.data_folder(home)
    assert not data.exists() or (data / "global" / "pg_control").exists()
    done = killing.run(_URL)
    assert done.code == 0, done
    assert _ask(done.json["url"], "SELECT 1") == 1
    assert [path.name for path in home.local.iterdir() if path.is_dir()] == ["postgres"]


@pytest.mark.fault("embedded.socket")
def test_a_socket_that_somebody_else_has_is_told_or_taken_and_nothing_is_lost(home: Workspace) -> None:
    url = killing.run(_URL).json["url"]
    _ask(url, "CREATE TABLE kept AS SELECT 7 AS x; SELECT 1")
    folder = Path((embedded.data_folder(home) / "postmaster.pid").read_text().splitlines()[4])
    embedded.stop(home)
    path, lock = folder / ".s.PGSQL.5432", folder / ".s.PGSQL.5432.lock"
    with closing(socket.socket(socket.AF_UNIX)) as other, _somebody() as pid:
        other.bind(str(path))
        other.listen()
        lock.write_text(f"{pid}\n{folder}\n1700000000\n5432\n{folder}\n")
        done = killing.run(_URL)
        assert done.code == 13, done
        assert "the embedded PostgreSQL does not start" in done.err
        assert "lock file" in done.err
        lock.unlink()
        done = killing.run(_URL)
        assert done.code == 0, done
        assert _ask(done.json["url"], "SELECT x FROM kept") == 7


@contextmanager
def _somebody() -> Iterator[int]:
    """A process of the user whom the server runs as: the only kind whose lock it takes for one."""
    process = subprocess.Popen(["sleep", "600"], user=_server_user())
    yield process.pid
    process.kill()
    process.wait()


def _ask(url: str, query: str) -> object:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]
    finally:
        connection.close()
