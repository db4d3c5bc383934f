"""BM25: the weights of a table and the ranking of a query, against Lucene's formula worked out in Python."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, replace

import pytest
from psycopg2 import sql

from lib.config.locked_config import RetrievalSettings
from lib.index.releases import Release
from lib.index.rerank import load_reranker
from lib.index.retrieval import Retriever
from lib.platform import postgres

QUESTIONS = [
    "how do I restore a backup?",
    "chunk overlap tokens tokens tokens",
    "PostgreSQL snapshot isolation TRUNCATE",
    "the cost of embedding a corpus again",
    "it's 'quoted' & (grouped) | !not <-> near:*",
]


@dataclass(frozen=True)
class Reference:
    """The weights of every row by lexeme, in floats of 64 bits."""

    weights: dict[str, dict[str, float]]

    def scores(self, lexemes: set[str]) -> dict[str, float]:
        return {chunk: sum(found.get(lexeme, 0.0) for lexeme in lexemes) for chunk, found in self.weights.items()}


@pytest.fixture(scope="module", params=[("english", 1.2, 0.75, "A"), ("simple", 0.9, 0.4, "B")], ids=["english", "simple"])
def built(
    request, new_database, make_config, make_document, corpus_texts, store_documents, lock_release, build, fixed_embedder
):
    """A sealed table of real chunks, and its connection."""
    language, k1, b, policy = request.param
    retrieval = RetrievalSettings(5, 8, 60, 13, language, k1, b, 16, 64, 100, "off", "rrf", 0.5)
    config = make_config(chunk_size=48, overlap_ratio=0.25, prefix_policy=policy, retrieval=retrieval)
    texts = [text[:2500] for text in list(corpus_texts.values())[::8]]
    with new_database() as connection:
        store_documents(connection, [make_document(f"{number}.md", text) for number, text in enumerate(texts)])
        yield connection, build(connection, lock_release(connection, config), fixed_embedder)


def test_the_weights_of_a_table_are_lucenes(built):
    connection, release = built
    stored = {row["id"]: entries(row["weights"]) for row in rows(connection, release, "bm25_weights::text AS weights")}
    reference = weigh(connection, release)
    assert len(stored) > 60
    for chunk, weights in reference.weights.items():
        expected = {dimension_of(lexeme): weight for lexeme, weight in weights.items()}
        assert len(expected) == len(weights), "two lexemes of a chunk share a dimension: take other texts"
        assert stored[chunk] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_query_is_ranked_by_lucenes_scores_exactly(built, fixed_embedder, question):
    connection, release = built
    scores = weigh(connection, release).scores(lexemes_of(connection, release, question))
    found = retriever(connection, release, fixed_embedder).retrieve(question).snapshot
    hits = sorted((c for c in found if c.bm25_rank is not None), key=lambda c: c.bm25_rank or 0)
    best = sorted((score for score in scores.values() if score > 0), reverse=True)[:8]
    assert [c.bm25_rank for c in hits] == list(range(1, len(best) + 1))
    assert [scores[c.chunk_id] for c in hits] == pytest.approx(best, rel=1e-6)
    assert [c.bm25_score for c in found] == pytest.approx([scores[c.chunk_id] for c in found], rel=1e-5, abs=1e-6)
    assert len(best) >= 4


def test_weights_worked_out_by_hand(
    connection, make_config, lock_release, store_documents, make_document, build, fixed_embedder
):
    release, texts = table_of(
        ["alpha beta", "alpha alpha gamma delta", "gamma"], "simple",
        connection, make_config, lock_release, store_documents, make_document, build, fixed_embedder,
    )  # fmt: skip
    assert texts == {"corpus/0.md#0": "alpha beta", "corpus/1.md#0": "alpha alpha gamma delta", "corpus/2.md#0": "gamma"}
    # N = 3, lengths 2, 4, 1: average 7/3. df: alpha 2, beta 1, gamma 2, delta 1.
    # idf(2) = ln(1 + 1.5/2.5) = ln 1.6, idf(1) = ln(1 + 2.5/1.5) = ln(8/3)
    # k1 (1 - b + b |d|/avg): 1.2 (0.25 + 0.75 * 6/7) = 1.0714286; 1.2 (0.25 + 0.75 * 12/7) = 1.8428571; 0.6857143
    two, one = math.log(1.6), math.log(8 / 3)
    expected = {
        "corpus/0.md#0": {"alpha": two / 2.0714286, "beta": one / 2.0714286},
        "corpus/1.md#0": {"alpha": two * 2 / 3.8428571, "gamma": two / 2.8428571, "delta": one / 2.8428571},
        "corpus/2.md#0": {"gamma": two / 1.6857143},
    }
    for row in rows(connection, release, "bm25_weights::text AS weights"):
        by_lexeme = {dimension_of(lexeme): weight for lexeme, weight in expected[row["id"]].items()}
        assert entries(row["weights"]) == pytest.approx(by_lexeme, rel=1e-6)

    def scores(question: str) -> dict[str, float]:
        found = retriever(connection, release, fixed_embedder).retrieve(question).snapshot
        return {c.chunk_id: c.bm25_score for c in found if c.bm25_rank}

    # alpha: two * 2 / 3.8428571 and two / 2.0714286; gamma and delta: (two + one) / 2.8428571 and two / 1.6857143
    assert scores("alpha") == pytest.approx({"corpus/1.md#0": 0.244612, "corpus/0.md#0": 0.226899}, rel=1e-5)
    assert scores("ALPHA, alpha; alpha!") == scores("alpha")
    assert scores("gamma delta unknown") == pytest.approx({"corpus/1.md#0": 0.510343, "corpus/2.md#0": 0.278816}, rel=1e-5)
    assert scores("unknown") == scores("") == {}


def test_a_chunk_of_stop_words_weighs_nothing_and_is_found_by_no_word(
    connection, make_config, lock_release, store_documents, make_document, build, fixed_embedder
):
    release, _ = table_of(
        ["the and of", "restore the backup", "😀 — …"], "english",
        connection, make_config, lock_release, store_documents, make_document, build, fixed_embedder,
    )  # fmt: skip
    weights = {row["id"]: entries(row["weights"]) for row in rows(connection, release, "bm25_weights::text AS weights")}
    assert weights["corpus/0.md#0"] == weights["corpus/2.md#0"] == {}
    found = retriever(connection, release, fixed_embedder).retrieve("the backups and the restoring of it").snapshot
    assert [c.chunk_id for c in found if c.bm25_rank] == ["corpus/1.md#0"]


def test_equal_scores_are_ranked_by_chunk_id(
    connection, make_config, lock_release, store_documents, make_document, build, fixed_embedder
):
    release, _ = table_of(
        [f"backup of {letter * 3}" for letter in "edcbafgh"], "english",
        connection, make_config, lock_release, store_documents, make_document, build, fixed_embedder,
    )  # fmt: skip
    found = retriever(connection, release, fixed_embedder, bm25_top_k=5).retrieve("backup").snapshot
    ranked = sorted((c.bm25_rank, c.chunk_id) for c in found if c.bm25_rank)
    assert ranked == [(rank, f"corpus/{rank - 1}.md#0") for rank in range(1, 6)]


def table_of(texts, language, connection, make_config, lock_release, store_documents, make_document, build, embedder):
    """A sealed table with one chunk a text, and the chunks' texts."""
    retrieval = RetrievalSettings(5, 8, 60, 13, language, 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5)
    store_documents(connection, [make_document(f"{number}.md", text) for number, text in enumerate(texts)])
    release = build(connection, lock_release(connection, make_config(retrieval=retrieval)), embedder)
    return release, {row["id"]: row["bm25_text"] for row in rows(connection, release, "bm25_text")}


def retriever(connection, release: Release, embedder, **settings) -> Retriever:
    config = release.locked_config
    config = replace(config, retrieval=replace(config.retrieval, **settings), config_hash="")
    return Retriever(connection, release.release_id, release.table, config, embedder, load_reranker("none"))


def rows(connection, release: Release, column: str) -> list[dict]:
    with connection:
        return postgres.every(connection, sql.SQL("SELECT id, " + column + " FROM {} ORDER BY id").format(release.table))


def weigh(connection, release: Release) -> Reference:
    """Kamphuis et al., ECIR 2020, "Lucene (accurate)": from the printed form of to_tsvector alone."""
    settings = release.locked_config.retrieval
    with connection:
        printed = postgres.every(
            connection,
            sql.SQL("SELECT id, to_tsvector(%s::regconfig, bm25_text)::text AS words FROM {}").format(release.table),
            (settings.text_search_config,),
        )
    counts = {row["id"]: lexemes(row["words"]) for row in printed}
    lengths = {chunk: sum(found.values()) for chunk, found in counts.items()}
    average = sum(lengths.values()) / len(lengths)
    frequency: dict[str, int] = {}
    for found in counts.values():
        for lexeme in found:
            frequency[lexeme] = frequency.get(lexeme, 0) + 1

    def weight(chunk: str, lexeme: str) -> float:
        df, tf = frequency[lexeme], counts[chunk][lexeme]
        norm = settings.bm25_k1 * (1 - settings.bm25_b + settings.bm25_b * lengths[chunk] / average)
        return math.log(1 + (len(counts) - df + 0.5) / (df + 0.5)) * tf / (tf + norm)

    return Reference({chunk: {lexeme: weight(chunk, lexeme) for lexeme in found} for chunk, found in counts.items()})


def lexemes_of(connection, release: Release, question: str) -> set[str]:
    language = release.locked_config.retrieval.text_search_config
    with connection:
        found = postgres.one(connection, "SELECT to_tsvector(%s::regconfig, %s)::text AS words", (language, question))
    return set(lexemes(found["words"]))


def lexemes(printed: str) -> dict[str, int]:
    """``'back':2,7 'restor':3`` -> how often each lexeme stands there."""
    found = re.findall(r"'((?:[^']|'')*)':([\d,A-D]+)", printed)
    return {word.replace("''", "'").replace("\\\\", "\\"): len(places.split(",")) for word, places in found}


def dimension_of(lexeme: str) -> int:
    return int.from_bytes(hashlib.sha256(lexeme.encode()).digest()[:4], "big") % 1_000_000_000 + 1


def entries(printed: str) -> dict[int, float]:
    """``{3:0.5,9:1.25}/1000000000`` -> its entries."""
    inside = printed.removesuffix("/1000000000").strip("{}")
    pairs = (entry.split(":") for entry in inside.split(",") if entry)
    return {int(place): float(value) for place, value in pairs}
