"""The real scripts in processes of their own that need no start: forked from a server that has the packages loaded.

A run costs some hundredths of a second where a new interpreter takes half of one, and can be killed like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

from tests.conftest import PROJECT, Finished

_LOADED = ["lib.platform.embedded", "lib.release.golive", "lib.release.restore", "lib.release.rollback_validation"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*_LOADED, "jsonschema", "zstandard", "psycopg2"])


def run(name: str, *arguments: str, environment: dict[str, str], timeout_s: float = 60) -> Finished:
    """Runs ``scripts/<name>.py`` in exactly this environment; the exit code is -9 where it was killed."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _context.Process(target=_script, args=(name, arguments, environment, out, err))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{name} {' '.join(arguments)} took over {timeout_s:g} s:\n{err.read_text()}")
        return Finished(process.exitcode, out.read_text(), err.read_text())


def _script(name: str, arguments: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    for path, number in ((out, 1), (err, 2)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    script = PROJECT / "scripts" / f"{name}.py"
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
