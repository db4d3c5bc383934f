"""Chat models behind an OpenAI-compatible address (``POST {base_url}/chat/completions``), limited as Bedrock's are."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.platform.http import JsonEndpoint, RequestRefused
from lib.platform.model_client import Attempts, Limits, ModelFailed, PassingTrouble, RateLimiter, Reply, whole_text

_LONGEST_ANSWER_BYTES = 4 << 20
_OF_THIS_PROMPT = (400, 413, 422)  # too long for the model, or filtered: other prompts may be answered


class ChatClient:
    """One chat model; a ``ModelClient``. The key is read from the environment for each request and written nowhere."""

    def __init__(
        self,
        model_id: str,
        base_url: str,
        limits: Limits,
        *,
        seed: int,
        max_tokens_name: str = "max_tokens",
        api_key_variable: str = "",
        allow_internal: bool = False,
        audit_file: Path | None = None,
        limiter: RateLimiter | None = None,
        slots: threading.Semaphore | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        address = base_url.rstrip("/")
        self.name = f"openai({model_id})"
        self.model_id = model_id
        self.identity = {
            "service": "openai",
            "address": address,
            "model_id": model_id,
            "temperature": limits.temperature,
            "max_tokens": limits.max_tokens,
            "seed": seed,
        }
        self._limits = limits
        self._seed = seed
        self._max_tokens_name = max_tokens_name
        self._attempts = Attempts(self.identity, limits, audit_file=audit_file, limiter=limiter, slots=slots, sleep=sleep)
        self._endpoint = JsonEndpoint(
            f"{address}/chat/completions",
            timeout_s=limits.text_timeout_s,
            call_timeout_s=limits.call_timeout_s,
            max_bytes=_LONGEST_ANSWER_BYTES,
            max_in_flight=limits.max_in_flight,
            api_key_variable=api_key_variable,
            allow_internal=allow_internal,
        )

    def complete(self, prompt: str, *, purpose: str) -> Reply:
        """The model's reply to one prompt; raises as ``ModelClient.complete``."""
        return self._attempts.ask(prompt, purpose, self._call)

    def _call(self, prompt: str) -> Reply:
        body = {
            "model": self.model_id,
            "messages": [{"role": "user", "content": prompt}],
            self._max_tokens_name: self._limits.max_tokens,
            "seed": self._seed,
            "stream": False,
        }
        if self._limits.temperature is not None:
            body["temperature"] = self._limits.temperature
        try:
            answer = self._endpoint.post(json.dumps(body, ensure_ascii=False, allow_nan=False).encode())
        except RequestRefused as error:
            if error.status in _OF_THIS_PROMPT:
                raise ModelFailed(f"{self.model_id} refused the prompt: {error.detail}") from error
            raise
        return _read(answer)


def _read(answer: Any) -> Reply:
    """A chat completion's text; PassingTrouble says what it lacks."""
    try:
        choice = answer["choices"][0]
        text, ended = choice["message"]["content"], choice.get("finish_reason")
        usage = answer.get("usage") or {}
        counts = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise PassingTrouble(f"the answer is not a chat completion: {type(error).__name__} {error}") from error
    whole = whole_text(text, ended=ended, cut_off="length")
    if ended == "content_filter":
        raise PassingTrouble("the reply was cut by a content filter")
    return Reply(whole, input_tokens=counts[0], output_tokens=counts[1], usage=usage)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
