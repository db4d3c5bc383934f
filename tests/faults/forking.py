"""A process forked off this one, which has the heavy packages loaded: killed as any other, begun in no time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lib.platform import cli


class Forked:
    """Runs a function in a child that ends with the exit code a script would have; used as a ``subprocess.Popen`` is."""

    def __init__(self, work: Callable[[], None], environment: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="golive-fork-"))
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._live(work, environment)

    def _live(self, work: Callable[[], None], environment: Mapping[str, str]) -> None:
        code = 1
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(self._folder / name, os.O_CREAT | os.O_WRONLY), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            os.environ.update(environment)
            work()
            code = 0
            sys.stdout.flush()
        except Exception as error:  # every error ends here, as in a script: the child must not go on as a second test run
            code = cli.report(error)
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or 120)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked", timeout or 120)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        texts = [(self._folder / name).read_text() if (self._folder / name).exists() else "" for name in ("out", "err")]
        return texts[0], texts[1]

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
