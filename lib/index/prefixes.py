"""The prefix ``Document: … / Section: … / Type: …`` and which of a chunk's texts it stands before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lib.config.bounds import MAX_PREFIX_TOKENS


def prefix_of(title: str, sections: Sequence[str], kind: str, count: Callable[[str], int]) -> str:
    """The prefix with its line end, shortened to ``MAX_PREFIX_TOKENS``: outer sections go first, then the title's end."""
    inner = [section for section in sections if section and section != title]
    name = " ".join(title.split())
    while True:
        section = f" / Section: {' > '.join(' '.join(item.split()) for item in inner)}" if inner else ""
        prefix = f"Document: {name}{section} / Type: {kind}\n"
        if count(prefix) <= MAX_PREFIX_TOKENS:
            return prefix
        if inner:
            inner = inner[1:]
        elif name:
            name = name[: len(name) // 2].rstrip()
        else:
            return ""


def texts_of(source_text: str, prefix: str, policy: str) -> tuple[str, str]:
    """``(embedding_text, bm25_text)``: policy A puts the prefix before the first alone, policy B before both."""
    return prefix + source_text, prefix + source_text if policy == "B" else source_text
