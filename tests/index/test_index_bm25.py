"""BM25: the weights of a table and the ranking of a query, against Lucene's formula worked out in Python."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from dataclasses import dataclass, replace

import numpy as np
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import sql

from lib.config.locked_config import RetrievalSettings
from lib.index import bm25, retrieval
from lib.index.chunk_table import build_index, create_chunk_table
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


@pytest.fixture(scope="module")
def many(new_database, make_config, lock_release):
    """2,400 chunks of words with Zipf's frequencies: the frequent ones stand in many segments of postings."""
    words = np.array([f"w{number}" for number in range(400)])
    shares = 1 / np.arange(1, 401)
    random = np.random.default_rng(42)
    texts = [" ".join(random.choice(words, random.integers(5, 60), p=shares / shares.sum())) for _ in range(2400)]
    with new_database() as connection:
        yield (
            connection,
            release_of_rows(connection, make_config, lock_release, {f"{n // 4}#{n % 4}": t for n, t in enumerate(texts)}),
        )


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(st.integers(0, 19) | st.integers(0, 420), min_size=1, max_size=12),
    k=st.integers(1, 70),
    gone=st.lists(st.integers(0, 599), max_size=3) | st.just(list(range(0, 600, 2))),
)
def test_postings_find_what_a_scan_of_all_rows_finds(many, asked, k, gone):
    connection, release = many
    hide(connection, release, [f"{number}" for number in gone])
    question = " ".join(f"w{number}" for number in asked)
    expected = scanned(connection, release, question, k)
    assert ranked(connection, release, question, k) == expected
    assert len({score for _, score in expected}) > 1 or len(expected) < 10


def test_a_question_as_long_as_a_page_is_ranked_exactly(many):
    connection, release = many
    hide(connection, release, [])
    question = " ".join(f"w{number}" for number in range(400))
    assert ranked(connection, release, question, 40) == scanned(connection, release, question, 40)


def test_the_constants_of_the_search_change_no_answer(many, monkeypatch):
    connection, release = many
    hide(connection, release, [])
    question = "w0 w3 w17 w90 w200"
    expected = scanned(connection, release, question, 30)
    for postings, share in ((0, 0.0), (0, 0.999), (10**6, 0.999), (100, 0.1)):
        monkeypatch.setattr(retrieval, "_SEED_POSTINGS", postings)
        monkeypatch.setattr(retrieval, "_PASSED_SHARE", share)
        assert ranked(connection, release, question, 30) == expected


def test_two_chunks_that_share_a_number_are_told_apart(connection, make_config, lock_release):
    seen: dict[int, str] = {}
    for number in itertools.count():
        chunk = f"d{number}#0"
        if other := seen.get(dimension_of(chunk)):
            break
        seen[dimension_of(chunk)] = chunk
    texts = {chunk: "one", other: "one two three", "x#0": "two two"}
    release = release_of_rows(connection, make_config, lock_release, texts)
    found = ranked(connection, release, "one two", 10)
    assert found == scanned(connection, release, "one two", 10)
    assert {chunk for chunk, _ in found} == {chunk, other, "x#0"}
    assert len({score for _, score in found}) == 3


def test_the_postings_of_a_table_refuse_every_write(many):
    connection, release = many
    for command in ("DELETE FROM {}", "UPDATE {} SET high = 0", "TRUNCATE {}"):
        with pytest.raises(psycopg2.Error, match="is sealed"), connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL(command).format(bm25.terms_of(release.table)))


def test_a_changed_chunk_weighs_as_if_it_stood_in_the_sealed_table(many):
    connection, release = many
    known = {
        row["id"]: (row["bm25_text"], row["weights"])
        for row in rows(connection, release, "bm25_text, bm25_weights::text AS weights")
    }
    texts = {
        **{f"new-{chunk}": text for chunk, (text, _) in list(known.items())[::300]},
        "empty#0": " - ",
        "new#0": "w0 never seen",
    }
    change(connection, release, texts)
    with connection:
        bm25.weigh_changes(connection, release)
        found = postgres.every(connection, "SELECT id, bm25_weights::text AS weights FROM golive.changed_chunks")
        connection.rollback()
    weights = {row["id"]: entries(row["weights"]) for row in found}
    for chunk, (_, expected) in list(known.items())[::300]:
        assert weights[f"new-{chunk}"] == pytest.approx(entries(expected), rel=2e-5)
    assert weights["empty#0"] == {}
    # a word that the sealed table does not have: idf = ln(1 + (N + 0.5) / 0.5), here with N = 2400
    lengths = [len(text.split()) for text, _ in known.values()]
    norm = 1.2 * (1 - 0.75 + 0.75 * 3 / (sum(lengths) / len(lengths)))
    assert weights["new#0"][dimension_of("never")] == pytest.approx(math.log(1 + 2400.5 / 0.5) / (1 + norm), rel=2e-5)


def test_weighing_changes_again_leaves_what_is_weighed_and_other_releases_alone(many):
    connection, release = many
    change(connection, release, {"a#0": "w1 w2"})
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.changed_chunks SET bm25_weights = '{7:1}/1000000000'")
        cursor.execute(
            "INSERT INTO golive.changed_chunks SELECT (jsonb_populate_record(c, %s)).* FROM golive.changed_chunks c",
            (json.dumps({"release_id": "another", "bm25_weights": None}),),
        )
        bm25.weigh_changes(connection, release)
        found = postgres.every(
            connection, "SELECT release_id, bm25_weights::text AS weights FROM golive.changed_chunks ORDER BY 1"
        )
        connection.rollback()
    assert [row["weights"] for row in found] == ["{7:1}/1000000000", None]


def release_of_rows(connection, make_config, lock_release, texts: dict[str, str]) -> Release:
    """A weighed, indexed table of these chunks by id, each of the document before its #; vectors of three numbers."""
    chosen = RetrievalSettings(5, 8, 60, 13, "simple", 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5)
    release = lock_release(connection, make_config(retrieval=chosen))
    columns = ("id", "doc_id", "chunk_index", "embedding_text", "bm25_text", "embedding_token_count", "bm25_token_count",
               "chunk_version", "ingest_run_id", "span_start", "span_end", "doc_sha256", "embedding")  # fmt: skip
    with connection, connection.cursor() as cursor:
        create_chunk_table(connection, release.table, 3)
        values = ((c, c.partition("#")[0], 0, t, t, 1, 1, "v", "r", 0, 1, "h", "[1,0,0]") for c, t in texts.items())
        postgres.copy_rows(cursor, release.table, columns, values)
        bm25.weigh(connection, release.table, release.locked_config)
        build_index(connection, release.table, release.table_name, release.locked_config)
    return release


class NoVectors:
    """Stands for an embedder where only words matter."""

    name, dimension, identity = "none", 3, "none"

    def embed_query(self, text: str) -> np.ndarray:
        return np.array([0, 1, 0], dtype=np.float32)

    def embed_documents(self, texts) -> np.ndarray:
        return np.tile(self.embed_query(""), (len(texts), 1))


def ranked(connection, release: Release, question: str, k: int) -> list[tuple[str, float]]:
    found = retriever(connection, release, NoVectors(), bm25_top_k=k).candidates(question)
    hits = sorted((c for c in found if c.bm25_rank), key=lambda c: c.bm25_rank)
    assert [c.bm25_rank for c in hits] == list(range(1, len(hits) + 1))
    return [(c.chunk_id, c.bm25_score) for c in hits]


def scanned(connection, release: Release, question: str, k: int) -> list[tuple[str, float]]:
    """The best k of every row's inner product with the question, without the documents that are hidden."""
    terms = ",".join(f"{dimension_of(word)}:1" for word in sorted(lexemes_of(connection, release, question)))
    query = sql.SQL(
        "SELECT * FROM (SELECT id, -(bm25_weights <#> %s::sparsevec) AS score FROM {} WHERE doc_id NOT IN"
        " (SELECT doc_id FROM golive.superseded WHERE release_id = %s)) AS rows WHERE score > 0"
        " ORDER BY score DESC, id LIMIT %s"
    )
    with connection:
        found = postgres.every(
            connection, query.format(release.table), ("{" + terms + "}/1000000000", release.release_id, k)
        )
    return [(row["id"], row["score"]) for row in found]


def hide(connection, release: Release, doc_ids: list[str]) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM golive.superseded")
        cursor.execute(
            "INSERT INTO golive.superseded SELECT DISTINCT %s, unnest(%s::text[])", (release.release_id, doc_ids)
        )


def change(connection, release: Release, texts: dict[str, str]) -> None:
    """Begins a transaction with these rows in changed_chunks; the caller rolls it back."""
    with connection.cursor() as cursor:
        for chunk, text in texts.items():
            cursor.execute(
                sql.SQL(
                    "INSERT INTO golive.changed_chunks SELECT (jsonb_populate_record(NULL::golive.changed_chunks,"
                    " to_jsonb(c) || %s)).* FROM (SELECT * FROM {} LIMIT 1) AS c"
                ).format(release.table),
                (json.dumps({"release_id": release.release_id, "id": chunk, "bm25_text": text, "bm25_weights": None}),),
            )


def table_of(texts, language, connection, make_config, lock_release, store_documents, make_document, build, embedder):
    """A sealed table with one chunk a text, and the chunks' texts."""
    retrieval = RetrievalSettings(5, 8, 60, 13, language, 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5)
    store_documents(connection, [make_document(f"{number}.md", text) for number, text in enumerate(texts)])
    release = build(connection, lock_release(connection, make_config(retrieval=retrieval)), embedder)
    return release, {row["id"]: row["bm25_text"] for row in rows(connection, release, "bm25_text")}


def retriever(connection, release: Release, embedder, **changes) -> Retriever:
    config = release.locked_config
    config = replace(config, retrieval=replace(config.retrieval, **changes), config_hash="")
    return Retriever(connection, release.release_id, release.table, config, embedder, load_reranker("none"))


def rows(connection, release: Release, column: str) -> list[dict]:
    with connection:
        return postgres.every(connection, sql.SQL("SELECT id, " + column + " FROM {} ORDER BY id").format(release.table))


def weigh(connection, release: Release) -> Reference:
    """Kamphuis et al., ECIR 2020, "Lucene (accurate)": from the printed form of to_tsvector alone."""
    chosen = release.locked_config.retrieval
    with connection:
        printed = postgres.every(
            connection,
            sql.SQL("SELECT id, to_tsvector(%s::regconfig, bm25_text)::text AS words FROM {}").format(release.table),
            (chosen.text_search_config,),
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
        norm = chosen.bm25_k1 * (1 - chosen.bm25_b + chosen.bm25_b * lengths[chunk] / average)
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
