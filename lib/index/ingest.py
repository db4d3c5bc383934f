"""What an ingest will do: documents and a locked config in, rows out. Pure.

The unit of work is ``chunk_unit``: a few documents in, their chunks' rows and shingles out, wherever it runs.
``keep_first`` then drops near-duplicates unit by unit, with the same result however the documents were split into units.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config import embedder_files
from lib.config.locked_config import LockedConfig
from lib.index.chunking import Counter, chunk_text
from lib.index.documents import Document
from lib.index.near_duplicates import Deduplicator, shingle_sets
from lib.index.prefixes import prefix_of, texts_of
from lib.index.tokens import TokenCounter
from lib.platform.errors import GoliveError, IntegrityMismatch, Unavailable
from lib.platform.files import sha256_file
from lib.platform.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_ROWS = 16


@dataclass(frozen=True)
class ChunkRow:
    """A row of a chunk table, still without its embedding. Counts are in tokens, without special tokens."""

    chunk_id: str
    doc_id: str
    chunk_index: int
    embedding_text: str
    bm25_text: str
    embedding_token_count: int
    bm25_token_count: int
    span_start: int
    span_end: int
    doc_sha256: str
    duplicates: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class IngestPlan:
    """The rows that a finished table has, in (document, index) order, and how many chunks were dropped as duplicates."""

    rows: list[ChunkRow]
    documents: int
    chunks: int

    @property
    def duplicates(self) -> int:
        return self.chunks - len(self.rows)

    @property
    def deduplication_rate(self) -> float:
        return self.duplicates / self.chunks if self.chunks else 0.0


@dataclass(frozen=True)
class WorkUnit:
    """What a worker needs: documents, the locked config, and where the tokenizer lies on the machine that asks."""

    documents: list[Document]
    config: LockedConfig
    tokenizer: Path


@dataclass(frozen=True)
class Chunked:
    """A unit's chunks in (document, index) order, the shingles of each (``uint64``, sorted), and by which code."""

    rows: list[ChunkRow]
    shingles: list[NDArray[np.uint64]]
    code: str


@dataclass
class Kept:
    """What near-duplicate removal has found so far; whole once every unit went through ``keep_first``.

    ``duplicates``: for the kept chunks that have any, what was dropped in favour of each.
    """

    chunks: int = 0
    rows: int = 0
    tokens: int = 0
    duplicates: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def chunk_unit(unit: WorkUnit) -> Chunked:
    """The rows of some documents before near-duplicate removal. Pure, and so the same in every process.

    Raises:
        IntegrityMismatch: the tokenizer on this machine is not the locked one.
    """
    return chunk_documents(unit.documents, unit.config, _counter(unit.tokenizer, unit.config))


def chunk_documents(documents: Iterable[Document], config: LockedConfig, counter: Counter) -> Chunked:
    """``chunk_unit`` with a tokenizer at hand."""
    rows: list[ChunkRow] = []
    texts: list[str] = []
    for document in documents:
        mine = _rows_of(document, config, counter)
        rows += mine
        texts += [document.content[row.span_start : row.span_end] for row in mine]
    return Chunked(rows, shingle_sets(texts), code_digest())


def keep_first(units: Iterable[Chunked], config: LockedConfig, kept: Kept) -> Iterator[list[ChunkRow]]:
    """Each unit's rows without near-duplicates of kept rows before them; ``kept`` is written as they pass.

    Raises:
        IntegrityMismatch: a unit was made by another version of this code.
    """
    deduplicator = Deduplicator(config.jaccard_threshold)
    chunk_ids: list[str] = []
    for unit in units:
        if unit.code != code_digest():
            raise IntegrityMismatch(
                "a worker runs another version of Golive",
                detail=f"its code has digest {unit.code[:12]}, here it is {code_digest()[:12]}",
                hint="install this same version where the workers run",
            )
        rows: list[ChunkRow] = []
        chunk_ids += [row.chunk_id for row in unit.rows]
        for row, first in zip(unit.rows, deduplicator.add(unit.shingles), strict=True):
            if first is None:
                rows.append(row)
                kept.tokens += row.embedding_token_count
            else:
                repeat = {
                    "doc_id": row.doc_id,
                    "start": row.span_start,
                    "end": row.span_end,
                    "doc_sha256": row.doc_sha256,
                }
                kept.duplicates[chunk_ids[first]].append(repeat)
        kept.chunks += len(unit.rows)
        kept.rows += len(rows)
        yield rows


def plan_ingest(documents: Sequence[Document], config: LockedConfig, counter: Counter) -> IngestPlan:
    """Chunks every document, drops near-duplicates in favour of the first, prefixes by policy."""
    kept = Kept()
    found = [row for rows in keep_first([chunk_documents(documents, config, counter)], config, kept) for row in rows]
    rows = [replace(row, duplicates=tuple(kept.duplicates.get(row.chunk_id, ()))) for row in found]
    return IngestPlan(rows, len(documents), kept.chunks)


def work_units(
    documents: Iterable[Document], config: LockedConfig, tokenizer: Path, documents_per_unit: int
) -> Iterator[WorkUnit]:
    """The documents in units of at most so many."""
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == documents_per_unit:
            yield WorkUnit(batch, config, tokenizer)
            batch = []
    if batch:
        yield WorkUnit(batch, config, tokenizer)


def describe_unit(unit: WorkUnit) -> str:
    """Which documents a unit holds, for an error."""
    first, last = unit.documents[0].doc_id, unit.documents[-1].doc_id
    return f"document {first}" if first == last else f"{len(unit.documents)} documents, {first} to {last}"


@cache
def code_digest() -> str:
    """SHA-256 over the source of ``lib/index``, which decides a row: a cluster's worker must have the same."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256("".join(path.name + sha256_file(path) for path in modules).encode()).hexdigest()


def _counter(tokenizer: Path, config: LockedConfig) -> TokenCounter:
    """The locked tokenizer, from where it lies on the machine that asks or else as this machine knows the embedder."""
    return _counter_of(tokenizer, config.embedder_name, config.tokenizer_hash)


@lru_cache(maxsize=2)
def _counter_of(tokenizer: Path, name: str, locked_hash: str) -> TokenCounter:
    file = tokenizer / "tokenizer.json"
    if not (file.exists() and sha256_file(file) == locked_hash):
        try:
            found = embedder_files.find(Workspace.find(), name)
        except GoliveError as error:
            raise Unavailable(f"a worker does not have the tokenizer of {name}", detail=error.message) from error
        if found.tokenizer_hash != locked_hash:
            raise IntegrityMismatch(
                f"the tokenizer of {name} on a worker is not the one that was locked",
                detail=f"locked {locked_hash[:12]}…, found {found.tokenizer_hash[:12]}…",
                hint="put the locked model there",
            )
        tokenizer = found.folder
    return TokenCounter(tokenizer)


def _rows_of(document: Document, config: LockedConfig, counter: Counter) -> list[ChunkRow]:
    rows = []
    for index, span in enumerate(chunk_text(document.content, counter, config.chunk_size, config.overlap_ratio)):
        source_text = document.content[span.start : span.end]
        prefix = prefix_of(document.title, span.sections, str(document.metadata.get("type", "text")), counter.count)
        embedding_text, bm25_text = texts_of(source_text, prefix, config.prefix_policy)
        embedding_tokens = counter.count(embedding_text)
        rows.append(
            ChunkRow(
                chunk_id=f"{document.doc_id}#{index}",
                doc_id=document.doc_id,
                chunk_index=index,
                embedding_text=embedding_text,
                bm25_text=bm25_text,
                embedding_token_count=embedding_tokens,
                bm25_token_count=embedding_tokens if bm25_text == embedding_text else span.tokens,
                span_start=span.start,
                span_end=span.end,
                doc_sha256=document.sha256,
            )
        )
    return rows


def plan_batches(rows: Sequence[ChunkRow]) -> list[list[ChunkRow]]:
    """Batches for an embedder that pads: sorted by length, so that little is padded, whatever order the rows came in."""
    ordered = sorted(rows, key=lambda row: (-row.embedding_token_count, row.chunk_id))
    return [ordered[start : start + BATCH_ROWS] for start in range(0, len(ordered), BATCH_ROWS)]
