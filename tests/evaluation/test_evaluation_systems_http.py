"""An HTTP endpoint as the system: whatever it sends, a question has an answer or the reason that there is none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lib.evaluation.systems_http import HttpLimits, HttpSystem
from lib.platform.errors import Unavailable
from lib.platform.http import RequestRefused
from tests.json_service import Service, serving

_GOOD = json.dumps({"answer": "yes", "contexts": ["a"]}).encode()


class Endpoint(Service):
    """A service that answers as documented, until a test says otherwise."""

    @property
    def asked(self) -> list[tuple[dict[str, str], Any]]:
        return list(zip(self.headers, self.requests, strict=True))

    def system(self, attempts: int = 2, timeout_s: float = 20, max_in_flight: int = 1, **named: Any) -> HttpSystem:
        limits = HttpLimits(timeout_s, attempts, max_in_flight, 10_000)
        return HttpSystem("rag", self.url, limits, allow_internal=True, sleep=lambda _: None, **named)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint(path="/answer", replies=[(200, _GOOD, {})])
    with serving(made):
        yield made


def test_a_question_goes_out_as_documented_and_its_answer_comes_back(endpoint: Endpoint) -> None:
    found = endpoint.system().answer("q1", "größer?")
    assert (found.text, [chunk.bm25_text for chunk in found.context], found.problem) == ("yes", ["a"], "")
    assert endpoint.asked[0][1] == {"query_id": "q1", "query": "größer?"}
    assert found.timings["attempts"] == 1 and found.timings["latency_ms"] > 0


@pytest.mark.parametrize(
    ("reply", "problem", "asked"),
    [
        ((500, b"broken", {}), "status 500: broken", 2),
        ((429, b"", {"Retry-After": "1"}), "status 429", 2),
        ((200, b"<html>busy</html>", {"Content-Type": "text/html"}), "not JSON (text/html)", 2),
        ((200, b'{"answer": ', {}), "not JSON", 2),
        ((200, b'"' + b"x" * 20_000 + b'"', {}), "longer than 10000 bytes", 2),
        ((200, b'{"answer": "yes"}', {}), "contexts is missing", 1),
        ((200, b'{"answer": "yes", "contexts": [], "query_id": "q2"}', {}), "is to 'q2'", 1),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), "status 302", 1),
        ((404, b"no such page", {}), "status 404: no such page", 1),
        ((422, b"bad", {}), "status 422: bad", 1),
    ],
)
def test_a_reply_that_is_no_answer_leaves_the_reason(endpoint: Endpoint, reply: Any, problem: str, asked: int) -> None:
    endpoint.replies = [reply]
    found = endpoint.system().answer("q1", "?")
    assert problem in found.problem
    assert (found.text, found.abstained, len(endpoint.asked)) == ("", False, asked)


def test_what_passes_is_tried_again(endpoint: Endpoint) -> None:
    endpoint.replies = [(503, b"", {}), (200, _GOOD, {})]
    found = endpoint.system().answer("q1", "?")
    assert (found.text, found.timings["attempts"]) == ("yes", 2)


@pytest.mark.parametrize("slow", [{"slow_s": 3.0}, {"part_s": 0.2}])
def test_an_answer_that_does_not_come_in_time_is_none(endpoint: Endpoint, slow: dict[str, float]) -> None:
    vars(endpoint).update(slow)
    began = time.monotonic()
    found = endpoint.system(attempts=1, timeout_s=0.4).answer("q1", "?")
    assert "no answer in 1 attempts" in found.problem
    assert time.monotonic() - began < 2.5


def test_nobody_there_is_a_reason_too() -> None:
    limits = HttpLimits(1, 1, 1, 1000)
    found = HttpSystem("rag", "http://127.0.0.1:1/answer", limits, allow_internal=True, sleep=lambda _: None).answer(
        "q1", "?"
    )
    assert "NewConnectionError" in found.problem or "refused" in found.problem


@pytest.mark.parametrize("status", [401, 403])
def test_an_endpoint_that_lets_nobody_in_stops_everything(endpoint: Endpoint, status: int) -> None:
    endpoint.replies = [(status, b"no", {})]
    with pytest.raises(RequestRefused):
        endpoint.system().answer("q1", "?")


@pytest.mark.parametrize(
    ("header", "sent"), [("Authorization", "Bearer a-secret-of-mine"), ("X-Api-Key", "a-secret-of-mine")]
)
def test_the_key_comes_from_the_environment_and_is_never_repeated(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, header: str, sent: str
) -> None:
    monkeypatch.setenv("MY_RAG", "a-secret-of-mine")
    endpoint.replies = [(500, b"you sent a-secret-of-mine", {})]
    system = endpoint.system(key_variable="MY_RAG", key_header=header)
    found = system.answer("q1", "?")
    assert endpoint.asked[0][0][header] == sent
    assert "a-secret" not in found.problem + json.dumps(system.identity)
    endpoint.replies = [(200, b'{"answer": "a-secret-of-mine", "contexts": []}', {})]
    assert "a-secret" not in system.answer("q2", "?").text


def test_without_its_key_nothing_is_asked(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_RAG", raising=False)
    with pytest.raises(Unavailable, match="no key for 127"):
        endpoint.system(key_variable="MY_RAG").answer("q1", "?")
    assert not endpoint.asked


def test_no_more_questions_are_on_their_way_than_workers(endpoint: Endpoint) -> None:
    endpoint.slow_s = 0.05
    system = endpoint.system(max_in_flight=3)
    with ThreadPoolExecutor(system.workers) as pool:
        assert {answer.text for answer in pool.map(system.answer, map(str, range(9)), "abcdefghi")} == {"yes"}
    assert endpoint.most_in_flight == 3
