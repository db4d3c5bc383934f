"""Hybrid retrieval against brute force, and the retriever that follows the pointer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import psycopg2
import pytest
from psycopg2 import sql

from lib.config.locked_config import FilterSettings, RerankSettings, RetrievalSettings
from lib.index import bm25
from lib.index.chunk_table import build_index
from lib.index.fusion import Place
from lib.index.releases import Release
from lib.index.rerank import load_reranker
from lib.index.retrieval import LiveRetriever, Retriever
from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, NotFound, Refused

QUESTIONS = [
    "how is a backup proven?",
    "what does a snapshot see after TRUNCATE?",
    "overlap of chunks in tokens",
    "who pays for embedding everything again",
    "zzyzx qwxv",
    "",
    " \n\t",
    "???",
    "the of and",
    "😀 日本語 שלום",
    "%s {x} '; DROP TABLE documents --",
    "word " * 3000,
]
SETTINGS = RetrievalSettings(8, 6, 60, 14, "english", 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5)


@pytest.fixture(scope="module")
def built(new_database, make_config, make_document, corpus_texts, store_documents, lock_release, build, embedder):
    """A sealed table of real chunks with the real model's vectors; one document stands in it twice."""
    config = make_config(chunk_size=40, retrieval=SETTINGS, filter=FilterSettings(4, 90))
    texts = [text[:1100] for text in list(corpus_texts.values())[::12]]
    documents = [make_document(f"{number}.md", text) for number, text in enumerate([*texts, texts[0]])]
    with new_database() as connection:
        store_documents(connection, documents)
        yield connection, build(connection, lock_release(connection, config), embedder)


@pytest.fixture
def retriever(built, embedder) -> Retriever:
    connection, release = built
    return retriever_of(connection, release, embedder)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_vector_list_is_that_of_brute_force(built, retriever, embedder, question):
    vectors = vectors_of(*built)
    query = embedder.embed_query(question).astype(np.float64)
    similarity = {
        chunk: vector @ query / np.linalg.norm(vector) / np.linalg.norm(query) for chunk, vector in vectors.items()
    }
    found = retriever.retrieve(question).snapshot
    ranked = sorted((c.vector_rank, c.chunk_id) for c in found if c.vector_rank)
    nearest = sorted(vectors, key=lambda chunk: (-similarity[chunk], chunk))[:8]
    assert len(vectors) > 30
    assert ranked == list(enumerate(nearest, start=1))
    assert [c.similarity for c in found] == pytest.approx([similarity[c.chunk_id] for c in found], abs=1e-6)


@pytest.mark.parametrize("question", QUESTIONS[:2])
def test_the_lists_are_the_same_whether_or_not_the_planner_takes_the_index(built, retriever, question):
    connection, release = built
    without = retriever.retrieve(question)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off; SET enable_sort = off")
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("EXPLAIN SELECT id FROM {} ORDER BY embedding <=> %s::vector LIMIT 8").format(release.table),
                (str([1.0] * 384),),
            )
            assert "_hnsw" in str(cursor.fetchall())
        assert replace(retriever.retrieve(question), latency_ms=0) == replace(without, latency_ms=0)
    finally:
        with connection, connection.cursor() as cursor:
            cursor.execute("RESET enable_seqscan; RESET enable_sort")


@pytest.mark.parametrize("question", QUESTIONS[:6])
def test_snapshot_and_context_follow_from_the_two_lists(retriever, question):
    found = retriever.retrieve(question)
    snapshot = found.snapshot
    by_vector = {c.vector_rank for c in snapshot if c.vector_rank}
    assert by_vector == set(range(1, 9))
    assert all(c.vector_rank or c.bm25_rank for c in snapshot)
    assert len(snapshot) <= 14
    for c in snapshot:
        assert c.fused_score == pytest.approx(sum(1 / (60 + rank) for rank in (c.vector_rank, c.bm25_rank) if rank))
    assert [c.rerank_score for c in snapshot] == sorted((c.rerank_score for c in snapshot), reverse=True)
    highest, lowest = (pick(c.similarity for c in snapshot) for pick in (max, min))
    words, none = (pick(c.bm25_score for c in snapshot) for pick in (max, min))
    for c in snapshot:
        by_words = (c.bm25_score - none) / (words - none) if words > none else 0.0
        assert c.rerank_score == pytest.approx(((c.similarity - lowest) / (highest - lowest) + by_words) / 2)
    expected, left = [], 90
    for c in snapshot:
        if len(expected) < 4 and c.bm25_token_count <= left:
            expected.append(c)
            left -= c.bm25_token_count
    assert found.context == expected != []
    assert (found.query, found.release_id) == (question, retriever.release_id)


@pytest.mark.parametrize("question", ["zzyzx qwxv", "", " \n\t", "???", "the of and", "😀"])
def test_a_question_without_a_known_word_is_answered_by_the_vectors_alone(retriever, question):
    snapshot = retriever.retrieve(question).snapshot
    assert [c.bm25_rank for c in snapshot] == [None] * 8
    assert {c.bm25_score for c in snapshot} == {0.0}


def test_a_question_gets_the_same_answer_again(retriever):
    first, second = (replace(retriever.retrieve(QUESTIONS[0]), latency_ms=0) for _ in range(2))
    assert first == second


def test_the_snapshot_keeps_the_candidates_with_the_best_fused_scores(built, retriever, embedder):
    connection, release = built
    everything = retriever.retrieve(QUESTIONS[3]).snapshot
    best = sorted(everything, key=lambda c: (-c.fused_score, c.chunk_id))[:5]
    kept = retriever_of(connection, release, embedder, snapshot_size=5).retrieve(QUESTIONS[3]).snapshot
    assert len(everything) > 8
    assert {c.chunk_id for c in kept} == {c.chunk_id for c in best}


def test_a_candidate_is_the_tables_row_with_all_its_places(built, retriever):
    connection, release = built
    with connection:
        rows = {r["id"]: r for r in postgres.every(connection, sql.SQL("SELECT * FROM {}").format(release.table))}
    repeated = next(row for row in rows.values() if row["duplicates"])
    found = {c.chunk_id: c for c in retriever.retrieve(repeated["bm25_text"]).snapshot}
    assert repeated["id"] in found
    for chunk_id, c in found.items():
        row = rows[chunk_id]
        assert all(
            getattr(c, name) == row[name]
            for name in ("doc_id", "bm25_text", "embedding_text", "embedding_token_count", "bm25_token_count", "doc_sha256")
        )
        repeats = [Place(d["doc_id"], d["start"], d["end"], d["doc_sha256"]) for d in row["duplicates"]]
        assert c.places == [Place(row["doc_id"], row["span_start"], row["span_end"], row["doc_sha256"]), *repeats]
    assert len(found[repeated["id"]].places) > 1


def test_a_query_leaves_nothing_behind_in_its_session(built, retriever):
    connection, _ = built
    with connection:
        before = postgres.one(connection, "SHOW hnsw.ef_search")
    retriever.retrieve(QUESTIONS[0])
    assert connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    with connection:
        assert postgres.one(connection, "SHOW hnsw.ef_search") == before == {"hnsw.ef_search": "40"}


def test_without_a_reranker_the_fused_order_stands(built, embedder):
    connection, release = built
    snapshot = retriever_of(connection, release, embedder, reranker="none").retrieve(QUESTIONS[0]).snapshot
    fused = [(-c.fused_score, c.chunk_id) for c in snapshot]
    assert fused == sorted(fused)
    assert [c.rerank_score for c in snapshot] == [c.fused_score for c in snapshot]


@pytest.fixture
def changed(built, embedder):
    """The sealed table, with documents 0 and 3 hidden and two chunks of document 3 as it is now; undone at the end."""
    connection, release = built
    now = {"3#0": "Zebras graze beside the snapshot.", "3#1": "Nothing that was asked stands here."}
    vectors = embedder.embed_documents(list(now.values()))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO golive.superseded SELECT %s, unnest(%s)", (release.release_id, ["corpus/0.md", "corpus/3.md"])
        )
        for (chunk, text), vector in zip(now.items(), vectors, strict=True):
            row = {"release_id": release.release_id, "id": f"corpus/{chunk}", "doc_id": "corpus/3.md", "chunk_index": 0,
                   "embedding_text": text, "bm25_text": text, "embedding": str(vector.tolist()), "bm25_weights": None,
                   "doc_sha256": "new"}  # fmt: skip
            cursor.execute(
                sql.SQL(
                    "INSERT INTO golive.changed_chunks SELECT (jsonb_populate_record(NULL::golive.changed_chunks,"
                    " to_jsonb(c) - 'embedding' - 'duplicates' || '{{\"duplicates\": []}}' || %s)).* FROM"
                    " (SELECT * FROM {} LIMIT 1) AS c"
                ).format(release.table),
                (json.dumps(row),),
            )
        bm25.weigh_changes(connection, release)
    yield set(now)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM golive.superseded; DELETE FROM golive.changed_chunks")


@pytest.mark.parametrize("question", [*QUESTIONS[:4], "zebras"])
def test_a_search_sees_documents_as_they_are_now_and_not_as_they_were_sealed(built, changed, embedder, question):
    connection, release = built
    found = retriever_of(connection, release, embedder).candidates(question)
    with connection:
        live = postgres.every(
            connection,
            sql.SQL(
                "SELECT id, doc_sha256, embedding::text, bm25_weights::text AS weights FROM {}"
                " WHERE doc_id NOT IN ('corpus/0.md', 'corpus/3.md') UNION ALL"
                " SELECT id, doc_sha256, embedding::text, bm25_weights::text FROM golive.changed_chunks"
            ).format(release.table),
        )
    vector = embedder.embed_query(question).astype(np.float64)
    similarity = {row["id"]: float(np.array(json.loads(row["embedding"])) @ vector) for row in live}
    nearest = sorted(similarity, key=lambda chunk: (-similarity[chunk], chunk))[:8]
    assert [c.chunk_id for c in sorted((c for c in found if c.vector_rank), key=lambda c: c.vector_rank)] == nearest
    assert {(c.chunk_id, c.doc_sha256) for c in found} <= {(row["id"], row["doc_sha256"]) for row in live}
    words = sorted((c for c in found if c.bm25_rank), key=lambda c: c.bm25_rank)
    assert [c.bm25_score for c in words] == sorted((c.bm25_score for c in words), reverse=True)
    assert all(c.similarity == pytest.approx(similarity[c.chunk_id], abs=1e-6) for c in found)


def test_a_word_that_only_a_changed_document_has_finds_it_first(built, changed, embedder):
    connection, release = built
    (hit,) = [c for c in retriever_of(connection, release, embedder).candidates("grazing zebras") if c.bm25_rank]
    assert (hit.chunk_id, hit.bm25_rank, hit.doc_sha256) == ("corpus/3#0", 1, "new")


def test_changes_of_one_release_are_not_seen_by_another(built, changed, embedder):
    connection, release = built
    other = replace(retriever_of(connection, release, embedder), release_id="another")
    found = {c.chunk_id for c in other.candidates(QUESTIONS[0]) + other.candidates("grazing zebras")}
    assert not found & {f"corpus/{chunk}" for chunk in changed}


def test_what_was_dropped_for_a_chunk_is_left_out_where_its_document_has_changed(built, embedder):
    connection, release = built
    with connection:
        query = sql.SQL("SELECT id, bm25_text, duplicates FROM {} WHERE duplicates <> '[]' ORDER BY id LIMIT 1")
        repeated = postgres.one(connection, query.format(release.table))
    text, dropped = repeated["bm25_text"], repeated["duplicates"][0]["doc_id"]
    before = {c.chunk_id: c for c in retriever_of(connection, release, embedder).candidates(text)}[repeated["id"]]
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO golive.superseded VALUES (%s, %s)", (release.release_id, dropped))
    try:
        after = {c.chunk_id: c for c in retriever_of(connection, release, embedder).candidates(text)}[repeated["id"]]
    finally:
        with connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM golive.superseded")
    assert dropped in {place.doc_id for place in before.places}
    assert after.places == [place for place in before.places if place.doc_id != dropped]


def test_the_vector_list_is_full_where_most_documents_have_changed(built, embedder):
    connection, release = built
    settings = {"hnsw_ef_search": 10, "vector_top_k": 8}
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("SELECT array_agg(DISTINCT doc_id ORDER BY doc_id) FROM {}").format(release.table))
        doc_ids = cursor.fetchone()[0]
        gone = doc_ids[: len(doc_ids) - 3]
        cursor.execute("INSERT INTO golive.superseded SELECT %s, unnest(%s)", (release.release_id, gone))
        cursor.execute("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off")
    try:
        found = retriever_of(connection, release, embedder, **settings).candidates(QUESTIONS[0])
        assert sorted(c.vector_rank for c in found if c.vector_rank) == list(range(1, 9))
        assert not {c.doc_id for c in found} & set(gone)
        with connection:
            assert postgres.one(connection, "SHOW hnsw.iterative_scan") == {"hnsw.iterative_scan": "off"}
    finally:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "RESET enable_seqscan; RESET enable_sort; RESET enable_bitmapscan; DELETE FROM golive.superseded"
            )


def test_a_query_is_one_message_to_the_database(retriever, monkeypatch):
    sent = []
    every = postgres.every
    monkeypatch.setattr(
        postgres, "every", lambda *arguments: sent.append(retriever.connection.autocommit) or every(*arguments)
    )
    retriever.retrieve(QUESTIONS[0])
    assert sent == [True]  # no BEGIN before it and no COMMIT after it
    assert retriever.connection.autocommit is False


def test_inside_a_transaction_of_the_callers_a_query_does_not_end_it(built, retriever):
    connection, _ = built
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE standing () ON COMMIT DROP")
        retriever.retrieve(QUESTIONS[0])
        cursor.execute("SELECT FROM standing")


@pytest.fixture
def release_more(connection, make_config, lock_release, build, fixed_embedder):
    """Builds a release of the documents in the database and makes it live."""

    def release(version: int, **changes) -> Release:
        config = make_config(chunk_version=f"2026-01-02-030405-v{version}", **{"chunk_size": 30, **changes})
        built = build(connection, lock_release(connection, config), fixed_embedder)
        point_at(connection, built)
        return built

    return release


@pytest.fixture
def live(connection, workspace, make_document, store_documents, release_more):
    """A retriever that follows the pointer, and the release that is live."""
    store_documents(
        connection, [make_document(f"{n}.md", f"# Doc {n}\n\n" + f"Backup {n} is restored. " * 12) for n in range(4)]
    )
    return LiveRetriever(connection, workspace), release_more(1)


def test_a_live_query_is_answered_by_what_the_pointer_names(live, connection, embedder):
    retriever, first = live
    found = retriever.retrieve("how is a backup restored?")
    expected = retriever_of(connection, first, embedder).retrieve("how is a backup restored?")
    assert replace(found, latency_ms=0) == replace(expected, latency_ms=0)


def test_the_next_query_after_a_promotion_is_answered_by_the_new_release(live, connection, release_more):
    retriever, first = live
    assert retriever.retrieve("backup").release_id == first.release_id
    second = release_more(2, chunk_size=60)
    for release in (second, first):
        point_at(connection, release)
        found = retriever.retrieve("backup")
        assert found.release_id == release.release_id
        with connection:
            texts = postgres.every(connection, sql.SQL("SELECT id, bm25_text FROM {}").format(release.table))
        known = {(row["id"], row["bm25_text"]) for row in texts}
        assert {(c.chunk_id, c.bm25_text) for c in found.snapshot} <= known


def test_a_release_whose_table_was_restored_under_another_name_is_found_there(live, connection):
    retriever, first = live
    before = retriever.retrieve("backup")
    restored = sql.Identifier("public", "document_chunks_restored")
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TABLE {} AS SELECT * FROM {}").format(restored, first.table))
        build_index(connection, restored, "document_chunks_restored", first.locked_config)
        cursor.execute(
            "UPDATE golive.releases SET table_name = 'document_chunks_restored' WHERE release_id = %s", (first.release_id,)
        )
        cursor.execute(sql.SQL("DROP TABLE {}").format(first.table))
    assert replace(retriever.retrieve("backup"), latency_ms=0) == replace(before, latency_ms=0)


def test_a_stopped_index_answers_nothing_until_it_is_resumed(live, connection):
    retriever, first = live
    stop(connection, "wrong prices in the corpus")
    with pytest.raises(Refused, match=r"queries are stopped since .* by tester: wrong prices"):
        retriever.retrieve("backup")
    assert logs(connection) == []
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.traffic SET state = 'open'")
    assert retriever.retrieve("backup").release_id == first.release_id


def test_where_no_release_is_live_a_query_is_not_found(connection, workspace):
    with pytest.raises(NotFound, match="no release is live yet"):
        LiveRetriever(connection, workspace).retrieve("backup")
    assert logs(connection) == []


def test_every_query_is_logged_by_its_hash_and_never_by_its_text(live, connection):
    retriever, first = live
    found = retriever.retrieve("secret words: mergers")
    (row,) = logs(connection)
    scores = [c.rerank_score for c in found.context]
    assert row["release_id"] == first.release_id
    assert row["query_sha256"] == hashlib.sha256(b"secret words: mergers").hexdigest()
    assert (row["snapshot_size"], row["context_size"]) == (len(found.snapshot), len(found.context))
    assert row["mean_rerank_score"] == pytest.approx(sum(scores) / len(scores))
    assert row["latency_ms"] == found.latency_ms > 0
    assert "mergers" not in json.dumps(row, default=str)


def test_a_query_whose_context_is_empty_is_logged_without_a_score(live, connection, release_more):
    retriever, _ = live
    release_more(2, filter=FilterSettings(6, 1))
    assert retriever.retrieve("backup").context == []
    assert [(row["context_size"], row["mean_rerank_score"]) for row in logs(connection)] == [(0, None)]


def test_a_release_whose_model_is_not_the_locked_one_answers_nothing(live, connection, release_more):
    retriever, _ = live
    release_more(2, embedder_weights_hash="0" * 64)
    with pytest.raises(IntegrityMismatch, match="weights of all-MiniLM-L6-v2"):
        retriever.retrieve("backup")
    assert logs(connection) == []


def test_a_live_release_is_searched_with_its_own_reranker(live, release_more):
    retriever, _ = live
    release_more(2, rerank=RerankSettings("none"))
    snapshot = retriever.retrieve("backup").snapshot
    assert [c.rerank_score for c in snapshot] == [c.fused_score for c in snapshot]


def test_a_live_table_that_is_gone_is_an_error_and_no_answer(live, connection):
    retriever, first = live
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE {}").format(first.table))
    with pytest.raises(psycopg2.Error) as caught:
        retriever.retrieve("backup")
    assert isinstance(postgres.translate(caught.value), IntegrityMismatch)
    assert logs(connection) == []


def retriever_of(connection, release: Release, embedder, reranker: str = "score_combination", **settings) -> Retriever:
    config = release.locked_config
    config = replace(config, retrieval=replace(config.retrieval, **settings), config_hash="")
    return Retriever(connection, release.release_id, release.table, config, embedder, load_reranker(reranker))


def vectors_of(connection, release: Release) -> dict[str, np.ndarray]:
    with connection:
        rows = postgres.every(connection, sql.SQL("SELECT id, embedding::text AS embedding FROM {}").format(release.table))
    return {row["id"]: np.array(json.loads(row["embedding"])) for row in rows}


def point_at(connection, release: Release) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.pointer SET generation = generation + 1, release_id = %s", (release.release_id,))


def stop(connection, reason: str) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.traffic SET state = 'stopped', changed_by = 'tester', reason = %s", (reason,))


def logs(connection) -> list[dict]:
    with connection:
        return postgres.every(connection, "SELECT * FROM golive.query_logs")
