"""Scripts and library calls in processes of their own that start at once: forked from one that has the packages loaded.

A run costs a tenth of a second where a new interpreter takes half of one, and can be killed like any other.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2

from tests.conftest import PROJECT, Finished

DIES = "GOLIVE_TEST_DIES"  # ``statement:7``: before the 7th statement to the database; ``commit:2``: after the 2nd commit
_LOADED = ["lib.platform.embedded", "lib.release.golive", "lib.release.restore", "lib.release.rollback_validation"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*_LOADED, "jsonschema", "zstandard", "psycopg2", "numpy", "tokenizers"])


def run(name: str, *arguments: str, environment: dict[str, str]) -> Finished:
    """Runs ``scripts/<name>.py`` from another folder in just this environment; the exit code is -9 where it is killed."""
    return call(_script, name, arguments, environment=environment)


def call(target: Callable[..., None], *arguments: Any, environment: dict[str, str], timeout_s: float = 60) -> Finished:
    """Calls a function of a module in a process of its own; what it raises is printed, and makes the exit code 1."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _context.Process(target=_begin, args=(target, arguments, environment, out, err))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{arguments} took over {timeout_s:g} s:\n{err.read_text()}")
        return Finished(process.exitcode, out.read_text(), err.read_text())


def _begin(
    target: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str], out: Path, err: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    if how := environment.get(DIES):
        _die_at(*how.split(":"))
    target(*arguments)


def _die_at(what: str, number: str) -> None:
    """Lets the process die before its n-th ``statement`` to the database, or after its n-th ``commit``."""
    left = int(number)

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, *arguments: Any) -> None:
            if what == "statement":
                count()
            super().execute(*arguments)

    class Connection(psycopg2.extensions.connection):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.cursor_factory = Cursor

        def commit(self) -> None:
            super().commit()
            if what == "commit":
                count()

    psycopg2.connect = functools.partial(psycopg2.connect, connection_factory=Connection)


def _script(name: str, arguments: tuple[str, ...]) -> None:
    script = PROJECT / "scripts" / f"{name}.py"
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
