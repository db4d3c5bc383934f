"""Planted regressions: each changes what it says and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lib.config.locked_config import RerankSettings
from lib.index.documents import Document
from lib.release.planted import REGRESSIONS

BY_NAME = {regression.name: regression for regression in REGRESSIONS}
DOCUMENTS = [Document(f"c/{n}.md", "c", f"{n}.md", "t", [], f"text {n}", f"{n}", {}) for n in range(30)]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("drop_documents", set()),
        ("halve_top_k", {"retrieval"}),
        ("chunk_60", {"chunk_size"}),
        ("shuffle_embeddings", set()),
        ("leak_prefixes", set()),
        ("drop_reranker", {"rerank"}),
    ],
)
def test_a_regression_changes_the_settings_that_it_names(name, changed, make_config):
    config = make_config()
    planted = BY_NAME[name].configure(config)
    before, after = config.deciding(), planted.deciding()
    assert {field for field in before if before[field] != after[field]} == changed
    assert (planted.config_hash == config.config_hash) == (not changed)
    assert BY_NAME[name].cannot(config) == ""


def test_half_of_the_top_k_by_hand(make_config):
    found = BY_NAME["halve_top_k"].configure(make_config()).retrieval
    assert (found.vector_top_k, found.bm25_top_k, found.snapshot_size) == (20, 20, 45)


def test_a_tenth_of_the_documents_goes_always_the_same():
    kept = BY_NAME["drop_documents"].choose(DOCUMENTS)
    assert len(kept) == 27
    assert kept == BY_NAME["drop_documents"].choose(DOCUMENTS)
    assert kept == [document for document in DOCUMENTS if document in kept]
    assert len(BY_NAME["drop_documents"].choose(DOCUMENTS[:3])) == 2
    assert all(BY_NAME[name].choose(DOCUMENTS) == DOCUMENTS for name in BY_NAME if name != "drop_documents")


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("chunk_60", {"chunk_size": 60}, "chunk_size is 60 already"),
        ("leak_prefixes", {"prefix_policy": "B"}, "on purpose"),
        ("drop_reranker", {"rerank": RerankSettings("none")}, "none already"),
    ],
)
def test_what_the_config_has_already_cannot_be_planted(name, changes, why, make_config):
    assert why in BY_NAME[name].cannot(replace(make_config(), config_hash="", **changes))
