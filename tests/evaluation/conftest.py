"""Stand-ins for model services: local servers that speak Converse, or OpenAI's chat, and say what a test tells them to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from lib.evaluation.judgements import Judgements
from lib.platform import postgres
from lib.platform.bedrock import ConverseClient
from lib.platform.model_client import Limits
from lib.platform.openai import ChatClient
from tests.json_service import Answer, Service, serving

_LIMITS = Limits(
    requests_per_second=1000.0,
    max_in_flight=1,
    call_timeout_s=30.0,
    text_timeout_s=20.0,
    attempts=1,
    max_tokens=100,
    temperature=0.0,
)
_ERRORS = {403: "AccessDeniedException", 500: "InternalServerException"}


@dataclass
class Converse:
    """``reply`` gives a text, or the HTTP status of a failure; ``asked`` collects every request."""

    url: str = ""
    reply: Callable[[str, str], str | int] = lambda model_id, prompt: "yes"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def client(self, model_id: str = "model-1") -> ConverseClient:
        return ConverseClient(model_id, "us-east-1", _LIMITS, endpoint_url=self.url)

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"][0]["text"] for request in self.asked]


@pytest.fixture
def converse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Converse]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = Converse()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model_id = unquote(self.path.split("/")[2])
            fake.asked.append({"model_id": model_id, **request})
            said = fake.reply(model_id, request["messages"][0]["content"][0]["text"])
            status = said if isinstance(said, int) else 200
            content = {"message": "failed"} if isinstance(said, int) else _message(said)
            self.send_response(status)
            if status in _ERRORS:
                self.send_header("x-amzn-errortype", _ERRORS[status])
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Chat:
    """``reply`` gives a text, the HTTP status of a failure, or a whole answer of any form."""

    url: str = ""
    reply: Callable[[str, str], str | int | Answer] = lambda model_id, prompt: "yes"
    service: Service = field(default_factory=lambda: Service(path="/v1"))

    def client(self, model_id: str = "model-1", seed: int = 42) -> ChatClient:
        return ChatClient(model_id, self.url, _LIMITS, seed=seed, allow_internal=True, sleep=lambda _: None)

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"] for request in self.service.requests]

    def answer(self, request: dict[str, Any]) -> Answer:
        said = self.reply(request["model"], request["messages"][0]["content"])
        if isinstance(said, tuple):
            return said
        if isinstance(said, int):
            return said, b"failed", {}
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 2, "completion_tokens": 1}
        return 200, json.dumps({"choices": [choice], "usage": usage}).encode(), {}


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = Chat()
    fake.service.answer = fake.answer
    with serving(fake.service):
        fake.url = fake.service.url
        yield fake


@pytest.fixture
def stored(database_url: str, connection: Any) -> Iterator[Callable[..., Judgements]]:
    """Opens the stored judgements as one more evaluation sees them."""
    opened = []

    def make(**options: Any) -> Judgements:
        opened.append(postgres.connect(database_url, "test"))
        return Judgements(opened[-1], **options)

    yield make
    for one in opened:
        one.close()


def _message(text: str) -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
        "metrics": {"latencyMs": 1},
    }
