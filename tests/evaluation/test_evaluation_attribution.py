"""Where a case was lost: each label by injecting exactly that fault into a real table or config, and the choice by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from psycopg2 import sql

from lib.config.locked_config import FilterSettings, RetrievalSettings
from lib.evaluation.attribution import LABELS, Loss, Seen, attribute, label_of, stage_of
from lib.evaluation.cases import Case, GoldSpan, evidence_found
from lib.index.documents import Document
from lib.index.exact_search import ExactResult, ExactSearch, Ranks
from lib.index.fusion import Candidate, fuse
from lib.index.rerank import load_reranker
from lib.index.retrieval import Retriever
from tests.index.conftest import (
    build,
    chunker,
    index_settings,
    lock_release,
    make_document,
    model_files,
    model_folder,
    new_database,
    store_documents,
)

__all__ = [
    "build", "chunker", "index_settings", "lock_release", "make_document", "model_files", "model_folder", "new_database",
    "store_documents",
]  # fmt: skip

QUESTION = "cipher of the northern portal"
QUOTE = "The northern portal opens with the cipher 4711, which the keeper alone knows."
GOLD_TEXT = f"# The northern portal\n\n{QUOTE} It was set in spring, when the old cipher of the portal was lost.\n"
COPY_TEXT = GOLD_TEXT.replace("4711", "4712")
# Near the question by meaning, without a word in common: "gate" is a portal, "code" is a cipher.
MEANT = "Above the north gate hangs a code, and whoever reads the code may pass the gate at night."
LONG_QUOTE = (
    "The northern portal opens with a cipher that the keeper alone knows."
    " Its digits are four, seven, one and one again, pressed slowly while both hands stay on the brass wheel below."
)
TOPICS = ("harbour", "orchard", "library", "granary", "stable", "foundry", "aviary", "chapel", "kiln", "brewery")
SETTINGS = RetrievalSettings(4, 4, 60, 8, "english", 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5)
SYNONYMS = {"gate": "portal", "code": "cipher", "north": "northern"}


class WordEmbedder:
    """Vectors of the words that a text holds, synonyms as one: it is known by hand what is near to what."""

    name, identity, dimension, batch_independent = "words", "words", 384, True

    def embed_query(self, text: str) -> np.ndarray:
        vector = np.full(self.dimension, 1e-3, dtype=np.float32)
        for word in re.findall(r"[a-z]+", text.lower()):
            number = sum(ord(letter) * 31**place for place, letter in enumerate(SYNONYMS.get(word, word)))
            if len(word) > 3:
                vector[number % self.dimension] += 1
        return vector / np.linalg.norm(vector)

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.embed_query(text) for text in texts])


@dataclass(frozen=True)
class World:
    """Builds a release over some documents with some settings, and asks the question of it."""

    make: Callable[..., Retriever]
    gold_of: Callable[[str, str], GoldSpan]

    def case(self, quote: str, text: str, query: str = QUESTION) -> Case:
        return Case("q", query, "4711", True, True, (self.gold_of(text, quote),), ())


@pytest.fixture(scope="module")
def world(new_database, make_config, make_document, store_documents, lock_release, build):
    embedder, number = WordEmbedder(), iter(range(1, 100))
    with new_database() as connection:

        def make(texts: dict[str, str], **changes: Any) -> Retriever:
            store_documents(connection, [make_document(f"{name}.md", text) for name, text in texts.items()])
            version = f"2026-01-02-030405-v{next(number)}"
            config = make_config(
                **{"chunk_size": 60, "overlap_ratio": 0.0, "retrieval": SETTINGS, "chunk_version": version, **changes}
            )
            release = build(connection, lock_release(connection, config), embedder)
            return Retriever(
                connection, release.release_id, release.table, config, embedder, load_reranker("score_combination")
            )

        def gold_of(text: str, quote: str) -> GoldSpan:
            document: Document = make_document("m-gold.md", text)
            start = text.index(quote)
            return GoldSpan(document.doc_id, document.sha256, start, start + len(quote), quote)

        yield World(make, gold_of)


@pytest.fixture(scope="module")
def healthy(world) -> Retriever:
    """The release that each fault is put into."""
    return world.make(corpus(GOLD_TEXT))


def test_what_is_shown_and_used_is_not_lost(world, healthy):
    assert lost(healthy, world.case(QUOTE, GOLD_TEXT)) is None


def test_exact_search_finds_what_the_search_finds_where_the_index_is_whole(healthy):
    for query in (QUESTION, "an orchard beside the library", "zzz", ""):
        exact = ExactSearch(healthy).search(query, ["corpus/m-gold.md#0"])
        assert exact.snapshot == fuse(healthy.candidates(query), healthy.config.retrieval)
        assert set(exact.ranks) == {"corpus/m-gold.md#0"}
    assert ExactSearch(healthy).search(QUESTION, ["corpus/m-gold.md#0"]).ranks["corpus/m-gold.md#0"] == Ranks(1, 1)


def test_a_document_that_is_not_in_the_table(world):
    texts = corpus(GOLD_TEXT)
    del texts["m-gold"]
    assert lost(world.make(texts), world.case(QUOTE, GOLD_TEXT)) == Loss(
        "missing document", "no chunk of corpus/m-gold.md is in the table"
    )


def test_another_version_of_the_document(world):
    found = lost(world.make(corpus(GOLD_TEXT.replace("4711", "unknown"))), world.case(QUOTE, GOLD_TEXT))
    assert found.label == "missing document" and "another version" in found.detail


def test_what_answers_is_looked_at_and_not_the_sealed_table_alone(world):
    """A document that changed is hidden in the table, and answers by its new chunks."""
    retriever, case = world.make(corpus(GOLD_TEXT)), world.case(QUOTE, GOLD_TEXT)
    hide = "INSERT INTO golive.superseded (release_id, doc_id) VALUES (%s, 'corpus/m-gold.md')"
    bring_in = sql.SQL("INSERT INTO golive.changed_chunks SELECT %s, * FROM {} WHERE doc_id = 'corpus/m-gold.md'")
    with retriever.connection, retriever.connection.cursor() as cursor:
        cursor.execute(hide, (retriever.release_id,))
    assert lost(retriever, case).label == "missing document"
    with retriever.connection, retriever.connection.cursor() as cursor:
        cursor.execute(bring_in.format(retriever.table), (retriever.release_id,))
    assert lost(retriever, case) is None
    exact = ExactSearch(retriever).search(QUESTION, [])
    assert exact.snapshot == fuse(retriever.candidates(QUESTION), SETTINGS)
    assert "corpus/m-gold.md#0" in {chunk.chunk_id for chunk in exact.snapshot}


def test_a_chunk_that_was_dropped_as_a_near_duplicate(world):
    texts = {"a-copy": COPY_TEXT, **corpus(GOLD_TEXT)}
    case = world.case(QUOTE, GOLD_TEXT)
    assert lost(world.make(texts, jaccard_threshold=1.0), case) is None
    found = lost(world.make(texts, jaccard_threshold=0.5), case)
    assert found == Loss("deduplication", "its chunk was dropped in favour of corpus/a-copy.md#0, which does not say it")


def test_a_near_duplicate_that_says_the_same_loses_nothing(world):
    texts = {"a-copy": GOLD_TEXT, **corpus(GOLD_TEXT)}
    assert lost(world.make(texts), world.case(QUOTE, GOLD_TEXT)) is None


def test_a_quote_that_is_cut_between_chunks(world):
    text = f"# The northern portal\n\n{LONG_QUOTE}\n"
    case, narrow = world.case(LONG_QUOTE, text), replace(SETTINGS, vector_top_k=2, bm25_top_k=2)
    assert lost(world.make(corpus(text), retrieval=narrow), case) is None
    found = lost(world.make(corpus(text), retrieval=narrow, chunk_size=20), case)
    assert found.label == "chunk boundary"
    assert re.fullmatch(r"the quote is cut over \d chunks, of which \d got through", found.detail)


def test_a_chunk_that_the_approximate_index_misses(world):
    """ef_search 1 finds the nearest chunk alone, which is another; the question shares no word with the gold."""
    texts = {**corpus(MEANT), "b-near": "# Portal\n\nThe northern portal, the northern portal and its cipher.\n"}
    case = world.case(MEANT, corpus(MEANT)["m-gold"])
    assert lost(world.make(texts), case) is None
    broken = world.make(texts, retrieval=replace(SETTINGS, hnsw_ef_search=1))
    with broken.connection, broken.connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")  # a small table is otherwise read without its index
    try:
        found = lost(broken, case)
    finally:
        with broken.connection, broken.connection.cursor() as cursor:
            cursor.execute("RESET enable_seqscan")
    assert found == Loss("approximate index", "exact search finds corpus/m-gold.md#0, the index does not")


def test_a_chunk_that_ranks_behind_what_is_taken(world):
    louder = {f"c-{number}": f"# Portal\n\n{QUESTION.capitalize()} {'again ' * number}.\n" for number in range(3)}
    texts = {**corpus(MEANT), **louder}
    case = world.case(MEANT, corpus(MEANT)["m-gold"])
    assert lost(world.make(texts), case) is None
    found = lost(world.make(texts, retrieval=replace(SETTINGS, vector_top_k=3)), case)
    assert found.label == "ranking"
    assert found.detail.startswith("corpus/m-gold.md#0 ranks 4 by vector, holds no word of the question;")


def test_a_chunk_that_the_filter_leaves_out(world):
    texts = {**corpus(MEANT), "b-near": "# Portal\n\nThe northern portal, the northern portal and its cipher.\n"}
    case = world.case(MEANT, corpus(MEANT)["m-gold"])
    assert lost(world.make(texts, filter=FilterSettings(6, 3000)), case) is None
    found = lost(world.make(texts, filter=FilterSettings(1, 3000)), case)
    assert found.label == "filter" and found.detail.endswith("the reader was shown 1")


def test_evidence_that_the_reader_does_not_use(world, healthy):
    assert lost(healthy, world.case(QUOTE, GOLD_TEXT), used=False).label == "reader"


def test_what_cannot_be_told_is_not_guessed(world, healthy):
    case = world.case(QUOTE, GOLD_TEXT)
    assert lost(healthy, case, used=None) == Loss("unknown", "the evidence was shown, and there is no answer")
    assert attribute(case, Seen([], [], False)).label == "unknown"
    assert attribute(case, Seen([], [], None, "system: away")) == Loss("unknown", "system: away")


def test_an_unanswerable_case_is_never_lost(world):
    case = replace(world.case(QUOTE, GOLD_TEXT), answerable=False, gold=())
    assert attribute(case, Seen([], [], False)) is None


def test_of_several_quotes_the_earliest_loss_counts_or_the_latest_where_one_would_do():
    """The first quote is not in the table, the second one is in the snapshot and not shown."""
    gone, filtered = GoldSpan("gone", "1", 0, 4, "gone"), GoldSpan("there", "2", 0, 5, "there")
    chunk = candidate("there#0", "there", "there", "2")
    case = Case("q", "?", "", True, True, (gone, filtered), ())
    table = FakeTable([chunk])
    assert attribute(case, Seen([chunk], [], False), table).label == "missing document"
    assert attribute(replace(case, require_all=False), Seen([chunk], [], False), table).label == "filter"


def test_a_split_quote_of_which_one_part_was_shown_was_lost_at_the_boundary():
    gold = GoldSpan("d", "1", 0, 9, "one two 3")
    left, right = candidate("d#0", "d", "one two", "1"), candidate("d#1", "d", "3", "1", start=8)
    case = Case("q", "?", "", True, True, (gold,), ())
    assert attribute(case, Seen([left, right], [left], False), FakeTable([left, right])).label == "chunk boundary"
    assert attribute(case, Seen([left, right], [], False), FakeTable([left, right])).label == "filter"
    both = candidate("d#2", "d", "one two 3", "1")
    assert attribute(case, Seen([left, right], [left], False), FakeTable([left, right, both])).label == "filter"


def test_of_a_quote_that_one_chunk_holds_whole_that_chunks_rank_is_told():
    gold = GoldSpan("d", "1", 0, 9, "one two 3")
    part, both = candidate("d#0", "d", "one two", "1"), candidate("d#2", "d", "one two 3", "1")
    table = RankedTable([part, both], ExactResult([part], {"d#0": Ranks(1, 1), "d#2": Ranks(60, 70)}))
    found = attribute(Case("q", "?", "", True, True, (gold,), ()), Seen([part], [part], False), table)
    assert found == Loss("ranking", "d#2 ranks 60 by vector, 70 by words; 1 make the snapshot")


@pytest.mark.parametrize(
    ("hits", "stage"),
    [
        ((1, 1, 1), None),
        ((0, 0, 0), "retrieval"),
        ((1, 0, 0), "filter"),
        ((1, 1, 0), "reader"),
        ((0, 1, 1), "retrieval"),  # the first stage counts
        ((1, 0, 1), "filter"),
    ],
)
def test_a_stage_is_the_first_that_missed(hits, stage):
    names = ("oracle_hit", "filter_hit", "reader_gold_usage")
    row = {"answerable": True, "metrics": dict(zip(names, map(float, hits), strict=True))}
    assert stage_of(row) == stage
    assert label_of({**row, "lost_at": "ranking"}) == "ranking"
    assert label_of({**row, "lost_at": None}) is None


def test_the_labels_are_those_of_the_chain():
    assert LABELS[1:] == (
        "missing document", "deduplication", "chunk boundary", "approximate index", "ranking", "filter", "reader",
    )  # fmt: skip


@dataclass(frozen=True)
class FakeTable:
    rows: list[Candidate]

    def chunks_of(self, doc_ids: Sequence[str]) -> list[Candidate]:
        return [row for row in self.rows if row.doc_id in doc_ids]

    def search(self, query: str, chunk_ids: Sequence[str]) -> ExactResult:
        raise AssertionError("these cases are told apart without a search")


@dataclass(frozen=True)
class RankedTable:
    """A table whose exact search finds what it is told to."""

    rows: list[Candidate]
    found: ExactResult

    def chunks_of(self, doc_ids: Sequence[str]) -> list[Candidate]:
        return self.rows

    def search(self, query: str, chunk_ids: Sequence[str]) -> ExactResult:
        return self.found


def corpus(gold: str) -> dict[str, str]:
    """Documents about ten other things, and the one with the gold."""
    others = {name: f"# {name}\n\nThe {name} stands in the south; nobody has seen the {name} burn.\n" for name in TOPICS}
    return {**others, "m-gold": gold if gold.startswith("#") else f"# House rules\n\n{gold}\n"}


def lost(retriever: Retriever, case: Case, used: bool | None = True) -> Loss | None:
    found = retriever.retrieve(case.query)
    shown = evidence_found(case, found.context)
    return attribute(case, Seen(found.snapshot, found.context, used if shown else False), ExactSearch(retriever))


def candidate(chunk_id: str, doc_id: str, text: str, sha256: str, start: int = 0) -> Candidate:
    end = start + len(text)
    return Candidate(chunk_id, doc_id, start, end, text, text, 1, 1, sha256, (), None, None, 0.0, 0.0)
