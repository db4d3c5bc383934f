"""Synthetic chunks with the structure of real ones: words that come together, lengths that differ, vectors in clusters.

A chunk takes most of its words from one real passage and the rest from all of them by frequency, so that document
frequencies are Zipfian and a query's words meet in few chunks, as in real text. Vectors lie around topic centres.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import SHARED_DATA

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSION = 384
_WORDS = 120  # a chunk, on average
_OWN = 0.6  # share of a chunk's words that come from its passage
_PASSAGE_WORDS = 250
_TOPICS = 2000
_SPREAD = 0.9  # length of a vector's noise against its centre's 1


class Synthetic:
    """Texts, vectors and queries from one seed."""

    def __init__(self, seed: int = 42) -> None:
        paths = sorted((SHARED_DATA / "chroma_chunking" / "corpora").glob("*.md"))
        words = re.findall(r"[A-Za-z][A-Za-z'-]+", " ".join(path.read_text(encoding="utf-8") for path in paths))
        self._words = np.array(words, dtype=object)
        self._random = np.random.default_rng(seed)
        centres = self._random.standard_normal((_TOPICS, DIMENSION))
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)

    def texts(self, count: int) -> Iterator[str]:
        """Texts of 40 to some 400 words, 120 on average."""
        lengths = np.maximum(40, self._random.lognormal(np.log(_WORDS * 0.9), 0.45, count)).astype(int)
        starts = self._random.integers(0, len(self._words) - _PASSAGE_WORDS, count)
        for length, start in zip(lengths, starts, strict=True):
            own = int(length * _OWN)
            near = self._random.integers(start, start + _PASSAGE_WORDS, own)
            far = self._random.integers(0, len(self._words), length - own)
            yield " ".join(self._words[np.concatenate([near, far])])

    def vectors(self, count: int) -> NDArray[np.float32]:
        """``float32[count, 384]`` of unit length, around topic centres of uneven sizes."""
        topics = (_TOPICS * self._random.power(2, count)).astype(int)
        noise = self._random.standard_normal((count, DIMENSION)) * (_SPREAD / np.sqrt(DIMENSION))
        found = self._centres[topics] + noise
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def queries(self, count: int) -> list[str]:
        """Eight to sixteen neighbouring words of the real text, as a question has them, the little words among them."""
        starts = self._random.integers(0, len(self._words) - 16, count)
        lengths = self._random.integers(8, 17, count)
        return [" ".join(self._words[start : start + n]) for start, n in zip(starts, lengths, strict=True)]


@dataclass
class Given:
    """Stands for the embedder where every text's vector is known already."""

    vectors: dict[str, NDArray[np.float32]]
    name: str = "given"
    dimension: int = DIMENSION
    identity: str = "given"

    def embed_query(self, text: str) -> NDArray[np.float32]:
        return self.vectors[text]

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.vectors[text] for text in texts])


def literal(vector: Sequence[float]) -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(map(repr, vector)) + "]"
