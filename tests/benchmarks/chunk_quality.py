"""How well chunks serve retrieval: Chroma's evaluation of chunkers, scored as the published figures were.

Smith & Troynikov, "Evaluating Chunking Strategies for Retrieval", Chroma technical report, July 2024: 472 questions
about five corpora, each with the exact passages that answer it; the chunks of all corpora are pooled, and the five
nearest to a question are retrieved. Recall is the share of the passages that the chunks hold, precision the share of
the chunks that is of the passages, IoU the shared part over both together; precision-omega is the precision of a
retrieval that finds every chunk with a part of a passage.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

RETRIEVED = 5
Span = tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A question, the corpus it asks about, and the spans that answer it."""

    text: str
    corpus: str
    references: tuple[Span, ...]


@dataclass(frozen=True)
class Chunk:
    """A chunk's text, its corpus, and where the evaluation takes it to stand there."""

    text: str
    corpus: str
    start: int
    end: int


@dataclass(frozen=True)
class Scores:
    """Means over the questions, in points (0 to 100)."""

    recall: float
    precision: float
    precision_omega: float
    iou: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def read(folder: Path) -> tuple[dict[str, str], list[Question]]:
    """The corpora by name, and the questions; line ends are read as the evaluation reads them."""
    corpora = {file.stem: file.read_text(encoding="utf-8") for file in sorted((folder / "corpora").glob("*.md"))}
    with (folder / "questions_df.csv").open(encoding="utf-8", newline="") as file:
        questions = [
            Question(
                row["question"],
                row["corpus_id"],
                tuple((int(item["start_index"]), int(item["end_index"])) for item in json.loads(row["references"])),
            )
            for row in csv.DictReader(file)
        ]
    return corpora, questions


def pooled(corpora: dict[str, str], split: Callable[[str], Iterable[str]]) -> list[Chunk]:
    """The chunks of all corpora where the evaluation places them: at their first occurrence, without one "." at the end."""
    chunks = []
    for name, corpus in corpora.items():
        for text in split(corpus):
            shown = text.removesuffix(".")
            start = corpus.index(shown)
            chunks.append(Chunk(text, name, start, start + len(shown)))
    return chunks


def retrieve(chunks: NDArray[np.float32], questions: NDArray[np.float32]) -> NDArray[np.intp]:
    """``[n_questions, RETRIEVED]``: the nearest chunks by cosine, nearest first. Both are rows of unit length."""
    return np.argsort(-(questions @ chunks.T), axis=1, kind="stable")[:, :RETRIEVED]


def score(chunks: Sequence[Chunk], questions: Sequence[Question], retrieved: NDArray[np.intp]) -> Scores:
    """The four published measures, quirks included.

    A passage that a chunk only touches counts as found in it (with no length), and a chunk that is retrieved together with
    one it overlaps counts in full in the denominators of precision and IoU.
    """
    rows = []
    for question, indexes in zip(questions, retrieved, strict=True):
        asked = _size(question.references)
        spans = [(chunks[index].start, chunks[index].end) for index in indexes]
        at_home = [(chunks[i].start, chunks[i].end) for i in indexes if chunks[i].corpus == question.corpus]
        shared = _size(_union(_intersections(at_home, question.references)))
        missed = _size(_without(question.references, _union(_intersections(at_home, question.references))))
        shown = _size(spans)
        rows.append((shared / asked, shared / shown, _omega(chunks, question), shared / (shown + missed)))
    return Scores(*(100 * mean(column) for column in zip(*rows, strict=True)))


def _omega(chunks: Sequence[Chunk], question: Question) -> float:
    home = [(chunk.start, chunk.end) for chunk in chunks if chunk.corpus == question.corpus]
    hit = [chunk for chunk in home if _intersections([chunk], question.references)]
    shared = _union(_intersections(hit, question.references))
    missed = _without(question.references, shared)
    return _size(shared) / _size(_union(hit + missed)) if shared else 0.0


def _intersections(spans: Iterable[Span], references: Iterable[Span]) -> list[Span]:
    pairs = [(max(a, c), min(b, d)) for a, b in spans for c, d in references]
    return [(start, end) for start, end in pairs if start <= end]


def _union(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _without(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    rest = list(spans)
    for start, end in taken:
        rest = [
            piece
            for left, right in rest
            for piece in ([(left, right)] if right <= start or left >= end else [(left, start), (end, right)])
            if piece[0] < piece[1]
        ]
    return rest


def _size(spans: Iterable[Span]) -> int:
    return sum(end - start for start, end in spans)
