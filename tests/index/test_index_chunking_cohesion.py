"""Where a text's vocabulary changes, its chunks are parted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index.chunking import chunk_text
from lib.index.chunking_cohesion import ties_over as ties_over_stems
from lib.index.word_table import WordTable


def ties_over(text):
    return ties_over_stems(WordTable().look_up(text.split())[1])


def others(count: int, name: str = "other") -> str:
    """Words that are all different, from their first letters on."""
    return " ".join(f"{number}{name}" for number in range(count))


def test_a_word_that_comes_again_ties_all_places_between():
    text = "alpha b c alpha e " + others(35)  # 40 words, two of them alpha: one in 20, of 5 bits
    assert ties_over(text).tolist() == [0, 2, 2, 2, 0] + [0] * 35


def test_each_pair_of_neighbours_in_a_chain_of_words_ties_by_itself():
    text = "alpha b alpha d alpha " + others(75)  # 80 words: one in 26, of 5 bits
    assert ties_over(text).tolist() == [0, 2, 2, 2, 2] + [0] * 75


def test_a_rare_word_ties_more_than_a_common_one_and_a_very_common_one_nothing():
    assert ties_over("alpha alpha " + others(30))[1] == 2  # one in 16, of 5 bits
    assert ties_over("alpha alpha " + others(300))[1] == 5  # one in 151, of 8 bits
    assert not ties_over("alpha beta " * 50).any()


def test_a_word_ties_its_other_forms_whatever_stands_around_it():
    assert ties_over('"Company" companies, ' + others(38)).tolist()[:3] == [0, 2, 0]


def test_a_word_that_comes_again_only_far_away_ties_nothing():
    assert ties_over(f"alpha {others(99)} alpha").any()
    assert not ties_over(f"alpha {others(100)} alpha").any()


@settings(deadline=None, derandomize=True, max_examples=100)
@given(words=st.lists(st.sampled_from(["ab", "Ab.", "b", "c", "--", "検索", "d", "e", "f", "g", "h", "i"]), max_size=60))
def test_ties_are_those_that_comparing_every_pair_finds(words):
    stems = [word.strip("-.").lower() for word in words]
    expected = [0] * len(words)
    for first, stem in enumerate(stems):
        again = next((place for place in range(first + 1, len(stems)) if stems[place] == stem), None)
        if stem and again is not None:
            weight = max((len(stems) // stems.count(stem)).bit_length() - 3, 0)
            for place in range(first + 1, again + 1):
                expected[place] += weight
    assert ties_over(" ".join(words)).tolist() == expected


@settings(deadline=None, derandomize=True, max_examples=100)
@given(text=st.text())
def test_there_is_a_number_for_each_word_of_any_text(text):
    ties = ties_over(text)
    assert len(ties) == len(text.split())
    assert (ties >= 0).all()


def test_a_chunk_ends_where_the_subject_changes_rather_than_where_it_is_full(counter):
    cats = "\n\n".join(["The cat sleeps on a mat.", "A mat is warm for a cat.", "Every cat likes its mat."])
    taxes = "\n\n".join(["Taxes rise with income.", "High income means taxes.", "No income has no taxes."])
    tail = others(60, "th")
    text = f"{cats}\n\n{taxes}\n\n{tail}"
    first, *_ = chunk_text(text, counter, counter.count(f"{cats}\n\n{taxes}") - 1, 0.0)
    assert text[first.start : first.end] == cats


def test_the_last_place_is_taken_where_nothing_ties_any(counter):
    paragraphs = ["one two three four", "five six seven eight", "nine ten eleven twelve", others(30)]
    text = "\n\n".join(paragraphs)
    first, *_ = chunk_text(text, counter, 14, 0.0)
    assert text[first.start : first.end] == "\n\n".join(paragraphs[:3])


def test_fenced_code_that_fits_is_not_parted_to_keep_words_together(counter):
    code = "```\nalpha = 1\n\nbeta = 2\n```"
    before = "alpha beta alpha beta alpha beta"
    text = f"{before}\n{code}\nalpha beta gamma\nalpha beta\n{others(60)}"
    for size in range(20, 60):
        assert any(code in text[span.start : span.end] for span in chunk_text(text, counter, size, 0.0))
