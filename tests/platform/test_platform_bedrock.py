"""The Converse client against a local service: what is an answer, what is tried again, what ends it, what is logged."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest

from lib.platform.bedrock import ConverseClient, InvokeClient
from lib.platform.errors import Unavailable
from lib.platform.model_client import Limits, ModelFailed, RateLimiter

_LIMITS = Limits(
    requests_per_second=1000,
    max_in_flight=1,
    call_timeout_s=30,
    text_timeout_s=30,
    attempts=3,
    max_tokens=77,
    temperature=0,
)
_MODEL = "anthropic.claude-3-haiku-20240307-v1:0"


@dataclass(frozen=True)
class Reply:
    """What the service answers once. ``hold`` makes it wait for the test first."""

    status: int
    body: bytes
    error: str = ""
    hold: bool = False


@dataclass
class Service:
    """A local Converse service: gives ``replies`` in order, the last one for ever, and remembers what it was asked."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    together: threading.Barrier | None = None

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"][0]["text"] for request in self.requests]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                service.paths.append(unquote(self.path))
                service.requests.append(asked)
                reply = service.replies[min(len(service.requests), len(service.replies)) - 1]
            if service.together is not None:
                _meet(service.together)
            if reply.hold:
                service.release.wait(30)
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            if reply.error:
                self.send_header("x-amzn-errortype", reply.error)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that gave up has closed its connection."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield service
        service.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """Credentials of the test's own; shared, because botocore takes long to read its service descriptions."""
    return boto3.Session("AKIDOFTHETEST", "secret-of-the-test", region_name="us-east-1")


@pytest.fixture(autouse=True)
def aws(session: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own AWS settings is seen."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def make_client(service: Service) -> Callable[..., ConverseClient]:
    def make(*, pauses: list[float] | None = None, audit_file: Path | None = None, **limits: Any) -> ConverseClient:
        slept = [] if pauses is None else pauses
        return ConverseClient(
            _MODEL,
            "us-east-1",
            replace(_LIMITS, **limits),
            endpoint_url=service.url,
            audit_file=audit_file,
            limiter=RateLimiter(1000, sleep=lambda _: None),
            sleep=slept.append,
        )

    return make


Make = Callable[..., ConverseClient]


def test_a_prompt_is_sent_with_the_models_settings_and_its_text_comes_back(service: Service, make_client: Make) -> None:
    service.replies = [_says("first ", "second")]
    assert make_client().complete("Who?", purpose="reader").text == "first second"
    assert service.paths == [f"/model/{_MODEL}/converse"]
    assert service.requests == [
        {
            "messages": [{"role": "user", "content": [{"text": "Who?"}]}],
            "inferenceConfig": {"temperature": 0, "maxTokens": 77},
        }
    ]


def test_a_model_that_refuses_a_temperature_is_sent_none(service: Service, make_client: Make) -> None:
    service.replies = [_says("yes")]
    client = make_client(temperature=None)
    assert client.complete("Who?", purpose="reader").text == "yes"
    assert service.requests[0]["inferenceConfig"] == {"maxTokens": 77}
    assert client.identity["temperature"] is None


def test_blocks_that_are_not_text_are_passed_over(service: Service, make_client: Make) -> None:
    service.replies = [_message([{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "answer"}])]
    assert make_client().complete("Who?", purpose="reader").text == "answer"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, "ThrottlingException"),
        (503, "ServiceUnavailableException"),
        (500, "InternalServerException"),
        (408, "ModelTimeoutException"),
        (429, "ModelNotReadyException"),
        (424, "ModelErrorException"),
    ],
)
def test_a_passing_trouble_is_tried_again(status: int, error: str, service: Service, make_client: Make) -> None:
    service.replies = [_error(status, error), _says("at last")]
    pauses: list[float] = []
    assert make_client(pauses=pauses).complete("Who?", purpose="reader").text == "at last"
    assert service.prompts == ["Who?", "Who?"]
    assert len(pauses) == 1


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(503, b"<html>Service Unavailable</html>"), id="503 of a proxy"),
        pytest.param(Reply(502, b""), id="502 without a body"),
        pytest.param(Reply(429, b"slow down"), id="429 of a proxy"),
    ],
)
def test_a_proxys_trouble_is_tried_again_too(reply: Reply, service: Service, make_client: Make) -> None:
    service.replies = [reply, _says("at last")]
    assert make_client().complete("Who?", purpose="reader").text == "at last"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(200, b'{"output": {"message"'), id="cut off"),
        pytest.param(Reply(200, b"<html>Sign in</html>"), id="HTML"),
        pytest.param(Reply(200, b""), id="empty"),
        pytest.param(Reply(200, b"{}"), id="no output"),
        pytest.param(Reply(200, b'{"output": {"message": {"role": "assistant"}}}'), id="no content"),
        pytest.param(Reply(200, b'{"output": {"message": {"role": "assistant", "content": []}}}'), id="empty content"),
        pytest.param(
            Reply(200, b'{"output": {"message": {"role": "assistant", "content": [{"text": " \\n"}]}}}'), id="blank text"
        ),
        pytest.param(
            Reply(200, b'{"output": {"message": {"role": "assistant", "content": [{"text": 5}]}}}'), id="text is a number"
        ),
        pytest.param(
            Reply(200, b'{"output": {"message": {"role": "assistant", "content": [{"text": null}]}}}'), id="text is null"
        ),
        pytest.param(Reply(200, b'{"output": {}}'), id="empty output"),
        pytest.param(Reply(200, b'{"output": "text"}'), id="output is a text"),
        pytest.param(
            Reply(200, b'{"output": {"message": {"role": "assistant", "content": "text"}}}'), id="content is a text"
        ),
        pytest.param(Reply(200, b"[1]"), id="a list"),
        pytest.param(Reply(200, b"null"), id="null"),
    ],
)
def test_what_is_no_converse_message_is_tried_again_and_never_taken_for_an_answer(
    reply: Reply, service: Service, make_client: Make
) -> None:
    service.replies = [reply, _says("sound"), reply]
    assert make_client().complete("Who?", purpose="reader").text == "sound"
    assert len(service.requests) == 2
    with pytest.raises(ModelFailed):
        make_client().complete("Who?", purpose="reader")


def test_after_all_attempts_the_case_fails_and_says_why(service: Service, make_client: Make) -> None:
    service.replies = [_error(429, "ThrottlingException", "too many of password=hunter22")]
    with pytest.raises(ModelFailed, match=r"no usable reply in 3 attempts: .*ThrottlingException") as caught:
        make_client().complete("Who?", purpose="reader")
    assert len(service.requests) == 3
    assert "hunter22" not in str(caught.value)


def test_pauses_double_with_jitter_up_to_thirty_seconds(service: Service, make_client: Make) -> None:
    service.replies = [_error(429, "ThrottlingException")]
    pauses: list[float] = []
    again: list[float] = []
    for slept in (pauses, again):
        with pytest.raises(ModelFailed):
            make_client(pauses=slept, attempts=8).complete("Who?", purpose="reader")
    # longest pauses 1, 2, 4, 8, 16, then 32 and 64 cut to 30; jitter takes up to half of it away
    for pause, longest in zip(pauses, (1, 2, 4, 8, 16, 30, 30), strict=True):
        assert longest / 2 <= pause <= longest
    assert pauses == again


def test_a_reply_that_was_cut_off_is_not_taken_for_a_whole_one(service: Service, make_client: Make) -> None:
    whole = _says("one claim, and ano")
    service.replies = [replace(whole, body=whole.body.replace(b"end_turn", b"max_tokens"))]
    with pytest.raises(ModelFailed, match="cut off at max_tokens"):
        make_client(attempts=1).complete("Who?", purpose="judge")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, "AccessDeniedException"),
        (403, "ExpiredTokenException"),
        (404, "ResourceNotFoundException"),
        (400, "ValidationException"),
    ],
)
def test_a_service_that_will_not_serve_us_ends_it_at_once(
    status: int, error: str, service: Service, make_client: Make
) -> None:
    service.replies = [_error(status, error, "not for you, password=hunter22")]
    with pytest.raises(Unavailable, match=f"Bedrock refused {_MODEL}") as caught:
        make_client().complete("Who?", purpose="reader")
    assert error in caught.value.detail
    assert "hunter22" not in caught.value.detail
    assert len(service.requests) == 1


def test_without_credentials_nothing_is_sent(service: Service, make_client: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    service.replies = [_says("unasked")]
    with pytest.raises(Unavailable, match="no AWS credentials"):
        make_client().complete("Who?", purpose="reader")
    assert service.requests == []


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_ACCESS_KEY_ID"])
def test_credentials_that_are_half_there_are_unavailable(
    name: str, service: Service, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv(name, "only-this")
    service.replies = [_says("unasked")]
    with pytest.raises(Unavailable):
        make_client().complete("Who?", purpose="reader")


@pytest.mark.parametrize(
    ("limits", "problem"), [({"text_timeout_s": 0.1}, "ReadTimeoutError"), ({"call_timeout_s": 0.1}, " TimeoutError")]
)
def test_a_service_that_does_not_answer_in_time_fails_the_case(
    limits: dict[str, float], problem: str, service: Service, make_client: Make
) -> None:
    service.replies = [replace(_says("too late"), hold=True)]
    with pytest.raises(ModelFailed, match=f"no usable reply in 2 attempts:.*{problem}"):
        make_client(attempts=2, **limits).complete("Who?", purpose="reader")


def test_a_slow_answer_is_followed_by_a_good_one(service: Service, make_client: Make) -> None:
    service.replies = [replace(_says("too late"), hold=True), _says("in time")]
    assert make_client(text_timeout_s=0.2).complete("Who?", purpose="reader").text == "in time"


def test_a_service_that_is_not_there_fails_the_case(service: Service) -> None:
    client = ConverseClient(
        _MODEL, "us-east-1", replace(_LIMITS, attempts=2), endpoint_url="http://127.0.0.1:9", sleep=lambda _: None
    )
    with pytest.raises(ModelFailed, match="EndpointConnectionError"):
        client.complete("Who?", purpose="reader")


def test_a_call_that_was_given_up_is_not_sent_later(service: Service, make_client: Make) -> None:
    service.replies = [replace(_says("too late"), hold=True)]
    client = make_client(attempts=3, call_timeout_s=0.1)
    with pytest.raises(ModelFailed):
        client.complete("given up", purpose="reader")
    sent = service.prompts.count("given up")
    service.release.set()
    while "next" not in service.prompts:
        with suppress(ModelFailed):
            client.complete("next", purpose="reader")
    assert service.prompts.count("given up") == sent


@pytest.mark.parametrize(("max_in_flight", "meet"), [(1, False), (2, True)])
def test_no_more_requests_are_in_flight_than_allowed(
    max_in_flight: int, meet: bool, service: Service, make_client: Make
) -> None:
    service.replies = [_says("yes")]
    service.together = threading.Barrier(2, timeout=10 if meet else 0.2)
    client = make_client(max_in_flight=max_in_flight)
    askers = [threading.Thread(target=client.complete, args=(f"{n}",), kwargs={"purpose": "reader"}) for n in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(service.prompts) == ["0", "1"]
    assert service.together.broken is not meet


# the audit log


def test_every_prompt_is_logged_with_what_came_of_it(service: Service, make_client: Make, tmp_path: Path) -> None:
    log = tmp_path / "audit" / "prompts.jsonl"
    service.replies = [_error(429, "ThrottlingException"), _says("é")]
    make_client(audit_file=log).complete("Wer? ü", purpose="judge")
    make_client(audit_file=log).complete("And?", purpose="reader")
    first, second, third = _entries(log)
    for entry in (first, second):
        assert entry["purpose"] == "judge"
        assert entry["model_id"] == _MODEL
        assert entry["temperature"] == 0
        assert entry["prompt"] == "Wer? ü"
        assert entry["prompt_sha256"] == hashlib.sha256("Wer? ü".encode()).hexdigest()
        assert entry["latency_ms"] >= 0
        assert entry["at"].endswith("Z")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert "ThrottlingException" in first["problem"]
    assert (second["text"], second["usage"]) == ("é", {"inputTokens": 3, "outputTokens": 1, "totalTokens": 4})
    assert (third["prompt"], third["attempt"]) == ("And?", 1)


def test_the_log_holds_no_secret_of_a_prompt(
    service: Service, make_client: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    service.replies = [_error(429, "ThrottlingException", "no to correct-horse"), _says("fine")]
    make_client(audit_file=tmp_path / "log").complete("Is correct-horse or postgresql://u:hunter22@h safe?", purpose="x")
    assert service.prompts[0] == "Is correct-horse or postgresql://u:hunter22@h safe?"
    assert _entries(tmp_path / "log")[0]["prompt"] == "Is *** or postgresql://u:***@h safe?"
    assert "correct-horse" not in (tmp_path / "log").read_text()


def test_the_log_holds_no_secret_of_a_reply(
    service: Service, make_client: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    service.replies = [_says("You asked about correct-horse.")]
    make_client(audit_file=tmp_path / "log").complete("Is it safe?", purpose="x")
    assert _entries(tmp_path / "log")[0]["text"] == "You asked about ***."


def test_a_prompt_that_was_refused_is_logged_too(service: Service, make_client: Make, tmp_path: Path) -> None:
    service.replies = [_error(403, "AccessDeniedException")]
    with pytest.raises(Unavailable):
        make_client(audit_file=tmp_path / "log").complete("Who?", purpose="x")
    assert len(service.requests) == len(_entries(tmp_path / "log")) == 1


def test_an_answer_that_cannot_be_logged_is_not_given(service: Service, make_client: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    service.replies = [_says("unlogged")]
    with pytest.raises(Unavailable, match="cannot write"):
        make_client(audit_file=tmp_path / "file" / "log").complete("Who?", purpose="x")


# the rate


def test_requests_start_evenly_spaced() -> None:
    slept: list[float] = []
    limiter = RateLimiter(0.001, sleep=slept.append)
    for _ in range(4):
        limiter.wait()
    # one start in a thousand seconds; the sleeps are not really slept, so they add up
    assert slept == [pytest.approx(1000 * n, abs=60) for n in (1, 2, 3)]


def test_each_attempt_counts_for_the_rate_over_all_clients(service: Service) -> None:
    slept: list[float] = []
    limiter = RateLimiter(0.001, sleep=slept.append)
    service.replies = [_error(429, "ThrottlingException"), _says("yes")]
    for _ in range(2):
        client = ConverseClient(
            _MODEL, "us-east-1", _LIMITS, endpoint_url=service.url, limiter=limiter, sleep=lambda _: None
        )
        client.complete("Who?", purpose="x")
    # three requests: the one that was throttled, its repetition, and the other client's
    assert len(service.requests) == 3
    assert slept == [pytest.approx(1000 * n, abs=60) for n in (1, 2)]


def test_a_body_is_sent_as_it_is_and_its_answer_comes_back(service: Service) -> None:
    service.replies = [Reply(200, b'{"embedding": [1.5]}')]
    client = InvokeClient("amazon.titan-embed-text-v2:0", "us-east-1", _LIMITS, endpoint_url=service.url)
    assert client.invoke({"inputText": "日本語"}) == {"embedding": [1.5]}
    assert service.paths == ["/model/amazon.titan-embed-text-v2:0/invoke"]
    assert service.requests == [{"inputText": "日本語"}]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(429, b"{}", error="ThrottlingException"), id="throttled"),
        pytest.param(Reply(503, b"<html>"), id="503 of a proxy"),
        pytest.param(Reply(200, b"<html>"), id="HTML"),
        pytest.param(Reply(200, b"[1]"), id="no object"),
    ],
)
def test_an_invocation_is_tried_again_within_its_attempts(reply: Reply, service: Service) -> None:
    service.replies = [reply, reply, Reply(200, b'{"a": 1}')]
    pauses: list[float] = []
    client = InvokeClient("model", "us-east-1", _LIMITS, endpoint_url=service.url, sleep=pauses.append)
    assert client.invoke({}) == {"a": 1}
    assert len([pause for pause in pauses if pause >= 0.5]) == 2
    service.replies = [reply]
    with pytest.raises(Unavailable, match="model gave no answer in 3 attempts"):
        client.invoke({})


def test_an_invocation_that_is_refused_is_not_repeated(service: Service) -> None:
    service.replies = [_error(403, "AccessDeniedException")]
    client = InvokeClient("model", "us-east-1", _LIMITS, endpoint_url=service.url)
    with pytest.raises(Unavailable, match="Bedrock refused model"):
        client.invoke({})
    assert len(service.requests) == 1


def _says(*texts: str) -> Reply:
    return _message([{"text": text} for text in texts])


def _message(content: list[dict[str, Any]]) -> Reply:
    body = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 1, "totalTokens": 4},
        "metrics": {"latencyMs": 5},
    }
    return Reply(200, json.dumps(body).encode())


def _error(status: int, name: str, message: str = "no") -> Reply:
    return Reply(status, json.dumps({"message": message}).encode(), error=name)


def _entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def _meet(barrier: threading.Barrier) -> None:
    try:
        barrier.wait()
    except threading.BrokenBarrierError:
        return
