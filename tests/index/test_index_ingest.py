"""The plan of an ingest: which rows, with which texts and counts, in which batches."""

from __future__ import annotations

import random

import pytest

from lib.config.bounds import MAX_PREFIX_TOKENS
from lib.index.chunking import chunk_text
from lib.index.documents import Document
from lib.index.ingest import IngestPlan, plan_batches, plan_ingest
from lib.index.near_duplicates import find_duplicates


@pytest.fixture
def documents(make_document, corpus_texts) -> list[Document]:
    """Real documents, the first of them twice, and one in other scripts."""
    made = [make_document(f"{number:02}.md", text) for number, text in enumerate(list(corpus_texts.values())[:6])]
    made.append(make_document("again.md", made[0].content, title="Again"))
    scripts = "# 検索\r\n\r\n" + "検索エンジン。\r\n" * 8 + "שלום 👩‍👩‍👧\te\u0301\\n" * 9
    made.append(make_document("scripts.md", scripts, metadata={}))
    return made


@pytest.mark.parametrize("policy", ["A", "B"])
def test_every_row_is_a_span_of_its_document_with_the_prefix_where_the_policy_has_it(
    documents, counter, make_config, policy
):
    config = make_config(chunk_size=80, overlap_ratio=0.25, prefix_policy=policy)
    sources = {document.doc_id: document for document in documents}
    for row in plan_ingest(documents, config, counter).rows:
        document = sources[row.doc_id]
        source_text = document.content[row.span_start : row.span_end]
        prefix = row.embedding_text.removesuffix(source_text)
        kind = document.metadata.get("type", "text")
        assert row.embedding_text == prefix + source_text
        assert prefix.startswith(f"Document: {document.title} / ")
        assert prefix.endswith(f"Type: {kind}\n")
        assert row.bm25_text == (source_text if policy == "A" else prefix + source_text)
        assert row.doc_sha256 == document.sha256
        assert row.chunk_id == f"{row.doc_id}#{row.chunk_index}"
        assert row.embedding_token_count == counter.count(row.embedding_text)
        assert row.bm25_token_count == counter.count(row.bm25_text)


def test_a_row_never_has_more_tokens_than_chunk_size_and_prefix_budget(documents, counter, make_config, make_document):
    long_title = make_document("long.md", "# " + "title " * 200 + "\n\n" + "body " * 400, title="title " * 200)
    config = make_config(chunk_size=64, prefix_policy="B")
    plan = plan_ingest([*documents, long_title], config, counter)
    assert max(row.embedding_token_count for row in plan.rows) <= 64 + MAX_PREFIX_TOKENS
    assert max(row.bm25_token_count for row in plan.rows) <= 64 + MAX_PREFIX_TOKENS


def test_rows_stand_in_the_order_of_documents_and_chunks(documents, counter, make_config):
    config = make_config(chunk_size=80, jaccard_threshold=1.0)
    expected = [
        (document.doc_id, index, span.start, span.end)
        for document in documents
        for index, span in enumerate(chunk_text(document.content, counter, 80, 0.1))
    ]
    plan = plan_ingest(documents, config, counter)
    assert plan.documents == len(documents)
    assert plan.chunks == len(expected)
    placed = [(row.doc_id, row.chunk_index, row.span_start, row.span_end) for row in plan.rows]
    kept = set(placed)
    assert placed == [place for place in expected if place in kept]


def test_near_duplicates_are_dropped_in_favour_of_the_first_and_recorded_with_their_spans(documents, counter, make_config):
    config = make_config(chunk_size=80, overlap_ratio=0.25)
    chunks = [(document, span) for document in documents for span in chunk_text(document.content, counter, 80, 0.25)]
    dropped = find_duplicates([document.content[span.start : span.end] for document, span in chunks], 0.8)
    expected: dict[str, list] = {}
    for index, kept in sorted(dropped.items()):
        (document, span), (first, _) = chunks[index], chunks[kept]
        own = [at for at, (other, _) in enumerate(chunks) if other is first].index(kept)
        repeat = {"doc_id": document.doc_id, "start": span.start, "end": span.end, "doc_sha256": document.sha256}
        expected.setdefault(f"{first.doc_id}#{own}", []).append(repeat)
    plan = plan_ingest(documents, config, counter)
    assert {row.chunk_id: list(row.duplicates) for row in plan.rows if row.duplicates} == expected
    assert not any(row.doc_id == "corpus/again.md" for row in plan.rows)  # all of it repeats the first document
    assert plan.duplicates == len(dropped) == plan.chunks - len(plan.rows) > 0
    assert plan.deduplication_rate == len(dropped) / len(chunks)


def test_equal_inputs_give_equal_plans(documents, counter, make_config):
    first = plan_ingest(documents, make_config(chunk_size=80), counter)
    second = plan_ingest(list(documents), make_config(chunk_size=80), counter)
    assert first == second
    assert plan_batches(first.rows) == plan_batches(second.rows)


def test_no_document_gives_an_empty_plan(counter, make_config):
    plan = plan_ingest([], make_config(), counter)
    assert plan == IngestPlan([], 0, 0)
    assert plan.deduplication_rate == 0.0
    assert plan_batches(plan.rows) == []


def test_batches_hold_every_row_once_longest_first(documents, counter, make_config):
    rows = plan_ingest(documents, make_config(chunk_size=40), counter).rows
    batches = plan_batches(rows)
    flat = [row for batch in batches for row in batch]
    assert len(rows) > 48
    assert sorted(flat, key=lambda row: row.chunk_id) == sorted(rows, key=lambda row: row.chunk_id)
    assert [row.embedding_token_count for row in flat] == sorted((row.embedding_token_count for row in rows), reverse=True)
    assert {len(batch) for batch in batches[:-1]} == {16}
    assert 0 < len(batches[-1]) <= 16


def test_batches_do_not_depend_on_the_order_of_the_rows(documents, counter, make_config):
    rows = plan_ingest(documents, make_config(chunk_size=40), counter).rows
    assert plan_batches(random.Random(1).sample(rows, len(rows))) == plan_batches(rows)
