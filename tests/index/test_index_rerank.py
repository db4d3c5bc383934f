"""Rerankers: the two that need no model, and a cross-encoder from a folder."""

from __future__ import annotations

import pytest

from lib.index.fusion import Candidate, fuse, rank_by
from lib.index.rerank import load_reranker
from lib.platform.errors import Unavailable


def candidate(chunk_id: str, vector_rank: int, similarity: float, bm25_score: float, text: str = "text") -> Candidate:
    values = (chunk_id, "a.md", 0, 4, text, "embedding only", 1, 1, "00", (), vector_rank, None, similarity, bm25_score)
    return Candidate(*values)


SNAPSHOT = fuse([candidate("a", 1, 0.9, 0.0), candidate("b", 2, 0.5, 8.0), candidate("c", 3, 0.8, 6.0)], 60, 10)


def test_score_combination_weighs_similarity_and_words_equally():
    reranker = load_reranker("score_combination")
    scores = reranker.score("any", SNAPSHOT)
    assert reranker.name == "score_combination"
    assert scores == pytest.approx([0.5, 0.5, 0.75])  # (1 + 0) / 2, (0 + 1) / 2, (0.75 + 0.75) / 2
    assert [c.chunk_id for c in rank_by(SNAPSHOT, scores)] == ["c", "a", "b"]


def test_without_reranking_the_fused_order_stands():
    reranker = load_reranker("none")
    assert reranker.name == "none"
    assert rank_by(SNAPSHOT, reranker.score("any", SNAPSHOT)) == [
        Candidate(**{**vars(c), "rerank_score": c.fused_score}) for c in SNAPSHOT
    ]


@pytest.mark.parametrize("name", ["score_combination", "none"])
def test_an_empty_snapshot_has_no_scores(name):
    assert load_reranker(name).score("any", []) == []


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
