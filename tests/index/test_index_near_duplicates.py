"""Near-duplicates: exactly those that comparing every text with every kept one would find."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index.near_duplicates import find_duplicates, jaccard, shingles

thresholds = st.sampled_from(["0.5", "0.6", "0.7", "0.75", "0.8", "0.9", "0.95", "1"])


@st.composite
def collections(draw) -> list[str]:
    """Texts that are edits of a few others, so that many pairs are near a threshold."""
    sources = [draw(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30)) for _ in range(draw(st.integers(1, 3)))]
    texts = []
    for _ in range(draw(st.integers(1, 12))):
        words = list(draw(st.sampled_from(sources)))
        for _ in range(draw(st.integers(0, 3))):
            place = draw(st.integers(0, len(words)))
            words[place : place + draw(st.integers(0, 2))] = draw(st.lists(st.sampled_from("abxyz"), max_size=2))
        texts.append(" ".join(words))
    return texts


@settings(deadline=None, derandomize=True, max_examples=120)
@given(collections(), thresholds)
def test_what_is_dropped_is_what_comparing_every_pair_would_drop(texts, threshold):
    assert find_duplicates(texts, float(threshold)) == by_brute_force(texts, Fraction(threshold))


@pytest.mark.parametrize("threshold", ["0.5", "0.8", "0.9"])
def test_real_chunks_give_what_comparing_every_pair_would_give(corpus_texts, threshold):
    texts = []
    for text in list(corpus_texts.values())[6:14]:
        words = text.split()
        texts += [" ".join(words[start : start + 60]) for start in range(0, len(words), 20)]
    found = find_duplicates(texts, float(threshold))
    assert found == by_brute_force(texts, Fraction(threshold))
    assert found


# Two texts of n and m shingles that share s have similarity s / (n + m - s); these are the threshold itself, where a
# product such as 0.55 * 100 = 55.00000000000001 or 0.7 * 35 = 24.499999999999996 decides wrongly.
@pytest.mark.parametrize(
    ("threshold", "left", "right", "shared"),
    [
        ("0.7", 7, 10, 7),  # 7 / 10
        ("0.7", 17, 17, 14),  # 14 / 20
        ("0.7", 35, 50, 35),  # 35 / 50
        ("0.8", 9, 9, 8),  # 8 / 10
        ("0.8", 4, 5, 4),
        ("0.8", 45, 45, 40),  # 40 / 50
        ("0.9", 19, 19, 18),  # 18 / 20
        ("0.9", 9, 10, 9),
        ("0.9", 190, 190, 180),  # 180 / 200
        ("0.6", 8, 8, 6),  # 6 / 10
        ("0.55", 11, 20, 11),
        ("0.55", 55, 100, 55),
        ("1", 3, 3, 3),
    ],
)
def test_a_text_exactly_at_the_threshold_is_dropped_and_one_just_below_is_kept(threshold, left, right, shared):
    first, second = pair(left, right, shared)
    assert jaccard(shingles(first), shingles(second)) == float(Fraction(threshold))
    assert find_duplicates([first, second], float(threshold)) == {1: 0}
    assert find_duplicates([second, first], float(threshold)) == {1: 0}
    first, second = pair(left, right, shared - 1)
    assert find_duplicates([first, second], float(threshold)) == {}
    assert find_duplicates([second, first], float(threshold)) == {}


def test_the_first_kept_text_that_is_similar_is_named():
    stem = [f"s{number}" for number in range(40)]
    first, second, both = (" ".join(words) for words in (["a", "b", "c", "d", *stem], [*stem, "e", "f", "g", "h"], stem))
    # 36 shingles in the stem, 40 in each: first and second share 36 of 44 = 0.82; the stem has 36 of 40 with each = 0.9
    assert find_duplicates([first, second, both], 0.85) == {2: 0}
    assert find_duplicates([second, first, both], 0.85) == {2: 0}
    assert find_duplicates([both, first, second], 0.85) == {1: 0, 2: 0}


def test_similarity_does_not_travel_along_a_chain():
    words = [f"w{number}" for number in range(60)]
    first, middle, last = (" ".join(words[start : start + 44]) for start in (0, 4, 8))
    # each has 40 shingles and shares 36 with the next: 36 / 44 = 0.82; first and last share 32: 32 / 48 = 0.67
    assert find_duplicates([first, middle, last], 0.8) == {1: 0}
    assert find_duplicates([middle, first, last], 0.8) == {1: 0, 2: 0}


@settings(deadline=None, derandomize=True, max_examples=40)
@given(collections(), thresholds)
def test_a_dropped_text_always_repeats_a_kept_one_before_it(texts, threshold):
    dropped = find_duplicates(texts, float(threshold))
    assert all(kept < index and kept not in dropped for index, kept in dropped.items())


def test_case_punctuation_and_blanks_make_no_difference():
    assert find_duplicates(["Straße: one, two (three) four!", "STRASSE\none  two\tthree… four"], 1.0) == {1: 0}


def test_texts_of_few_words_are_compared_whole():
    assert find_duplicates(["yes", "YES!", "yes yes", "no"], 0.5) == {1: 0}


def test_texts_without_a_word_repeat_nothing():
    assert find_duplicates(["", "😀😀", "😀😀", "---", " "], 0.5) == {}
    assert jaccard(shingles("---"), shingles("---")) == 0.0


def test_shingles_are_runs_of_five_words():
    assert shingles("a b c d e f") == {("a", "b", "c", "d", "e"), ("b", "c", "d", "e", "f")}
    assert shingles("a b c d") == {("a", "b", "c", "d")}


def by_brute_force(texts: list[str], threshold: Fraction) -> dict[int, int]:
    kept: list[tuple[int, set]] = []
    dropped = {}
    for index, text in enumerate(texts):
        words = re.findall(r"\w+", text.casefold())
        grams = set(zip(*(words[shift:] for shift in range(5)), strict=False)) if len(words) >= 5 else {tuple(words)} - {()}
        similar = (at for at, other in kept if grams and Fraction(len(grams & other), len(grams | other)) >= threshold)
        match = next(similar, None)
        if match is None:
            kept.append((index, grams))
        else:
            dropped[index] = match
    return dropped


def pair(left: int, right: int, shared: int) -> tuple[str, str]:
    """Two texts of so many shingles, of which so many are shared: n words have n - 4, a common run of n has n - 4."""
    common = [f"c{number}" for number in range(shared + 4)] if shared else []
    first = [*common, *(f"l{number}" for number in range(left + 4 - len(common)))]
    second = [*common, *(f"r{number}" for number in range(right + 4 - len(common)))]
    return " ".join(first), " ".join(second)
