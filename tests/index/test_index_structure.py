"""Headings, section paths, fenced code and sentences of Markdown and plain text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index.structure import Section, markup_of, section_path, sections_of, sentences_of, trim

steady = settings(deadline=None, derandomize=True, max_examples=70)


def test_headings_are_found_with_level_title_and_offset():
    text = "intro\n# One\n\nbody\n   ### Three deep ###\nmore\n## 日本語 😀\n"
    assert sections_of(text) == [
        Section(1, "One", 6),  # "intro" and its line end are 6 characters
        Section(3, "Three deep", 18),  # + "# One", "", "body" with their line ends: 6 + 1 + 5
        Section(2, "日本語 😀", 45),  # + "   ### Three deep ###" (21), "more" (4) and two line ends
    ]


@pytest.mark.parametrize(
    "line",
    ["#no space", "####### seven", "    # indented code", "text # not at the start", r"\# escaped", "> # quoted"],
)
def test_what_only_looks_like_a_heading_is_none(line):
    assert sections_of(f"para\n\n{line}\n") == []


@pytest.mark.parametrize(
    "code",
    [
        "```\n# no\n```",
        "~~~ python\n# no\n~~~",
        "   ```sh\n# no\n   ```",
        "````\n```\n# no\n```\n# no\n````",
        "```\n~~~\n# no\n```",
        "```\n# no\n``` not a closing fence\n# no\n```",
        "```\n# no\n`````",
    ],
)
def test_headings_in_fenced_code_are_no_sections(code):
    assert [section.title for section in sections_of(f"# Yes\n\n{code}\n# After\n")] == ["Yes", "After"]


def test_a_fence_that_is_never_closed_reaches_to_the_end():
    assert [section.title for section in sections_of("# Yes\n```\n# no\n\n# no\n")] == ["Yes"]


def test_code_within_a_line_opens_no_fence():
    assert [section.title for section in sections_of("```inline``` code\n\n# Yes\n")] == ["Yes"]


@pytest.mark.parametrize("title", ["C#", "Issue ##12#", "F# and C#"])
def test_a_hash_that_belongs_to_the_last_word_stays_in_the_title(title):
    assert [section.title for section in sections_of(f"# {title}\n")] == [title]


@pytest.mark.parametrize("line", ["#", "# ", "#\t", "# #", "# ##  "])
def test_a_heading_may_be_empty(line):
    assert sections_of(f"{line}\n") == [Section(1, "", 0)]


def test_a_long_run_of_blanks_in_a_heading_takes_no_time():
    line = "# a" + " " * 20_000 + "b"  # hours, where a pattern tries every way to share out the blanks
    assert [section.title for section in sections_of(line)] == [line[2:]]


@pytest.mark.parametrize(("line", "title"), [("# Backups", "Backups"), ("## Keep it ##", "Keep it")])
def test_a_title_has_no_carriage_return_where_lines_end_in_crlf(line, title):
    assert [section.title for section in sections_of(f"{line}\r\n\r\nbody\r\n")] == [title]


@dataclass(frozen=True)
class Block:
    """A piece of Markdown, and the headings it has: (line within the block, level, title)."""

    lines: tuple[str, ...]
    headings: tuple[tuple[int, int, str], ...] = ()


words = st.sampled_from(["plain", "日本語", "שלום", "e\u0301te\u0301", "👩‍👩‍👧", "a\u200bb", "#tag", "x" * 300, "end."])
sentences = st.lists(words, min_size=1, max_size=6).map(" ".join)
titles = st.lists(st.sampled_from(["Setup", "数据", "مرحبا", "v2.0", "😀", "a#b"]), min_size=1, max_size=3).map(" ".join)
headings = st.builds(
    lambda level, title, closing: Block((f"{'#' * level} {title}{closing}",), ((0, level, title),)),
    st.integers(1, 6),
    titles,
    st.sampled_from(["", " #", " ######"]),
)
fences = st.builds(
    lambda mark, inside: Block((mark, *inside, mark)),
    st.sampled_from(["```", "~~~~"]),
    st.lists(st.sampled_from(["# comment", "## not a heading", "", "code()", "~~~", "`` `"]), max_size=4),
)
paragraphs = st.lists(sentences, min_size=1, max_size=3).map(lambda lines: Block(tuple(f"p {line}" for line in lines)))
blanks = st.just(Block(("",)))
markdown = st.lists(st.one_of(headings, fences, paragraphs, blanks), max_size=12)


@steady
@given(markdown, st.sampled_from(["\n", "\r\n"]))
def test_the_sections_of_a_text_are_its_headings_outside_of_code(blocks, line_end):
    text, expected = written(blocks, line_end)
    found = sections_of(text)
    assert [(section.level, section.start) for section in found] == [(level, start) for level, _, start in expected]
    assert [section.title for section in found] == [title for _, title, _ in expected]


def test_a_section_path_names_the_open_sections_from_the_outside_in():
    text = "before\n# A\n## B\n### C\n## D\n#### E\n# F\n"
    sections = sections_of(text)
    paths = {title: section_path(sections, text.index(title)) for title in "ABCDEF"}
    assert paths == {
        "A": ["A"],
        "B": ["A", "B"],
        "C": ["A", "B", "C"],
        "D": ["A", "D"],
        "E": ["A", "D", "E"],
        "F": ["F"],
    }
    assert section_path(sections, 0) == []
    assert section_path(sections, text.index("# D") - 2) == ["A", "B", "C"]
    assert section_path(sections, len(text)) == ["F"]


def test_fenced_code_is_known_by_whole_lines():
    text = "para\n  ```py\ncode\n```  \nafter\n~~~\nopen"
    assert [text[start:end] for start, end in markup_of(text).fences] == ["  ```py\ncode\n```  ", "~~~\nopen"]


def test_each_heading_has_the_end_of_its_line():
    text = "# One\r\nbody\n## Two"
    found = markup_of(text)
    ends = zip(found.headings, found.heading_ends, strict=True)
    assert [text[heading.start : end] for heading, end in ends] == ["# One\r", "## Two"]


def test_sentences_end_at_punctuation_and_at_line_ends():
    text = 'He said "go." Then left\nv1.2 is out! 検索です。次です。\n\n   Last… one?'
    found = [text[start:end] for start, end in sentences_of(text)]
    assert found == ['He said "go."', "Then left", "v1.2 is out!", "検索です。", "次です。", "Last…", "one?"]


@steady
@given(st.one_of(st.text(), st.text(alphabet="ab .!?。…\"')\r\n\u200b\u3000\x0b\x85", max_size=60)))
def test_sentences_are_spans_in_order_that_leave_out_only_blanks(text):
    spans = sentences_of(text)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    between = zip([0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)], strict=True)
    assert all(not text[end:start].strip() for end, start in between)


@steady
@given(st.text(alphabet="a \n\t\u3000\x85\u200b", max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_trimming_a_span_equals_stripping_its_text(text, first, second):
    start, end = sorted((min(first, len(text)), min(second, len(text))))
    left, right = trim(text, start, end)
    assert start <= left <= right <= end
    assert text[left:right] == text[start:end].strip()


def written(blocks: list[Block], line_end: str) -> tuple[str, list[tuple[int, str, int]]]:
    """The text of blocks and its headings as (level, title, offset)."""
    lines: list[str] = []
    expected = []
    for block in blocks:
        for place, level, title in block.headings:
            before = [*lines, *block.lines[:place]]
            expected.append((level, title, sum(len(line) + len(line_end) for line in before)))
        lines.extend(block.lines)
    return line_end.join(lines), expected
