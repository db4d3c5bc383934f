"""The shadow build: chunk -> deduplicate -> embed -> COPY -> weigh -> index -> seal, each step resumable.

Rows are committed batch by batch in an order that only the documents and the config decide; a build that was killed goes on
with the batches that are missing and ends in the same content digest.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.bm25 import weigh
from lib.index.chunk_table import build_index, create_chunk_table
from lib.index.documents import Document, digest_of_documents, read_documents
from lib.index.embedder import Embedder
from lib.index.ingest import ChunkRow, IngestPlan, plan_batches
from lib.index.releases import Release, get_release
from lib.index.seal import content_of, seal
from lib.platform import audit, postgres
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, NotFound, Refused
from lib.platform.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLUMNS = (
    "id",
    "doc_id",
    "chunk_index",
    "embedding_text",
    "bm25_text",
    "embedding_token_count",
    "bm25_token_count",
    "chunk_version",
    "ingest_run_id",
    "span_start",
    "span_end",
    "doc_sha256",
    "duplicates",
    "embedding",
)


def read_corpus(connection: Connection, config: LockedConfig) -> tuple[list[Document], str]:
    """The documents that a config indexes and their digest, from one snapshot.

    Raises:
        NotFound: one of its sources holds no document.
    """
    connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ)
    try:
        with connection:
            documents = read_documents(connection, config.sources)
    finally:
        if not connection.closed:
            connection.set_session(isolation_level="DEFAULT")
    there = {document.source for document in documents}
    if missing := [source for source in config.sources if source not in there]:
        raise NotFound(
            f"no documents of source {', '.join(missing)} in the database",
            hint="scripts/sync_documents.py FOLDER, or correct sources in the config",
        )
    return documents, digest_of_documents(documents)


def already_sealed(connection: Connection, release: Release, corpus_digest: str) -> bool:
    """Whether there is nothing left to build.

    Raises:
        Refused: it was sealed from other documents. IntegrityMismatch: its table is not what was sealed.
    """
    if release.state in ("locked", "building"):
        return False
    if release.corpus_digest != corpus_digest:
        raise Refused(
            f"the documents have changed since {release.release_id} was sealed",
            hint="lock again for a new table: scripts/lock_production_config.py, or make golive",
        )
    with connection:
        content = content_of(connection, release.table_schema, release.table_name)
    if content is None or content.digest != release.content_digest:
        raise IntegrityMismatch(
            f"table {release.table_name} is not what was sealed",
            detail="it is gone" if content is None else f"{content.row_count} rows, {release.row_count} were sealed",
            hint="bring it back with scripts/restore_production_state.py, or lock again",
        )
    return True


def begin(connection: Connection, release: Release, corpus_digest: str) -> None:
    """Creates the table and marks the release as building; rows of an earlier corpus are thrown away first."""
    with connection, connection.cursor() as cursor:
        create_chunk_table(connection, release.table, release.locked_config.embedder_dimension)
        if release.corpus_digest not in (None, corpus_digest):
            cursor.execute(sql.SQL("TRUNCATE {}").format(release.table))
        cursor.execute(
            "UPDATE golive.releases SET state = 'building', corpus_digest = %s WHERE release_id = %s",
            (corpus_digest, release.release_id),
        )


def load(connection: Connection, release: Release, plan: IngestPlan, embedder: Embedder) -> int:
    """Embeds and loads the batches that are missing; returns how many rows were added now.

    Raises:
        ConfigInvalid: there is nothing to index.
        IntegrityMismatch: the table holds rows that this plan does not have.
    """
    if not plan.rows:
        raise ConfigInvalid("the documents hold no text to index")
    there = _rows_there(connection, release)
    planned = {row.chunk_id: _identity(row, release) for row in plan.rows}
    if any(planned.get(chunk_id) != identity for chunk_id, identity in there.items()):
        raise IntegrityMismatch(
            f"table {release.table_name} holds rows of another ingest", hint="lock again: the table is left as it is"
        )
    missing = [batch for batch in plan_batches(plan.rows) if not all(row.chunk_id in there for row in batch)]
    added = sum(len(batch) for batch in missing)
    with Progress("embedding", added, "chunks") as progress:
        for batch in missing:
            vectors = embedder.embed_documents([row.embedding_text for row in batch])
            with connection, connection.cursor() as cursor:
                postgres.copy_rows(cursor, release.table, _COLUMNS, _values(batch, vectors, release))
            progress.advance(len(batch))
    return added


def _rows_there(connection: Connection, release: Release) -> dict[str, tuple[Any, ...]]:
    """What tells each row of the table from one that another ingest left under the same id."""
    query = sql.SQL(
        "SELECT id, ingest_run_id, doc_sha256, span_start, span_end,"
        " encode(sha256(convert_to(embedding_text, 'UTF8')), 'hex') AS text_sha256 FROM {}"
    )
    with connection:
        rows = postgres.every(connection, query.format(release.table))
    return {chunk_id: tuple(identity) for chunk_id, *identity in (row.values() for row in rows)}


def _identity(row: ChunkRow, release: Release) -> tuple[Any, ...]:
    text_sha256 = hashlib.sha256(row.embedding_text.encode()).hexdigest()
    return release.release_id, row.doc_sha256, row.span_start, row.span_end, text_sha256


def finish(connection: Connection, release: Release, stats: dict[str, Any]) -> Release:
    """Weighs the terms, builds the indexes, seals the table with its content digest; returns the sealed release."""
    config = release.locked_config
    started = time.monotonic()
    with connection:
        weigh(connection, release.table, config)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("VACUUM (FULL) {}").format(release.table))  # the update left a dead copy of every row
    connection.autocommit = False
    with connection:
        build_index(connection, release.table, release.table_name, config)
    indexed = time.monotonic()
    with connection, connection.cursor() as cursor:
        seal(connection, release.table)
        content = content_of(connection, release.table_schema, release.table_name)
        assert content is not None
        stats = {**stats, "index_s": indexed - started, "seal_s": time.monotonic() - indexed}
        cursor.execute(
            "UPDATE golive.releases SET state = 'sealed', content_digest = %s, row_count = %s, ingest_stats = %s,"
            " sealed_at = now() WHERE release_id = %s",
            (content.digest, content.row_count, json.dumps(stats), release.release_id),
        )
        audit.record(connection, "seal table", release.table_name, f"ingest {release.release_id}", after=content.digest)
    with connection:
        return get_release(connection, release.release_id)


def _values(batch: Sequence[ChunkRow], vectors: NDArray[np.float32], release: Release) -> list[tuple[Any, ...]]:
    return [
        (
            row.chunk_id,
            row.doc_id,
            row.chunk_index,
            row.embedding_text,
            row.bm25_text,
            row.embedding_token_count,
            row.bm25_token_count,
            release.chunk_version,
            release.release_id,
            row.span_start,
            row.span_end,
            row.doc_sha256,
            json.dumps(list(row.duplicates)),
            "[" + ",".join(map(repr, vector.tolist())) + "]",
        )
        for row, vector in zip(batch, vectors, strict=True)
    ]
