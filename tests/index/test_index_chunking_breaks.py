"""Where a text may be broken, and how good each place is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index.chunking_breaks import BLANKS, Break, breaks_of, code_points, word_starts
from lib.index.structure import sections_of, trim

steady = settings(deadline=None, derandomize=True, max_examples=70)

words = st.sampled_from(
    ["plain", "日本語", "検索。次", "שלום", "e\u0301te\u0301", "👩‍👩‍👧", "a\u200bb", "#tag", "x" * 300, "end.", "1."]
)
sentences = st.lists(words, min_size=1, max_size=6).map(" ".join)
headings = st.builds(lambda level, title: f"{'#' * level} {title}", st.integers(1, 6), sentences)
fences = st.builds(
    lambda mark, inside: "\n".join([mark, *inside, mark]),
    st.sampled_from(["```", "~~~~"]),
    st.lists(st.sampled_from(["# comment", "- a. b", "", "code()", "~~~", "`` `"]), max_size=4),
)
items = st.builds(lambda mark, text: f"{mark} {text}", st.sampled_from(["-", "*", "1.", "  -", "22)"]), sentences)
blocks = st.one_of(headings, fences, items, sentences, st.just(""))
markdown = st.builds(lambda lines, end: end.join(lines), st.lists(blocks, max_size=12), st.sampled_from(["\n", "\r\n"]))


def graded(text: str) -> dict[int, Break]:
    """Each place at which the text may be broken, with how good it is."""
    found = breaks_of(text)
    return dict(zip(found.offsets.tolist(), map(Break, found.kinds.tolist()), strict=True))


def test_breaks_are_graded_by_what_begins_there():
    text = "One two. Three\nfour\n\nFive\n# Head line\nbody text"
    assert graded(text) == {
        0: Break.PARAGRAPH,  # One
        4: Break.WORD,  # two.
        9: Break.SENTENCE,  # Three
        15: Break.LINE,  # four
        21: Break.PARAGRAPH,  # Five
        26: Break.HEADING,  # the heading, and no break in it
        43: Break.WORD,  # text; none before "body", which follows the heading
    }


def test_code_is_broken_before_and_after_its_fences_and_else_between_lines_and_words():
    text = "para\n```\nx = 1. y\n\nz\n```\nafter"
    assert graded(text) == {
        0: Break.PARAGRAPH,
        5: Break.CODE,  # the opening fence
        9: Break.LINE,
        11: Break.WORD,
        13: Break.WORD,
        16: Break.WORD,  # "1. y" is no sentence end in code
        19: Break.LINE,  # after a blank line, which is no paragraph in code
        21: Break.LINE,  # the closing fence stays with the code
        25: Break.CODE,  # after it
    }


def test_a_list_is_broken_before_it_and_between_its_items_rather_than_within_one():
    text = "Intro:\n- one\n  more\n\n  part two\n\n- two\n1. sub\n\nAfter\n\n* new"
    kinds = {text[offset:].split()[0]: kind for offset, kind in graded(text).items() if kind > Break.WORD}
    assert kinds == {
        "Intro:": Break.PARAGRAPH,
        "-": Break.ITEM,  # "- two", the last of that name; the blank line before it ends no list
        "more": Break.LINE,
        "part": Break.LINE,  # a paragraph of the first item
        "1.": Break.ITEM,
        "After": Break.PARAGRAPH,
        "*": Break.LIST,
    }
    assert graded(text)[text.index("- one")] == Break.LIST


@pytest.mark.parametrize("text", ["- one\n\nmore\n- two\n", "- one\n# more\n\nbody\n- two"])
def test_a_list_ends_at_a_heading_or_at_a_paragraph_that_is_not_indented(text):
    assert graded(text)[text.index("- two")] == Break.LIST


def test_a_mark_is_not_parted_from_its_item_as_a_sentence_end_would_be():
    assert graded("1. First\n2. Second") == {0: Break.LIST, 3: Break.WORD, 9: Break.ITEM, 12: Break.WORD}


@pytest.mark.parametrize("text", ["see e.g. there", "by J. Smith", "Roe et al. say", "in Fig. 3 here", "Mr. Roe"])
def test_no_sentence_starts_after_an_abbreviation(text):
    assert set(graded(text).values()) <= {Break.PARAGRAPH, Break.WORD}


def test_sentences_start_in_lower_case_too_and_where_no_blank_parts_them():
    text = "one two. three four? 検索です。「次」です。」終"
    starts = [text[offset] for offset, kind in graded(text).items() if kind == Break.SENTENCE]
    assert starts == ["t", "検", "「", "終"]


@steady
@given(st.one_of(st.text(), markdown))
def test_every_break_is_before_a_character_that_is_not_blank(text):
    assert all(not text[offset].isspace() for offset in graded(text))


@steady
@given(markdown)
def test_no_break_is_offered_between_a_heading_and_what_stands_under_it(text):
    levels = {section.start: section.level for section in sections_of(text)}
    offered = graded(text)
    under_a_heading = set()
    for start, level in levels.items():
        end_of_line = text.find("\n", start) if "\n" in text[start:] else len(text)
        following = trim(text, end_of_line, len(text))[0]
        assert not [offset for offset in offered if start < offset < end_of_line]
        if levels.get(following, 7) > level:  # text, or a deeper heading
            under_a_heading.add(following)
    assert not under_a_heading & set(offered)
    assert set(levels) - under_a_heading <= set(offered)


def test_no_break_is_offered_between_a_heading_and_the_subheading_under_it():
    assert set(graded("# Title\n\n## Part\n\nbody")) == {0}


def test_a_break_is_offered_between_a_section_without_text_and_the_next():
    assert graded("## A\n### B\n\n### C\n## D\n") == {0: Break.HEADING, 12: Break.HEADING, 18: Break.HEADING}


def test_a_heading_too_long_for_a_chunk_may_be_cut_before_its_words_but_not_under_it():
    text = "x\n\n# One two\n\n## Three\n\nbody"
    assert [text[offset:].split()[0] for offset in breaks_of(text).in_headings.tolist()] == ["One", "two", "Three"]


@steady
@given(st.one_of(st.text(), markdown))
def test_words_start_where_splitting_at_blanks_finds_them(text):
    starts = word_starts(code_points(text), BLANKS).tolist()
    assert [text[start:].split(maxsplit=1)[0] for start in starts] == text.split()
