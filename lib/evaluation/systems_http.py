"""An HTTP endpoint as the system under test: a question by POST as JSON, an answer with its passages back."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib.evaluation.systems import PATIENCE, Answered, parse_reply
from lib.platform.http import JsonEndpoint, RequestRefused
from lib.platform.model_client import PassingTrouble, pause_before_s

_NOT_LET_IN = (401, 403, 407)


@dataclass(frozen=True)
class HttpLimits:
    """How an endpoint may be used; ``timeout_s`` is for the whole of one attempt's answer."""

    timeout_s: float
    attempts: int
    max_in_flight: int
    max_reply_bytes: int


class HttpSystem:
    """Asks ``{"query_id", "query"}``. What may pass (5xx, 429, timeouts, no JSON) is tried again, with pauses between."""

    patience: int | None = PATIENCE

    def __init__(
        self,
        name: str,
        url: str,
        limits: HttpLimits,
        *,
        key_variable: str = "",
        key_header: str = "Authorization",
        version: str = "",
        allow_internal: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``key_variable`` is the environment's; ``version``: what else decides its answers, in the user's words."""
        self.name = name
        self.workers = limits.max_in_flight
        self.identity: Mapping[str, Any] = {"kind": "http", "url": url, "version": version}
        self._limits, self._sleep = limits, sleep
        self._endpoint = JsonEndpoint(
            url,
            timeout_s=limits.timeout_s,
            call_timeout_s=limits.timeout_s,
            max_bytes=limits.max_reply_bytes,
            max_in_flight=limits.max_in_flight,
            api_key_variable=key_variable,
            api_key_header=key_header,
            allow_internal=allow_internal,
        )

    def answer(self, query_id: str, query: str) -> Answered:
        """Raises Unavailable where the endpoint lets nobody in, or there is no key to send."""
        content = json.dumps({"query_id": query_id, "query": query}, ensure_ascii=False).encode()
        jitter, problem, asked_s = random.Random(query_id), "", 0.0
        for attempt in range(1, self._limits.attempts + 1):
            if attempt > 1:
                self._sleep(max(asked_s, pause_before_s(attempt, jitter)))
            began = time.perf_counter()
            try:
                found = parse_reply(self._endpoint.post(content), query_id)
                latency_ms = (time.perf_counter() - began) * 1000
                return replace(found, timings={**found.timings, "latency_ms": latency_ms, "attempts": attempt})
            except PassingTrouble as error:
                problem, asked_s = str(error), error.wait_s
            except RequestRefused as error:
                if error.status in _NOT_LET_IN:
                    raise
                return Answered("", problem=f"system: {error.detail}", by_text=True)
        return Answered("", problem=f"system: no answer in {self._limits.attempts} attempts: {problem}", by_text=True)

    def close(self) -> None:
        pass
