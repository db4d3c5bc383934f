"""Filling a shadow table: units are chunked, deduplicated, embedded and loaded, each stage while the next ones work.

Chunking runs ahead on the workers; near-duplicates are dropped here, in order; one thread embeds; and what is embedded is
loaded here at once. A row that is there already is not embedded again, whatever put an end to the attempt before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.documents import Document
from lib.index.embedder import BadVector, Embedder, check_vectors, load_embedder
from lib.index.executors import Workers
from lib.index.ingest import ChunkRow, Kept, chunk_unit, describe_unit, keep_first, work_units
from lib.index.loading import TableRows
from lib.index.releases import Release
from lib.platform import failpoints
from lib.platform.errors import ConfigInvalid, GoliveError, IntegrityMismatch, Unavailable
from lib.platform.progress import Progress
from lib.platform.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CALL_ROWS = 128  # embedded by one call and committed together: what a kill costs at most, twice
_CLUSTER_TEXTS = 64  # a worker's share of a batch
_AHEAD = 2  # batches that are being embedded or wait for it


@dataclass(frozen=True)
class Chunker:
    """How documents become chunks: with the tokenizer in this folder, on these workers, so many documents a unit."""

    tokenizer: Path
    workers: Workers
    documents_per_unit: int


@dataclass(frozen=True)
class Filled:
    """What a table holds after ``fill``, and what it took: rows embedded and removed now, seconds from begin to end."""

    documents: int
    chunks: int
    rows: int
    tokens: int
    embedded_now: int
    removed_now: int
    seconds: float

    def to_stats(self, embedded_now: int, removed_now: int, seconds: float) -> dict[str, Any]:
        """As they are recorded; the arguments are sums over all fills of a build."""
        dropped = self.chunks - self.rows
        return {
            "documents": self.documents,
            "chunks": self.chunks,
            "duplicates": dropped,
            "deduplication_rate": dropped / self.chunks if self.chunks else 0.0,
            "tokens": self.tokens,
            "embedded_now": embedded_now,
            "removed_now": removed_now,
            "fill_s": seconds,
            "chunks_per_s": embedded_now / seconds if embedded_now else None,
        }


def fill(
    connection: Connection, release: Release, documents: Sequence[Document], embedder: Embedder, chunker: Chunker
) -> Filled:
    """Brings the table of a release to exactly the rows that these documents give, each committed as it is embedded.

    Raises:
        ConfigInvalid: there is nothing to index.
        IntegrityMismatch: the table holds rows of another ingest, or a vector is none (the chunk is named).
        Unavailable: workers or the embedder died; run again, it goes on.
    """
    started = time.monotonic()
    config = release.locked_config
    if embedder.dimension != config.embedder_dimension:
        raise IntegrityMismatch(
            f"the embedder {embedder.name} gives {embedder.dimension} dimensions, {config.embedder_dimension} were locked",
            hint="put the locked model back, or lock a new config",
        )
    table = TableRows(connection, release)
    kept = Kept()
    units = work_units(documents, config, chunker.tokenizer, chunker.documents_per_unit)
    chunked = chunker.workers.run(chunk_unit, units, describe_unit)
    rows = (row for unit_rows in keep_first(chunked, config, kept) for row in unit_rows)
    places = {document.doc_id: place for place, document in enumerate(documents)}
    with Progress("indexing", len(documents), "documents") as progress:
        embedded = 0
        for batch in _load_embedded(table, (row for row in rows if table.lacks(row)), embedder):
            embedded += len(batch)
            progress.advance(places[batch[-1].doc_id] - progress.done)
        progress.advance(len(documents) - progress.done)
    if not kept.rows:
        raise ConfigInvalid("the documents hold no text to index")
    failpoints.reach("ingest.remove_rest")
    removed = table.remove_rest()
    failpoints.reach("ingest.record_duplicates")
    table.record_duplicates(kept.duplicates)
    return Filled(len(documents), kept.chunks, kept.rows, kept.tokens, embedded, removed, time.monotonic() - started)


def _load_embedded(table: TableRows, rows: Iterator[ChunkRow], embedder: Embedder) -> Iterator[list[ChunkRow]]:
    """Embeds in a thread of its own and loads here; gives each batch once it is in the table."""
    waiting: deque[tuple[list[ChunkRow], Future[NDArray[np.float32]]]] = deque()
    thread = ThreadPoolExecutor(1, "embed")

    def load_next() -> list[ChunkRow]:
        batch, vectors = waiting.popleft()
        found = vectors.result()
        failpoints.reach("ingest.load_batch")
        table.load(batch, found)
        failpoints.reach("ingest.batch_loaded")
        return batch

    try:
        for batch in _batches(rows):
            waiting.append((batch, thread.submit(_embed, embedder, batch)))
            if len(waiting) > _AHEAD:
                yield load_next()
        while waiting:
            yield load_next()
    finally:
        thread.shutdown(cancel_futures=True)


def _batches(rows: Iterable[ChunkRow]) -> Iterator[list[ChunkRow]]:
    batch: list[ChunkRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == CALL_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _embed(embedder: Embedder, batch: Sequence[ChunkRow]) -> NDArray[np.float32]:
    """``float32[n_rows, dimension]``, each row's a pure function of its text; an error names the chunk."""
    import numpy as np

    # where neighbours in a batch decide the last bits of a vector, each text goes alone: what was there before a kill,
    # or which documents changed since, must not show in the digest
    size = len(batch) if embedder.batch_independent else 1
    parts = []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        try:
            texts = [row.embedding_text for row in part]
            parts.append(check_vectors(embedder.name, embedder.embed_documents(texts), embedder.dimension, texts))
        except BadVector as error:
            raise IntegrityMismatch(
                error.message, detail=f"chunk {part[error.position].chunk_id}, {error.detail}", hint=error.hint
            ) from error
        except (GoliveError, psycopg2.Error):
            raise
        except Exception as error:  # a model's runtime raises kinds of its own; each means that it gave no vectors
            raise Unavailable(
                f"the embedder {embedder.name} failed between chunks {part[0].chunk_id} and {part[-1].chunk_id}",
                detail=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                hint="the same command again goes on from there",
            ) from error
    return np.concatenate(parts)


class ClusterEmbedder:
    """An embedder whose documents are embedded by a cluster's workers, each with its own copy of the locked model."""

    def __init__(self, embedder: Embedder, config: LockedConfig, workers: Workers) -> None:
        self.name, self.dimension = embedder.name, embedder.dimension
        self.identity, self.batch_independent = embedder.identity, True  # each unit sees to that
        self._embedder, self._config, self._workers = embedder, config, workers

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the embedder here would; raises as ``Workers.run`` and the embedder do."""
        import numpy as np

        starts = range(0, len(texts), _CLUSTER_TEXTS)
        units = (EmbedUnit(self._config, self.identity, list(texts[start : start + _CLUSTER_TEXTS])) for start in starts)
        found = []
        results = self._workers.run(embed_unit, units, lambda unit: f"{len(unit.texts)} texts")
        for start in starts:
            try:
                found.append(next(results))
            except BadVector as error:
                raise BadVector(
                    error.message, position=start + error.position, detail=error.detail, hint=error.hint
                ) from error
        return np.concatenate(found) if found else np.empty((0, self.dimension), np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        return self._embedder.embed_query(text)


@dataclass(frozen=True)
class EmbedUnit:
    """Texts for a worker, and the identity that its embedder must have."""

    config: LockedConfig
    identity: str
    texts: list[str]


_loaded: dict[str, Embedder] = {}  # by the config's digest: a worker checks the weights' hash once


def embed_unit(unit: EmbedUnit) -> NDArray[np.float32]:
    """Texts to vectors on a worker that has the locked model: ``float32[n_texts, dimension]``. Pure.

    Raises:
        IntegrityMismatch: the worker's model, runtime or processor would give other vectors. Else as the embedder.
    """
    import numpy as np

    config = unit.config
    if config.digest not in _loaded:
        _loaded[config.digest] = load_embedder(Workspace.find(), config)
    embedder = _loaded[config.digest]
    if embedder.identity != unit.identity:
        raise IntegrityMismatch(
            f"the embedder {embedder.name} on a worker would give other vectors than here",
            detail=f"its identity is {embedder.identity[:12]}…, here it is {unit.identity[:12]}…",
            hint="the same packages, model and kind of processor on all machines, or EXECUTOR=local",
        )
    if embedder.batch_independent:
        return embedder.embed_documents(unit.texts)
    return np.concatenate([embedder.embed_documents([text]) for text in unit.texts])
