"""Where requests go: internal addresses are refused however they are written, and what was judged is what is asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from lib.platform.errors import Refused, Unavailable
from lib.platform.http import HttpLimits, JsonService
from lib.platform.http_targets import problem_with
from tests.json_service import Service, serving

_LIMITS = HttpLimits(requests_per_second=10_000, max_in_flight=1, timeout_s=20, attempts=1)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(Service(path="/x", replies=[(200, b"1", {})])) as found:
        yield found


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_asked(address: str) -> None:
    assert problem_with(address, allow_internal=False) == ""


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
    ],
)
def test_internal_addresses_are_asked_only_where_that_is_allowed(address: str) -> None:
    assert problem_with(address, allow_internal=False) == "internal"
    assert problem_with(address, allow_internal=True) == ""


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200"),
        *("192.0.0.192", "168.63.129.16", "::ffff:169.254.169.254"),
        *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "2002:a9fe:a9fe::1", "240.0.0.1"),
    ],
)
def test_some_addresses_are_never_asked(address: str) -> None:
    assert problem_with(address, allow_internal=False)
    assert problem_with(address, allow_internal=True)


def test_a_6to4_tunnel_to_an_internal_address_is_internal() -> None:
    assert problem_with("2002:7f00:1::1", allow_internal=False) == "internal"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_an_internal_address_is_refused_however_it_is_written(host: str, service: Service) -> None:
    port = service.url.split(":")[2]
    with pytest.raises(Refused, match="no request may go to") as caught:
        JsonService(f"http://{host}:{port}", _LIMITS).post({})
    assert "allow_internal: true" in caught.value.hint
    assert service.requests == []


def _answers(monkeypatch: pytest.MonkeyPatch, port: int, *answers: list[str]) -> list[str]:
    """A resolver that gives each of ``answers`` once, then fails; the hosts that it was asked for."""
    asked: list[str] = []
    left = list(answers)
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **named: Any) -> Any:
        if host != "rag.example":
            return real(host, *rest, **named)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked


def test_a_name_is_looked_up_once_and_that_address_is_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(service.url.split(":")[2].split("/")[0])
    asked = _answers(monkeypatch, port, ["127.0.0.1"], ["169.254.169.254"])
    assert JsonService(f"http://rag.example:{port}/x", _LIMITS, allow_internal=True).post({}) == 1
    assert asked == ["rag.example"]
    assert service.headers[0]["Host"] == f"rag.example:{port}"


def test_a_name_whose_second_answer_is_internal_is_refused_on_a_new_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.replies = [(200, b"1", {"Connection": "close"})]
    port = int(service.url.split(":")[2].split("/")[0])
    _answers(monkeypatch, port, ["127.0.0.1"], ["169.254.169.254"])
    client = JsonService(f"http://rag.example:{port}/x", _LIMITS, allow_internal=True)
    client.post({})
    with pytest.raises(Refused, match=r"rag\.example \(169\.254\.169\.254\), which is link-local"):
        client.post({})
    assert len(service.requests) == 1


def test_a_name_with_one_internal_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, 80, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(Refused, match=r"10\.0\.0\.1\), which is internal"):
        JsonService("http://rag.example/x", _LIMITS).post({})


def test_a_redirect_is_an_error_that_names_the_other_host_alone(service: Service) -> None:
    service.replies = [(307, b"", {"Location": "http://u:pw@elsewhere.example:81/hidden?token=hidden"})]
    with pytest.raises(Unavailable) as caught:
        JsonService(service.url, _LIMITS, allow_internal=True).post({})
    assert caught.value.detail.startswith("status 307, a redirect to elsewhere.example:81 that is not followed:")
    assert len(service.requests) == 1
