"""Counting tokens with the embedder's own tokenizer, special tokens left out."""

from __future__ import annotations

from pathlib import Path

from lib.index.token_places import TokenPlaces
from lib.index.word_counts import WordCounts, additive_separators
from lib.index.word_table import WordTable
from lib.platform.errors import ConfigInvalid

_WINDOW = 1 << 16  # characters encoded at once, so that a huge text does not take a huge encoding


class TokenCounter:
    """Wraps ``tokenizer.json`` with its shipped truncation and padding switched off (both would falsify counts)."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.exists():
            raise ConfigInvalid(f"{folder} has no tokenizer.json", hint="save the model with a fast tokenizer")
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        separators = additive_separators(self._tokenizer)
        self._words = WordCounts(self._tokenizer, separators) if separators else None
        self._stems = WordTable()

    def count(self, text: str) -> int:
        if self._words:
            return self._words.count(text)
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def counts(self, texts: list[str]) -> list[int]:
        return [self.count(text) for text in texts]

    def starts(self, text: str) -> list[int]:
        """The character offset at which each token of ``text`` starts, ascending."""
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def places(self, text: str) -> TokenPlaces:
        """Where ``text`` may be cut, with the tokens before each place."""
        if self._words:
            return self._words.places(text)
        starts = []
        for start, end in _windows(text):
            starts += [start + offset for offset in self.starts(text[start:end])]
        return TokenPlaces.of_tokens(starts, self._stems.look_up(text.split())[1])


def _windows(text: str) -> list[tuple[int, int]]:
    """Pieces of a text, each ended by a blank where there is one."""
    windows = []
    start = 0
    while start < len(text):
        end = min(start + _WINDOW, len(text))
        if end < len(text):
            blank = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = blank if blank > 0 else end
        windows.append((start, end))
        start = end
    return windows
