"""Bedrock behind limits (requests in flight, rate, timeouts, retries): Converse with a prompt audit log; InvokeModel."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as CallTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.platform.clock import timestamp
from lib.platform.errors import Unavailable, redact, redact_all
from lib.platform.files import writing

_RETRIED = {
    "ThrottlingException",
    "TooManyRequestsException",
    "ModelTimeoutException",
    "ModelNotReadyException",
    "ServiceUnavailableException",
    "InternalServerException",
    "ModelErrorException",
}
_RETRIED_STATUS = {408, 429, *range(500, 600)}  # a proxy's answer has no error name
_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class ModelFailed(Exception):
    """A model gave no usable reply after all attempts; the case that asked stays unscored."""


@dataclass(frozen=True)
class Limits:
    """How the service may be used. Timeouts in seconds: of a whole call, and of waiting for its text."""

    requests_per_second: float
    max_in_flight: int
    call_timeout_s: float
    text_timeout_s: float
    attempts: int
    max_tokens: int
    temperature: float


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


class ConverseClient:
    """One model, asked one prompt at a time."""

    def __init__(
        self,
        model_id: str,
        region: str,
        limits: Limits,
        *,
        endpoint_url: str | None = None,
        audit_file: Path | None = None,
        limiter: RateLimiter | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.model_id = model_id
        self._limits = limits
        self._audit_file = audit_file
        self._sleep = sleep
        self._limiter = limiter or RateLimiter(limits.requests_per_second)
        self._slots = threading.Semaphore(limits.max_in_flight)
        self._calls = ThreadPoolExecutor(max_workers=limits.max_in_flight, thread_name_prefix="bedrock")
        self._jitter = random.Random(model_id)
        self._client = _runtime(region, limits, endpoint_url)

    def complete(self, prompt: str, *, purpose: str) -> str:
        """The model's text for one prompt.

        Raises:
            ModelFailed: no usable reply after all attempts (throttled, timed out, malformed).
            Unavailable: the service will not serve us at all (credentials, permission, unknown model).
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        problem = ""
        refused: Exception | None = None
        for attempt in range(1, self._limits.attempts + 1):
            if attempt > 1:
                self._sleep(_pause_s(attempt, self._jitter))
            started = time.monotonic()
            reply: dict[str, Any] = {}
            try:
                reply = self._call(prompt)
                text = _text_of(reply)
                self._audit(purpose, prompt, attempt, started, text=text, usage=reply.get("usage"))
                return text
            except NoCredentialsError as error:
                raise Unavailable("no AWS credentials", hint=_CREDENTIALS) from error
            except ClientError as error:
                problem = redact(str(error))
                refused = None if _may_pass(error.response) else error
            except (BotoCoreError, CallTimeout, ValueError) as error:
                problem = f"{type(error).__name__}: {redact(str(error))}"
            self._audit(purpose, prompt, attempt, started, problem=problem)
            if refused:
                raise Unavailable(f"Bedrock refused {self.model_id}", detail=problem) from refused
        raise ModelFailed(f"{self.model_id} gave no usable reply in {self._limits.attempts} attempts: {problem}")

    def _call(self, prompt: str) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        with self._slots:
            self._limiter.wait()
            call = self._calls.submit(
                self._client.converse,
                modelId=self.model_id,
                messages=[{"role": "user", "content": [{"text": prompt}]}],
                inferenceConfig={"temperature": self._limits.temperature, "maxTokens": self._limits.max_tokens},
            )
            try:
                return dict(call.result(timeout=self._limits.call_timeout_s))
            except CallTimeout:
                call.cancel()  # one that still waits for its turn is never sent
                raise
            except (BotoCoreError, ClientError):
                raise
            except Exception as error:  # botocore's parser raises many kinds on what is no Converse message
                raise ValueError(f"the reply is not a Converse message: {error}") from error

    def _audit(self, purpose: str, prompt: str, attempt: int, started: float, **outcome: Any) -> None:
        if self._audit_file is None:
            return
        entry = {
            "at": timestamp(),
            "purpose": purpose,
            "model_id": self.model_id,
            "temperature": self._limits.temperature,
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "prompt": prompt,
            "attempt": attempt,
            "latency_ms": round((time.monotonic() - started) * 1000, 1),
            **outcome,
        }
        with writing(self._audit_file):
            self._audit_file.parent.mkdir(parents=True, exist_ok=True)
            with self._audit_file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(redact_all(entry), ensure_ascii=False) + "\n")


class InvokeClient:
    """One model, asked by InvokeModel with a JSON body of its own form: embedding models have no Converse.

    Of ``limits``, ``max_tokens`` and ``temperature`` do not apply.
    """

    def __init__(
        self,
        model_id: str,
        region: str,
        limits: Limits,
        *,
        endpoint_url: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.model_id = model_id
        self._limits = limits
        self._sleep = sleep
        self._limiter = RateLimiter(limits.requests_per_second, sleep)
        self._slots = threading.Semaphore(limits.max_in_flight)
        self._jitter = random.Random(model_id)
        self._client = _runtime(region, limits, endpoint_url)

    def invoke(self, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that answers ``body``.

        Raises:
            Unavailable: the service will not serve us (credentials, permission, unknown model), or gave no JSON object in
                all attempts (throttled, timed out).
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        problem = ""
        for attempt in range(1, self._limits.attempts + 1):
            if attempt > 1:
                self._sleep(_pause_s(attempt, self._jitter))
            try:
                with self._slots:
                    self._limiter.wait()
                    reply = self._client.invoke_model(
                        modelId=self.model_id, body=content, contentType="application/json", accept="application/json"
                    )
                    answer = json.loads(reply["body"].read())
                if isinstance(answer, dict):
                    return answer
                problem = "the answer is not a JSON object"
            except NoCredentialsError as error:
                raise Unavailable("no AWS credentials", hint=_CREDENTIALS) from error
            except ClientError as error:
                problem = redact(str(error))
                if not _may_pass(error.response):
                    raise Unavailable(f"Bedrock refused {self.model_id}", detail=problem) from error
            except (BotoCoreError, ValueError) as error:
                problem = f"{type(error).__name__}: {redact(str(error))}"
        raise Unavailable(
            f"{self.model_id} gave no answer in {self._limits.attempts} attempts", detail=problem, hint="try again later"
        )


def _runtime(region: str, limits: Limits, endpoint_url: str | None) -> Any:
    """The service's client, which tries each request once: what is tried again is decided here.

    Raises:
        Unavailable: the AWS settings do not work.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=min(10.0, limits.text_timeout_s),
        read_timeout=limits.text_timeout_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=max(10, limits.max_in_flight),
    )
    try:
        return boto3.client("bedrock-runtime", region_name=region, endpoint_url=endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise Unavailable(
            "the AWS settings do not work", detail=redact(str(error)), hint=f"{_CREDENTIALS}; check the endpoint"
        ) from error


def _pause_s(attempt: int, jitter: random.Random) -> float:
    """How long to wait before an attempt: twice as long each time, of which a random half is left out."""
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 2))
    return float(longest * (0.5 + jitter.random() / 2))


def _may_pass(response: dict[str, Any]) -> bool:
    """Whether an error response is of the kind that goes away."""
    named = response.get("Error", {}).get("Code") in _RETRIED
    return named or response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _RETRIED_STATUS


def _text_of(reply: dict[str, Any]) -> str:
    """The text of a Converse reply; a ValueError says what it lacks."""
    try:
        blocks = reply["output"]["message"]["content"]
        text = "".join(block["text"] for block in blocks if "text" in block)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the reply is not a Converse message: {error}") from error
    if not text.strip():
        raise ValueError(f"the reply holds no text (stopReason {reply.get('stopReason')})")
    if reply.get("stopReason") == "max_tokens":  # a list of claims that was cut off would read as a shorter one
        raise ValueError("the reply was cut off at max_tokens; raise it in configs/evaluation.yaml")
    return text
