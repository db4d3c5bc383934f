"""Bedrock behind limits (requests in flight, rate, timeouts, retries): Converse with a prompt audit log; InvokeModel."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.platform.errors import Unavailable, redact
from lib.platform.model_client import Attempts, Limits, PassingTrouble, RateLimiter, Reply, pause_before_s, whole_text

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


class ConverseClient:
    """One model behind Converse; a ``ModelClient``."""

    def __init__(
        self,
        model_id: str,
        region: str,
        limits: Limits,
        *,
        endpoint_url: str | None = None,
        audit_file: Path | None = None,
        limiter: RateLimiter | None = None,
        slots: threading.Semaphore | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"bedrock({model_id})"
        self.model_id = model_id
        # at another address, another model may answer to the same id
        self.identity = {
            "service": "bedrock",
            "address": endpoint_url or "",
            "model_id": model_id,
            "temperature": limits.temperature,
            "max_tokens": limits.max_tokens,
        }
        self._limits = limits
        self._attempts = Attempts(self.identity, limits, audit_file=audit_file, limiter=limiter, slots=slots, sleep=sleep)
        self._client = _runtime(region, limits, endpoint_url)

    def complete(self, prompt: str, *, purpose: str) -> Reply:
        """The model's reply to one prompt; raises as ``ModelClient.complete``."""
        return self._attempts.ask(prompt, purpose, self._call)

    def _call(self, prompt: str) -> Reply:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        inference: dict[str, Any] = {"maxTokens": self._limits.max_tokens}
        if self._limits.temperature is not None:
            inference["temperature"] = self._limits.temperature
        try:
            reply = self._client.converse(
                modelId=self.model_id,
                messages=[{"role": "user", "content": [{"text": prompt}]}],
                inferenceConfig=inference,
            )
        except NoCredentialsError as error:
            raise Unavailable("no AWS credentials", hint=_CREDENTIALS) from error
        except ClientError as error:
            problem = redact(str(error))
            if _may_pass(error.response):
                raise PassingTrouble(problem) from error
            raise Unavailable(f"Bedrock refused {self.model_id}", detail=problem) from error
        except BotoCoreError as error:
            raise PassingTrouble(f"{type(error).__name__}: {redact(str(error))}") from error
        except Exception as error:  # botocore's parser raises many kinds on what is no Converse message
            raise PassingTrouble(f"the reply is not a Converse message: {redact(str(error))}") from error
        return _read(reply)


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
                self._sleep(pause_before_s(attempt, self._jitter))
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


def _may_pass(response: dict[str, Any]) -> bool:
    """Whether an error response is of the kind that goes away."""
    named = response.get("Error", {}).get("Code") in _RETRIED
    return named or response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _RETRIED_STATUS


def _read(reply: Any) -> Reply:
    """A Converse message; PassingTrouble says what it lacks."""
    try:
        blocks = reply["output"]["message"]["content"]
        text = "".join(block["text"] for block in blocks if "text" in block)
    except (KeyError, TypeError) as error:
        raise PassingTrouble(f"the reply is not a Converse message: {error}") from error
    usage = reply.get("usage") or {}
    return Reply(
        whole_text(text, ended=reply.get("stopReason"), cut_off="max_tokens"),
        input_tokens=usage.get("inputTokens"),
        output_tokens=usage.get("outputTokens"),
        usage=usage,
    )
