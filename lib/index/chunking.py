"""Chunking: a document into exact spans of at most so many tokens, broken where its structure breaks. Pure.

A chunk's text is ``content[start:end]``, no byte changed. Together the spans cover every non-blank character. A chunk is
broken at the best kind of place that fills it far enough: before a heading, else fenced code, a list, a paragraph, an item
of a list, a line, a sentence, a word; of several such places, where what stands before has least to do with what follows.
The time taken is in proportion to the text, whatever it holds.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Protocol

from lib.index.chunking_breaks import Break, Breaks, breaks_of
from lib.index.chunking_cohesion import ties_over
from lib.index.structure import Section, enter, sections_of, trim
from lib.index.token_places import TokenPlaces

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Chosen on chroma_chunking (tests/benchmarks/bench_chunk_quality.py): chunks that follow the text's own units are found
# better than fuller ones that hold parts of several.
_LEAST_FILL = {
    Break.HEADING: 0.2,
    Break.CODE: 0.5,
    Break.LIST: 0.5,
    Break.PARAGRAPH: 0.2,
    Break.ITEM: 0.2,
    Break.LINE: 0.3,
    Break.SENTENCE: 0.3,
    Break.WORD: 0.0,
}
_CHOICE = 0.4  # from this fill on, the places of a kind are compared; before it, the last one is taken
_OWN_CHUNK = 0.2  # from this fill on, the rest of a line that was cut is not mixed with what follows
_TOKEN_CHARACTERS = 100  # a chunk has at most so many times its size: what a tokenizer drops or does not know is long too
_NONBLANK = re.compile(r"\S")


class Counter(Protocol):
    """What chunking needs of a tokenizer."""

    def count(self, text: str) -> int: ...
    def starts(self, text: str) -> list[int]: ...
    def places(self, text: str) -> TokenPlaces: ...


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
    start, end_of_text = trim(text, 0, len(text))
    if start == end_of_text:
        return []
    layout = _Layout(text, counter, chunk_size, end_of_text)
    path = _Path(sections_of(text))
    spans: list[Span] = []
    fresh = start  # where the text begins that no chunk has yet
    while fresh < end_of_text:
        left, right, tokens = layout.fitting(start, layout.end_at(start, fresh))
        if right <= fresh:
            left, right, tokens = layout.fitting(fresh, layout.end_at(fresh, fresh))
        spans.append(Span(left, right, path.at(fresh), tokens))
        following = _NONBLANK.search(text, right)
        fresh = following.start() if following else end_of_text
        start = layout.overlap_start(left, fresh, int(chunk_size * overlap_ratio))
    return spans


class _Layout:
    """A text's tokens and breaks, sorted for bisection, and the chunk size.

    One place at a time is looked for, which is twice as fast in a view as in an array.
    """

    def __init__(self, text: str, counter: Counter, size: int, end_of_text: int) -> None:
        self.text = text
        self.counter = counter
        self.size = size
        self.end_of_text = end_of_text
        places = counter.places(text)
        self.places, self.before, self.exact = places.offsets.data, places.before.data, places.exact
        breaks = breaks_of(text)
        self.words, self.in_headings = breaks.words.data, breaks.in_headings.data
        self.breaks = {kind: breaks.offsets[breaks.kinds >= kind].data for kind in sorted(Break, reverse=True)}
        self.blocks = self.kept_whole(breaks.fences)
        ties = self.ties_at(breaks, places.stems)
        self.ties = {kind: ties[breaks.kinds >= kind] for kind in self.breaks if kind > Break.WORD}

    def kept_whole(self, fences: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The fenced code that fits into a chunk, each with the heading right above it."""
        offered = self.breaks[Break.WORD]
        blocks = []
        for start, end in fences:
            first = _last(offered, self.words[bisect_left(self.words, start)])
            if self.tokens(first, end) <= self.size:
                blocks.append((first, end))
        return blocks

    def ties_at(self, breaks: Breaks, stems: NDArray[np.int64]) -> NDArray[np.int64]:
        """``int64[n_offsets]``: the ties over each place; more than over any other within what is kept whole."""
        import numpy as np

        offsets = breaks.offsets
        ties = ties_over(stems)[breaks.words.searchsorted(offsets, "right") - 1]
        if self.blocks:
            starts, ends = zip(*self.blocks, strict=True)
            block = np.searchsorted(starts, offsets) - 1  # the last that starts before the place
            within = (block >= 0) & (offsets < np.array(ends)[block])
            ties[within] = ties.max() + 1
        return ties

    def tokens(self, start: int, end: int) -> int:
        """The tokens that begin in a piece of the text, as the whole text has them."""
        return self.before_place(end) - self.before_place(start)

    def before_place(self, offset: int) -> int:
        """The tokens before the first place from ``offset`` on."""
        return self.before[bisect_left(self.places, offset)]

    def measured(self, start: int, end: int) -> int:
        """The tokens of a piece of the text by itself, without the blanks at its end."""
        if self.exact and self.is_place(start) and self.is_place(end):
            return self.tokens(start, end)
        return self.counter.count(self.text[start:end].rstrip())

    def is_place(self, offset: int) -> bool:
        index = bisect_left(self.places, offset)
        return offset == self.end_of_text or (index < len(self.places) and self.places[index] == offset)

    def end_at(self, start: int, fresh: int) -> int:
        """The best end after ``fresh`` of a chunk that begins at ``start``; ``fresh`` where no word from there fits."""
        limit = self.limit(start)
        if limit >= self.end_of_text:
            return self.end_of_text
        block = bisect_left(self.blocks, limit, key=lambda item: item[0]) - 1
        if block >= 0 and limit < self.blocks[block][1] and self.blocks[block][0] >= fresh:
            limit = self.blocks[block][0]
        room = self.size - self.tokens(start, fresh)
        line_end = self.end_of_line(fresh)
        if fresh < line_end <= limit and self.tokens(fresh, line_end) >= room * _OWN_CHUNK:
            return line_end
        for kind, offsets in self.breaks.items():
            place = _last(offsets, limit)
            if place > fresh and self.tokens(fresh, place) >= room * _LEAST_FILL[kind]:
                return self.loosest(kind, fresh, place, room) if kind in self.ties else place
        if start == fresh or self.is_oversized(fresh):
            within = _last(self.in_headings, limit)
            if within > fresh:
                return within
            if limit > fresh:
                return limit
        return self.cut(start) if start == fresh else fresh

    def loosest(self, kind: Break, fresh: int, last: int, room: int) -> int:
        """Of the places of a kind up to ``last``, the one with the fewest ties over it, if it fills ``room`` far enough."""
        offsets, ties = self.breaks[kind], self.ties[kind]
        first = bisect_left(self.before, self.before_place(fresh) + ceil(room * _CHOICE))
        if first >= len(self.places) or self.places[first] >= last:
            return last
        begin, end = bisect_left(offsets, self.places[first]), bisect_right(offsets, last)
        return offsets[end - 1 - int(ties[begin:end][::-1].argmin())]

    def end_of_line(self, offset: int) -> int:
        """Where the line ends in which ``offset`` stands after its start; ``offset`` where it stands at one's start."""
        lines = self.breaks[Break.LINE]
        index = bisect_left(lines, offset)
        return lines[index] if index < len(lines) else self.end_of_text

    def limit(self, start: int) -> int:
        """The last place up to which a chunk from ``start`` has at most its size in tokens and in characters."""
        last = bisect_right(self.before, self.before_place(start) + self.size) - 1
        limit = self.places[last] if last < len(self.places) else self.end_of_text
        longest = start + self.size * _TOKEN_CHARACTERS
        if limit <= longest:
            return limit
        place = _last(self.places, longest)
        return place if place > start else longest

    def is_oversized(self, offset: int) -> bool:
        """Whether the word at ``offset`` does not fit into a chunk, as a text without blanks."""
        index = bisect_right(self.words, offset)
        end = self.words[index] if index < len(self.words) else self.end_of_text
        return self.tokens(self.words[index - 1], end) > self.size

    def cut(self, start: int) -> int:
        """Where to end a chunk within what the tokenizer takes as one, and which is larger than a chunk."""
        index = bisect_right(self.places, start)
        stop = self.places[index] if index < len(self.places) else self.end_of_text
        stop = min(stop, start + self.size * _TOKEN_CHARACTERS)
        end = start + 4 * self.size
        while True:
            starts = self.counter.starts(self.text[start : min(end, stop)])
            if len(starts) > self.size:
                return start + max(starts[self.size], 1)
            if end >= stop:
                return stop
            end = start + 2 * (end - start)

    def fitting(self, start: int, end: int) -> tuple[int, int, int]:
        """``(start, end, tokens)``, shortened where the tokenizer finds more tokens in the piece than in the whole."""
        while True:
            right = start + len(self.text[start:end].rstrip())
            tokens = self.measured(start, end)
            if tokens <= self.size or right - start <= 1:
                return start, right, tokens
            goal = start + (right - start) * self.size // tokens
            place = _last(self.breaks[Break.WORD], goal)
            end = min(max(place if place > start else goal, start + 1), right - 1)

    def overlap_start(self, start: int, fresh: int, overlap: int) -> int:
        """Where the next chunk begins: up to ``overlap`` tokens before ``fresh``, at a sentence if one is near enough."""
        if overlap < 1 or fresh >= self.end_of_text:
            return fresh
        choices = [(self.breaks[Break.SENTENCE], max(overlap // 2, 1)), (self.breaks[Break.WORD], 1)]
        if self.exact and self.is_oversized(fresh - 1):
            choices.append((self.places, 1))
        first = bisect_left(self.before, self.before_place(fresh) - overlap)
        after = self.places[first - 1] if first else -1  # from there on it would be too much
        after = max(after, start, fresh - overlap * _TOKEN_CHARACTERS)
        for offsets, fewest in choices:
            index, stop = bisect_right(offsets, after), bisect_left(offsets, fresh)
            while index < stop:
                offset = offsets[index]
                tokens = self.measured(offset, fresh)  # more than in the whole, where a break parts a token
                if tokens <= overlap:
                    if tokens >= fewest:
                        return offset
                    break
                index = max(index + 1, bisect_left(offsets, fresh - (fresh - offset) * overlap // tokens))
        return fresh


class _Path:
    """The sections that are open, for offsets that come in order."""

    def __init__(self, sections: list[Section]) -> None:
        self.sections = sections
        self.next = 0
        self.open: list[Section] = []

    def at(self, offset: int) -> tuple[str, ...]:
        while self.next < len(self.sections) and self.sections[self.next].start <= offset:
            enter(self.open, self.sections[self.next])
            self.next += 1
        return tuple(section.title for section in self.open)


def _last(offsets: memoryview[int], limit: int) -> int:
    """The last of ``offsets`` up to ``limit``; -1 where there is none."""
    index = bisect_right(offsets, limit) - 1
    return offsets[index] if index >= 0 else -1
