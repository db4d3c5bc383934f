"""Rerankers: the two that need no model, and a cross-encoder from a folder."""

from __future__ import annotations

import numpy as np
import pytest

from lib.config.locked_config import RetrievalSettings
from lib.index.fusion import Candidate, fuse, rank_by
from lib.index.rerank import load_reranker
from lib.platform.errors import ConfigInvalid, Unavailable


def candidate(chunk_id: str, vector_rank: int, similarity: float, bm25_score: float, text: str = "text") -> Candidate:
    values = (chunk_id, "a.md", 0, 4, text, "embedding only", 1, 1, "00", (), vector_rank, None, similarity, bm25_score)
    return Candidate(*values)


SETTINGS = RetrievalSettings(40, 40, 60, 10, "english", 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5)
SNAPSHOT = fuse([candidate("a", 1, 0.9, 0.0), candidate("b", 2, 0.5, 8.0), candidate("c", 3, 0.8, 6.0)], SETTINGS)


def test_score_combination_weighs_similarity_and_words_equally():
    reranker = load_reranker("score_combination")
    scores = reranker.score("any", SNAPSHOT)
    assert reranker.name == "score_combination"
    assert scores == pytest.approx([0.5, 0.5, 0.75])  # (1 + 0) / 2, (0 + 1) / 2, (0.75 + 0.75) / 2
    assert [c.chunk_id for c in rank_by(SNAPSHOT, scores)] == ["c", "a", "b"]


def test_score_combination_takes_the_locked_share_of_the_vector():
    scores = load_reranker("score_combination", vector_weight=0.25).score("any", SNAPSHOT)
    assert scores == pytest.approx([0.25, 0.75, 0.75])  # 1/4 + 0, 0 + 3/4, 3/16 + 9/16


class Letters:
    """Stands for a local embedder: a token is a letter, its vector that letter's axis."""

    name, dimension, identity = "letters", 26, "letters"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_tokens(self, texts):
        self.asked += texts
        return [np.eye(26, dtype=np.float32)[[ord(letter) - 97 for letter in text if letter.islower()]] for text in texts]


def lettered(text: str, place: int, score: float = 1.0) -> Candidate:
    values = (f"c{place:03}", "a.md", 0, 4, "bm25 only", text, 1, 1, "00", (), place, None, score, score)
    return Candidate(*values)


def test_late_interaction_adds_each_query_tokens_best_match_to_the_combined_score():
    snapshot = [lettered("ab", 1), lettered("abx", 2), lettered("xyz", 3), lettered("abcd", 4)]
    scores = load_reranker("late_interaction", Letters()).score("abcd", snapshot)
    # of the query's four tokens 2, 2, 0 and 4 are there; the combined scores are all the same
    assert scores == pytest.approx([0.25, 0.25, 0.0, 0.5])


def test_late_interaction_reads_the_best_twenty_and_keeps_the_others_behind_them():
    snapshot = [lettered("ab" if place % 2 else "cd", place, 30.0 - place) for place in range(30)]
    embedder = Letters()
    ranked = rank_by(snapshot, load_reranker("late_interaction", embedder).score("ab", snapshot))
    assert {c.chunk_id for c in ranked[:20]} == {c.chunk_id for c in snapshot[:20]}
    assert [c.chunk_id for c in ranked[20:]] == [c.chunk_id for c in snapshot[20:]]
    assert sorted(embedder.asked) == ["ab", "ab", "cd"]  # the query, and each text once


def test_late_interaction_remembers_the_texts_used_last_and_no_more_than_its_bound(monkeypatch):
    embedder = Letters()
    reranker = load_reranker("late_interaction", embedder)
    monkeypatch.setattr(type(reranker), "_CACHE_BYTES", 3 * 26 * 2)  # three tokens in 16 bits
    for text in ("a", "b", "c", "a", "d", "a", "b"):
        reranker.score("q", [lettered(text, 1)])
    assert [text for text in embedder.asked if text != "q"] == ["a", "b", "c", "d", "b"]  # b went when d came


@pytest.mark.parametrize(("query", "text"), [("", "ab"), ("ab", ""), ("😀", "😀")])
def test_late_interaction_of_nothing_is_no_evidence(query, text):
    assert load_reranker("late_interaction", Letters()).score(query, [lettered(text, 1)]) == [0.0]


def test_late_interaction_with_the_embedded_model_prefers_the_text_that_answers(embedder):
    answers = lettered("The pointer moves back in milliseconds, because the old table still stands.", 1)
    other = lettered("Lunch is served at noon in the canteen on the ground floor.", 2)
    first, second = load_reranker("late_interaction", embedder).score(
        "how fast is a rollback of the pointer?", [answers, other]
    )
    assert first > second


def test_late_interaction_without_token_vectors_is_refused():
    with pytest.raises(ConfigInvalid, match="late_interaction") as caught:
        load_reranker("late_interaction", object())
    assert "score_combination" in caught.value.hint


def test_without_reranking_the_fused_order_stands():
    reranker = load_reranker("none")
    assert reranker.name == "none"
    assert rank_by(SNAPSHOT, reranker.score("any", SNAPSHOT)) == [
        Candidate(**{**vars(c), "rerank_score": c.fused_score}) for c in SNAPSHOT
    ]


@pytest.mark.parametrize("name", ["score_combination", "late_interaction", "none"])
def test_an_empty_snapshot_has_no_scores(name):
    assert load_reranker(name, Letters()).score("any", []) == []


@pytest.mark.parametrize("content", [None, "not json"])
def test_a_folder_that_holds_no_cross_encoder_is_unavailable(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(Unavailable, match="does not load") as caught:
        load_reranker(str(tmp_path))
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint == "rerank.model in the config"


def test_a_cross_encoder_scores_the_question_with_each_chunks_own_text(tmp_path, model_folder):
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(42)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=30522, num_labels=1, initializer_range=1.0, **shape)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(model_folder))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    snapshot = [candidate("a", 1, 0, 0, "backups are restored"), candidate("b", 2, 0, 0, "chunks overlap a little")]

    reranker = load_reranker(str(tmp_path))
    with torch.no_grad():
        pairs = tokenizer(["why?"] * 2, [c.bm25_text for c in snapshot], padding=True, return_tensors="pt")
        expected = torch.sigmoid(model(**pairs).logits[:, 0]).tolist()
    assert reranker.name == str(tmp_path)
    assert reranker.score("why?", snapshot) == pytest.approx(expected, abs=1e-5)
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)
