"""The prefix before a chunk: what it says, how it is shortened, and which texts it stands before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config.bounds import MAX_PREFIX_TOKENS
from lib.index.prefixes import prefix_of, texts_of

names = st.text(alphabet="abc XYZ \n\t\r日本語שלום😀e\u0301#/>-", max_size=200)


def count_words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("title", "sections", "expected"),
    [
        ("Guide", ["Install", "Linux"], "Document: Guide / Section: Install > Linux / Type: markdown\n"),
        ("Guide", ["Guide", "Install"], "Document: Guide / Section: Install / Type: markdown\n"),
        ("Guide", ["Guide"], "Document: Guide / Type: markdown\n"),
        ("Guide", [], "Document: Guide / Type: markdown\n"),
        ("Guide", ["", "Install"], "Document: Guide / Section: Install / Type: markdown\n"),
        (" A\r\n guide ", ["In\tstall"], "Document: A guide / Section: In stall / Type: markdown\n"),
    ],
)
def test_a_prefix_names_document_sections_and_type_on_one_line(title, sections, expected):
    assert prefix_of(title, sections, "markdown", count_words) == expected


def test_outer_sections_go_first_where_a_prefix_is_too_long():
    outer, inner = " ".join(["out"] * 30), " ".join(["in"] * 30)
    # "Document: Guide / Section:" are 4 words, "/ Type: text" 3: with both sections and ">" 68, with the inner one 37
    assert prefix_of("Guide", [outer, inner], "text", count_words) == f"Document: Guide / Section: {inner} / Type: text\n"


def test_a_prefix_of_exactly_the_budget_is_left_as_it_is():
    fits, too_long = " ".join(["in"] * 41), " ".join(["in"] * 42)  # with the 7 words around it: 48 and 49
    assert prefix_of("Guide", [fits], "text", count_words) == f"Document: Guide / Section: {fits} / Type: text\n"
    assert prefix_of("Guide", [too_long], "text", count_words) == "Document: Guide / Type: text\n"


def test_the_end_of_the_title_goes_when_no_section_is_left():
    title = " ".join(f"w{number:02}" for number in range(100))  # 399 characters; "Document:" and "/ Type: text" are 4 words
    # halved: 199 characters are 49 words and "w49" (53 words); halved again: 99 characters are 24 words and "w24"
    kept = " ".join(f"w{number:02}" for number in range(25))
    assert prefix_of(title, [" ".join(["in"] * 60)], "text", count_words) == f"Document: {kept} / Type: text\n"


def test_there_is_no_prefix_where_not_even_the_type_fits():
    assert prefix_of("Guide", ["Install"], " ".join(["kind"] * 60), count_words) == ""


@settings(deadline=None, derandomize=True)
@given(title=names, sections=st.lists(names, max_size=6))
def test_a_prefix_never_has_more_tokens_than_the_budget_and_is_one_line(counter, title, sections):
    prefix = prefix_of(title, sections, "markdown", counter.count)
    assert counter.count(prefix) <= MAX_PREFIX_TOKENS == 48
    assert prefix.startswith("Document: ")
    assert prefix.endswith(" / Type: markdown\n")
    assert prefix.count("\n") == 1


@settings(deadline=None, derandomize=True)
@given(title=names, sections=st.lists(names, max_size=6))
def test_a_shortened_prefix_keeps_the_titles_beginning_and_the_innermost_sections(counter, title, sections):
    prefix = prefix_of(title, sections, "markdown", counter.count).removesuffix(" / Type: markdown\n")
    name, _, path = prefix.removeprefix("Document: ").partition(" / Section: ")
    whole_path = " > ".join(" ".join(section.split()) for section in sections if section and section != title)
    if path:
        assert name == " ".join(title.split())
        assert whole_path.endswith(path)
    elif " / Section: " not in prefix:
        assert " ".join(title.split()).startswith(name)


def test_under_policy_a_the_keyword_text_is_the_chunks_own_text():
    assert texts_of("body", "prefix\n", "A") == ("prefix\nbody", "body")


def test_under_policy_b_both_texts_have_the_prefix():
    assert texts_of("body", "prefix\n", "B") == ("prefix\nbody", "prefix\nbody")
