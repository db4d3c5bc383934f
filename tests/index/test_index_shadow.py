"""The shadow build: complete and sealed, or not yet; the same bytes however often it was interrupted."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg2
import pytest
from psycopg2 import sql

from lib.index import shadow
from lib.index.embedder import sentence_transformer
from lib.index.ingest import plan_batches
from lib.index.releases import Release, get_release, read_pointer
from lib.index.seal import Content, content_of
from lib.platform import postgres
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, NotFound, Refused

KILLED_BUILD = Path(__file__).with_name("killed_build.py")
FixedEmbedder = runpy.run_path(str(KILLED_BUILD))["FixedEmbedder"]


class Interrupted(Exception):
    pass


class Interrupting:
    """Passes on to an embedder, and does something else instead at one of the batches (from 1)."""

    def __init__(self, embedder, batch, act):
        self.embedder, self.batch, self.act = embedder, batch, act
        self.name, self.dimension = embedder.name, embedder.dimension
        self.batches = 0

    def embed_documents(self, texts):
        self.batches += 1
        if self.batches == self.batch:
            self.act()
        return self.embedder.embed_documents(texts)

    def embed_query(self, text):
        return self.embedder.embed_query(text)


@pytest.fixture(scope="session")
def documents(corpus_texts, make_document):
    """The beginnings of real documents, three batches of small chunks, and a text with everything that COPY must escape."""
    texts = [
        *(text[:900] for text in list(corpus_texts.values())[:3]),
        "tab\tback\\slash \\N \\. quote' \"\r\n| a | b |\r\n日本語 👩‍👩‍👧 e\u0301\u200b\x0c end",
    ]
    return [make_document(f"{number}.md", text) for number, text in enumerate(texts)]


@pytest.fixture(scope="session")
def config(make_config):
    return make_config(chunk_size=20, overlap_ratio=0.25)


@pytest.fixture
def release(connection, config, documents, store_documents, lock_release) -> Release:
    """A locked release whose documents are in the database."""
    store_documents(connection, documents)
    return lock_release(connection, config)


@pytest.fixture(scope="module")
def undisturbed(new_database, config, documents, store_documents, lock_release, build):
    """What a build without interruption ends in, for an embedder: its content."""
    known = {}

    def content(embedder) -> Content:
        if embedder.name not in known:
            with new_database() as connection:
                store_documents(connection, documents)
                known[embedder.name] = content_of_release(
                    connection, build(connection, lock_release(connection, config), embedder)
                )
        return known[embedder.name]

    return content


def test_a_finished_table_holds_the_plan_with_the_embedders_vectors(connection, release, start_build, embedder):
    release, plan = start_build(connection, release)
    assert shadow.load(connection, release, plan, embedder) == len(plan.rows) > 32
    sealed = shadow.finish(connection, release, {"documents": 5})
    rows = {row["id"]: row for row in rows_of(connection, sealed)}
    assert set(rows) == {row.chunk_id for row in plan.rows}
    for planned in plan.rows:
        row = rows[planned.chunk_id]
        for column in shadow._COLUMNS[1:7] + shadow._COLUMNS[9:12]:
            assert row[column] == getattr(planned, column), column
        assert row["duplicates"] == list(planned.duplicates)
        assert (row["chunk_version"], row["ingest_run_id"]) == (release.chunk_version, release.release_id)
        assert row["bm25_weights"] is not None
    batch = plan_batches(plan.rows)[-1]
    stored = np.array([json.loads(rows[row.chunk_id]["embedding"]) for row in batch], dtype=np.float32)
    assert np.array_equal(stored, embedder.embed_documents([row.embedding_text for row in batch]))


def test_the_release_says_that_it_is_sealed_with_which_content(connection, release, build):
    sealed = build(connection, release, FixedEmbedder())
    content = content_of_release(connection, sealed)
    assert (sealed.state, sealed.content_digest, sealed.row_count) == ("sealed", content.digest, content.row_count)
    assert sealed.corpus_digest == shadow.read_corpus(connection, release.locked_config)[1]
    assert sealed.sealed_at is not None
    assert {"index_s", "seal_s"} <= set(sealed.ingest_stats)
    with connection:
        entry = postgres.one(connection, "SELECT * FROM golive.audit_log ORDER BY seq DESC LIMIT 1")
    assert (entry["action"], entry["subject"], entry["to_digest"]) == ("seal table", release.table_name, content.digest)


def test_a_finished_table_has_a_vector_index_with_the_locked_settings(connection, release, build):
    sealed = build(connection, release, FixedEmbedder())
    with connection:
        found = postgres.every(connection, "SELECT indexdef FROM pg_indexes WHERE tablename = %s", (sealed.table_name,))
    definitions = [row["indexdef"] for row in found if "hnsw" in row["indexdef"]]
    assert len(definitions) == 1
    assert "(embedding vector_cosine_ops) WITH (m='16', ef_construction='64')" in definitions[0]


def test_under_policy_a_every_keyword_text_is_the_documents_own_span(connection, release, build):
    sealed = build(connection, release, FixedEmbedder())
    assert leaks(connection, sealed) == 0


def test_under_policy_b_every_keyword_text_has_the_prefix(connection, release, build, lock_release, make_config):
    config = make_config(chunk_size=20, prefix_policy="B", chunk_version="2026-01-02-030406-v1")
    rows = rows_of(connection, build(connection, lock_release(connection, config), FixedEmbedder()))
    assert all(row["bm25_text"] == row["embedding_text"] for row in rows)
    assert all(row["bm25_text"].startswith("Document: ") for row in rows)
    assert all(row["bm25_token_count"] == row["embedding_token_count"] for row in rows)


def test_a_build_that_failed_between_batches_goes_on_and_ends_in_the_same_content(
    connection, release, start_build, embedder, undisturbed
):
    release, plan = start_build(connection, release)
    with pytest.raises(Interrupted):
        shadow.load(connection, release, plan, Interrupting(embedder, 3, fail))
    assert rows_there(connection, release) == 32  # two batches of 16
    assert state_of(connection, release) == "building"
    release, plan = start_build(connection, release)
    assert shadow.load(connection, release, plan, embedder) == len(plan.rows) - 32
    assert shadow.load(connection, release, plan, embedder) == 0
    assert content_of_release(connection, shadow.finish(connection, release, {})) == undisturbed(embedder)


@pytest.mark.parametrize(("where", "rows_left"), [("batch", 32), ("seal", None)])
def test_a_build_that_was_killed_goes_on_and_ends_in_the_same_content(
    connection, release, build, undisturbed, database_url, model_folder, where, rows_left
):
    killed = subprocess.run(
        [sys.executable, str(KILLED_BUILD), database_url, release.release_id, str(model_folder), where],
        env={**os.environ, "PYTHONPATH": str(KILLED_BUILD.parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    expected = undisturbed(FixedEmbedder())
    assert rows_there(connection, release) == (rows_left or expected.row_count)
    assert state_of(connection, release) == "building"
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("UPDATE {} SET bm25_text = bm25_text WHERE false").format(release.table))  # not sealed
    assert content_of_release(connection, build(connection, release, FixedEmbedder())) == expected


def test_a_build_whose_connection_was_cut_goes_on_and_ends_in_the_same_content(
    connection, release, start_build, build, undisturbed, database_url
):
    doomed = postgres.connect(database_url, "doomed")
    release, plan = start_build(doomed, release)

    def cut() -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (doomed.info.backend_pid,))

    with pytest.raises(psycopg2.Error):
        shadow.load(doomed, release, plan, Interrupting(FixedEmbedder(), 2, cut))
    assert rows_there(connection, release) == 16
    assert content_of_release(connection, build(connection, release, FixedEmbedder())) == undisturbed(FixedEmbedder())


def test_a_title_that_changes_during_a_build_starts_it_again(connection, release, start_build, build):
    release, plan = start_build(connection, release)
    with pytest.raises(Interrupted):
        shadow.load(connection, release, plan, Interrupting(FixedEmbedder(), 2, fail))
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE documents SET title = 'Renamed' WHERE path = '0.md'")
    rows = rows_of(connection, build(connection, release, FixedEmbedder()))
    renamed = [row["embedding_text"].startswith("Document: Renamed / ") for row in rows if row["doc_id"] == "corpus/0.md"]
    assert renamed
    assert all(renamed)


def test_documents_that_change_during_a_build_start_it_again(
    connection, release, start_build, build, documents, make_document, store_documents, new_database, lock_release, config
):
    release, plan = start_build(connection, release)
    with pytest.raises(Interrupted):
        shadow.load(connection, release, plan, Interrupting(FixedEmbedder(), 3, fail))
    changed = [make_document("0.md", "# New\n\n" + "Another first document. " * 40), *documents[1:-1]]
    store_documents(connection, changed)
    release, plan = start_build(connection, release)
    assert rows_there(connection, release) == 0
    sealed = build(connection, release, FixedEmbedder())
    with new_database() as other:
        store_documents(other, changed)
        expected = content_of_release(other, build(other, lock_release(other, config), FixedEmbedder()))
    assert content_of_release(connection, sealed) == expected


def test_rows_that_the_plan_does_not_have_are_refused_and_left(connection, release, start_build):
    release, plan = start_build(connection, release)
    insert_row(connection, release, "corpus/0.md#999")
    with pytest.raises(IntegrityMismatch, match=f"table {release.table_name} holds rows of another ingest"):
        shadow.load(connection, release, plan, FixedEmbedder())
    assert [row["id"] for row in rows_of(connection, release)] == ["corpus/0.md#999"]
    assert state_of(connection, release) == "building"


def test_rows_of_another_run_under_the_same_ids_are_refused(connection, release, start_build):
    release, plan = start_build(connection, release)
    for row in plan_batches(plan.rows)[0]:
        insert_row(connection, release, row.chunk_id)
    with pytest.raises(IntegrityMismatch):
        shadow.load(connection, release, plan, FixedEmbedder())


@pytest.mark.parametrize("change", ["embedding_text = 'Document: another' || embedding_text", "span_end = span_end - 1"])
def test_rows_of_this_run_that_the_plan_has_otherwise_are_refused(connection, release, start_build, change):
    release, plan = start_build(connection, release)
    with pytest.raises(Interrupted):
        shadow.load(connection, release, plan, Interrupting(FixedEmbedder(), 2, fail))
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL(f"UPDATE {{}} SET {change}").format(release.table))
    with pytest.raises(IntegrityMismatch, match="holds rows of another ingest"):
        shadow.load(connection, release, plan, FixedEmbedder())


def test_a_model_that_gives_nan_stops_the_build_and_leaves_production_alone(
    connection, release, build, start_build, make_config, lock_release, make_document, store_documents, documents,
    model_files, poisoned_model,
):  # fmt: skip
    live = build(connection, release, FixedEmbedder())
    point_at(connection, live)
    store_documents(connection, [*documents, make_document("poison.md", "there is poison in this text")])
    config = make_config(chunk_size=20, chunk_version="2026-02-03-040506-v1")
    candidate, plan = start_build(connection, lock_release(connection, config))
    broken = sentence_transformer(replace(model_files, folder=poisoned_model))
    with pytest.raises(IntegrityMismatch, match="not finite") as caught:
        shadow.load(connection, candidate, plan, broken)
    assert "poison" in caught.value.detail
    assert "corpus/poison.md#0" not in {row["id"] for row in rows_of(connection, candidate)}
    assert state_of(connection, candidate) == "building"
    with connection:
        pointer = read_pointer(connection)
        assert (pointer.generation, pointer.release) == (1, live)
        assert content_of(connection, live.table_schema, live.table_name).digest == live.content_digest


def test_a_vector_that_pgvector_refuses_leaves_no_part_of_its_batch(connection, release, start_build):
    release, plan = start_build(connection, release)

    class Broken(FixedEmbedder):
        def embed_documents(self, texts):
            vectors = super().embed_documents(texts)
            vectors[-1, 7] = np.nan
            return vectors

    with pytest.raises(psycopg2.DataError, match="NaN not allowed"):
        shadow.load(connection, release, plan, Broken())
    assert rows_there(connection, release) == 0


def test_a_sealed_release_has_nothing_left_to_build(connection, release, build):
    sealed = build(connection, release, FixedEmbedder())
    _, digest = shadow.read_corpus(connection, release.locked_config)
    before = content_of_release(connection, sealed)
    assert not shadow.already_sealed(connection, release, digest)  # as it was when it was locked
    assert shadow.already_sealed(connection, sealed, digest)
    assert content_of_release(connection, sealed) == before


def test_a_sealed_table_cannot_be_finished_again(connection, release, build):
    sealed = build(connection, release, FixedEmbedder())
    before = content_of_release(connection, sealed)
    with pytest.raises(psycopg2.Error) as caught:
        shadow.finish(connection, sealed, {})
    assert isinstance(postgres.translate(caught.value), Refused)
    connection.rollback()
    with connection:
        assert get_release(connection, release.release_id) == sealed
    assert content_of_release(connection, sealed) == before


def test_changed_documents_are_refused_once_a_release_is_sealed(connection, release, build, documents, store_documents):
    sealed = build(connection, release, FixedEmbedder())
    store_documents(connection, documents[1:])
    _, digest = shadow.read_corpus(connection, release.locked_config)
    with pytest.raises(Refused, match=f"the documents have changed since {release.release_id} was sealed") as caught:
        shadow.already_sealed(connection, sealed, digest)
    assert "lock again" in caught.value.hint


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        ("DROP TABLE {}", "it is gone"),
        ("ALTER TABLE {} DISABLE TRIGGER sealed; DELETE FROM {} WHERE id = 'corpus/0.md#0'", "rows, "),
        ("ALTER TABLE {} DISABLE TRIGGER sealed; UPDATE {} SET bm25_text = 'x' WHERE id = 'corpus/0.md#0'", "rows, "),
    ],
)
def test_a_table_that_is_not_what_was_sealed_is_noticed(connection, release, build, damage, detail):
    sealed = build(connection, release, FixedEmbedder())
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL(damage).format(*[sealed.table] * damage.count("{}")))
    with pytest.raises(IntegrityMismatch, match=f"table {release.table_name} is not what was sealed") as caught:
        shadow.already_sealed(connection, sealed, sealed.corpus_digest)
    assert detail in caught.value.detail


def test_a_config_whose_sources_hold_no_document_is_refused(connection, make_config):
    with pytest.raises(NotFound, match="no documents of source nobody, nothing"):
        shadow.read_corpus(connection, make_config(sources=("nobody", "nothing")))


def test_a_config_with_one_source_that_holds_no_document_is_refused(connection, release, make_config):
    with pytest.raises(NotFound, match="nobody"):
        shadow.read_corpus(connection, make_config(sources=("corpus", "nobody")))


@pytest.mark.parametrize("damage", ["SELECT 1", "ALTER TABLE documents RENAME TO moved"])
def test_reading_documents_leaves_the_connection_as_it_was(connection, release, damage):
    with connection, connection.cursor() as cursor:
        cursor.execute(damage)
    with suppress(psycopg2.Error):
        shadow.read_corpus(connection, release.locked_config)
    with connection:
        assert postgres.one(connection, "SHOW transaction_isolation") == {"transaction_isolation": "read committed"}


def test_documents_without_text_give_no_table(
    connection, make_config, lock_release, start_build, make_document, store_documents
):
    store_documents(connection, [make_document("a.md", " \n\u3000")])
    release, plan = start_build(connection, lock_release(connection, make_config()))
    with pytest.raises(ConfigInvalid, match="no text to index"):
        shadow.load(connection, release, plan, FixedEmbedder())
    assert state_of(connection, release) == "building"


def fail() -> None:
    raise Interrupted


def content_of_release(connection, release: Release) -> Content:
    with connection:
        found = content_of(connection, release.table_schema, release.table_name)
    assert found is not None
    return found


def rows_of(connection, release: Release) -> list[dict]:
    with connection:
        return postgres.every(connection, sql.SQL("SELECT * FROM {} ORDER BY id").format(release.table))


def rows_there(connection, release: Release) -> int:
    return len(rows_of(connection, release))


def state_of(connection, release: Release) -> str:
    with connection:
        return get_release(connection, release.release_id).state


def leaks(connection, release: Release) -> int:
    """Rows whose keyword text is not exactly their span, counted by PostgreSQL's own substr."""
    query = sql.SQL(
        "SELECT count(*) AS leaks FROM {} c JOIN documents d ON d.id = c.doc_id"
        " WHERE c.bm25_text <> substr(d.content, c.span_start + 1, c.span_end - c.span_start)"
        " OR right(c.embedding_text, length(c.bm25_text)) <> c.bm25_text OR c.embedding_text NOT LIKE 'Document: %%'"
    )
    with connection:
        return postgres.one(connection, query.format(release.table), ())["leaks"]


def insert_row(connection, release: Release, chunk_id: str) -> None:
    values = (chunk_id, "corpus/0.md", 999, "x", "x", 1, 1, "another", "another", 0, 1, "00", "[]", "[" + "1," * 383 + "1]")
    names = sql.SQL(", ").join(map(sql.Identifier, shadow._COLUMNS))
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("INSERT INTO {} ({}) VALUES %s").format(release.table, names), (values,))


def point_at(connection, release: Release) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.pointer SET generation = generation + 1, release_id = %s", (release.release_id,))
