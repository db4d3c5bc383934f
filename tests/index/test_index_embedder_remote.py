"""Embedders behind a service, against real local ones: what is asked, what is believed, what stops the ingest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import numpy as np
import pytest

from lib.config.embedder_files import EmbedderFiles, RemoteSettings
from lib.index.embedder import BadVector, embedder_of
from lib.index.embedder_remote import RemoteEmbedder, remote_embedder
from lib.index.embedding_cache import CachedEmbedder
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, Unavailable
from lib.release import locking
from tests import json_service

DIMENSION = 4
Answer = Callable[[dict[str, Any]], Any]


@dataclass
class Service:
    """A local service: ``answer`` makes the JSON value for each request, or a status to refuse it with."""

    answer: Answer = lambda body: {}
    http: json_service.Service = field(default_factory=json_service.Service)

    @property
    def url(self) -> str:
        return self.http.url

    @property
    def requests(self) -> list[dict[str, Any]]:
        return self.http.requests

    @property
    def paths(self) -> list[str]:
        return [unquote(path) for path in self.http.paths]

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("Authorization") for headers in self.http.headers]

    def reply(self, body: dict[str, Any]) -> json_service.Answer:
        said = self.answer(body)
        status, value = (said, {"message": "refused"}) if isinstance(said, int) else (200, said)
        return status, json.dumps(value).encode(), {"Content-Type": "application/json"}


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.http.answer = made.reply
    with json_service.serving(made.http):
        yield made


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the test's own; nothing of the machine's AWS settings is seen."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", boto3.Session("AKIDOFTHETEST", "secret-of-the-test"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def make_embedder(service: Service) -> Callable[..., RemoteEmbedder]:
    """A remote embedder over the service; keyword arguments change its settings."""

    def make(provider: str = "http", query_prompt: str = "", document_prompt: str = "", **changes: Any) -> RemoteEmbedder:
        given = {"provider": provider, "model": "small", "url": service.url + "/v1/embeddings" * (provider == "http")}
        quick = {"requests_per_second": 10_000.0, "batch_size": 3, "timeout_s": 20.0, "attempts": 1, "region": "us-east-1"}
        remote = RemoteSettings(**{"allow_internal": True, **given, **quick, **changes})
        digest = f"{abs(hash((provider, str(changes)))):064x}"[:64]
        files = EmbedderFiles(
            "far", Path("/"), DIMENSION, 100, 100, query_prompt, document_prompt, "counts", "0" * 64, digest, remote
        )
        return remote_embedder(files)

    return make


def vector_of(text: str) -> list[float]:
    """What the local services give: of another length than one, and decided by the text."""
    return [float(len(text)) + 1, float(sum(map(ord, text)) % 7), 2.0, -3.0]


def unit(texts: list[str]) -> np.ndarray:
    rows = np.array([vector_of(text) for text in texts])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def openai(body: dict[str, Any]) -> dict[str, Any]:
    found = [{"index": index, "embedding": vector_of(text)} for index, text in enumerate(body["input"])]
    return {"data": found[::-1]}  # the order is not promised


def plain(body: dict[str, Any]) -> dict[str, Any]:
    return {"embeddings": [vector_of(text) for text in body["texts"]]}


TEXTS = ["one", "two words", "日本語 😀", "a longer text about backups", "five", "six", "seven"]


def test_openai_vectors_come_back_in_the_order_of_the_texts_and_of_unit_length(service, make_embedder):
    service.answer = openai
    embedder = make_embedder()
    assert np.allclose(embedder.embed_documents(TEXTS), unit(TEXTS), atol=1e-6)
    assert sorted(len(request["input"]) for request in service.requests) == [1, 3, 3]
    assert {request["model"] for request in service.requests} == {"small"}
    assert set(service.paths) == {"/v1/embeddings"}
    vector = embedder.embed_query("why?")
    assert vector.dtype == np.float32
    assert np.allclose(vector, unit(["why?"])[0], atol=1e-6)
    assert embedder.embed_documents([]).shape == (0, DIMENSION)


def test_the_plain_form_says_whether_a_text_is_a_question(service, make_embedder):
    service.answer = plain
    embedder = make_embedder(format="plain", query_prompt="q: ", document_prompt="d: ")
    assert np.allclose(embedder.embed_documents(["x"]), unit(["d: x"]), atol=1e-6)
    assert np.allclose(embedder.embed_query("x"), unit(["q: x"])[0], atol=1e-6)
    assert service.requests == [
        {"model": "small", "kind": "document", "texts": ["d: x"]},
        {"model": "small", "kind": "query", "texts": ["q: x"]},
    ]


def test_the_key_is_sent_and_kept_nowhere(service, make_embedder, monkeypatch):
    service.answer = openai
    embedder = make_embedder(api_key_variable="KEY_OF_THE_TEST")
    with pytest.raises(Unavailable, match="no key for") as caught:
        embedder.embed_query("x")
    assert caught.value.hint == "set KEY_OF_THE_TEST in the environment"
    monkeypatch.setenv("KEY_OF_THE_TEST", "sk-very-secret")
    embedder.embed_query("x")
    assert service.keys == ["Bearer sk-very-secret"]
    assert "sk-very-secret" not in repr(vars(embedder))


def test_titan_is_asked_one_text_a_call(service, make_embedder, aws):
    service.answer = lambda body: {"embedding": vector_of(body["inputText"]), "inputTextTokenCount": 3}
    embedder = make_embedder("bedrock", model="amazon.titan-embed-text-v2:0", batch_size=50)
    assert np.allclose(embedder.embed_documents(TEXTS), unit(TEXTS), atol=1e-6)
    assert sorted(request["inputText"] for request in service.requests) == sorted(TEXTS)
    assert all(request["dimensions"] == DIMENSION and request["normalize"] for request in service.requests)
    assert set(service.paths) == {"/model/amazon.titan-embed-text-v2:0/invoke"}


def test_cohere_is_asked_in_batches_of_96_at_most_and_never_to_cut(service, make_embedder, aws):
    service.answer = plain
    embedder = make_embedder("bedrock", model="cohere.embed-english-v3", batch_size=500)
    many = [f"text {number}" for number in range(200)]
    assert np.allclose(embedder.embed_documents(many), unit(many), atol=1e-6)
    embedder.embed_query("why?")
    assert sorted(len(request["texts"]) for request in service.requests) == [1, 8, 96, 96]
    assert {request["truncate"] for request in service.requests} == {"NONE"}
    kinds = {request["input_type"] for request in service.requests[:3]} | {service.requests[3]["input_type"]}
    assert kinds == {"search_document", "search_query"}


def test_cohere_4_gives_its_vectors_by_type(service, make_embedder, aws):
    service.answer = lambda body: {"embeddings": {"float": plain(body)["embeddings"]}}
    embedder = make_embedder("bedrock", model="us.cohere.embed-v4:0")
    assert np.allclose(embedder.embed_documents(TEXTS), unit(TEXTS), atol=1e-6)
    assert {request["output_dimension"] for request in service.requests} == {DIMENSION}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ([1.0, 2.0, 3.0], "a vector of width 3, 4 was locked"),
        ([1.0, 2.0, 3.0, float("nan")], "a vector that is not finite"),
        ([1.0, 2.0, 3.0, float("inf")], "a vector that is not finite"),
        ([1.0, 2.0, 3.0, 1e300], "a vector that is not finite"),
        ([1, 2, 3, 10**400], "a number without bounds"),
        ([0, 0, 0, 0], "a vector without length"),
        ([1.0, 2.0, 3.0, "4"], "something that is no vector"),
        ([1.0, 2.0, 3.0, True], "something that is no vector"),
        (None, "something that is no vector"),
        ("AACAPw==", "something that is no vector"),
    ],
)
def test_what_is_no_vector_stops_with_the_position_of_its_text(service, make_embedder, bad, complaint):
    service.answer = lambda body: {"embeddings": [bad if text == "five" else vector_of(text) for text in body["texts"]]}
    with pytest.raises(BadVector, match=f"the embedder far gave {complaint}") as caught:
        make_embedder(format="plain").embed_documents(TEXTS)
    assert caught.value.position == TEXTS.index("five")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        {"data": None},
        {"data": {}},
        {"data": [1]},
        {"data": [{"index": 5, "embedding": [1, 2, 3, 4]}]},
        {"data": []},
    ],
)
def test_an_answer_of_another_form_is_no_crash(service, make_embedder, answer):
    service.answer = lambda body: answer
    with pytest.raises(IntegrityMismatch, match="the embedder far"):
        make_embedder().embed_documents(["x"])


def test_a_service_that_is_away_is_unavailable(service, make_embedder, aws):
    service.answer = lambda body: 503
    for embedder in (make_embedder(), make_embedder("bedrock", model="amazon.titan-embed-text-v2:0")):
        with pytest.raises(Unavailable, match="gave no answer in 1 attempts"):
            embedder.embed_documents(TEXTS)


def test_a_service_that_refuses_is_asked_once(service, make_embedder, aws):
    service.answer = lambda body: 403
    for embedder in (make_embedder(attempts=5), make_embedder("bedrock", model="amazon.titan-embed-text-v2:0", attempts=5)):
        service.requests.clear()
        with pytest.raises(Unavailable, match="refused"):
            embedder.embed_documents(["x"])
        assert len(service.requests) == 1


def test_what_a_service_answered_is_kept_in_the_cache(service, make_embedder, connection):
    service.answer = openai
    embedder = make_embedder()
    first = CachedEmbedder(embedder, connection).embed_documents(TEXTS)
    asked = len(service.requests)
    assert np.array_equal(CachedEmbedder(embedder, connection).embed_documents(TEXTS), first)
    assert len(service.requests) == asked


def test_a_candidate_names_a_service_and_the_runtime_that_goes_with_it(workspace, service):
    entry = f"mine:\n  provider: http\n  url: {service.url}/e\n  allow_internal: true\n  model: m\n  dimension: 4\n"
    entry += "  max_sequence_length: 512\n"
    with (workspace.configs / "embedders.yaml").open("a") as stream:
        stream.write(entry + "  tokenizer: all-MiniLM-L6-v2\n  attempts: 1\n")
    candidate = workspace.configs / "candidate.yaml"
    given = candidate.read_text().splitlines()
    runtime = next(line for line in given if line.startswith("embedder_runtime:"))
    candidate.write_text(candidate.read_text().replace("embedder: all-MiniLM-L6-v2", "embedder: mine"))
    with pytest.raises(
        ConfigInvalid, match=r"configs/candidate\.yaml:\d+: embedder mine is behind http: .* must be remote"
    ):
        locking.read_candidate(workspace)
    candidate.write_text(candidate.read_text().replace(runtime, "embedder_runtime: remote"))
    found = locking.read_candidate(workspace).embedder
    service.answer = openai
    assert np.allclose(embedder_of(workspace, found, "remote").embed_query("x"), unit(["x"])[0], atol=1e-6)
    candidate.write_text(candidate.read_text().replace("embedder: mine", "embedder: all-MiniLM-L6-v2"))
    with pytest.raises(ConfigInvalid, match="all-MiniLM-L6-v2 is a model in files"):
        locking.read_candidate(workspace)
