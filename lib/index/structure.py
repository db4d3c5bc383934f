"""The structure of Markdown and plain text: headings, section paths, and where a text may be broken. Pure.

Offsets are in characters (Python's and PostgreSQL's), from 0, the end exclusive.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t](.*))?$")
_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)$")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s)|[。！？]")
_WORD = re.compile(r"\S+")


class Break(IntEnum):
    """How good a place is to break a text at; higher is better."""

    WORD = 1
    SENTENCE = 2
    LINE = 3
    PARAGRAPH = 4
    HEADING = 5


@dataclass(frozen=True)
class Section:
    """A heading: its level (1 to 6), its text, and the offset at which its line starts."""

    level: int
    title: str
    start: int


@dataclass(frozen=True)
class _Line:
    start: int
    text: str
    in_fence: bool
    heading: Section | None


def sections_of(text: str) -> list[Section]:
    """The ATX headings of a Markdown text, outside of fenced code."""
    return [line.heading for line in _lines(text) if line.heading]


def section_path(sections: list[Section], offset: int) -> list[str]:
    """The titles of the sections around ``offset``, outermost first."""
    path: list[Section] = []
    for section in sections[: bisect_right(sections, offset, key=lambda item: item.start)]:
        while path and path[-1].level >= section.level:
            path.pop()
        path.append(section)
    return [section.title for section in path]


def breaks_of(text: str) -> dict[int, Break]:
    """Every offset at which a chunk may begin, with how good a break it is.

    None is offered between a heading and what stands under it, text or a deeper heading, so that no heading stands alone
    at a chunk's end.
    """
    found: dict[int, Break] = {}

    def offer(offset: int, kind: Break) -> None:
        found[offset] = max(kind, found.get(offset, kind))

    above: Section | None = None
    blank_before = True
    previous_fenced = False
    for line in _lines(text):
        if not line.text.strip():
            blank_before = True
            continue
        first = line.start + len(line.text) - len(line.text.lstrip())
        if line.heading:
            if above is None or line.heading.level <= above.level:
                offer(first, Break.HEADING)
        elif above is None:
            fence_edge = line.in_fence != previous_fenced
            if fence_edge or (blank_before and not line.in_fence):
                offer(first, Break.PARAGRAPH)
            else:
                offer(first, Break.LINE)
        if not line.heading:
            for offset, kind in _inside(line):
                if offset > first:
                    offer(offset, kind)
        above, blank_before, previous_fenced = line.heading, False, line.in_fence
    return found


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of prose: split at sentence ends and at line ends; blank spans left out."""
    spans = []
    for line in _lines(text):
        start = line.start
        for match in _SENTENCE_END.finditer(line.text):
            spans.append((start, line.start + match.end()))
            start = line.start + match.end()
        spans.append((start, line.start + len(line.text)))
    return [trimmed for span in spans if (trimmed := trim(text, *span))[0] < trimmed[1]]


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    return (start + left, start + len(piece.rstrip())) if piece.strip() else (start, start)


def _inside(line: _Line) -> Iterator[tuple[int, Break]]:
    """Breaks within a line: before words and, outside of code, before sentences."""
    for word in _WORD.finditer(line.text):
        yield line.start + word.start(), Break.WORD
    if not line.in_fence:
        for end in _SENTENCE_END.finditer(line.text):
            following = _WORD.search(line.text, end.end())
            if following:
                yield line.start + following.start(), Break.SENTENCE


def _lines(text: str) -> list[_Line]:
    r"""Lines split at ``\n`` alone (a ``\r`` before it stays in the line), with what fenced code makes of them."""
    lines = []
    offset = 0
    fence = ""
    for raw in text.split("\n"):
        bare = raw.rstrip("\r")
        match = _FENCE.match(bare)
        inside = bool(fence)
        if match and not fence:
            fence, inside = match[1], True
        elif match and fence and match[1][0] == fence[0] and len(match[1]) >= len(fence) and not match[2].strip():
            fence = ""
        lines.append(_Line(offset, raw, inside, None if inside else _heading_of(bare, offset)))
        offset += len(raw) + 1
    return lines


def _heading_of(line: str, start: int) -> Section | None:
    match = _HEADING.match(line)
    if match is None:
        return None
    title = (match[2] or "").strip(" \t")
    without = title.rstrip("#")
    # a run of # closes the heading only after a blank: the one of "C#" belongs to the word
    closed = not without or without[-1] in " \t"
    return Section(len(match[1]), without.rstrip(" \t") if closed else title, start)
