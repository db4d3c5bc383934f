"""Runs that die: scripts as processes of their own, and the places in the code at which they can be made to."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lib.platform import failpoints
from tests.conftest import PROJECT, Finished


class Running(Protocol):
    """A process that was started: ``subprocess.Popen``, or one forked off this one."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(self, timeout: float | None = None) -> tuple[str, str]: ...
    def kill(self) -> None: ...


KILLED = -signal.SIGKILL
_LIMIT_S = 120


def names_in_code() -> list[str]:
    """Every failpoint's name, found by reading the source."""
    found = set()
    for folder in ("lib", "scripts"):
        for path in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("failpoints.reach", "reach"):
                    (name,) = node.args
                    assert isinstance(name, ast.Constant) and isinstance(name.value, str), f"{path}: {ast.unparse(node)}"
                    found.add(name.value)
    return sorted(found)


def script(name: str, *arguments: str) -> list[str]:
    """The command that runs ``scripts/<name>.py``."""
    return [sys.executable, str(PROJECT / "scripts" / f"{name}.py"), *arguments]


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """Starts a command from another folder, as a user would."""
    return subprocess.Popen(
        command,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: Running) -> Finished:
    out, err = process.communicate(timeout=_LIMIT_S)
    assert process.returncode is not None
    return Finished(process.returncode, out, err)


def run(command: Sequence[str], **environment: str) -> Finished:
    return finish(start(command, **environment))


def at(place: str, action: str = "kill", time_reached: int = 1) -> dict[str, str]:
    """The environment in which a run does that at a failpoint."""
    return {failpoints.VARIABLE: f"{place}={action}@{time_reached}" if time_reached > 1 else f"{place}={action}"}


def until(mark: Path, process: Running) -> None:
    """Waits until a run has come to its ``wait:`` failpoint."""
    deadline = time.monotonic() + _LIMIT_S
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{mark} was never reached"
        time.sleep(0.01)


def kill(process: Running) -> None:
    process.kill()
    process.wait()
