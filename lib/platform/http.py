"""JSON services over HTTP behind limits: requests in flight, request rate, timeouts, bounded retries."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lib.platform.bedrock import RateLimiter
from lib.platform.errors import Unavailable, redact

_RETRIED_STATUS = {408, 425, 429, *range(500, 600)}
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LONGEST_WAIT_ASKED_S = 120.0  # of Retry-After; a service that asks for more is as good as away
_SHOWN = 200


@dataclass(frozen=True)
class HttpLimits:
    """How a service may be used. ``timeout_s`` of each attempt: to connect, and between two parts of an answer."""

    requests_per_second: float
    max_in_flight: int
    timeout_s: float
    attempts: int


class JsonService:
    """One address that takes JSON by POST and answers JSON. Threads may share it.

    ``api_key_variable`` names the environment variable whose value is sent as a bearer token. It is read for each request
    and kept nowhere.
    """

    def __init__(
        self,
        url: str,
        limits: HttpLimits,
        *,
        api_key_variable: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import urllib3

        self._url = url
        self._where = urlsplit(url).netloc
        self._limits = limits
        self._api_key_variable = api_key_variable
        self._sleep = sleep
        self._limiter = RateLimiter(limits.requests_per_second, sleep)
        self._slots = threading.Semaphore(limits.max_in_flight)
        self._jitter = random.Random(url)
        self._pool = urllib3.PoolManager(maxsize=limits.max_in_flight, retries=False)

    def post(self, body: Any) -> Any:
        """The JSON value that answers ``body``.

        Raises:
            Unavailable: the service refuses (a 4xx that will not pass), or gave no JSON answer in all attempts.
        """
        import urllib3

        headers = self._headers()
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        problem, asked = "", 0.0
        for attempt in range(1, self._limits.attempts + 1):
            if attempt > 1:
                self._sleep(max(asked, self._pause(attempt)))
            asked = 0.0
            try:
                with self._slots:
                    self._limiter.wait()
                    reply = self._pool.request(
                        "POST", self._url, body=content, headers=headers, timeout=self._limits.timeout_s, redirect=False
                    )
            except urllib3.exceptions.HTTPError as error:
                problem = f"{type(error).__name__}: {redact(str(error))[:_SHOWN]}"
                continue
            if reply.status == 200:
                try:
                    return json.loads(reply.data)
                except ValueError as error:
                    problem = f"the answer is not JSON: {error}"
                    continue
            problem = f"status {reply.status}: {redact(reply.data.decode(errors='replace'))[:_SHOWN].strip()}"
            asked = _retry_after_s(reply)
            if reply.status not in _RETRIED_STATUS or asked > _LONGEST_WAIT_ASKED_S:
                raise Unavailable(f"{self._where} refused the request", detail=problem, hint=self._hint(reply.status))
        raise Unavailable(
            f"{self._where} gave no answer in {self._limits.attempts} attempts", detail=problem, hint="try again later"
        )

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._api_key_variable:
            key = os.environ.get(self._api_key_variable, "").strip()
            if not key:
                raise Unavailable(f"no key for {self._where}", hint=f"set {self._api_key_variable} in the environment")
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            name = self._api_key_variable
            return f"check the key in {name}" if name else "the service asks for a key: name its variable"
        return "check the address and the model's name"

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
