"""Where a text may be broken, and how good each place is. Pure.

Offsets are in characters, from 0, the end exclusive. The time taken is in proportion to the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING

from lib.index.structure import Markup, markup_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ITEM = re.compile(r"\n[ \t]*([-*+•]|\d{1,9}[.)])[ \t]+(?=[^ \t\r\n])")
# By its length, as what stands behind a place is looked for. The first of a pattern is one set of characters, which the
# engine finds fast.
_ABBREVIATED = r"(?i:(?<!\b[a-z][.])(?<!\b(?:al|cf|dr|eq|mr|ms|no|st|vs)[.])(?<!\b(?:fig|mrs)[.])(?<!\b(?:figs|prof)[.]))"
_SENTENCE = re.compile(rf"[.!?…。！？]{_ABBREVIATED}(?:[\"'”’)\]]*\s+|(?<=[。！？])[\"'”’」』）)\]]*)")
_LAST_BLANK = 0x3000  # the highest code point that is white space
BLANKS = frozenset(character for character in map(chr, range(_LAST_BLANK + 1)) if character.isspace())


class Break(IntEnum):
    """How good a place is to break a text at; higher is better."""

    WORD = 1
    SENTENCE = 2
    LINE = 3
    ITEM = 4  # before an item of a list
    PARAGRAPH = 5
    LIST = 6  # before a list
    CODE = 7  # before and after fenced code
    HEADING = 8


@dataclass(frozen=True)
class Breaks:
    """All places at which a chunk may begin, and what helps to choose among them.

    ``offsets`` (``int64[n]``, ascending) and ``kinds`` (``uint8[n]``) are the places and how good each is. ``words``
    (``int64``) are the starts of all words; ``in_headings`` (``int64``) those at which a heading is cut that is too long
    for a chunk; ``fences`` the spans of fenced code, whole lines.
    """

    offsets: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    words: NDArray[np.int64]
    in_headings: NDArray[np.int64]
    fences: list[tuple[int, int]]


def breaks_of(text: str) -> Breaks:
    """Every offset at which a chunk may begin, with how good a break it is.

    None is offered between a heading and what stands under it, text or a deeper heading, so that no heading stands alone
    at a chunk's end.
    """
    import numpy as np

    codes = code_points(text)
    words = word_starts(codes, BLANKS)
    if not words.size:
        return Breaks(words, np.zeros(0, np.uint8), words, words, [])
    markup = markup_of(text)
    heads, unders = _headings(markup, words)
    fenced = np.zeros(len(words), bool)
    edges = [words.searchsorted(fence).tolist() for fence in markup.fences]
    for first, after in edges:
        fenced[first:after] = True
    items = list(_ITEM.finditer("\n" + text))  # in the text, each is one character before
    marks = words.searchsorted(np.array([item.start(1) - 1 for item in items], np.int64))
    kinds = _line_kinds(codes, words, marks[~fenced[marks]], heads)
    kinds[fenced] = np.minimum(kinds[fenced], Break.LINE)
    for place in (place for edge in edges for place in edge if place < len(words)):
        kinds[place] = Break.CODE
    sentences = _sentences(text, {item.end() - 1 for item in items})
    places = words.searchsorted(sentences, "right") - 1  # the word that each is in
    in_prose = ~fenced[places]
    starts = in_prose & (words[places] == sentences)
    kinds[places[starts]] = np.maximum(kinds[places[starts]], Break.SENTENCE)
    in_heading = _close_headings(kinds, markup, heads, unders)
    within = sentences[in_prose & ~in_heading[places] & ~starts]  # where no blank parts sentences
    offered = kinds > 0
    offsets = words[offered]
    into = offsets.searchsorted(within)
    return Breaks(
        np.insert(offsets, into, within),
        np.insert(kinds[offered], into, Break.SENTENCE),
        words,
        words[in_heading & ~_mask(heads, len(words)) & ~_mask(unders, len(words))],
        markup.fences,
    )


def code_points(text: str) -> NDArray[np.uint32]:
    """``uint32[n_characters]``."""
    import numpy as np

    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def word_starts(codes: NDArray[np.uint32], blanks: Collection[str]) -> NDArray[np.int64]:
    """Where a run of characters other than ``blanks`` starts, ascending."""
    import numpy as np

    full = np.empty(len(codes) + 1, bool)
    full[0] = False
    full[1:] = _full(frozenset(blanks))[np.minimum(codes, _LAST_BLANK + 1)]
    return np.flatnonzero(full[1:] & ~full[:-1])


@cache
def _full(blanks: frozenset[str]) -> NDArray[np.bool_]:
    """For each code point up to the last blank, and one that stands for all after it, whether it is none of ``blanks``."""
    import numpy as np

    return np.array([chr(code) not in blanks for code in range(_LAST_BLANK + 2)])


def _mask(places: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    import numpy as np

    mask = np.zeros(size, bool)
    mask[places[places < size]] = True
    return mask


def _headings(markup: Markup, words: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each heading, which word it begins with, and which is the first after it."""
    import numpy as np

    heads = words.searchsorted(np.array([heading.start for heading in markup.headings], np.int64))
    return heads, words.searchsorted(np.array(markup.heading_ends, np.int64))


def _line_kinds(
    codes: NDArray[np.uint32], words: NDArray[np.int64], items: NDArray[np.int64], heads: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """How good a break each word is by where it stands in its line, paragraph and list.

    A list goes on until a line that begins neither with an item nor with blanks and has a blank line before it, or a
    heading. ``items`` and ``heads`` are the words that items and headings begin with.
    """
    import numpy as np

    line_ends = codes == ord("\n")
    line = np.cumsum(line_ends, dtype=np.int64)[words]
    down = np.diff(line, prepend=line[0] - 2)  # the text's start counts as after a blank line
    kinds = np.full(len(words), Break.WORD, np.uint8)
    kinds[down == 1] = Break.LINE
    kinds[down >= 2] = Break.PARAGRAPH
    if not items.size:
        return kinds
    paragraphs = np.setdiff1d(np.flatnonzero(down >= 2), items, assume_unique=True)
    line_starts = np.concatenate([[0], np.flatnonzero(line_ends) + 1])[line[paragraphs]]
    indented = (words[paragraphs] - line_starts >= 2) | (codes[line_starts] == ord("\t"))
    ends = np.union1d(paragraphs[~indented], heads)
    within = paragraphs[indented]
    kinds[within[_last(items, within) > _last(ends, within)]] = Break.LINE
    opens = _last(ends, items) >= np.concatenate([[-1], items[:-1]])
    kinds[items] = np.where(opens, Break.LIST, Break.ITEM)
    return kinds


def _last(places: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last of ``places`` before each of ``before``; -1 where there is none."""
    import numpy as np

    return np.concatenate([[-1], places])[places.searchsorted(before)]


def _sentences(text: str, not_at: set[int]) -> NDArray[np.int64]:
    """Where a sentence starts after another; not after an abbreviation, nor between the mark of an item and its text."""
    import numpy as np

    ends = [end for match in _SENTENCE.finditer(text) if (end := match.end()) not in not_at]
    return np.array([end for end in ends if end < len(text)], np.int64)


def _close_headings(
    kinds: NDArray[np.uint8], markup: Markup, heads: NDArray[np.int64], unders: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Takes the breaks from the headings' lines and from what stands under them; which words are of headings."""
    import numpy as np

    in_heading = np.zeros(len(kinds), bool)
    above, level = -1, 0
    for heading, first, under in zip(markup.headings, heads.tolist(), unders.tolist(), strict=True):
        in_heading[first:under] = True
        kinds[first : under + 1] = 0
        if first != above or heading.level <= level:
            kinds[first] = Break.HEADING
        above, level = under, heading.level
    return in_heading
