"""A command as the system under test: JSON lines to its stdin, JSON lines from its stdout, each with its ``query_id``."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib.evaluation.systems import PATIENCE, Answered, parse_reply
from lib.platform.errors import NotFound, redact
from lib.platform.files import sha256_file

_SHOWN = 200
_STDERR_LINES = 5
_CLOSING_S = 5.0


@dataclass(frozen=True)
class CommandLimits:
    """How a command may be used. ``timeout_s`` of one question; until its first answer, ``start_timeout_s`` more."""

    timeout_s: float
    start_timeout_s: float
    attempts: int
    max_in_flight: int
    max_reply_bytes: int


@dataclass
class _Asked:
    """A question on its way; ``done`` is set once there is a reply, or a reason why there will be none."""

    done: threading.Event = field(default_factory=threading.Event)
    reply: Any = None
    problem: str = ""


class CommandSystem:
    """Keeps one process, sends up to ``max_in_flight`` questions and takes the replies in whatever order they come.

    A process that ends, writes what is no reply, or is silent for too long is killed and started again. A question that was
    on its way with others is then asked alone, so that only those count as failed that fail by themselves: the outcome does
    not depend on ``max_in_flight``.
    """

    patience: int | None = PATIENCE

    def __init__(self, name: str, command: Sequence[str], folder: Path, limits: CommandLimits, version: str = "") -> None:
        """``folder``: where the command runs; ``version``: what else decides its answers, in the user's words."""
        self.name = name
        self.workers = limits.max_in_flight
        files = {part: sha256_file(folder / part) for part in command if (folder / part).is_file()}
        self.identity: Mapping[str, Any] = {
            "kind": "command",
            "command": [redact(part) for part in command],
            "files": files,
            "version": version,
        }
        self._command, self._folder, self._limits = list(command), folder, limits
        self._process: _Process | None = None
        self._lock = threading.Lock()
        self._turn = threading.Condition()
        self._on_their_way = self._waiting_alone = 0
        self._alone = False

    def answer(self, query_id: str, query: str) -> Answered:
        """Raises NotFound where the command cannot be started at all."""
        line = json.dumps({"query_id": query_id, "query": query}, ensure_ascii=False).encode() + b"\n"
        began, problem = time.perf_counter(), ""
        with self._taking_turns(alone=self._limits.max_in_flight == 1):
            problem, reply = self._ask(query_id, line)
        failures = int(bool(problem) and self._limits.max_in_flight == 1)
        while problem and failures < self._limits.attempts:
            with self._taking_turns(alone=True):
                problem, reply = self._ask(query_id, line)
            failures += bool(problem)
        latency_ms = (time.perf_counter() - began) * 1000
        if problem:
            return Answered("", problem=f"system: {problem}", timings={"latency_ms": latency_ms}, by_text=True)
        found = parse_reply(reply, query_id)
        return replace(found, timings={**found.timings, "latency_ms": latency_ms})

    def close(self) -> None:
        with self._lock:
            if self._process:
                self._process.end()
                self._process = None

    @contextlib.contextmanager
    def _taking_turns(self, *, alone: bool) -> Iterator[None]:
        """Lets questions through side by side, or one alone once all others have come back."""
        with self._turn:
            self._waiting_alone += alone
            self._turn.wait_for(lambda: not (self._on_their_way if alone else self._alone or self._waiting_alone))
            self._waiting_alone -= alone
            self._on_their_way += 1
            self._alone = alone
        try:
            yield
        finally:
            with self._turn:
                self._on_their_way -= 1
                self._alone = False
                self._turn.notify_all()

    def _ask(self, query_id: str, line: bytes) -> tuple[str, Any]:
        """``(problem, reply)`` of one attempt."""
        with self._lock:
            if self._process is None or self._process.over:
                self._process = _Process(self._command, self._folder, self._limits.max_reply_bytes)
            process = self._process
            asked = process.send(query_id, line)
        patience_s = self._limits.timeout_s + (0 if process.has_answered else self._limits.start_timeout_s)
        if not asked.done.wait(patience_s):
            process.kill(f"no reply in {patience_s:g} s; is each line flushed?")
            asked.done.wait()
        return asked.problem, asked.reply


class _Process:
    """One run of the command. After anything unexpected it is over, and every question on its way has the reason."""

    def __init__(self, command: Sequence[str], folder: Path, max_reply_bytes: int) -> None:
        try:
            self._run = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise NotFound(
                f"the system's command cannot be started: {command[0]}",
                detail=(error.strerror or str(error)).lower(),
                hint="system.command in configs/evaluation.yaml; paths are taken from the project's folder",
            ) from error
        self.over = self.has_answered = False
        self._max_reply_bytes = max_reply_bytes
        self._asked: dict[str, _Asked] = {}
        self._lock = threading.Lock()
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._said: deque[str] = deque(maxlen=_STDERR_LINES)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._write, self._listen, self._read_replies)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, query_id: str, line: bytes) -> _Asked:
        asked = _Asked()
        with self._lock:
            if self.over:
                asked.problem = "the command ended before it was asked"
                asked.done.set()
                return asked
            self._asked[query_id] = asked
        self._lines.put(line)
        return asked

    def kill(self, reason: str) -> None:
        """Ends the process at once; what is on its way fails with ``reason``, or with an earlier one."""
        with self._lock:
            self.over = True
            left, self._asked = self._asked, {}
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._run.pid, signal.SIGKILL)
        self._run.wait()
        self._lines.put(None)
        for asked in left.values():
            asked.problem = reason
            asked.done.set()

    def end(self) -> None:
        """Closes its stdin, gives it a moment to leave, and kills what is left."""
        self._lines.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._run.wait(_CLOSING_S)
        self.kill("closed")
        for thread in self._threads:
            thread.join(_CLOSING_S)

    def _write(self) -> None:
        """In a thread of its own: a command that does not read would block whoever writes."""
        assert self._run.stdin
        with contextlib.suppress(OSError, ValueError):
            while (line := self._lines.get()) is not None:
                self._run.stdin.write(line)
                self._run.stdin.flush()
        with contextlib.suppress(OSError):
            self._run.stdin.close()

    def _listen(self) -> None:
        assert self._run.stderr
        with self._run.stderr as stream:
            while line := stream.readline(_SHOWN):
                self._said.append(redact(line.decode(errors="replace")).strip())

    def _read_replies(self) -> None:
        assert self._run.stdout
        longest = self._max_reply_bytes
        with self._run.stdout as stream:
            while line := stream.readline(longest + 1):
                problem = f"wrote a line of over {longest} bytes" if len(line) > longest else self._take(line)
                if problem:
                    self.kill(f"the command {problem}")
                    return
        self._threads[1].join(_CLOSING_S)
        said = f": {' | '.join(filter(None, self._said))[-_SHOWN:]}" if any(self._said) else ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._run.wait(_CLOSING_S)
        self.kill(f"the command ended with exit code {self._run.poll()}{said}")

    def _take(self, line: bytes) -> str:
        """Hands a reply to its question; returns what is wrong with the line."""
        if not line.strip():
            return ""
        shown = repr(redact(line.decode(errors="replace"))[:_SHOWN].strip())
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            return f"wrote a line that is not JSON: {shown}"
        query_id = reply.get("query_id") if isinstance(reply, dict) else None
        with self._lock:
            asked = self._asked.pop(query_id, None) if isinstance(query_id, str) else None
        if asked is None:
            return f"wrote a line that answers no question on its way: {shown}"
        self.has_answered = True
        asked.reply = reply
        asked.done.set()
        return ""
