"""Chunks are exact spans of at most so many tokens that cover a document and break where its structure breaks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index.chunking import chunk_text
from lib.index.structure import sections_of
from lib.index.token_places import TokenPlaces
from lib.index.word_table import WordTable

steady = settings(deadline=None, derandomize=True, max_examples=80)


def runs(alphabet: str, longest: int) -> st.SearchStrategy[str]:
    return st.text(alphabet=alphabet, min_size=1, max_size=longest)


words = st.one_of(
    runs("etaoinshrdlu", 12),
    runs("日本語検索漢字", 60),
    runs("検索。！？、", 60),
    runs("שלוםمرحبا", 12),
    runs("각한글", 20),
    runs("ae\u0301\u0308\u0323\u0345", 20),
    runs("\u200b\u200d\ufeff\u2060", 20),
    runs("abc/.-_?=&", 200),
    st.lists(st.sampled_from(["😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽"]), min_size=1, max_size=12).map("".join),
    st.sampled_from(["x" * 90, "x" * 101, "y" * 500, "end.", "stop!", '"so."']),
    st.text(min_size=1, max_size=8).map(lambda text: "".join(text.split()) or "z"),
)
lines = st.lists(words, min_size=1, max_size=8).map(" ".join)
blocks = st.one_of(
    lines,
    st.builds(lambda level, title: f"{'#' * level} {title}", st.integers(1, 6), lines),
    st.builds(lambda line: f"```py\n# {line}\n\n{line}\n```", lines),
    st.builds(lambda line: f"- {line}\n- {line}\n  1. {line}", lines),
    st.sampled_from(["```", "~~~", "#", "---", "| a | b |\n|---|---|"]),
)
gaps = st.sampled_from(["\n", "\n\n", "\r\n", "\r\n\r\n", " \t\n", "\u2028", "\u3000", "\x0b", "\x0c", "\x85", "\r"])
documents = st.lists(st.tuples(blocks, gaps), max_size=14).map(lambda pairs: "".join(block + gap for block, gap in pairs))
sizes = st.sampled_from([16, 17, 40, 120])
ratios = st.sampled_from([0.0, 0.1, 0.25, 0.5])


@steady
@given(text=st.one_of(documents, st.text(max_size=300)), size=sizes, ratio=ratios)
def test_any_text_becomes_exact_spans_that_cover_it_and_fit(counter, text, size, ratio):
    assert_sound(counter, text, chunk_text(text, counter, size, ratio), size)


@pytest.mark.parametrize(("size", "ratio"), [(450, 0.1), (200, 0.5), (64, 0.25), (16, 0.0)])
def test_the_bundled_corpus_becomes_exact_spans_that_cover_it_and_fit(counter, corpus_texts, size, ratio):
    for text in list(corpus_texts.values())[::2]:
        spans = chunk_text(text, counter, size, ratio)
        assert_sound(counter, text, spans, size)
        assert all(repeated(counter, text, *pair) <= int(size * ratio) for pair in neighbours(spans))


@steady
@given(text=documents, size=sizes, ratio=ratios)
def test_no_chunk_repeats_more_than_the_locked_share(counter, text, size, ratio):
    for pair in neighbours(chunk_text(text, counter, size, ratio)):
        assert repeated(counter, text, *pair) <= int(size * ratio)


@pytest.mark.parametrize("blank", ["\x0b", "\x0c", "\x1f", "\x85"])
def test_no_chunk_repeats_more_than_the_locked_share_where_control_characters_part_the_words(counter, blank):
    text = " ".join([blank.join("100")] * 100)  # "100" is one token, "1" and "00" are two
    pairs = neighbours(chunk_text(text, counter, 40, 0.1))
    assert pairs
    assert all(repeated(counter, text, *pair) <= 4 for pair in pairs)


def test_a_chunk_repeats_the_locked_share_of_whole_words(counter):
    text = " ".join(map(str, range(50)))  # every number below 100 is one token
    spans = chunk_text(text, counter, 20, 0.25)
    # 20 numbers each; the next chunk begins 20 * 0.25 = 5 numbers before the end of the last
    assert [text[span.start : span.end].split() for span in spans] == [
        [str(number) for number in numbers] for numbers in (range(20), range(15, 35), range(30, 50))
    ]


def test_the_repeated_part_begins_at_a_sentence_where_one_is_near_enough(counter):
    text = numbers(14) + ". 40 41 42 43.\n\n" + numbers(30)
    first, second, *_ = chunk_text(text, counter, 20, 0.4)
    # of the 20 * 0.4 = 8 tokens that may be repeated, the last sentence's 5 are over half
    assert text[first.start : first.end] == numbers(14) + ". 40 41 42 43."
    assert text[second.start : second.end].startswith("40 41 42 43.\n\n0 1 2")


def test_the_repeated_part_begins_at_a_word_where_the_last_sentence_is_too_short(counter):
    text = numbers(13) + ". 50 51\n\n" + numbers(30)
    first, second, *_ = chunk_text(text, counter, 20, 0.4)
    # the paragraph ends after 16 tokens; its last sentence has 2, under half of 8; so 8 tokens: 8 9 10 11 12 . 50 51
    assert text[first.start : first.end] == numbers(13) + ". 50 51"
    assert text[second.start : second.end].startswith("8 9 10 11 12. 50 51")


def test_what_follows_is_kept_whole_rather_than_the_repeated_part(counter):
    address = "https://example.org/a/b/c/d/e/f"
    text = numbers(12) + " " + address
    # the address has 19 tokens: the 20 have no room for it beside the 12 numbers, nor beside the 5 that may be repeated
    assert [text[span.start : span.end] for span in chunk_text(text, counter, 20, 0.25)] == [numbers(12), address]


def test_a_section_follows_the_repeated_part_and_is_not_cut_off_by_its_own_heading(counter):
    text = numbers(15) + "\n\n# 77\n\n" + numbers(30)
    first, second, *_ = chunk_text(text, counter, 20, 0.5)
    assert text[first.start : first.end] == numbers(15)
    assert text[second.start : second.end] == "5 6 7 8 9 10 11 12 13 14\n\n# 77\n\n" + numbers(8)


def test_without_overlap_nothing_is_repeated(counter, corpus_texts):
    for text in list(corpus_texts.values())[::4]:
        spans = chunk_text(text, counter, 100, 0.0)
        assert all(right.start >= left.end for left, right in neighbours(spans))


@pytest.mark.parametrize("text", ["", " ", "\n\r\n\t", "\u3000\x85\x0c"])
def test_a_blank_text_has_no_chunk(counter, text):
    assert chunk_text(text, counter, 16, 0.1) == []


def test_a_text_that_fits_is_one_chunk_without_the_blanks_around_it(counter):
    text = "\r\n  # Title\r\n\r\nbody\t\r\n"
    (span,) = chunk_text(text, counter, 16, 0.5)
    assert text[span.start : span.end] == "# Title\r\n\r\nbody"
    assert span.tokens == 3  # "#", "title", "body"


# Where a chunk of at most 20 tokens ends. A heading, a paragraph, a list, an item or fenced code wins if the chunk before
# it has 20 * 0.2 = 4 tokens, a line or a sentence from 6 on, else the last word that fits. Each number, mark and full stop
# is one token.
@pytest.mark.parametrize(
    ("before", "gap", "tokens_of_first"),
    [
        (4, "\n\n# 77\n\n", 4),
        (3, "\n\n# 77\n\n", 20),
        (4, "\n\n", 4),
        (3, "\n\n", 20),
        (4, "\n```\n", 4),
        (3, "\n```\n", 6),  # after the line of the fence
        (4, "\n- ", 4),
        (3, "\n- ", 20),
        (6, "\n", 6),
        (5, "\n", 20),
        (5, ". ", 6),
        (4, ". ", 20),
        (5, " ", 20),
    ],
)
def test_a_chunk_ends_at_the_best_break_that_fills_it_far_enough(counter, before, gap, tokens_of_first):
    text = numbers(before) + gap + numbers(30)
    first, *_ = chunk_text(text, counter, 20, 0.0)
    assert first.tokens == tokens_of_first


# The break before a list, and that after fenced code (7 tokens), against the one of the paragraph "80".
@pytest.mark.parametrize(("block", "fills", "too_few"), [("- 77\n- 78", 10, 9), ("```\n77\n```", 3, 2)])
def test_a_list_and_fenced_code_beat_the_fuller_paragraph_from_half_a_chunk_on(counter, block, fills, too_few):
    for before, beaten in ((fills, False), (too_few, True)):
        text = numbers(before) + f"\n\n{block}\n\n80\n\n" + numbers(30)
        first, *_ = chunk_text(text, counter, 20, 0.0)
        assert text[first.start : first.end].endswith("80") == beaten


def test_fenced_code_that_fits_is_never_cut(counter):
    code = "```\n" + "\n".join(map(str, range(13))) + "\n```"  # 13 and two fences of three: 19 tokens
    for before in range(1, 20):
        text = numbers(before) + f"\n\n{code}\n\n" + numbers(30)
        for ratio in (0.0, 0.1, 0.5):
            assert any(code in text[span.start : span.end] for span in chunk_text(text, counter, 20, ratio))


def test_code_goes_with_the_heading_above_it(counter):
    code = "```\n" + "\n".join(map(str, range(10))) + "\n```"
    text = numbers(6) + f"\n\n# 77\n\n{code}\n\n" + numbers(30)
    first, second, *_ = chunk_text(text, counter, 20, 0.0)
    assert (text[first.start : first.end], text[second.start : second.end]) == (numbers(6), f"# 77\n\n{code}")


def test_the_rest_of_a_line_that_was_cut_is_not_mixed_with_what_follows(counter):
    text = numbers(24) + "\n\n" + numbers(5) + "\n\n" + numbers(30)
    spans = chunk_text(text, counter, 20, 0.0)
    assert [text[span.start : span.end] for span in spans[:3]] == [numbers(20), "20 21 22 23", numbers(5)]


def test_a_heading_too_long_for_a_chunk_is_cut_before_a_word(counter):
    text = "5\n\n# " + "embeddings " * 9 + "\n\nbody"  # 4 tokens a word
    spans = chunk_text(text, counter, 16, 0.0)
    assert [text[span.start : span.end] for span in spans] == [
        "5",
        "# embeddings embeddings embeddings",
        "embeddings embeddings embeddings embeddings",
        "embeddings embeddings \n\nbody",
    ]


def test_a_text_without_blanks_is_cut_between_characters_and_repeats_the_locked_share(counter):
    text = "検索漢字日本" * 20  # each a token
    spans = chunk_text(text, counter, 20, 0.25)
    assert [(span.start, span.end) for span in spans[:3]] == [(0, 20), (15, 35), (30, 50)]
    assert spans[-1].end == 120


def test_a_heading_beats_the_fuller_paragraph(counter):
    text = numbers(11) + "\n\n## 77\n\n" + numbers(5) + "\n\n" + numbers(30)
    first, second, *_ = chunk_text(text, counter, 20, 0.0)
    assert text[first.start : first.end] == numbers(11)
    assert text[second.start : second.end].startswith("## 77")


bodies = st.lists(runs("etaoinshrdlu", 9), min_size=1, max_size=40).map(" ".join)
sections = st.builds(lambda level, body: f"{'#' * level} Part\n\n{body}\n\n", st.integers(1, 6), bodies)


@steady
@given(text=st.lists(sections, min_size=2, max_size=8).map("".join), size=sizes, ratio=ratios)
def test_no_chunk_ends_with_a_heading_whose_body_follows(counter, text, size, ratio):
    assert not headings_at_ends(text, chunk_text(text, counter, size, ratio))


def test_no_chunk_of_the_bundled_corpus_ends_with_a_heading(counter, corpus_texts):
    found = [headings_at_ends(text, chunk_text(text, counter, 450, 0.1)) for text in corpus_texts.values()]
    assert not any(found)


@pytest.mark.parametrize(
    ("text", "size", "ratio"),
    [
        ("word " * 420 + "，".join(["検索"] * 150), 450, 0.1),  # 46 chunks, 44 of them a tail of the first
        ("word " * 12 + "https://example.org/a/b/c/d/e/f", 20, 0.25),
        (" ".join(["1"] * 15) + "\n\n# 2\n\n" + " ".join(["3"] * 30), 20, 0.5),
    ],
)
def test_every_chunk_brings_text_that_the_one_before_did_not_have(counter, text, size, ratio):
    assert all(right.end > left.end for left, right in neighbours(chunk_text(text, counter, size, ratio)))


def test_every_chunk_of_the_bundled_corpus_brings_new_text(counter, corpus_texts):
    for text in corpus_texts.values():
        assert all(right.end > left.end for left, right in neighbours(chunk_text(text, counter, 450, 0.5)))


def test_a_chunk_knows_the_sections_that_it_begins_in(counter):
    text = f"{numbers(12)}\n\n# A\n\n{numbers(12)}\n\n## B\n\n{numbers(40)}"
    spans = chunk_text(text, counter, 20, 0.0)
    # 12 | # A + 12 = 14 | ## B + 17 | 20 | 3, for "#" is a token each
    assert [(span.tokens, span.sections) for span in spans] == [
        (12, ()),
        (14, ("A",)),
        (20, ("A", "B")),
        (20, ("A", "B")),
        (3, ("A", "B")),
    ]


def test_a_comment_in_code_is_no_section_of_a_chunk(counter):
    text = f"# Real\n\n```sh\n# install\n{numbers(40)}\n```\n"
    assert {span.sections for span in chunk_text(text, counter, 20, 0.0)} == {("Real",)}


def test_a_chunk_is_named_after_the_section_that_it_brings_not_after_the_words_it_repeats(counter):
    text = f"# A\n\n{numbers(15)}\n\n# B\n\n{numbers(15)}"
    first, second = chunk_text(text, counter, 20, 0.1)
    assert text[first.end :].lstrip().startswith("# B")
    assert (first.sections, second.sections) == (("A",), ("B",))


LENGTH = 10_000_000
HUGE = {
    "one token repeated": "word " * (LENGTH // 5),
    "one word": "x" * LENGTH,
    "blanks between two words": "a" + " " * LENGTH + "b",
    "characters that the tokenizer drops": "\u200b" * LENGTH,
    "NUL": "\0" * LENGTH,
    "a heading of many words": "# " + "word " * (LENGTH // 5) + "\n\nbody",
    "dropped characters between words": "100\x0b" * (LENGTH // 40),
    "no blanks, each character a token": "検索漢字日本" * (LENGTH // 60),
    "no blanks, punctuation": "https://a.b/c?d=e&" * (LENGTH // 180),
    "headings": "# a\n" * (LENGTH // 40),
    "list items": "- a\n" * (LENGTH // 40),
    "fences": "```\nx\n```\n" * (LENGTH // 100),
    "quotes": ".'\"'" * (LENGTH // 40),
    "combining marks": "e" + "\u0301" * (LENGTH // 10),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_text_of_any_kind_is_chunked_in_time_in_proportion_to_it(counter, name):
    text = HUGE[name]  # hours, were anything quadratic
    spans = chunk_text(text, counter, 450, 0.1)
    assert all(span.tokens <= 450 for span in spans)
    assert spans[0].start == 0
    assert spans[-1].end == len(text.rstrip())
    assert all(not text[left.end : right.start].strip() for left, right in neighbours(spans))
    assert all(left.start < right.start and left.end < right.end for left, right in neighbours(spans))
    assert max(span.end - span.start for span in spans) <= 100 * 450  # a chunk is bounded in characters as well


class CutsCost:
    """A tokenizer that is not additive: it sees few tokens in a whole text and more in a piece of it."""

    def __init__(self, characters_per_token: int) -> None:
        self.characters_per_token = characters_per_token

    def starts(self, text: str) -> list[int]:
        return list(range(0, len(text), self.characters_per_token))

    def places(self, text: str) -> TokenPlaces:
        return TokenPlaces.of_tokens(self.starts(text), WordTable().look_up(text.split())[1])

    def count(self, text: str) -> int:
        return len(text)


@steady
@given(text=documents, size=sizes, ratio=ratios, characters=st.sampled_from([1, 7, 1000]))
def test_chunks_fit_even_where_a_tokenizer_finds_more_in_a_piece_than_in_the_whole(text, size, ratio, characters):
    tokenizer = CutsCost(characters)
    assert_sound(tokenizer, text, chunk_text(text, tokenizer, size, ratio), size)


def assert_sound(counter, text, spans, size):
    covered = bytearray(len(text))
    for span in spans:
        piece = text[span.start : span.end]
        assert 0 <= span.start < span.end <= len(text)
        assert piece == piece.strip()
        assert counter.count(piece) == span.tokens <= size
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    assert all(done or character.isspace() for done, character in zip(covered, text, strict=True))
    assert all(left.start < right.start and left.end < right.end for left, right in neighbours(spans))


def neighbours(spans):
    return list(pairwise(spans))


def repeated(counter, text, left, right):
    """The tokens of what the right chunk repeats of the left one."""
    return counter.count(text[right.start : left.end]) if right.start < left.end else 0


def headings_at_ends(text, spans):
    """The headings that are the last line of a chunk although text follows it."""
    ends = {span.end for span in spans[:-1]}
    last = [text.find("\n", section.start) for section in sections_of(text)]
    return [text[:end].rpartition("\n")[2] for end in last if end in ends]


def numbers(count: int) -> str:
    return " ".join(str(number) for number in range(count))
