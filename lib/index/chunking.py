"""Chunking: a document into exact spans of at most so many tokens, broken where its structure breaks. Pure.

A chunk's text is ``content[start:end]``, no byte changed. Together the spans cover every non-blank character. A chunk is
broken at the best place that fills it far enough: before a heading, else a paragraph, a line, a sentence, a word.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Protocol

from lib.index.structure import Break, breaks_of, section_path, sections_of, trim

_LEAST_FILL = {Break.HEADING: 0.5, Break.PARAGRAPH: 0.7, Break.LINE: 0.8, Break.SENTENCE: 0.8, Break.WORD: 0.0}


class Counter(Protocol):
    """What chunking needs of a tokenizer."""

    def count(self, text: str) -> int: ...
    def starts(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Span:
    """Where a chunk lies in its document (characters, end exclusive), its sections and its size in tokens.

    The sections are those in which its new text begins, after what it repeats of the chunk before it.
    """

    start: int
    end: int
    sections: tuple[str, ...]
    tokens: int


def chunk_text(text: str, counter: Counter, chunk_size: int, overlap_ratio: float) -> list[Span]:
    """The spans of ``text``, in order; none for a blank text.

    Args:
        chunk_size: tokens at most, counted on the chunk's own text.
        overlap_ratio: share of ``chunk_size`` that the next chunk repeats at most, in whole words; nothing where no word
            more would fit beside it.
    """
    layout = _Layout(text, counter)
    overlap = int(chunk_size * overlap_ratio)
    spans: list[Span] = []
    start, end_of_text = trim(text, 0, len(text))
    fresh = start  # where the text begins that no chunk has yet
    while fresh < end_of_text:
        span = layout.span_from(start, fresh, chunk_size, end_of_text)
        if span.end <= fresh:
            span = layout.span_from(fresh, fresh, chunk_size, end_of_text)
        spans.append(span)
        fresh = trim(text, span.end, end_of_text)[0]
        start = layout.overlap_start(span.start, fresh, overlap)
    return spans


class _Layout:
    """A text's tokens and breaks, sorted for bisection."""

    def __init__(self, text: str, counter: Counter) -> None:
        self.text = text
        self.counter = counter
        self.token_starts = counter.starts(text)
        self.sections = sections_of(text)
        kinds = breaks_of(text)
        self.offsets = {kind: sorted(o for o, k in kinds.items() if k >= kind) for kind in Break}

    def tokens(self, start: int, end: int) -> int:
        return bisect_left(self.token_starts, end) - bisect_left(self.token_starts, start)

    def span_from(self, start: int, fresh: int, size: int, end_of_text: int) -> Span:
        """The chunk that begins at ``start``; it ends at ``fresh`` or before where no word from there fits."""
        end = self.end_at(start, fresh, size, end_of_text)
        left, right, tokens = self.fitting(start, end, size)
        return Span(left, right, tuple(section_path(self.sections, fresh)), tokens)

    def end_at(self, start: int, fresh: int, size: int, end_of_text: int) -> int:
        """The best end after ``fresh`` of a chunk that begins at ``start`` and has at most ``size`` tokens."""
        first = bisect_left(self.token_starts, start)
        if first + size >= len(self.token_starts):
            return end_of_text
        limit = self.token_starts[first + size]
        for kind in sorted(Break, reverse=True):
            offsets = self.offsets[kind]
            place = bisect_right(offsets, limit) - 1
            if place >= 0 and offsets[place] > fresh and self.tokens(start, offsets[place]) >= size * _LEAST_FILL[kind]:
                return offsets[place]
        return max(limit, start + 1) if start == fresh else fresh

    def fitting(self, start: int, end: int, size: int) -> tuple[int, int, int]:
        """``(start, end, tokens)``, shortened where the tokenizer finds more tokens in the piece than in the whole."""
        while True:
            left, right = trim(self.text, start, end)
            tokens = self.counter.count(self.text[left:right])
            if tokens <= size or right - left <= 1:
                return left, right, tokens
            words = self.offsets[Break.WORD]
            place = bisect_left(words, right) - 1
            shorter = words[place] if place >= 0 and words[place] > left else left + (right - left) * size // tokens
            end = min(max(shorter, left + 1), right - 1)

    def overlap_start(self, start: int, fresh: int, overlap: int) -> int:
        """Where the next chunk begins: up to ``overlap`` tokens before ``fresh``, at a sentence if one is near enough."""
        for kind, least in ((Break.SENTENCE, overlap // 2), (Break.WORD, 1)):
            offsets = self.offsets[kind]
            for offset in offsets[bisect_right(offsets, start) : bisect_left(offsets, fresh)]:
                if self.tokens(offset, fresh) > overlap:
                    continue
                tokens = self.counter.count(self.text[offset:fresh])  # more than in the whole, where a break parts a token
                if tokens <= overlap:
                    if tokens >= max(least, 1):
                        return offset
                    break
        return fresh
