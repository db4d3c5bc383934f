"""Near-duplicates: exactly those that comparing every text with every kept one would find."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index.near_duplicates import Deduplicator, find_duplicates, shingle_hashes, shingle_sets
from lib.index.similarity_join import SimilarityJoin

GOLDEN = [2729643376067845768, 9530509769622663469]

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


def grams(text: str) -> frozenset[tuple[str, ...]]:
    """The definition: runs of five words, case folded; of fewer words one, all of them."""
    words = re.findall(r"\w+", text.casefold())
    runs = zip(*(words[shift:] for shift in range(5)), strict=False) if len(words) >= 5 else {tuple(words)} - {()}
    return frozenset(runs)


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
    assert Fraction(len(grams(first) & grams(second)), len(grams(first) | grams(second))) == Fraction(threshold)
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
    assert find_duplicates(["", ""], 1.0) == find_duplicates([], 1.0) == {}


@pytest.mark.parametrize("block", [1, 3, 256])
@pytest.mark.parametrize("frequent", [1, 2, 512])
@pytest.mark.parametrize("matches", [1, 4])
@settings(deadline=None, derandomize=True, max_examples=25)
@given(texts=collections(), threshold=thresholds)
def test_no_setting_of_the_join_changes_what_is_dropped(block, frequent, matches, texts, threshold):
    join = SimilarityJoin(float(threshold), block=block, frequent=frequent, matches=matches)
    answers = join.add(shingle_sets(texts))
    found = {index: kept for index, kept in enumerate(answers) if kept is not None}
    assert found == by_brute_force(texts, Fraction(threshold))


@settings(deadline=None, derandomize=True, max_examples=80)
@given(collections(), thresholds, st.lists(st.integers(0, 12), max_size=6))
def test_texts_may_come_in_any_batches(texts, threshold, cuts):
    whole = Deduplicator(float(threshold)).add(shingle_sets(texts))
    deduplicator = Deduplicator(float(threshold))
    bounds = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    parts = [shingle_sets(texts[start:end]) for start, end in pairwise(bounds)]
    assert [answer for part in parts for answer in deduplicator.add(part)] == whole


def test_planted_near_duplicates_are_found_as_comparing_every_pair_finds_them(corpus_texts):
    texts = planted(corpus_texts, 3000)
    matrix, sizes = incidence(texts)
    shared = (matrix @ matrix.T).tocoo()
    unions = sizes[shared.row] + sizes[shared.col] - shared.data
    similar = (shared.data * 10 >= unions * 8) & (shared.col < shared.row)
    earlier: dict[int, list[int]] = {}
    for index, other in zip(shared.row[similar].tolist(), shared.col[similar].tolist(), strict=True):
        earlier.setdefault(index, []).append(other)
    expected: dict[int, int] = {}
    for index in sorted(earlier):
        kept = [other for other in earlier[index] if other not in expected]
        if kept:
            expected[index] = min(kept)
    assert find_duplicates(texts, 0.8) == expected
    assert len(expected) > 200


def test_a_passage_that_all_texts_share_hides_no_near_duplicate():
    rng = random.Random(5)
    notice = [f"notice{number}" for number in range(40)]
    bodies = [[f"w{rng.randrange(20_000)}" for _ in range(60)] for _ in range(1500)]
    texts = [" ".join([*notice, *body]) for body in bodies]
    texts += [" ".join([*notice, *bodies[place][:-4], "other", "words", "at", "last"]) for place in (0, 700, 1499)]
    # 100 words have 96 shingles; an edit of the last 4 words leaves 92: 92 / 100
    assert find_duplicates(texts, 0.9) == {1500: 0, 1501: 700, 1502: 1499}


def test_copies_are_dropped_in_favour_of_the_first_however_many():
    text = " ".join(f"w{number}" for number in range(300))
    assert find_duplicates([text] * 20_000, 0.8) == dict.fromkeys(range(1, 20_000), 0)
    assert find_duplicates(["spam " * count for count in range(5, 2000)], 1.0) == dict.fromkeys(range(1, 1995), 0)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    st.lists(
        st.text(alphabet=st.one_of(st.sampled_from("aB ßİŉſ_é\u0301\n-٣一😀"), st.characters()), max_size=60), max_size=8
    )
)
def test_hashes_are_equal_where_shingles_are(texts):
    sets = shingle_sets(texts)
    assert [len(hashes) for hashes in sets] == [len(grams(text)) for text in texts]
    assert len(set().union(*(hashes.tolist() for hashes in sets))) == len(frozenset().union(*map(grams, texts)))
    for text, hashes in zip(texts, sets, strict=True):
        assert np.array_equal(shingle_hashes(text), hashes)
        assert (np.diff(hashes) > 0).all()


def test_every_character_that_folds_is_folded_as_text_is():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).casefold() != chr(code)]
    assert len(characters) > 1400
    for upper, folded in zip(shingle_sets(characters), shingle_sets([c.casefold() for c in characters]), strict=True):
        assert np.array_equal(upper, folded)


def test_hashes_are_the_same_in_every_process_and_on_every_machine():
    assert shingle_hashes("One two, three four five six").tolist() == GOLDEN
    assert shingle_hashes("").dtype == np.uint64


def test_texts_far_longer_than_a_block_are_hashed_alike():
    words = [f"w{number}" for number in range(40_000)]
    long, tail = shingle_sets([" ".join(words), " ".join(words[-50:])])
    assert len(long) == 39_996
    assert np.isin(tail, long).all()
    assert len(shingle_hashes("x" * 300_000)) == 1


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Deduplicator(threshold)


def test_what_only_restores_can_import_this_without_numpy():
    code = "import sys; sys.modules['numpy'] = None; import lib.index.near_duplicates"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


def by_hand(text: str) -> list[int]:
    """The formula of the module's head once more, in Python's whole numbers."""

    def mixed(number: int) -> int:
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
        return number ^ number >> 31

    def word_hash(word: str) -> int:
        return mixed(sum(mixed(ord(c) + 1) * pow(0x9E3779B97F4A7C15, place, 2**64) for place, c in enumerate(word)) % 2**64)

    factors = (0xD6E8FEB86659FD93, 0xA5A3564E9C1B3D4F, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x8CB92BA72F3D8DD7)
    return sorted(mixed(sum(word_hash(w) * f for w, f in zip(gram, factors, strict=False)) % 2**64) for gram in grams(text))


@pytest.mark.parametrize(
    "text", ["", "one", "Straße", "one two three", "a b c d e", "Ein Satz, der aus mehr als fünf Wörtern besteht"]
)
def test_hashes_are_those_of_the_formula(text):
    assert shingle_hashes(text).tolist() == by_hand(text)


def planted(corpus_texts: dict[str, str], count: int) -> list[str]:
    """Texts of 100 words of the corpus; every third is an edit of an earlier one, from 0.70 to 0.95 similar."""
    rng = random.Random(42)
    source = " ".join(corpus_texts.values()).split()
    texts: list[list[str]] = []
    for index in range(count):
        if index % 3:
            starts = (rng.randrange(len(source) - 6) for _ in range(40))
            texts.append([word for start in starts for word in source[start : start + rng.randint(1, 6)]][:100])
            continue
        words = list(rng.choice(texts)) if texts else source[:100]
        similarity = rng.uniform(0.7, 0.95)
        lost = round(
            len(words) * (1 - 2 * similarity / (1 + similarity))
        )  # of n shingles; both have n, so J = s / (2n - s)
        start = rng.randrange(len(words) - 20)
        words[start : start + max(1, lost - 4)] = [f"new{rng.randrange(10**9)}" for _ in range(max(1, lost - 4))]
        texts.append(words)
    return [" ".join(words) for words in texts]


def incidence(texts: list[str]):
    """Which text has which shingle, as a sparse matrix of ones, and how many each has."""
    from scipy.sparse import csr_matrix

    sets = [sorted(grams(text)) for text in texts]
    numbers = {gram: number for number, gram in enumerate(dict.fromkeys(gram for items in sets for gram in items))}
    columns = [numbers[gram] for items in sets for gram in items]
    sizes = np.array([len(items) for items in sets])
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    return csr_matrix((np.ones(len(columns), np.int64), columns, bounds), shape=(len(texts), len(numbers))), sizes


def by_brute_force(texts: list[str], threshold: Fraction) -> dict[int, int]:
    kept: list[tuple[int, frozenset]] = []
    dropped = {}
    for index, text in enumerate(texts):
        mine = grams(text)
        similar = (at for at, other in kept if mine and Fraction(len(mine & other), len(mine | other)) >= threshold)
        match = next(similar, None)
        if match is None:
            kept.append((index, mine))
        else:
            dropped[index] = match
    return dropped


def pair(left: int, right: int, shared: int) -> tuple[str, str]:
    """Two texts of so many shingles, of which so many are shared: n words have n - 4, a common run of n has n - 4."""
    common = [f"c{number}" for number in range(shared + 4)] if shared else []
    first = [*common, *(f"l{number}" for number in range(left + 4 - len(common)))]
    second = [*common, *(f"r{number}" for number in range(right + 4 - len(common)))]
    return " ".join(first), " ".join(second)
