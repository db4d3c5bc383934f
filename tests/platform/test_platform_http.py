"""JSON services: what is tried again, how long is waited, how often and how many at a time they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from lib.platform import http
from lib.platform.errors import Unavailable
from lib.platform.http import HttpLimits
from tests.json_service import Service, serving

JsonService = partial(http.JsonService, allow_internal=True)
_LIMITS = HttpLimits(requests_per_second=10_000, max_in_flight=4, timeout_s=20, attempts=4)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(Service(path="/embed")) as found:
        yield found


def test_the_answers_value_comes_back(service: Service) -> None:
    service.replies = [(200, '{"a": ["é", 1]}'.encode(), {})]
    assert JsonService(service.url, _LIMITS).post({"text": "日本語"}) == {"a": ["é", 1]}
    assert service.requests == [{"text": "日本語"}]


@pytest.mark.parametrize("trouble", [(429, b"slow down", {}), (503, b"", {}), (0, b"", {}), (200, b"<html>", {})])
def test_what_may_pass_is_tried_again_with_growing_pauses(service: Service, trouble: Any) -> None:
    service.replies = [trouble, trouble, trouble, (200, b"1", {})]
    pauses: list[float] = []
    assert JsonService(service.url, _LIMITS, sleep=pauses.append).post({}) == 1
    waits = [pause for pause in pauses if pause >= 0.2]
    assert len(waits) == 3
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, (0.5, 1.0, 2.0), strict=True))


def test_attempts_are_bounded(service: Service) -> None:
    service.replies = [(500, b"broken", {})]
    with pytest.raises(Unavailable, match="gave no answer in 4 attempts") as caught:
        JsonService(service.url, _LIMITS, sleep=lambda _: None).post({})
    assert len(service.requests) == 4
    assert caught.value.detail == "status 500: broken"


def test_the_service_says_how_long_to_wait(service: Service) -> None:
    service.replies = [(429, b"", {"Retry-After": "17"}), (429, b"", {"Retry-After": "nonsense"}), (200, b"1", {})]
    pauses: list[float] = []
    assert JsonService(service.url, _LIMITS, sleep=pauses.append).post({}) == 1
    waits = [pause for pause in pauses if pause >= 0.2]
    assert waits[0] == 17
    assert waits[1] <= 1.0


def test_a_service_that_asks_for_too_long_a_wait_is_away(service: Service) -> None:
    service.replies = [(429, b"", {"Retry-After": "3600"})]
    with pytest.raises(Unavailable):
        JsonService(service.url, _LIMITS, sleep=lambda _: None).post({})
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422])
def test_a_refusal_is_final(service: Service, status: int) -> None:
    service.replies = [(status, b"no", {"Location": "/elsewhere"})]
    with pytest.raises(Unavailable, match="refused the request"):
        JsonService(service.url, _LIMITS).post({})
    assert len(service.requests) == 1


def test_a_key_never_stands_in_an_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "sk-very-secret")
    service.replies = [(401, b"bad key sk-very-secret", {})]
    with pytest.raises(Unavailable) as caught:
        JsonService(service.url, _LIMITS, api_key_variable="SERVICE_API_KEY").post({})
    assert caught.value.detail == "status 401: bad key ***"
    assert caught.value.hint == "check the key in SERVICE_API_KEY"


def test_an_address_where_nothing_answers_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 gave no answer"):
        JsonService("http://127.0.0.1:1/embed", _LIMITS, sleep=lambda _: None).post({})


def test_an_answer_that_does_not_come_is_given_up(service: Service) -> None:
    service.replies = [(200, b"1", {})]
    service.slow_s = 1.0
    limits = replace(_LIMITS, timeout_s=0.1, attempts=2)
    with pytest.raises(Unavailable, match="gave no answer in 2 attempts"):
        JsonService(service.url, limits, sleep=lambda _: None).post({})


def test_no_more_requests_than_allowed_are_under_way(service: Service) -> None:
    service.replies = [(200, b"1", {})]
    service.slow_s = 0.05
    client = JsonService(service.url, replace(_LIMITS, max_in_flight=2))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(client.post, [{}] * 8)) == [1] * 8
    assert service.most_in_flight == 2


def test_requests_are_spaced_out(service: Service) -> None:
    service.replies = [(200, b"1", {})]
    waits: list[float] = []
    client = JsonService(service.url, replace(_LIMITS, requests_per_second=0.1), sleep=waits.append)
    for _ in range(3):
        client.post({})
    assert [round(wait, -1) for wait in waits] == [10, 20]
