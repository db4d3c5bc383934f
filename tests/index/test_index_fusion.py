"""Fusion by hand: reciprocal ranks, combined scores, and the reader's budget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config.locked_config import RetrievalSettings
from lib.index.fusion import Candidate, Place, combine_scores, filter_to_budget, fuse, rank_by
from lib.platform.errors import IntegrityMismatch


def candidate(chunk_id: str, vector_rank: int | None = None, bm25_rank: int | None = None, **changes) -> Candidate:
    values = {
        "chunk_id": chunk_id,
        "doc_id": "corpus/a.md",
        "span_start": 0,
        "span_end": 4,
        "bm25_text": "text",
        "embedding_text": "text",
        "embedding_token_count": 1,
        "bm25_token_count": 1,
        "doc_sha256": "0" * 64,
        "duplicates": (),
        "vector_rank": vector_rank,
        "bm25_rank": bm25_rank,
        "similarity": 0.0,
        "bm25_score": 0.0,
    }
    return Candidate(**{**values, **changes})


def by_ranks(pool, rrf_k: int, size: int) -> list[Candidate]:
    return fuse(pool, RetrievalSettings(40, 40, rrf_k, size, "english", 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5))


def test_fusion_adds_the_reciprocal_ranks_of_both_lists():
    found = by_ranks([candidate("a", 1, 3), candidate("b", 2, None), candidate("c", None, 1)], 60, 10)
    assert [c.chunk_id for c in found] == ["a", "c", "b"]
    # 1/61 + 1/63 = 124/3843; 1/61; 1/62
    assert [c.fused_score for c in found] == pytest.approx([124 / 3843, 1 / 61, 1 / 62], rel=1e-12)


def test_being_in_both_lists_low_beats_being_first_in_one():
    # 2/(60 + 40) = 0.02 > 1/61 = 0.0164; with k = 1: 2/41 = 0.049 < 1/2
    pool = [candidate("first", 1, None), candidate("both", 40, 40)]
    assert [c.chunk_id for c in by_ranks(pool, 60, 10)] == ["both", "first"]
    assert [c.chunk_id for c in by_ranks(pool, 1, 10)] == ["first", "both"]


def test_ties_go_to_the_smaller_chunk_id():
    pool = [candidate("c", 2, 1), candidate("b", 1, 2), candidate("d", 3, None), candidate("a", None, 3)]
    assert [c.chunk_id for c in by_ranks(pool, 60, 10)] == ["b", "c", "a", "d"]


def test_fusion_keeps_the_best_so_many():
    pool = [candidate(str(rank), rank) for rank in range(9, 0, -1)]
    assert [c.chunk_id for c in by_ranks(pool, 60, 3)] == ["1", "2", "3"]
    assert by_ranks([], 60, 3) == []


@settings(deadline=None, derandomize=True)
@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(0, 99), st.integers(1, 12))
def test_the_order_in_which_the_database_returns_rows_does_not_matter(vector, words, seed, size):
    pool = [candidate(f"{n:02}", vector[n] + 1 if n % 4 else None, words[n] + 1 if n % 3 else None) for n in range(12)]
    shuffled = random.Random(seed).sample(pool, len(pool))
    assert by_ranks(pool, 60, size) == by_ranks(shuffled, 60, size)


def test_combined_scores_are_the_mean_of_both_scores_scaled_over_the_snapshot():
    pool = [
        candidate("a", similarity=0.9, bm25_score=2.0),  # (1 + 0.2) / 2
        candidate("b", similarity=0.5, bm25_score=10.0),  # (0 + 1) / 2
        candidate("c", similarity=0.7, bm25_score=0.0),  # (0.5 + 0) / 2
    ]
    assert combine_scores(pool) == pytest.approx([0.6, 0.5, 0.25])


def test_the_vectors_share_of_the_combined_score_is_as_locked():
    pool = [candidate("a", similarity=0.9, bm25_score=2.0), candidate("b", similarity=0.5, bm25_score=10.0)]
    assert combine_scores(pool, 0.25) == pytest.approx([0.25, 0.75])
    assert combine_scores(pool, 1.0) == [1.0, 0.0]
    assert combine_scores(pool, 0.0) == [0.0, 1.0]


def test_convex_fusion_takes_the_true_scores_of_a_candidate_that_one_list_lacks():
    pool = [
        candidate("a", 1, None, similarity=0.8, bm25_score=4.0),  # 0.25 * 1 + 0.75 * 0.5
        candidate("b", None, 1, similarity=0.6, bm25_score=8.0),  # 0.25 * 0.5 + 0.75 * 1
        candidate("c", 2, 2, similarity=0.4, bm25_score=0.0),
    ]
    found = fuse(pool, RetrievalSettings(40, 40, 60, 2, "english", 1.2, 0.75, 16, 64, 100, "off", "convex", 0.25))
    assert [c.chunk_id for c in found] == ["b", "a"]
    assert [c.fused_score for c in found] == pytest.approx([0.875, 0.625])


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 50)), min_size=1, max_size=20), st.floats(0, 1))
def test_convex_scores_lie_between_nothing_and_one_and_better_in_both_is_never_worse(scores, weight):
    found = combine_scores([candidate(str(n), similarity=s, bm25_score=b) for n, (s, b) in enumerate(scores)], weight)
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in found)
    for left, (s, b) in zip(found, scores, strict=True):
        for right, (other_s, other_b) in zip(found, scores, strict=True):
            assert left >= right - 1e-9 or not (s >= other_s and b >= other_b)


def test_a_score_that_is_the_same_for_all_says_nothing():
    pool = [candidate("a", similarity=0.4, bm25_score=1.0), candidate("b", similarity=0.4, bm25_score=3.0)]
    assert combine_scores(pool) == [0.0, 0.5]
    assert combine_scores(pool[:1]) == [0.0]
    assert combine_scores([]) == []


def test_a_negative_similarity_is_scaled_like_any_other():
    pool = [candidate("a", similarity=-0.2), candidate("b", similarity=0.2), candidate("c", similarity=0.0)]
    assert combine_scores(pool) == pytest.approx([0.0, 0.5, 0.25])


def test_reranking_sorts_by_the_new_score_and_ties_keep_the_fused_order():
    snapshot = by_ranks([candidate("d", 1), candidate("c", 2), candidate("b", 3), candidate("a", 4)], 60, 10)
    ranked = rank_by(snapshot, [0.1, 0.5, 0.9, 0.5])
    assert [(c.chunk_id, c.rerank_score) for c in ranked] == [("b", 0.9), ("c", 0.5), ("a", 0.5), ("d", 0.1)]
    assert [c.fused_score for c in ranked] == [1 / 63, 1 / 62, 1 / 64, 1 / 61]


def test_a_reranker_that_scores_too_few_chunks_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        rank_by([candidate("a"), candidate("b")], [1.0])


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_a_number_is_an_error(score):
    with pytest.raises(IntegrityMismatch, match="not finite") as caught:
        rank_by([candidate("a"), candidate("b"), candidate("c")], [0.1, score, 0.9])
    assert caught.value.detail == "for chunk b"


def test_the_reader_is_shown_the_first_chunks_that_fit_its_budget():
    counts = {"a": 60, "b": 50, "c": 30, "d": 10, "e": 1}
    ranked = [candidate(name, bm25_token_count=count) for name, count in counts.items()]
    # 60, then 50 is over the 40 left, 30 fits, 10 fits exactly, nothing is left for 1
    assert [c.chunk_id for c in filter_to_budget(ranked, 6, 100)] == ["a", "c", "d"]
    assert [c.chunk_id for c in filter_to_budget(ranked, 2, 100)] == ["a", "c"]
    assert filter_to_budget(ranked, 0, 100) == []
    assert filter_to_budget(ranked[:2], 6, 49) == []


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 500), max_size=20), st.integers(0, 8), st.integers(0, 1500))
def test_the_budget_is_never_exceeded_and_nothing_that_fits_is_left_out(counts, max_chunks, max_tokens):
    ranked = [candidate(f"{place:02}", bm25_token_count=count) for place, count in enumerate(counts)]
    kept = filter_to_budget(ranked, max_chunks, max_tokens)
    assert len(kept) <= max_chunks
    assert sum(c.bm25_token_count for c in kept) <= max_tokens
    assert kept == [c for c in ranked if c in kept]
    if len(kept) < max_chunks:
        for left_out in (c for c in ranked if c not in kept):
            before = sum(c.bm25_token_count for c in kept if c.chunk_id < left_out.chunk_id)
            assert before + left_out.bm25_token_count > max_tokens


def test_a_candidate_stands_at_its_own_place_and_at_those_of_its_duplicates():
    repeat = {"doc_id": "corpus/b.md", "start": 7, "end": 9, "doc_sha256": "1" * 64}
    assert candidate("a", duplicates=(repeat,)).places == [
        Place("corpus/a.md", 0, 4, "0" * 64),
        Place("corpus/b.md", 7, 9, "1" * 64),
    ]
