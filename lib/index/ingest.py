"""What an ingest will do: documents and a locked config in, rows and batches out. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib.config.locked_config import LockedConfig
from lib.index.chunking import Counter, chunk_text
from lib.index.documents import Document
from lib.index.near_duplicates import find_duplicates
from lib.index.prefixes import prefix_of, texts_of

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


def plan_ingest(documents: Sequence[Document], config: LockedConfig, counter: Counter) -> IngestPlan:
    """Chunks every document, drops near-duplicates in favour of the first, prefixes by policy."""
    chunks = [row for document in documents for row in _rows_of(document, config, counter)]
    contents = {document.doc_id: document.content for document in documents}
    texts = [contents[row.doc_id][row.span_start : row.span_end] for row in chunks]
    dropped = find_duplicates(texts, config.jaccard_threshold)
    repeats: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for index, kept in dropped.items():
        row = chunks[index]
        repeats[kept].append(
            {"doc_id": row.doc_id, "start": row.span_start, "end": row.span_end, "doc_sha256": row.doc_sha256}
        )
    rows = [replace(row, duplicates=tuple(repeats[index])) for index, row in enumerate(chunks) if index not in dropped]
    return IngestPlan(rows, len(documents), len(chunks))


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
    """Batches for the embedder: sorted by length, so that little is padded, and the same whatever was done before."""
    ordered = sorted(rows, key=lambda row: (-row.embedding_token_count, row.chunk_id))
    return [ordered[start : start + BATCH_ROWS] for start in range(0, len(ordered), BATCH_ROWS)]
