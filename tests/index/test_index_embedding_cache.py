"""The cache of embeddings: no text is embedded twice, no bit differs from what the embedder gives, damage is made good."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.index.chunking import chunk_text
from lib.index.embedder import BadVector
from lib.index.embedding_cache import CachedEmbedder, cached, prune, size
from lib.platform import postgres
from lib.platform.errors import Refused


@dataclass
class Counting:
    """Unit vectors that only the text decides; remembers what it was asked. A text with ``poison`` has none."""

    identity: str = "ab" * 32
    dimension: int = 8
    batch_independent: bool = True
    name: str = "counting"
    asked: list[str] = field(default_factory=list)
    calls: int = 0

    def embed_documents(self, texts: Any) -> np.ndarray:
        self.calls += 1
        self.asked += texts
        for position, text in enumerate(texts):
            if "poison" in text:
                raise BadVector("not finite", position=position)
        rows = [np.random.RandomState(_seed(text)).normal(size=self.dimension) for text in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)

    def embed_query(self, text: str) -> np.ndarray:
        return self.embed_documents([text])[0]


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def rows(connection):
    with connection:
        return postgres.every(connection, "SELECT * FROM golive.embedding_cache ORDER BY identity, text_sha256")


def run(connection, statement, parameters=None):
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.rowcount


def test_a_text_is_embedded_once(connection):
    model = Counting()
    texts = ["one", "two", "one", "日本語 \0 😀", ""]
    first = CachedEmbedder(model, connection)
    vectors = first.embed_documents(texts)
    assert sorted(model.asked) == sorted(["one", "two", "日本語 \0 😀", ""])
    assert (first.hits, first.misses) == (1, 4)
    again = CachedEmbedder(model, connection)
    assert np.array_equal(again.embed_documents(texts), vectors)
    assert (model.calls, again.hits, again.misses) == (1, 5, 0)
    assert np.array_equal(vectors, Counting().embed_documents(texts))
    assert vectors.dtype == np.float32


def test_only_new_texts_are_embedded(connection):
    model = Counting()
    CachedEmbedder(model, connection).embed_documents(["one", "two"])
    model.asked.clear()
    found = CachedEmbedder(model, connection).embed_documents(["three", "two", "four", "one"])
    assert model.asked == ["three", "four"]
    assert np.array_equal(found, Counting().embed_documents(["three", "two", "four", "one"]))


def test_another_chunk_size_embeds_only_chunks_that_are_new(connection, counter, corpus_texts):
    documents = sorted(corpus_texts.values())[:20]

    def texts_of(chunk_size: int) -> list[str]:
        return [text[span.start : span.end] for text in documents for span in chunk_text(text, counter, chunk_size, 0.1)]

    model = Counting()
    CachedEmbedder(model, connection).embed_documents(texts_of(450))
    model.asked.clear()
    CachedEmbedder(model, connection).embed_documents(texts_of(300))
    assert set(model.asked) == set(texts_of(300)) - set(texts_of(450))
    assert len(model.asked) < len(texts_of(300))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=5))
def test_whatever_the_batches_vectors_are_the_embedders(connection, batches):
    over = CachedEmbedder(Counting(), connection)
    for batch in batches:
        expected = Counting().embed_documents(batch) if batch else np.empty((0, 8), np.float32)
        assert np.array_equal(over.embed_documents(batch), expected)


def test_each_embedder_has_vectors_of_its_own(connection):
    one, other = Counting(identity="01" * 32), Counting(identity="02" * 32, dimension=4)
    CachedEmbedder(one, connection).embed_documents(["text"])
    assert CachedEmbedder(other, connection).embed_documents(["text"]).shape == (1, 4)
    assert other.asked == ["text"]


@pytest.mark.parametrize(
    "damage",
    [
        "vector = set_byte(vector, 3, 255 - get_byte(vector, 3))",
        "check_bytes = set_byte(check_bytes, 0, 255 - get_byte(check_bytes, 0))",
        "vector = substring(vector FROM 1 FOR 12)",
        "vector = vector || vector",
        "vector = ''",
    ],
)
def test_a_damaged_vector_is_embedded_again_and_replaced(connection, damage):
    CachedEmbedder(Counting(), connection).embed_documents(["one", "two"])
    before = rows(connection)
    assert run(connection, f"UPDATE golive.embedding_cache SET {damage}") == 2
    model = Counting()
    assert np.array_equal(
        CachedEmbedder(model, connection).embed_documents(["one", "two"]), Counting().embed_documents(["one", "two"])
    )
    assert sorted(model.asked) == ["one", "two"]
    assert [bytes(row["vector"]) for row in rows(connection)] == [bytes(row["vector"]) for row in before]


def test_a_vector_under_another_texts_key_is_not_believed(connection):
    CachedEmbedder(Counting(), connection).embed_documents(["one"])
    run(connection, "UPDATE golive.embedding_cache SET text_sha256 = %s", (hashlib.sha256(b"two").digest(),))
    found = CachedEmbedder(Counting(), connection).embed_documents(["two"])
    assert np.array_equal(found, Counting().embed_documents(["two"]))


def test_a_vector_that_cannot_be_names_its_text_in_the_callers_list(connection):
    over = CachedEmbedder(Counting(), connection)
    over.embed_documents(["one", "two"])
    with pytest.raises(BadVector) as caught:
        over.embed_documents(["one", "three", "two", "poison", "four"])
    assert caught.value.position == 3


def test_an_embedder_whose_vectors_depend_on_the_batch_is_not_cached(connection, embedder):
    with pytest.raises(Refused, match="the vectors of all-MiniLM-L6-v2 depend on their batch"):
        CachedEmbedder(embedder, connection)
    assert cached(embedder, connection, True) is embedder


def test_the_cache_can_be_switched_off(connection):
    model = Counting()
    assert cached(model, connection, False) is model
    assert isinstance(cached(model, connection, True), CachedEmbedder)


def test_a_batch_is_one_question_to_the_database_and_one_insert(connection, monkeypatch):
    over = CachedEmbedder(Counting(), connection)
    read = []
    original = postgres.read_sql
    monkeypatch.setattr(postgres, "read_sql", lambda module, name: read.append(name) or original(module, name))
    over.embed_documents([str(number) for number in range(200)])
    over.embed_documents([str(number) for number in range(200)])
    assert read == ["read_embeddings", "store_embeddings", "read_embeddings"]


def test_questions_are_not_kept(connection):
    over = CachedEmbedder(Counting(), connection)
    assert np.array_equal(over.embed_query("why?"), Counting().embed_query("why?"))
    assert rows(connection) == []


def test_two_builders_at_once_do_not_disturb_each_other(connection, database_url):
    texts = [f"text {number}" for number in range(150)]
    expected = Counting().embed_documents(texts)
    found: dict[int, np.ndarray] = {}

    def build(number: int, order: list[str]) -> None:
        with postgres.connect(database_url, "test") as own:
            over = CachedEmbedder(Counting(), own)
        batches = [over.embed_documents(order[start : start + 10]) for start in range(0, len(order), 10)]
        own.close()
        found[number] = np.concatenate(batches)

    orders = [texts, texts[::-1], texts]
    threads = [threading.Thread(target=build, args=(number, order)) for number, order in enumerate(orders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[0], expected)
    assert np.array_equal(found[1], expected[::-1])
    assert np.array_equal(found[2], expected)
    assert len(rows(connection)) == 150


def test_what_is_used_counts_as_used_today_even_beside_another_writer(connection, database_url):
    CachedEmbedder(Counting(), connection).embed_documents(["one", "two"])
    run(connection, "UPDATE golive.embedding_cache SET last_used = current_date - 9")
    other = psycopg2.connect(database_url)
    with other.cursor() as cursor:  # holds a row, and must not make a builder wait
        cursor.execute("SELECT FROM golive.embedding_cache WHERE text_sha256 = %s FOR UPDATE", (_key("one"),))
    CachedEmbedder(Counting(), connection).embed_documents(["one", "two"])
    other.close()
    with connection:
        ages = postgres.every(
            connection, "SELECT text_sha256, current_date - last_used AS days FROM golive.embedding_cache"
        )
    assert {bytes(row["text_sha256"]): row["days"] for row in ages} == {_key("one"): 9, _key("two"): 0}


def test_pruning_takes_the_longest_unused_first(connection):
    texts = ["one", "two", "three", "four"]
    CachedEmbedder(Counting(), connection).embed_documents(texts)
    for age, text in enumerate(texts):
        run(
            connection,
            "UPDATE golive.embedding_cache SET last_used = current_date - %s WHERE text_sha256 = %s",
            (age, _key(text)),
        )
    with connection:
        assert size(connection) == {"texts": 4, "bytes": 4 * 8 * 4}
        assert prune(connection, unused_days=30, max_bytes=10_000) == 0
        assert prune(connection, unused_days=2, max_bytes=10_000) == 1
        assert prune(connection, unused_days=30, max_bytes=70) == 1
        assert size(connection) == {"texts": 2, "bytes": 64}
    assert {bytes(row["text_sha256"]) for row in rows(connection)} == {_key("one"), _key("two")}


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
