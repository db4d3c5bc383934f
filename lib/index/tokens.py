"""Counting tokens with the embedder's own tokenizer, special tokens left out."""

from __future__ import annotations

from pathlib import Path

from lib.platform.errors import ConfigInvalid


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

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def counts(self, texts: list[str]) -> list[int]:
        return [len(found.ids) for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def starts(self, text: str) -> list[int]:
        """The character offset at which each token of ``text`` starts, ascending."""
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]
