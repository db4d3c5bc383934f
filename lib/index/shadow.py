"""The shadow build: fill (chunk, deduplicate, embed, COPY), weigh, index, check the recall, seal; each step resumable.

A row is a pure function of the documents and the config, and is committed once it is embedded. A build that was killed, or
whose documents changed on the way, brings the table to what these documents give and ends in the same content digest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.bm25 import weigh
from lib.index.changes import record_coverage
from lib.index.chunk_table import build_index, compact, create_chunk_table
from lib.index.documents import Document, corpus_digest, digest_of_documents, read_documents
from lib.index.releases import Release, adopt, get_release
from lib.index.seal import content_of, seal
from lib.index.settings import IndexSettings
from lib.platform import audit, failpoints
from lib.platform.errors import IntegrityMismatch, NotFound, Refused

if TYPE_CHECKING:
    from lib.index.embedder import Embedder
    from lib.index.pipeline import Chunker

_ROUNDS = 3  # of filling the table while the documents change; what changes after the last is caught up with after the seal


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


def begin(connection: Connection, release: Release, digest: str) -> None:
    """Creates the table where it is missing, and marks the release as building from the documents with this digest.

    Raises:
        Refused: it is sealed.
    """
    with connection, connection.cursor() as cursor:
        create_chunk_table(connection, release.table, release.locked_config.embedder_dimension)
        cursor.execute(
            "UPDATE golive.releases SET state = 'building', corpus_digest = %s"
            " WHERE release_id = %s AND state IN ('locked', 'building')",
            (digest, release.release_id),
        )
        if not cursor.rowcount:
            raise Refused(f"{release.release_id} is sealed", hint="a sealed table never changes; lock again for a new one")
        adopt(connection, release.release_id)


def build(
    connection: Connection,
    release: Release,
    embedder: Embedder,
    chunker: Chunker,
    settings: IndexSettings,
    queries: Sequence[tuple[str, str]] = (),
    facts: Mapping[str, Any] | None = None,
) -> Release:
    """Fills, indexes and seals the table of a release; returns the sealed release, its ``ingest_stats`` with what it took.

    Documents that change meanwhile are brought in by filling again, which touches only what they changed.

    Args:
        queries: names and texts of the questions that the index's recall is measured with; see ``recall.check``.
        facts: what else is recorded in ``ingest_stats``.

    Raises:
        NotFound: a source holds no document. Refused: the index misses too much. Else as ``pipeline.fill``.
    """
    from lib.index import pipeline  # numpy, which a rollback does not have

    config = release.locked_config
    embedded = removed = rounds = 0
    seconds, unchanged = 0.0, False
    while not unchanged and rounds < _ROUNDS:
        rounds += 1
        documents, digest = read_corpus(connection, config)
        failpoints.reach("ingest.begin")
        begin(connection, release, digest)
        failpoints.reach("ingest.fill")
        filled = pipeline.fill(connection, release, documents, embedder, chunker)
        embedded, removed, seconds = embedded + filled.embedded_now, removed + filled.removed_now, seconds + filled.seconds
        with connection:
            unchanged = corpus_digest(connection, config.sources) == digest
    stats = {**filled.to_stats(embedded, removed, seconds), "rounds": rounds, **(facts or {})}
    return finish(connection, release, documents, embedder, settings, queries, stats)


def finish(
    connection: Connection,
    release: Release,
    documents: Sequence[Document],
    embedder: Embedder,
    settings: IndexSettings,
    queries: Sequence[tuple[str, str]],
    stats: dict[str, Any],
) -> Release:
    """Weighs the terms, builds the indexes, checks the recall, seals the table with its content digest.

    Raises:
        Refused: the index misses too much; nothing is sealed.
    """
    from lib.index import recall

    started = time.monotonic()
    _index(connection, release, settings)
    failpoints.reach("ingest.check_recall")
    indexed = time.monotonic()
    found = recall.check(connection, release, embedder, settings.recall, queries)
    checked = time.monotonic()
    failpoints.reach("ingest.seal")
    with connection, connection.cursor() as cursor:
        seal(connection, release.table)
        content = content_of(connection, release.table_schema, release.table_name)
        assert content is not None
        record_coverage(connection, release, documents)
        stats = {
            **stats,
            **found.to_stats(),
            "index_s": indexed - started,
            "recall_s": checked - indexed,
            "seal_s": time.monotonic() - checked,
        }
        cursor.execute(
            "UPDATE golive.releases SET state = 'sealed', content_digest = %s, row_count = %s, ingest_stats = %s,"
            " sealed_at = now() WHERE release_id = %s",
            (content.digest, content.row_count, json.dumps(stats), release.release_id),
        )
        adopt(connection, release.release_id)
        audit.record(connection, "seal table", release.table_name, f"ingest {release.release_id}", after=content.digest)
        failpoints.reach("ingest.commit_seal")
    failpoints.reach("ingest.sealed")
    with connection:
        return get_release(connection, release.release_id)


def _index(connection: Connection, release: Release, settings: IndexSettings) -> None:
    """Weighs and indexes a filled table, unless an earlier attempt did and no row has changed since."""
    with connection:
        if get_release(connection, release.release_id).ingest_stats.get("indexed"):
            return
        failpoints.reach("ingest.weigh")
        weigh(connection, release.table, release.locked_config)
    failpoints.reach("ingest.compact")
    compact(connection, release.table)
    failpoints.reach("ingest.build_index")
    with connection, connection.cursor() as cursor:
        build_index(
            connection,
            release.table,
            release.table_name,
            release.locked_config,
            maintenance_work_mem_mb=settings.build.maintenance_work_mem_mb,
            parallel_workers=settings.build.parallel_workers,
        )
        cursor.execute(
            "UPDATE golive.releases SET ingest_stats = ingest_stats || '{\"indexed\": true}' WHERE release_id = %s",
            (release.release_id,),
        )
        failpoints.reach("ingest.commit_index")
