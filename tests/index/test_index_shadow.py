"""The shadow build: complete and sealed, or not yet; the same bytes however often it was interrupted."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg2
import pytest
from psycopg2 import sql

from lib.index import loading, pipeline, shadow
from lib.index.embedder import sentence_transformer
from lib.index.ingest import plan_ingest
from lib.index.releases import Release, get_release, read_pointer
from lib.index.seal import Content, content_of
from lib.platform import embedded, postgres
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, NotFound, Refused, Unavailable
from lib.platform.workspace import Workspace

KILLED_BUILD = Path(__file__).with_name("killed_build.py")
_IN_KILLED_BUILD = runpy.run_path(str(KILLED_BUILD))
FixedEmbedder, BATCH_ROWS = _IN_KILLED_BUILD["FixedEmbedder"], _IN_KILLED_BUILD["BATCH_ROWS"]


class Interrupted(Exception):
    pass


class Interrupting(FixedEmbedder):
    """Does something else at one of the calls (from 1), then goes on."""

    def __init__(self, call, act):
        self.call, self.act, self.calls = call, act, 0

    def embed_documents(self, texts):
        self.calls += 1
        if self.calls == self.call:
            self.act()
        return super().embed_documents(texts)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(pipeline, "CALL_ROWS", BATCH_ROWS)


@pytest.fixture(scope="session")
def documents(corpus_texts, make_document):
    """The beginnings of real documents, one of them twice, and a text with everything that COPY might have to escape."""
    texts = [text[:2200] for text in list(corpus_texts.values())[:3]]
    texts += [texts[1], "tab\tback\\slash \\N \\. quote' \"\r\n| a | b |\r\n日本語 👩‍👩‍👧 e\u0301\u200b\x0c end"]
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
    """What a build without interruption ends in, for some documents: its content."""
    known = {}

    def content(wanted=documents, embedder=None) -> Content:
        key = tuple((document.path, document.title, document.content) for document in wanted), embedder is None
        if key not in known:
            with new_database() as connection:
                store_documents(connection, wanted)
                built = build(connection, lock_release(connection, config), embedder or FixedEmbedder())
                known[key] = content_of_release(connection, built)
        return known[key]

    return content


def test_a_finished_table_holds_the_plan_with_the_embedders_vectors(connection, release, build, documents, counter):
    embedder = FixedEmbedder()
    plan = plan_ingest(documents, release.locked_config, counter)
    sealed = build(connection, release, embedder)
    assert len(plan.rows) > 5 * BATCH_ROWS
    assert any(row.duplicates for row in plan.rows)
    rows = {row["id"]: row for row in rows_of(connection, sealed)}
    assert set(rows) == {row.chunk_id for row in plan.rows}
    for planned in plan.rows:
        row = rows[planned.chunk_id]
        for column in set(loading.COLUMNS) & set(vars(planned)):
            assert row[column] == getattr(planned, column), column
        assert row["duplicates"] == list(planned.duplicates)
        assert (row["chunk_version"], row["ingest_run_id"]) == (release.chunk_version, release.release_id)
        assert row["bm25_weights"] is not None
        assert np.array_equal(vector_of(row), embedder.embed_query(planned.embedding_text))


def test_a_model_whose_vectors_depend_on_their_batch_embeds_each_text_alone(
    connection, make_config, lock_release, documents, store_documents, build, embedder
):
    store_documents(connection, [documents[0], documents[-1]])
    rows = rows_of(connection, build(connection, lock_release(connection, make_config(chunk_size=200)), embedder))
    assert not embedder.batch_independent
    assert len(rows) > 2
    for row in rows:
        assert np.array_equal(vector_of(row), embedder.embed_documents([row["embedding_text"]])[0])


def test_the_release_says_that_it_is_sealed_with_which_content(connection, release, build):
    sealed = build(connection, release, FixedEmbedder())
    content = content_of_release(connection, sealed)
    assert (sealed.state, sealed.content_digest, sealed.row_count) == ("sealed", content.digest, content.row_count)
    assert sealed.corpus_digest == shadow.read_corpus(connection, release.locked_config)[1]
    assert sealed.sealed_at is not None
    stats = sealed.ingest_stats
    assert stats["embedded_now"] == sealed.row_count == stats["chunks"] - stats["duplicates"]
    assert {"fill_s", "index_s", "recall_s", "seal_s", "tokens"} <= set(stats)
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


@pytest.mark.parametrize("independent", [True, False])
def test_a_build_whose_embedder_dies_goes_on_and_ends_in_the_same_content(
    connection, release, build, undisturbed, independent
):
    dying = Interrupting(5, fail) if independent else Interrupting(5 * BATCH_ROWS, fail)
    dying.batch_independent = independent
    with pytest.raises(Unavailable, match="the embedder fixed failed between chunks corpus/") as caught:
        build(connection, release, dying)
    assert "Interrupted" in caught.value.detail
    there = rows_there(connection, release)
    assert 0 < there < undisturbed().row_count
    assert there % BATCH_ROWS == 0
    assert state_of(connection, release) == "building"
    sealed = build(connection, release, FixedEmbedder())
    assert sealed.ingest_stats["embedded_now"] == sealed.row_count - there
    assert content_of_release(connection, sealed) == undisturbed()


@pytest.mark.parametrize("where", ["batch", "index", "seal"])
def test_a_build_that_was_killed_goes_on_and_ends_in_the_same_content(
    connection, release, build, undisturbed, database_url, model_folder, where
):
    killed = subprocess.run(
        [sys.executable, str(KILLED_BUILD), database_url, release.release_id, str(model_folder), where],
        env={**os.environ, "PYTHONPATH": str(KILLED_BUILD.parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    expected = undisturbed()
    there = rows_there(connection, release)
    assert 2 * BATCH_ROWS <= there < expected.row_count if where == "batch" else there == expected.row_count
    assert state_of(connection, release) == "building"
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("UPDATE {} SET bm25_text = bm25_text WHERE false").format(release.table))  # not sealed
    sealed = build(connection, release, FixedEmbedder())
    assert sealed.ingest_stats["embedded_now"] == expected.row_count - there
    assert content_of_release(connection, sealed) == expected


def test_a_build_whose_connection_was_cut_goes_on_and_ends_in_the_same_content(
    connection, release, build, undisturbed, database_url
):
    doomed = postgres.connect(database_url, "doomed")

    def cut() -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (doomed.info.backend_pid,))

    with pytest.raises(psycopg2.Error):
        build(doomed, release, Interrupting(5, cut))
    assert 0 < rows_there(connection, release) < undisturbed().row_count
    assert content_of_release(connection, build(connection, release, FixedEmbedder())) == undisturbed()


def test_a_build_whose_server_was_killed_goes_on_and_ends_in_the_same_content(
    tmp_path, config, documents, store_documents, lock_release, build, undisturbed
):
    workspace = Workspace(tmp_path)
    doomed = postgres.connect(embedded.address(workspace), "doomed")
    postgres.create_state(doomed)
    store_documents(doomed, documents)
    release = lock_release(doomed, config)
    server = int(next(tmp_path.rglob("postmaster.pid")).read_text().splitlines()[0])
    with pytest.raises(psycopg2.Error):
        build(doomed, release, Interrupting(5, lambda: os.kill(server, signal.SIGKILL)))
    connection = postgres.connect(embedded.address(workspace), "after")
    try:
        there = rows_there(connection, release)
        sealed = build(connection, release, FixedEmbedder())
        assert 0 < there < sealed.row_count
        assert sealed.ingest_stats["embedded_now"] == sealed.row_count - there
        assert content_of_release(connection, sealed) == undisturbed()
    finally:
        connection.close()
        embedded.stop(workspace)


def test_a_table_that_was_indexed_before_the_kill_is_not_indexed_again(connection, release, build, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(shadow, "seal", fail)
        build(connection, release, FixedEmbedder())
    monkeypatch.setattr(shadow, "weigh", fail)
    monkeypatch.setattr(shadow, "build_index", fail)
    assert build(connection, release, FixedEmbedder()).state == "sealed"


def test_documents_that_changed_between_two_attempts_change_only_their_rows(
    connection, release, build, undisturbed, documents, make_document, store_documents, monkeypatch
):
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(shadow, "seal", fail)  # weighed and indexed already
        build(connection, release, FixedEmbedder())
    changed = [make_document("0.md", "# New\n\n" + "Another first document. " * 40), *documents[1:-1]]
    store_documents(connection, changed)
    sealed = build(connection, release, FixedEmbedder())
    assert 0 < sealed.ingest_stats["embedded_now"] < sealed.row_count / 2
    assert sealed.ingest_stats["removed_now"] > 0
    assert sealed.corpus_digest == shadow.read_corpus(connection, release.locked_config)[1]
    assert content_of_release(connection, sealed) == undisturbed(changed)


@pytest.mark.parametrize("change", ["edit", "add", "delete", "title", "duplicate"])
def test_documents_that_change_during_a_build_are_in_the_sealed_table(
    connection, release, build, undisturbed, documents, make_document, store_documents, database_url, change
):
    first, second, *rest = documents
    changed = {
        "edit": [replace(first, content="# New\n\nAnother text.", sha256="-"), second, *rest],
        "add": [*documents, make_document("new.md", "# New\n\n" + "One more document. " * 40)],
        "delete": [second, *rest],
        "title": [replace(first, title="Renamed"), second, *rest],
        "duplicate": [make_document("!.md", second.content, title="Before all others"), *documents],
    }[change]

    def write() -> None:
        other = postgres.connect(database_url, "writer")
        with other, other.cursor() as cursor:
            cursor.execute("DELETE FROM documents")
        store_documents(other, changed)
        other.close()

    sealed = build(connection, release, Interrupting(3, write))
    assert sealed.ingest_stats["rounds"] == 2
    assert sealed.corpus_digest == shadow.read_corpus(connection, release.locked_config)[1]
    assert content_of_release(connection, sealed) == undisturbed(changed)


def test_documents_that_never_stand_still_are_sealed_as_they_were_read(
    connection, release, build, documents, database_url, undisturbed, monkeypatch
):
    written = []
    real = pipeline.fill

    def fill(*arguments):
        other = postgres.connect(database_url, "writer")
        with other, other.cursor() as cursor:
            cursor.execute("UPDATE documents SET title = title || '!' WHERE path = '0.md'")
        other.close()
        written.append(arguments[2][0].title)
        return real(*arguments)

    monkeypatch.setattr(pipeline, "fill", fill)
    sealed = build(connection, release, FixedEmbedder())
    assert sealed.ingest_stats["rounds"] == len(written) == 3
    last = [replace(documents[0], title=written[-1]), *documents[1:]]
    assert content_of_release(connection, sealed) == undisturbed(last)
    assert sealed.corpus_digest != shadow.read_corpus(connection, release.locked_config)[1]


def test_a_build_beside_writers_loses_nothing_of_what_it_says_it_holds(
    connection, release, build, documents, database_url, undisturbed, store_documents
):
    stop = threading.Event()

    def write() -> None:
        other = postgres.connect(database_url, "writer")
        for number in range(1000):
            if stop.is_set():
                break
            with other, other.cursor() as cursor:
                cursor.execute("UPDATE documents SET content = content || %s WHERE path = '2.md'", (f"\n\nNote {number}.",))
        other.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sealed = build(connection, release, FixedEmbedder())
    finally:
        stop.set()
        writer.join()
    held = max(row["span_end"] for row in rows_of(connection, sealed) if row["doc_id"] == "corpus/2.md")
    with connection:
        now = postgres.one(connection, "SELECT content FROM documents WHERE path = '2.md'")["content"]
    as_read = [replace(d, content=now[:held], sha256="-") if d.path == "2.md" else d for d in documents]
    assert content_of_release(connection, sealed) == undisturbed(as_read)


@pytest.mark.parametrize("damage", ["embedding_text = 'Document: another' || embedding_text", "span_end = span_end - 1"])
def test_rows_of_this_run_that_are_not_what_the_documents_give_are_made_again(
    connection, release, build, undisturbed, monkeypatch, damage
):
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(shadow, "_index", fail)
        build(connection, release, FixedEmbedder())
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL(f"UPDATE {{}} SET {damage} WHERE chunk_index < 3").format(release.table))
    assert content_of_release(connection, build(connection, release, FixedEmbedder())) == undisturbed()


def test_rows_of_another_ingest_are_refused_and_left(connection, release, build):
    shadow.begin(connection, release, "d")
    insert_row(connection, release, "corpus/0.md#999")
    with pytest.raises(IntegrityMismatch, match=f"table {release.table_name} holds rows of another ingest") as caught:
        build(connection, release, FixedEmbedder())
    assert "corpus/0.md#999" in caught.value.detail
    assert [row["id"] for row in rows_of(connection, release)] == ["corpus/0.md#999"]
    assert state_of(connection, release) == "building"


@pytest.mark.parametrize(
    ("columns", "detail"),
    [
        ("id text PRIMARY KEY, embedding vector(384)", "it lacks doc_id, chunk_index"),
        ("LIKE {other} INCLUDING ALL", "its vectors have 4 dimensions, the locked embedder's 384"),
    ],
)
def test_a_table_that_another_config_left_is_refused_and_left(connection, release, build, columns, detail):
    other = postgres.table_identifier("public", "other")
    shadow.create_chunk_table(connection, other, 4)
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL(f"CREATE TABLE {{table}} ({columns})").format(table=release.table, other=other))
    with pytest.raises(IntegrityMismatch, match=f"table {release.table_name} is not one of this config") as caught:
        build(connection, release, FixedEmbedder())
    assert detail in caught.value.detail
    assert rows_there(connection, release) == 0


def test_a_model_of_another_width_than_the_locked_one_is_refused_before_anything_is_embedded(connection, release, build):
    wide = Interrupting(1, fail)
    wide.dimension = 1024
    with pytest.raises(IntegrityMismatch, match="gives 1024 dimensions, 384 were locked"):
        build(connection, release, wide)


def test_a_model_that_gives_nan_stops_the_build_and_leaves_production_alone(
    connection, release, build, make_config, lock_release, make_document, store_documents, documents, model_files,
    poisoned_model,
):  # fmt: skip
    live = build(connection, release, FixedEmbedder())
    point_at(connection, live)
    store_documents(connection, [*documents, make_document("poison.md", "there is poison in this text")])
    config = make_config(chunk_size=20, chunk_version="2026-02-03-040506-v1")
    candidate = lock_release(connection, config)
    broken = sentence_transformer(replace(model_files, folder=poisoned_model))
    with pytest.raises(IntegrityMismatch, match="not finite") as caught:
        build(connection, candidate, broken)
    assert "chunk corpus/poison.md#0" in caught.value.detail
    assert "corpus/poison.md#0" not in {row["id"] for row in rows_of(connection, candidate)}
    assert state_of(connection, candidate) == "building"
    with connection:
        pointer = read_pointer(connection)
        assert (pointer.generation, pointer.release) == (1, live)
        assert content_of(connection, live.table_schema, live.table_name).digest == live.content_digest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda vectors: np.concatenate([vectors[:-1], vectors[-1:] * np.nan]), "a vector that is not finite"),
        (lambda vectors: vectors[:, :200], "vectors of width 200"),
        (lambda vectors: vectors[:-1], "15 vectors"),
    ],
)
def test_a_bad_vector_is_named_by_its_chunk_and_leaves_no_part_of_its_batch(connection, release, build, damage, message):
    class Broken(FixedEmbedder):
        def embed_documents(self, texts):
            return damage(super().embed_documents(texts))

    with pytest.raises(IntegrityMismatch, match=message) as caught:
        build(connection, release, Broken())
    assert "chunk corpus/0.md#" in caught.value.detail
    assert rows_there(connection, release) == 0


def test_an_index_below_the_recall_floor_is_not_sealed_and_the_setting_is_named(
    connection, release, chunker, index_settings, build
):
    strict = replace(index_settings, recall=replace(index_settings.recall, mean_floor=1.1))
    with pytest.raises(Refused, match=r"misses too much: recall@20 is 1\.000 in the mean \(floor 1\.1\)") as caught:
        shadow.build(connection, release, FixedEmbedder(), chunker, strict)
    assert "hnsw_m" in caught.value.hint
    assert state_of(connection, release) == "building"
    sealed = build(connection, release, FixedEmbedder())
    assert (sealed.ingest_stats["recall_mean"], sealed.ingest_stats["recall_asked"]) == (1.0, "chunks")
    assert sealed.ingest_stats["embedded_now"] == 0


def test_the_recall_of_the_cases_questions_is_recorded_with_the_seal(connection, release, chunker, index_settings):
    queries = [("q2", "how to back up?"), ("q1", "what is a chunk?")]
    stats = shadow.build(connection, release, FixedEmbedder(), chunker, index_settings, queries).ingest_stats
    assert (stats["recall_asked"], stats["recall_questions"], stats["recall_k"]) == ("cases", 2, 20)
    assert stats["recall_worst"] in ("q1", "q2")


def test_a_sealed_release_has_nothing_left_to_build(connection, release, build):
    sealed = build(connection, release, FixedEmbedder())
    _, digest = shadow.read_corpus(connection, release.locked_config)
    before = content_of_release(connection, sealed)
    assert not shadow.already_sealed(connection, release, digest)  # as it was when it was locked
    assert shadow.already_sealed(connection, sealed, digest)
    assert content_of_release(connection, sealed) == before


def test_a_sealed_table_cannot_be_built_again(connection, release, build, documents, store_documents):
    sealed = build(connection, release, FixedEmbedder())
    before = content_of_release(connection, sealed)
    store_documents(connection, documents[1:])
    with pytest.raises(Refused, match="is sealed"):
        build(connection, sealed, FixedEmbedder())
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


def test_documents_without_text_give_no_table(connection, make_config, lock_release, build, make_document, store_documents):
    store_documents(connection, [make_document("a.md", " \n\u3000")])
    release = lock_release(connection, make_config())
    with pytest.raises(ConfigInvalid, match="no text to index"):
        build(connection, release, FixedEmbedder())
    assert state_of(connection, release) == "building"


def fail(*_: object, **__: object) -> None:
    raise Interrupted


def content_of_release(connection, release: Release) -> Content:
    with connection:
        found = content_of(connection, release.table_schema, release.table_name)
    assert found is not None
    return found


def vector_of(row: dict) -> np.ndarray:
    return np.array(json.loads(row["embedding"]), dtype=np.float32)


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
    values = (chunk_id, "corpus/0.md", 999, "x", "x", 1, 1, "another", "another", 0, 1, "00", "[" + "1," * 383 + "1]")
    names = sql.SQL(", ").join(map(sql.Identifier, loading.COLUMNS))
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("INSERT INTO {} ({}) VALUES %s").format(release.table, names), (values,))


def point_at(connection, release: Release) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.pointer SET generation = generation + 1, release_id = %s", (release.release_id,))
