"""JSON services over HTTP behind limits: requests in flight, request rate, timeouts, bounded retries."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from lib.platform.errors import Unavailable, redact, secret
from lib.platform.model_client import PassingTrouble, RateLimiter

_RETRIED_STATUS = {408, 425, 429, *range(500, 600)}
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LONGEST_WAIT_ASKED_S = 120.0  # of Retry-After; a service that asks for more is as good as away
_SHOWN = 200
_PART_BYTES = 1 << 16
_SHORTEST_KEY = 12
_LONGEST_ANSWER_BYTES = 1 << 28  # a batch of vectors, as decimal numbers


@dataclass(frozen=True)
class HttpLimits:
    """How a service may be used. ``timeout_s`` of each attempt: to connect, and between two parts of an answer."""

    requests_per_second: float
    max_in_flight: int
    timeout_s: float
    attempts: int


class RequestRefused(Unavailable):
    """The service will not answer this request; ``status`` is its HTTP status."""

    def __init__(self, message: str, *, status: int, detail: str, hint: str) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.status = status


class JsonEndpoint:
    """One address that takes JSON by POST and answers JSON, asked once a call. Threads may share it.

    ``api_key_variable`` names the environment variable whose value is sent as a bearer token, or as it stands in another
    header, ``api_key_header``. It (or the file in ``<variable>_FILE``) is read for each request and kept nowhere. Redirects
    are not followed: the key is for this address. Internal addresses are refused without ``allow_internal``.

    Args:
        timeout_s: to connect, and between two parts of an answer.
        call_timeout_s: of the whole answer, from its first part on. max_bytes: of an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        call_timeout_s: float,
        max_bytes: int,
        max_in_flight: int,
        api_key_variable: str = "",
        api_key_header: str = "Authorization",
        allow_internal: bool = False,
    ) -> None:
        from lib.platform import http_targets

        self._url = url
        self.where = urlsplit(url).netloc.rpartition("@")[2]
        self._timeout_s = timeout_s
        self._call_timeout_s = call_timeout_s
        self._max_bytes = max_bytes
        self._api_key_variable = api_key_variable
        self._api_key_header = api_key_header
        self._pool = http_targets.pool(max_in_flight=max_in_flight, allow_internal=allow_internal)

    def post(self, content: bytes) -> Any:
        """The JSON value that answers ``content``.

        Raises:
            PassingTrouble: no JSON answer, for a reason that may pass.
            Unavailable: there is no key to send. Refused: an internal address. RequestRefused: a status that will not pass.
        """
        import urllib3

        headers = self._headers()
        began = time.monotonic()
        try:
            reply = self._pool.request(
                "POST",
                self._url,
                body=content,
                headers=headers,
                timeout=self._timeout_s,
                redirect=False,
                preload_content=False,
            )
            try:
                body = self._body_of(reply, began)
            finally:
                reply.close()  # one that was read whole is back in the pool already
        except urllib3.exceptions.HTTPError as error:
            raise PassingTrouble(f"{type(error).__name__}: {self._shown(str(error))}") from error
        if reply.status == 200:
            return self._value_of(body, reply.headers.get("Content-Type", ""))
        problem = f"status {reply.status}{self._elsewhere(reply)}: {self._shown(body.decode(errors='replace'))}"
        asked_s = _retry_after_s(reply)
        if reply.status not in _RETRIED_STATUS or asked_s > _LONGEST_WAIT_ASKED_S:
            raise RequestRefused(
                f"{self.where} refused the request", status=reply.status, detail=problem, hint=self._hint(reply.status)
            )
        raise PassingTrouble(problem, asked_s)

    def _elsewhere(self, reply: Any) -> str:
        """Which host a redirect names; its path and query may hold secrets."""
        if not 300 <= reply.status < 400:
            return ""
        host = urlsplit(urljoin(self._url, reply.headers.get("Location", ""))).netloc.rpartition("@")[2]
        return f", a redirect to {self._shown(host)} that is not followed"

    def _body_of(self, reply: Any, began: float) -> bytes:
        parts, size = [], 0
        while part := reply.read1(_PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise PassingTrouble(f"the answer is longer than {self._max_bytes} bytes")
            if time.monotonic() - began > self._call_timeout_s:
                raise PassingTrouble(f"the answer was not whole after {self._call_timeout_s:g} s")
        return b"".join(parts)

    def _value_of(self, body: bytes, kind: str) -> Any:
        key = self._key()
        if len(key) >= _SHORTEST_KEY and key.encode() in body:  # a stand-in for one ("ollama") may be a word of an answer
            raise PassingTrouble("the answer repeats the key that was sent")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            shown = self._shown(body.decode(errors="replace"))
            raise PassingTrouble(f"the answer is not JSON ({kind or 'no type'}): {shown!r}") from error

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._api_key_variable:
            key = self._key()
            if not key:
                raise Unavailable(f"no key for {self.where}", hint=f"set {self._api_key_variable} in the environment")
            if not (key.isascii() and key.isprintable()):
                raise Unavailable(f"the key for {self.where} holds what no header may", hint=f"{self._api_key_variable}")
            bearer = self._api_key_header.casefold() == "authorization"
            headers[self._api_key_header] = f"Bearer {key}" if bearer else key
        return headers

    def _key(self) -> str:
        return secret(self._api_key_variable) if self._api_key_variable else ""

    def _shown(self, text: str) -> str:
        """The start of what a service said, without secrets: its key goes by whatever name its variable has."""
        key = self._key()
        return redact(text.replace(key, "***") if key else text)[:_SHOWN].strip()

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            name = self._api_key_variable
            return f"check the key in {name}" if name else "the service asks for a key: name its variable"
        return "check the address and the model's name"


class JsonService:
    """One address that takes JSON by POST and answers JSON, behind limits. Threads may share it."""

    def __init__(
        self,
        url: str,
        limits: HttpLimits,
        *,
        api_key_variable: str = "",
        allow_internal: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = JsonEndpoint(
            url,
            timeout_s=limits.timeout_s,
            call_timeout_s=math.inf,
            max_bytes=_LONGEST_ANSWER_BYTES,
            max_in_flight=limits.max_in_flight,
            api_key_variable=api_key_variable,
            allow_internal=allow_internal,
        )
        self._limits = limits
        self._sleep = sleep
        self._limiter = RateLimiter(limits.requests_per_second, sleep)
        self._slots = threading.Semaphore(limits.max_in_flight)
        self._jitter = random.Random(url)

    def post(self, body: Any) -> Any:
        """The JSON value that answers ``body``.

        Raises:
            Unavailable: the service refuses (a 4xx that will not pass), or gave no JSON answer in all attempts.
        """
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        problem, asked_s = "", 0.0
        for attempt in range(1, self._limits.attempts + 1):
            if attempt > 1:
                self._sleep(max(asked_s, self._pause(attempt)))
            try:
                with self._slots:
                    self._limiter.wait()
                    return self._endpoint.post(content)
            except PassingTrouble as error:
                problem, asked_s = str(error), error.wait_s
        raise Unavailable(
            f"{self._endpoint.where} gave no answer in {self._limits.attempts} attempts",
            detail=problem,
            hint="try again later",
        )

    def _pause(self, attempt: int) -> float:
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 2))
        return float(longest * (0.5 + self._jitter.random() / 2))


def _retry_after_s(reply: Any) -> float:
    """What the answer's Retry-After asks for, in seconds; 0 where it says nothing that can be understood."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util.retry import Retry

    try:
        return float(Retry(retry_after_max=int(_LONGEST_WAIT_ASKED_S) + 1).get_retry_after(reply) or 0.0)
    except InvalidHeader:
        return 0.0
