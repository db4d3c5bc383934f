"""What the clients of language models share: the interface, limits, attempts with pauses, and the prompt audit log."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as CallTimeout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lib.platform.clock import timestamp
from lib.platform.errors import redact_all
from lib.platform.files import writing

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class ModelFailed(Exception):
    """A model gave no usable reply after all attempts; the case that asked stays unscored."""


class PassingTrouble(Exception):
    """One attempt that failed in a way that may pass. ``wait_s``: how long the service asks to be left alone."""

    def __init__(self, problem: str, wait_s: float = 0.0) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Limits:
    """How the service may be used. ``temperature`` None: none is sent, and the model's own holds.

    Timeouts in seconds: of one call, of waiting for the next part of its text, and of a prompt with all of its attempts
    (after ``deadline_s`` no further attempt begins).
    """

    requests_per_second: float
    max_in_flight: int
    call_timeout_s: float
    text_timeout_s: float
    attempts: int
    max_tokens: int
    temperature: float | None
    deadline_s: float = math.inf


class RateLimiter:
    """Spaces out the starts of requests evenly, over all threads."""

    def __init__(self, per_second: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self._interval = 1.0 / per_second
        self._sleep = sleep
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        if start > now:
            self._sleep(start - now)


@dataclass(frozen=True)
class Reply:
    """A model's whole text, with what an answer's record names. Token counts as the service counted them; None: it did not.

    ``usage`` is the service's own count in its own words, as the audit log shows it.
    """

    text: str
    model_id: str = ""
    prompt_sha256: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: float = 0.0
    usage: Mapping[str, Any] | None = field(default=None, compare=False)


class ModelClient(Protocol):
    """One language model, asked one prompt at a time; threads may share it."""

    name: str  # what is shown beside a number: the service with the model
    model_id: str
    identity: dict[str, Any]  # what decides a reply beside the prompt: service, model, address, decoding; no secret

    def complete(self, prompt: str, *, purpose: str) -> Reply:
        """The model's reply to one prompt.

        Raises:
            ModelFailed: no usable reply after all attempts (throttled, timed out, malformed, cut off).
            Unavailable: the service will not serve us at all (credentials, permission, unknown model).
        """
        ...


class Attempts:
    """The attempts around a model's calls: their rate, how many at a time, how long, the pauses between, the audit log.

    ``limiter`` and ``slots`` are shared by clients of one service, which counts all of their requests together.
    """

    def __init__(
        self,
        identity: Mapping[str, Any],
        limits: Limits,
        *,
        audit_file: Path | None = None,
        limiter: RateLimiter | None = None,
        slots: threading.Semaphore | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._model_id = str(identity["model_id"])
        self._decoding = {name: identity[name] for name in ("temperature", "seed") if name in identity}
        self._limits = limits
        self._audit_file = audit_file
        self._limiter = limiter or RateLimiter(limits.requests_per_second)
        self._slots = slots or threading.Semaphore(limits.max_in_flight)
        self._sleep = sleep
        self._calls = ThreadPoolExecutor(max_workers=limits.max_in_flight, thread_name_prefix="model")
        self._jitter = random.Random(self._model_id)

    def ask(self, prompt: str, purpose: str, call: Callable[[str], Reply]) -> Reply:
        """What ``call`` gives for the prompt, tried again where it raises PassingTrouble.

        Any other error of ``call`` (ModelFailed, Unavailable) is final. Raises as ``ModelClient.complete``.
        """
        problem, asked_wait_s, began = "", 0.0, time.monotonic()
        for attempt in range(1, self._limits.attempts + 1):
            if attempt > 1:
                pause_s = max(asked_wait_s, pause_before_s(attempt, self._jitter))
                if time.monotonic() - began + pause_s > self._limits.deadline_s:
                    raise ModelFailed(
                        f"{self._model_id} gave no usable reply within {self._limits.deadline_s:g} s: {problem}"
                    )
                self._sleep(pause_s)
            started, asked_wait_s = time.monotonic(), 0.0
            try:
                reply = self._call(prompt, call)
                self._audit(purpose, prompt, attempt, started, text=reply.text, usage=reply.usage)
                latency_ms = round((time.monotonic() - started) * 1000, 1)
                return replace(reply, model_id=self._model_id, prompt_sha256=prompt_hash(prompt), latency_ms=latency_ms)
            except PassingTrouble as error:
                problem, asked_wait_s = str(error), error.wait_s
                self._audit(purpose, prompt, attempt, started, problem=problem)
            except Exception as error:  # whatever ends it, the prompt was sent and is logged
                self._audit(purpose, prompt, attempt, started, problem=f"{error} {getattr(error, 'detail', '')}".strip())
                raise
        raise ModelFailed(f"{self._model_id} gave no usable reply in {self._limits.attempts} attempts: {problem}")

    def _call(self, prompt: str, call: Callable[[str], Reply]) -> Reply:
        with self._slots:
            self._limiter.wait()
            running = self._calls.submit(call, prompt)
            try:
                return running.result(timeout=self._limits.call_timeout_s)
            except CallTimeout as error:
                running.cancel()  # one that still waits for its turn is never sent
                raise PassingTrouble(f"TimeoutError: no reply in {self._limits.call_timeout_s:g} s") from error

    def _audit(self, purpose: str, prompt: str, attempt: int, started: float, **outcome: Any) -> None:
        if self._audit_file is None:
            return
        entry = {
            "at": timestamp(),
            "purpose": purpose,
            "model_id": self._model_id,
            **self._decoding,
            "prompt_sha256": prompt_hash(prompt),
            "prompt": prompt,
            "attempt": attempt,
            "latency_ms": round((time.monotonic() - started) * 1000, 1),
            **outcome,
        }
        with writing(self._audit_file):
            self._audit_file.parent.mkdir(parents=True, exist_ok=True)
            with self._audit_file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(redact_all(entry), ensure_ascii=False) + "\n")


def prompt_hash(prompt: str) -> str:
    """SHA-256 of a prompt as it was sent."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def pause_before_s(attempt: int, jitter: random.Random) -> float:
    """How long to wait before an attempt: twice as long each time, of which a random half is left out."""
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 2))
    return float(longest * (0.5 + jitter.random() / 2))


def whole_text(text: Any, *, ended: Any, cut_off: str) -> str:
    """The text of a reply that is one; PassingTrouble says what it lacks.

    ``ended`` is why the model stopped; ``cut_off`` the reason that means half an answer. A list of claims that was cut off
    would read as a shorter one.
    """
    if not isinstance(text, str):
        raise PassingTrouble(f"the reply's text is of type {type(text).__name__} (it ended with {ended!r})")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PassingTrouble("the reply holds half of a surrogate pair") from error
    if "\0" in text:  # no text of PostgreSQL's may hold it
        raise PassingTrouble("the reply holds a NUL character")
    if not text.strip():
        raise PassingTrouble(f"the reply holds no text (it ended with {ended!r})")
    if ended == cut_off:
        raise PassingTrouble("the reply was cut off at max_tokens; raise it in configs/evaluation.yaml")
    return text
