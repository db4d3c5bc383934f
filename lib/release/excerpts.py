"""Excerpts of long texts: gold marked, what is far from it left out and counted. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

ROOM = 160  # characters kept on each side of marked gold; of answers and of gold itself, eight times as many
_WORD = re.compile(r"\S+")
_LEAST_PART = 16  # characters of a quote that a passage must begin or end with to count as holding a part of it


@dataclass(frozen=True)
class Piece:
    """A part of a passage. ``kind``: ``text``, ``gold`` (to be marked), or ``gap`` (says how much was left out)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Cut:
    """How texts are cut for showing. ``clean`` is done first: a secret that was cut in two would not be known again."""

    room: int = ROOM
    clean: Callable[[str], str] = str

    @property
    def listed(self) -> int:
        """How many claims or quotes of one case are listed."""
        return max(8, self.room // 4)

    def line(self, text: str) -> str:
        """The beginning of a question, a claim or a reason, on one line."""
        said = " ".join(self.clean(text).split())
        return said if len(said) <= 4 * self.room else f"{said[: 4 * self.room]} […]"

    def text(self, text: str) -> tuple[Piece, ...]:
        """The beginning of an answer or a quote."""
        return _cut(self.clean(text), 8 * self.room)

    def passage(self, text: str, quotes: Sequence[str]) -> tuple[Piece, ...]:
        return pieces_of(self.clean(text), [self.clean(quote) for quote in quotes], self.room)


def pieces_of(text: str, quotes: Sequence[str], room: int = ROOM) -> tuple[Piece, ...]:
    """A passage with every quote, or the part of it that the passage holds, marked; what is far from it left out."""
    spans = _merged([span for quote in quotes for span in spans_of(text, quote)])
    if not spans:
        return _cut(text, 2 * room)
    pieces: list[Piece] = []
    reached = 0
    for place, (start, end) in enumerate(spans):
        pieces += _between(text[reached:start], keep_head=room if place else 0, keep_tail=room)
        pieces += [
            Piece("gold", piece.text) if piece.kind == "text" else piece for piece in _cut(text[start:end], 8 * room)
        ]
        reached = end
    pieces += _between(text[reached:], keep_head=room, keep_tail=0)
    return tuple(pieces)


def _between(text: str, *, keep_head: int, keep_tail: int) -> list[Piece]:
    """A text with its middle left out, where that spares something."""
    left_out = len(text) - keep_head - keep_tail
    if left_out < 40:
        return [Piece("text", text)] if text else []
    head, tail = text[:keep_head], text[len(text) - keep_tail :]
    pieces = [Piece("text", head), Piece("gap", f"{left_out} characters"), Piece("text", tail)]
    return [piece for piece in pieces if piece.text]


def _cut(text: str, room: int) -> tuple[Piece, ...]:
    """The first ``room`` characters, and how many were left out."""
    return tuple(_between(text, keep_head=room, keep_tail=0))


def spans_of(text: str, quote: str) -> list[tuple[int, int]]:
    """Where a quote stands in a text, blanks counting as equal; else the end or beginning of it that the text holds."""
    wanted = " ".join(quote.split())
    if not wanted:
        return []
    if whole := _spans_of_whole(text, wanted):
        return whole
    body = text.strip()
    offset = len(text) - len(text.lstrip())
    if len(body) >= _LEAST_PART and body in quote:
        return [(offset, offset + len(body))]
    length = _overlap(quote, body)
    if length >= _LEAST_PART:
        return [(offset, offset + length)]
    length = _overlap(body, quote)
    return [(offset + len(body) - length, offset + len(body))] if length >= _LEAST_PART else []


def _spans_of_whole(text: str, wanted: str) -> list[tuple[int, int]]:
    """Where a text holds words joined by one blank each, whatever blanks it has between them."""
    joined = " ".join(text.split())
    place = joined.find(wanted)
    if place < 0:
        return []
    words = [match.span() for match in _WORD.finditer(text)]
    starts = [0, *accumulate(end - start + 1 for start, end in words)]

    def original(place: int) -> int:
        number = bisect_right(starts, place) - 1
        return words[number][0] + place - starts[number]

    found = []
    while place >= 0:
        end = place + len(wanted)
        found.append((original(place), original(end - 1) + 1))
        place = joined.find(wanted, end)
    return found


def _overlap(first: str, second: str) -> int:
    """The length of the longest end of ``first`` that ``second`` begins with; 0 where it is under ``_LEAST_PART``."""
    seed = second[:_LEAST_PART]
    # an end that is longer than ``second`` cannot be its beginning
    place = first.find(seed, max(0, len(first) - len(second))) if len(seed) == _LEAST_PART else -1
    while place >= 0:
        if second.startswith(first[place:]):
            return len(first) - place
        place = first.find(seed, place + 1)
    return 0


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
