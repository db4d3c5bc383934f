"""The chat client against a local service: what is sent, what is an answer, what is tried again, what ends it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.platform.errors import Unavailable
from lib.platform.model_client import Limits, ModelFailed
from lib.platform.openai import ChatClient
from tests.json_service import Answer, Service, serving

_LIMITS = Limits(
    requests_per_second=1000,
    max_in_flight=1,
    call_timeout_s=20,
    text_timeout_s=20,
    attempts=3,
    max_tokens=77,
    temperature=0.0,
)
_KEY = "sk-of-the-test-0123456789"
Make = Callable[..., ChatClient]


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(Service(path="/v1")) as found:
        yield found


@pytest.fixture
def make_client(service: Service, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MODEL_DOOR", _KEY)  # a name that does not say that it holds a secret

    def make(*, pauses: list[float] | None = None, audit_file: Path | None = None, **limits: Any) -> ChatClient:
        slept: list[float] = [] if pauses is None else pauses
        return ChatClient(
            "model-1",
            service.url + "/",
            replace(_LIMITS, **limits),
            seed=42,
            api_key_variable="MODEL_DOOR",
            allow_internal=True,
            audit_file=audit_file,
            sleep=slept.append,
        )

    return make


def test_a_prompt_is_sent_with_its_decoding_and_the_reply_comes_back_with_its_counts(
    service: Service, make_client: Make
) -> None:
    service.replies = [says("é, at last")]
    reply = make_client().complete("Wer? ü", purpose="reader")
    assert service.paths == ["/v1/chat/completions"]
    assert service.headers[0]["Authorization"] == f"Bearer {_KEY}"
    assert service.requests == [
        {
            "model": "model-1",
            "messages": [{"role": "user", "content": "Wer? ü"}],
            "temperature": 0.0,
            "max_tokens": 77,
            "seed": 42,
            "stream": False,
        }
    ]
    assert (reply.text, reply.model_id, reply.input_tokens, reply.output_tokens) == ("é, at last", "model-1", 7, 3)
    assert reply.prompt_sha256 == hashlib.sha256("Wer? ü".encode()).hexdigest()
    assert reply.latency_ms > 0


def test_a_model_that_refuses_a_temperature_is_sent_none(service: Service, make_client: Make, tmp_path: Path) -> None:
    service.replies = [says("yes")]
    client = make_client(temperature=None, audit_file=tmp_path / "audit.jsonl")
    assert client.complete("Who?", purpose="reader").text == "yes"
    assert set(service.requests[0]) == {"model", "messages", "max_tokens", "seed", "stream"}
    assert client.identity["temperature"] is None
    assert json.loads((tmp_path / "audit.jsonl").read_text())["temperature"] is None


def test_a_service_may_call_the_limit_otherwise(service: Service) -> None:
    service.replies = [says("yes")]
    client = ChatClient(
        "model-1", service.url, _LIMITS, seed=42, allow_internal=True, max_tokens_name="max_completion_tokens"
    )
    client.complete("Who?", purpose="reader")
    assert service.requests[0]["max_completion_tokens"] == 77 and "max_tokens" not in service.requests[0]


def test_what_decides_a_reply_is_named_and_the_key_is_not(make_client: Make, service: Service) -> None:
    assert make_client().identity == {
        "service": "openai",
        "address": service.url,
        "model_id": "model-1",
        "temperature": 0.0,
        "max_tokens": 77,
        "seed": 42,
    }


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param((429, b"slow down", {}), id="429"),
        pytest.param((503, b"<html>away</html>", {}), id="503 of a proxy"),
        pytest.param((0, b"", {}), id="closed"),
        pytest.param((200, b"<html>Sign in</html>", {"Content-Type": "text/html"}), id="HTML"),
        pytest.param((200, b"", {}), id="nothing"),
        pytest.param((200, b'{"choices": [{"mess', {}), id="half a body"),
        pytest.param((200, b"x", {"Content-Length": "20", "Connection": "close"}), id="a body cut short"),
        pytest.param((200, b"[" * 100_000, {}), id="nested without end"),
        pytest.param((200, b"{}", {}), id="no choices"),
        pytest.param((200, b'{"choices": []}', {}), id="empty choices"),
        pytest.param((200, b'{"choices": [{}]}', {}), id="no message"),
        pytest.param((200, b'{"choices": "text"}', {}), id="choices are a text"),
        pytest.param((200, b"[1]", {}), id="a list"),
        pytest.param((200, b"null", {}), id="null"),
    ],
)
def test_what_is_no_chat_completion_is_tried_again_and_never_taken_for_an_answer(
    trouble: Answer, service: Service, make_client: Make
) -> None:
    service.replies = [trouble, says("sound"), trouble]
    pauses: list[float] = []
    assert make_client(pauses=pauses).complete("Who?", purpose="reader").text == "sound"
    assert (len(service.requests), len(pauses)) == (2, 1)
    with pytest.raises(ModelFailed, match="no usable reply in 3 attempts"):
        make_client().complete("Who?", purpose="reader")


@pytest.mark.parametrize("text", [None, "", " \n", 5, ["a"], "half \ud83d", "a\0b"])
def test_a_text_that_is_none_is_no_answer(text: Any, service: Service, make_client: Make) -> None:
    service.replies = [says(text)]
    with pytest.raises(ModelFailed):
        make_client(attempts=1).complete("Who?", purpose="reader")


@pytest.mark.parametrize(("reason", "said"), [("length", "cut off at max_tokens"), ("content_filter", "content filter")])
def test_half_an_answer_is_not_taken_for_a_whole_one(reason: str, said: str, service: Service, make_client: Make) -> None:
    service.replies = [says("one claim, and ano", reason)]
    with pytest.raises(ModelFailed, match=said):
        make_client().complete("Who?", purpose="judge")


def test_a_service_that_throttles_for_ever_fails_the_case_after_its_attempts(service: Service, make_client: Make) -> None:
    service.replies = [(429, b"not now", {"Retry-After": "7"})]
    pauses: list[float] = []
    with pytest.raises(ModelFailed, match="no usable reply in 3 attempts: status 429: not now"):
        make_client(pauses=pauses).complete("Who?", purpose="judge")
    assert (len(service.requests), pauses) == (3, [7.0, 7.0])


def test_no_attempt_begins_after_the_deadline(service: Service, make_client: Make) -> None:
    service.replies = [(429, b"not now", {"Retry-After": "100"})]
    pauses: list[float] = []
    with pytest.raises(ModelFailed, match="no usable reply within 60 s: status 429"):
        make_client(pauses=pauses, deadline_s=60).complete("Who?", purpose="judge")
    assert (len(service.requests), pauses) == (1, [])


def test_a_service_that_says_nothing_fails_the_case(service: Service, make_client: Make) -> None:
    service.replies, service.slow_s = [says("too late")], 20.0
    with pytest.raises(ModelFailed, match="no usable reply in 2 attempts: ReadTimeoutError"):
        make_client(attempts=2, text_timeout_s=0.1).complete("Who?", purpose="judge")


def test_an_answer_that_trickles_in_is_given_up(service: Service, make_client: Make) -> None:
    service.replies, service.part_s = [says("drop by drop")], 0.05
    with pytest.raises(ModelFailed, match=r"no usable reply in 1 attempts: .*(not whole after|no reply in) 0\.3 s"):
        make_client(attempts=1, call_timeout_s=0.3).complete("Who?", purpose="judge")


def test_an_answer_without_end_is_cut(service: Service, make_client: Make) -> None:
    service.replies = [says("x" * (5 << 20))]
    with pytest.raises(ModelFailed, match="longer than 4194304 bytes"):
        make_client(attempts=1).complete("Who?", purpose="judge")


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404])
def test_a_service_that_will_not_serve_us_ends_it_at_once(status: int, service: Service, make_client: Make) -> None:
    service.replies = [(status, b"no", {"Location": service.url + "/elsewhere"}), says("from elsewhere")]
    with pytest.raises(Unavailable, match="refused the request") as caught:
        make_client().complete("Who?", purpose="reader")
    assert re.fullmatch(rf"status {status}(, a redirect to [0-9.:]+ that is not followed)?: no", caught.value.detail)
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_refused_fails_its_own_case_alone(status: int, service: Service, make_client: Make) -> None:
    service.replies = [(status, b"maximum context length", {})]
    with pytest.raises(ModelFailed, match=r"refused the prompt: .*maximum context length"):
        make_client().complete("Who?", purpose="reader")
    assert len(service.requests) == 1


def test_without_its_key_nothing_is_sent(service: Service, make_client: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_DOOR")
    with pytest.raises(Unavailable, match="no key for 127") as caught:
        make_client().complete("Who?", purpose="reader")
    assert caught.value.hint == "set MODEL_DOOR in the environment"
    assert service.requests == []


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param((401, f"bad key {_KEY}".encode(), {}), id="refused"),
        pytest.param((429, f"too much of {_KEY}".encode(), {}), id="throttled"),
        pytest.param((400, f"{_KEY} asked too much".encode(), {}), id="this prompt refused"),
        pytest.param((200, f"<html>{_KEY}".encode(), {}), id="HTML"),
        pytest.param(
            (200, json.dumps({"choices": [{"message": {"content": f"You are {_KEY}."}}]}).encode(), {}), id="an answer"
        ),
    ],
)
def test_the_key_stands_in_no_error_no_log_and_no_answer(
    reply: Answer, service: Service, make_client: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.replies = [reply]
    with pytest.raises((ModelFailed, Unavailable)) as caught:
        make_client(audit_file=tmp_path / "log").complete("Who?", purpose="reader")
    assert _KEY not in f"{caught.value} {getattr(caught.value, 'detail', '')} {getattr(caught.value, 'hint', '')}"
    assert _KEY not in (tmp_path / "log").read_text()
    assert _KEY not in "".join(capfd.readouterr())


def test_every_attempt_is_logged_with_what_came_of_it(service: Service, make_client: Make, tmp_path: Path) -> None:
    service.replies = [(429, b"slow down", {}), says("fine")]
    make_client(audit_file=tmp_path / "log").complete("Who?", purpose="judge")
    first, second = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    for entry in (first, second):
        assert (entry["purpose"], entry["model_id"], entry["prompt"]) == ("judge", "model-1", "Who?")
        assert (entry["temperature"], entry["seed"]) == (0.0, 42)
        assert entry["prompt_sha256"] == hashlib.sha256(b"Who?").hexdigest()
    assert (first["attempt"], first["problem"]) == (1, "status 429: slow down")
    assert (second["attempt"], second["text"], second["usage"]) == (2, "fine", _USAGE)


_USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def says(text: Any, reason: str = "stop") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return 200, json.dumps({"object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode(), {}
