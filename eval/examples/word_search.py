"""A small RAG system in the standard library alone: passages found by BM25, answered with their own best sentences.

It stands for the system that a team already has. ``rag_http.py`` serves it over HTTP, ``rag_command.py`` as a command.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WORD = re.compile(r"\w+")
_PARAGRAPH = re.compile(r"\S(?:.|\n(?!\s*\n))*")
_SENTENCE = re.compile(r"[^\s#](?:[^.!?\n]|[.!?](?!\s|$))*[.!?]")
_K1, _B = 1.2, 0.75
_SNAPSHOT, _CONTEXTS, _SENTENCES = 40, 6, 2
_LEAST_SHARE = 0.15  # of the question's rarity-weighted words, which the best sentence must hold


@dataclass(frozen=True)
class _Passage:
    doc_id: str
    start: int
    end: int
    text: str
    words: Counter[str]


class WordSearch:
    """Answers questions over a folder of Markdown files. The same question always gets the same answer."""

    def __init__(self, corpus: Path) -> None:
        self._passages = [
            _Passage(path.relative_to(corpus).as_posix(), match.start(), match.end(), match[0], _words(match[0]))
            for path in sorted(corpus.rglob("*.md"))
            for match in _PARAGRAPH.finditer(path.read_text(encoding="utf-8"))
        ]
        if not self._passages:
            raise SystemExit(f"no Markdown below {corpus}")
        found_in = Counter(word for passage in self._passages for word in passage.words)
        total = len(self._passages)
        self._weight = {word: math.log(1 + (total - n + 0.5) / (n + 0.5)) for word, n in found_in.items()}
        self._mean_words = sum(passage.words.total() for passage in self._passages) / total

    def answer(self, query: str) -> dict[str, Any]:
        """The reply to one question, without its ``query_id`` (configs/schemas/system_reply.schema.json)."""
        asked = sorted(_words(query))
        scored = [(self._score(asked, passage), place) for place, passage in enumerate(self._passages)]
        best = sorted((item for item in scored if item[0] > 0), key=lambda item: (-item[0], item[1]))[:_SNAPSHOT]
        snapshot = [self._shown(place, score) for score, place in best]
        contexts = snapshot[:_CONTEXTS]
        return {
            "answer": self._read(asked, [context["text"] for context in contexts]),
            "contexts": contexts,
            "snapshot": snapshot,
            "record": {"model_id": "word-search", "temperature": 0, "seed": 42},
        }

    def _score(self, asked: list[str], passage: _Passage) -> float:
        length = _K1 * (1 - _B + _B * passage.words.total() / self._mean_words)
        return sum(
            self._weight[word] * count * (_K1 + 1) / (count + length) for word in asked if (count := passage.words[word])
        )

    def _shown(self, place: int, score: float) -> dict[str, Any]:
        passage = self._passages[place]
        return {
            "id": f"{passage.doc_id}:{passage.start}",
            "doc_id": passage.doc_id,
            "start": passage.start,
            "end": passage.end,
            "text": passage.text,
            "score": round(score, 6),
        }

    def _read(self, asked: list[str], contexts: list[str]) -> str:
        """The sentences that hold most of the question, in the order of the passages; "" where none holds enough."""
        sentences = [match[0] for text in contexts for match in _SENTENCE.finditer(text)]
        whole = sum(self._weight.get(word, 0.0) for word in asked) or 1.0
        shares = [sum(self._weight[word] for word in asked if word in _words(text)) / whole for text in sentences]
        best = sorted(range(len(sentences)), key=lambda place: (-shares[place], place))[:_SENTENCES]
        if not best or shares[best[0]] < _LEAST_SHARE:
            return ""
        return " ".join(sentences[place] for place in sorted(best))


def _words(text: str) -> Counter[str]:
    return Counter(word.casefold() for word in _WORD.findall(text))
