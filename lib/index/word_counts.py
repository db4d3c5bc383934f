"""Token counts that add up over words: each word is counted once, a text is the sum of its words.

They add up for a tokenizer that looks at nothing outside of a word: one that parts words at white space before anything
else, and whose normalizer changes characters one by one. BERT's is such a one; byte-level BPE, where the blank before a
word is part of its token, is not. White space that the tokenizer drops (BERT drops ``\\x0b`` and ``\\x0c``) parts no words.
"""

from __future__ import annotations

import json
import random
import re
import string
from itertools import cycle
from typing import TYPE_CHECKING, Any

from lib.index.chunking_breaks import BLANKS, code_points, word_starts
from lib.index.token_places import TokenPlaces
from lib.index.word_table import WordTable

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_WORD_BY_WORD: dict[str, set[str | None]] = {
    "model": {"WordPiece", "WordLevel"},
    "pre_tokenizer": {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"},
    "normalizer": {None, "BertNormalizer", "Lowercase"},
}
_LONG_WORD = 100  # characters; longer ones are not remembered but counted in pieces
_WINDOW, _LARGEST_WINDOW = 4096, 1 << 20  # characters of a long word that the tokenizer sees at once
_MARGIN = 256  # characters at a window's end in which an added token may be cut
_SAMPLE = 600
_ODD_WORDS = (
    "é",
    "e\u0301",
    "ｆｕｌｌ",
    "検索",
    "שלום",
    "각",
    "\u200b",
    "a\x00b",
    "a\x0bb",
    "😀👍🏽",
    "ß",
    "İ",
    "x" * 99,
    "y" * 101,
    "a.b,c",
)


class WordCounts:
    """Counts texts by a tokenizer for which ``additive_separators`` found ``separators``; memory is bounded."""

    def __init__(self, tokenizer: Tokenizer, separators: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._separators = separators
        self._dropped = sorted(BLANKS - separators)
        self._word = re.compile(f"[^{re.escape(''.join(sorted(separators)))}]+")
        self._table = WordTable(self._counts_apart)
        words = _sample(tokenizer, random.Random(1))
        self._plain = _takes_plain(tokenizer, words)
        self._loose = _loose_marks(tokenizer, words)

    def count(self, text: str) -> int:
        """The tokens of a text."""
        words = self._words(text)
        if max(map(len, words), default=0) > _LONG_WORD:
            return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return int(self._table.look_up(words)[0].sum())

    def places(self, text: str) -> TokenPlaces:
        """The starts of a text's words; within long words, of what the tokenizer counts apart."""
        import numpy as np

        words = self._words(text)
        offsets = word_starts(code_points(text), self._separators)
        room = np.diff(offsets, append=len(text))
        long = [index for index in np.flatnonzero(room > _LONG_WORD).tolist() if len(words[index]) > _LONG_WORD]
        pieces = {index: self._pieces(words[index]) for index in long}
        for index in long:
            words[index] = words[index][:_LONG_WORD]
        counts, stems = self._table.look_up(words)
        if self._has_dropped(text):
            stems = self._table.look_up(text.split())[1]
        exact = all(piece[2] for piece in pieces.values())
        if pieces:
            lengths = np.ones(len(offsets), np.int64)
            lengths[long] = [len(piece[0]) for piece in pieces.values()]
            first = np.cumsum(lengths) - lengths
            offsets, counts = np.repeat(offsets, lengths), np.repeat(counts, lengths)
            for index, (starts, tokens, _) in pieces.items():
                at = slice(first[index], first[index] + len(starts))
                offsets[at] += starts
                counts[at] = tokens
        return TokenPlaces(offsets, np.concatenate([[0], np.cumsum(counts)]), exact, stems)

    def _words(self, text: str) -> list[str]:
        if self._has_dropped(text):
            return self._word.findall(text)
        return text.split()  # parts at all of BLANKS, and several times as fast

    def _has_dropped(self, text: str) -> bool:
        return any(blank in text for blank in self._dropped)

    def _counts_apart(self, words: list[str]) -> list[int]:
        """The tokens of each word, found for what punctuation leaves of it."""
        cores = [word.strip(self._loose) for word in words]
        plain: list[str] = []
        other: list[str] = []
        for core in dict.fromkeys(cores):
            (plain if self._plain and core.isascii() and core.isalnum() else other).append(core)
        counts = dict(zip(plain, _plain_counts(self._tokenizer, plain), strict=True))
        counts.update(zip(other, _counts(self._tokenizer, other), strict=True))
        return [counts[core] + len(word) - len(core) for core, word in zip(cores, words, strict=True)]

    def _pieces(self, word: str) -> tuple[list[int], list[int], bool]:
        """The parts of a long word that the tokenizer takes one by one: starts, counts, and whether they add up.

        They do not where a part is larger than the largest window.
        """
        starts, counts, exact = [], [], True
        start, window = 0, _WINDOW
        while start < len(word):
            stop = min(start + window, len(word))
            heads, tokens = _parts(self._tokenizer.encode(word[start:stop], add_special_tokens=False))
            if stop < len(word):
                whole = sum(head < window - _MARGIN for head in heads) - 1
                if whole >= 1:
                    heads, tokens, stop = heads[:whole], tokens[:whole], start + heads[whole]
                elif window < _LARGEST_WINDOW:
                    window *= 2
                    continue
                else:
                    exact = False
            starts += [start + head for head in heads]
            counts += tokens
            start, window = stop, _WINDOW
        return starts, counts, exact


def _parts(encoding: Encoding) -> tuple[list[int], list[int]]:
    """Where each part starts that the tokenizer takes by itself, and how many tokens it has; the first starts at 0."""
    heads: list[int] = []
    tokens: list[int] = []
    last = None
    for part, (start, _) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if heads and (part == last or start <= heads[-1]):
            tokens[-1] += 1
        else:
            heads.append(start)
            tokens.append(1)
        last = part
    return [0, *heads[1:]], tokens or [0]


def additive_separators(tokenizer: Tokenizer) -> frozenset[str] | None:
    """The white space at which this tokenizer's counts add up; None where they don't.

    Decided by what the tokenizer is made of, and proved on words of its vocabulary and odd ones.
    """
    described = json.loads(tokenizer.to_str())
    for component, known in _WORD_BY_WORD.items():
        if (described[component] or {}).get("type") not in known:
            return None
    if any(token["single_word"] or set(token["content"]) & BLANKS for token in described["added_tokens"]):
        return None
    separators = frozenset(blank for blank in BLANKS if _separates(tokenizer, blank))
    return separators if separators and _adds_up(tokenizer, separators) else None


def _separates(tokenizer: Tokenizer, blank: str) -> bool:
    """Whether a letter on either side is a token by itself, in a part of its own."""
    found = tokenizer.encode(f"x{blank}x", add_special_tokens=False)
    twice: list[int] = tokenizer.encode("x", add_special_tokens=False).ids * 2
    return bool(found.ids == twice and found.word_ids[0] != found.word_ids[1])


def _sample(tokenizer: Tokenizer, chance: random.Random) -> list[str]:
    """Words of the vocabulary and odd ones, shuffled."""
    vocabulary = sorted(tokenizer.get_vocab())
    words = [*chance.choices(vocabulary, k=_SAMPLE), *_ODD_WORDS * 4]
    words = ["".join(part) for word in words if (part := [c for c in word if c not in BLANKS])] + ["["]
    chance.shuffle(words)
    return words


def _counts(tokenizer: Tokenizer, words: list[str]) -> list[int]:
    return [len(found.ids) for found in tokenizer.encode_batch_fast(words, add_special_tokens=False)]


def _plain_counts(tokenizer: Tokenizer, words: list[str]) -> list[int]:
    """The tokens of words of ASCII letters and digits, which only the model parts; three times as fast as all of it."""
    text = " ".join(words)
    normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    tokenize = tokenizer.model.tokenize
    return [len(tokenize(word)) for word in normal.split()]


def _takes_plain(tokenizer: Tokenizer, words: list[str]) -> bool:
    """Whether ``_plain_counts`` holds: no added token may be within such a word."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    if any(content.isascii() and content.isalnum() for content in added):
        return False
    plain = [word for word in words if word.isascii() and word.isalnum()]
    return _plain_counts(tokenizer, plain) == _counts(tokenizer, plain)


def _loose_marks(tokenizer: Tokenizer, words: list[str]) -> str:
    """The punctuation that is always a token by itself; none for a tokenizer that may take some of it together."""
    if type(tokenizer.pre_tokenizer).__name__ != "BertPreTokenizer":
        return ""
    added = {character for token in tokenizer.get_added_tokens_decoder().values() for character in token.content}
    loose = "".join(sorted(set(string.punctuation) - added))
    texts = [f"{first}{word}{last}" for word, first, last in zip(words, cycle(loose), cycle(reversed(loose)))]
    bare = [text.strip(loose) for text in texts]
    apart = [count + len(text) - len(rest) for count, text, rest in zip(_counts(tokenizer, bare), texts, bare, strict=True)]
    return loose if apart == _counts(tokenizer, texts) else ""


def _adds_up(tokenizer: Tokenizer, separators: frozenset[str]) -> bool:
    chance = random.Random(0)
    words = _sample(tokenizer, chance)
    blanks = sorted(separators)
    text = "".join(word + chance.choice(blanks) for word in words)
    parts: list[Any] = [found.ids for found in tokenizer.encode_batch_fast(words, add_special_tokens=False)]
    return bool(tokenizer.encode(text, add_special_tokens=False).ids == [token for part in parts for token in part])
