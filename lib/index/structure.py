"""The structure of Markdown and plain text: headings, section paths, fenced code, sentences. Pure.

Offsets are in characters (Python's and PostgreSQL's), from 0, the end exclusive.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t](.*))?$")
_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)$")
# begins with a literal, which the engine finds fast
_MARKED_LINE = re.compile(r"\n {0,3}(?=#|`{3}|~{3})")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s)|[。！？]")


@dataclass(frozen=True)
class Section:
    """A heading: its level (1 to 6), its text, and the offset at which its line starts."""

    level: int
    title: str
    start: int


@dataclass(frozen=True)
class Markup:
    """The headings of a text, where the line of each ends, and the spans of its fenced code, whole lines."""

    headings: list[Section]
    heading_ends: list[int]
    fences: list[tuple[int, int]]


def sections_of(text: str) -> list[Section]:
    """The ATX headings of a Markdown text, outside of fenced code."""
    return markup_of(text).headings


def section_path(sections: list[Section], offset: int) -> list[str]:
    """The titles of the sections around ``offset``, outermost first."""
    path: list[Section] = []
    for section in sections[: bisect_right(sections, offset, key=lambda item: item.start)]:
        enter(path, section)
    return [section.title for section in path]


def enter(path: list[Section], section: Section) -> None:
    """Turns a path of open sections, outermost first, into the one that stands from this heading on."""
    while path and path[-1].level >= section.level:
        path.pop()
    path.append(section)


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of prose: split at sentence ends and at line ends; blank spans left out."""
    spans = []
    offset = 0
    for line in text.split("\n"):
        start = offset
        for match in _SENTENCE_END.finditer(line):
            spans.append((start, offset + match.end()))
            start = offset + match.end()
        spans.append((start, offset + len(line)))
        offset += len(line) + 1
    return [trimmed for span in spans if (trimmed := trim(text, *span))[0] < trimmed[1]]


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    return (start + left, start + len(piece.rstrip())) if piece.strip() else (start, start)


def markup_of(text: str) -> Markup:
    r"""The headings and the fenced code of a text; its lines end at ``\n`` alone (a ``\r`` before it is no text)."""
    headings, ends, fences = [], [], []
    fence, fence_start = "", 0
    for found in _MARKED_LINE.finditer("\n" + text):
        start = found.start()  # in the text: the line end before it is one more than the text has
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end].rstrip("\r")
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not mark[2].strip():
                fences.append((fence_start, end))
                fence = ""
        elif mark:
            fence, fence_start = mark[1], start
        elif heading := _heading_of(line, start):
            headings.append(heading)
            ends.append(end)
    if fence:
        fences.append((fence_start, len(text)))
    return Markup(headings, ends, fences)


def _heading_of(line: str, start: int) -> Section | None:
    match = _HEADING.match(line)
    if match is None:
        return None
    title = (match[2] or "").strip(" \t")
    without = title.rstrip("#")
    # a run of # closes the heading only after a blank: the one of "C#" belongs to the word
    closed = not without or without[-1] in " \t"
    return Section(len(match[1]), without.rstrip(" \t") if closed else title, start)
