"""Embedding runtimes against sentence-transformers on torch: texts a second, how near the vectors are, and any-hit@5.

The texts are chunks of chroma_chunking at the default size. Speed is over a sample; cosines and any-hit@5 (of the 472
questions, the share of which one of the five nearest chunks touches a reference) are over all chunks.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lib.config import embedder_files
from lib.index.chunking import chunk_text
from lib.index.embedder import Embedder, embedder_of
from lib.index.tokens import TokenCounter
from lib.platform.workspace import Workspace
from tests.benchmarks.harness import PROJECT, SHARED_DATA, Comparison, Run, alternate, median_s

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RUNTIMES = ("openvino", "openvino_int8")
_REFERENCE = "sentence-transformers"
_CHUNK_TOKENS = 450
_TIMED = 64
_ROUNDS = 3
_NEAREST = 5
_LOST = 0.01  # any-hit@5 that a runtime may lose: the gate's margin is wider


@dataclass(frozen=True)
class Chunk:
    corpus: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Question:
    text: str
    corpus: str
    references: Sequence[tuple[int, int]]


def run() -> list[Comparison]:
    workspace = Workspace(PROJECT)
    files = embedder_files.find(workspace, "all-MiniLM-L6-v2")
    torch = embedder_of(workspace, files, "torch")
    chunks = _chunks(TokenCounter(files.folder))
    questions = _questions()
    texts = [chunk.text for chunk in chunks]
    reference = _in_sorted_batches(torch, texts)
    hits = {_REFERENCE: _any_hit(chunks, reference, questions, torch)}
    facts: dict[str, dict[str, Any]] = {_REFERENCE: {"any_hit_at_5": hits[_REFERENCE]}}
    systems: dict[str, Callable[[], Any]] = {}
    step = max(1, len(texts) // _TIMED)
    sample = texts[::step][:_TIMED]
    systems[_REFERENCE] = _timed(lambda: _in_sorted_batches(torch, sample), facts[_REFERENCE])
    for runtime in _RUNTIMES:
        started = time.perf_counter()
        embedder = embedder_of(workspace, files, runtime)
        load_s = time.perf_counter() - started
        vectors = embedder.embed_documents(texts)
        cosines = (vectors * reference).sum(axis=1)
        hits[runtime] = _any_hit(chunks, vectors, questions, embedder)
        facts[runtime] = {
            "any_hit_at_5": hits[runtime],
            "cosine_mean": float(cosines.mean()),
            "cosine_min": float(cosines.min()),
            "load_s": load_s,
        }
        systems[runtime] = _timed(partial(embedder.embed_documents, sample), facts[runtime])
    runs = alternate(systems, _ROUNDS)
    speeds = [_speed(runs, runtime, len(sample)) for runtime in _RUNTIMES]
    return speeds + [_quality(hits, facts, runtime) for runtime in _RUNTIMES]


def _timed(work: Callable[[], Any], facts: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    def run_once() -> dict[str, Any]:
        work()
        return facts

    return run_once


def _speed(runs: Sequence[Run], runtime: str, texts: int) -> Comparison:
    mine = [
        Run(run.system, run.seconds, {"texts_per_s": texts / (run.seconds or 1.0), **run.facts})
        for run in runs
        if run.system in (runtime, _REFERENCE)
    ]
    ratio = median_s(mine, _REFERENCE) / median_s(mine, runtime)
    target = {"openvino": 1.2, "openvino_int8": 2.0}[runtime]
    return Comparison(f"embedding: {runtime}, texts a second", ratio, target, f"{_REFERENCE} on torch", mine)


def _quality(hits: dict[str, float], facts: dict[str, dict[str, Any]], runtime: str) -> Comparison:
    rows = [Run(name, None, facts[name]) for name in (runtime, _REFERENCE)]
    allowed = (hits[_REFERENCE] - _LOST) / hits[_REFERENCE]
    ratio = hits[runtime] / hits[_REFERENCE]
    return Comparison(f"embedding: {runtime}, any-hit@5", ratio, allowed, f"{_REFERENCE} on torch", rows)


def _in_sorted_batches(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """As sentence-transformers itself would: batches of 32, the longest first, so that little is padded."""
    import numpy as np

    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    vectors = np.empty((len(texts), embedder.dimension), dtype=np.float32)
    for start in range(0, len(order), 32):
        batch = order[start : start + 32]
        vectors[batch] = embedder.embed_documents([texts[index] for index in batch])
    return vectors


def _chunks(counter: TokenCounter) -> list[Chunk]:
    found = []
    for file in sorted((SHARED_DATA / "chroma_chunking" / "corpora").iterdir()):
        text = file.read_text(encoding="utf-8")
        for span in chunk_text(text, counter, _CHUNK_TOKENS, 0.1):
            found.append(Chunk(file.stem, span.start, span.end, text[span.start : span.end]))
    return found


def _questions() -> list[Question]:
    with (SHARED_DATA / "chroma_chunking" / "questions_df.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [
        Question(
            row["question"],
            row["corpus_id"],
            [(int(item["start_index"]), int(item["end_index"])) for item in json.loads(row["references"])],
        )
        for row in rows
    ]


def _any_hit(
    chunks: Sequence[Chunk], vectors: NDArray[np.float32], questions: Sequence[Question], embedder: Embedder
) -> float:
    import numpy as np

    asked = np.stack([embedder.embed_query(question.text) for question in questions])
    nearest = np.argsort(-(asked @ vectors.T), axis=1, kind="stable")[:, :_NEAREST]
    return statistics.fmean(
        any(_touches(chunks[index], question) for index in row) for row, question in zip(nearest, questions, strict=True)
    )


def _touches(chunk: Chunk, question: Question) -> bool:
    return chunk.corpus == question.corpus and any(
        chunk.start < end and start < chunk.end for start, end in question.references
    )
