"""Scratch releases: a config's table built and evaluated beside everything else, which nobody can release.

Every table is a temporary one of this session: no other session sees it, it can never be promoted, and PostgreSQL drops it
when the session ends, however that ends. Only the embedding cache is written, with vectors that any build would write.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.evaluation import cases as case_files
from lib.evaluation import results, run
from lib.evaluation.settings import EvaluationSettings
from lib.index import pipeline
from lib.index.bm25 import terms_of, weigh
from lib.index.chunk_table import build_index, compact, create_chunk_table
from lib.index.documents import Document, digest_of_documents
from lib.index.releases import Release
from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.clock import now
from lib.platform.errors import Refused, Unavailable
from lib.platform.workspace import Workspace
from lib.release.ingesting import Builder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TEMPORARY = "pg_temp"


class DocumentsChanged(Unavailable):
    """The documents are not those any more that a scratch table was built from."""


def require_own_session(connection: Connection, what: str) -> None:
    """Raises Refused behind a pooler that hands sessions on, where a temporary table does not last."""
    if not postgres.has_own_session(connection):
        raise Refused(
            f"{what} needs a session of its own for its temporary tables",
            detail="this connection goes through a pooler in transaction mode",
            hint="let DATABASE_URL name the server itself",
        )


def release_of(config: LockedConfig, documents: Sequence[Document], *, release_id: str, table_name: str) -> Release:
    """A release that is not built yet. ``release_id`` is one that no locked config can have."""
    return Release(
        release_id=release_id,
        chunk_version=config.chunk_version,
        config_hash=config.config_hash,
        config=config.to_dict(),
        table_schema=_TEMPORARY,
        table_name=table_name,
        state="building",
        corpus_digest=digest_of_documents(documents),
        content_digest=None,
        row_count=None,
        ingest_stats={},
        created_at=now(),
        sealed_at=None,
    )


def build(
    connection: Connection, release: Release, documents: Sequence[Document], tools: Builder, spoil: str | None = None
) -> Release:
    """Its table, built as a shadow table is; the same config and documents give the same content digest.

    Args:
        spoil: a SQL file of this package that is run over the filled table.

    Raises:
        as ``pipeline.fill`` and ``build_index``.
    """
    config = release.locked_config
    with connection:
        create_chunk_table(connection, release.table, config.embedder_dimension)
    filled = pipeline.fill(connection, release, documents, tools.embedder, tools.chunker)
    with connection, connection.cursor() as cursor:
        if spoil:
            cursor.execute(postgres.compose(__file__, spoil, table=release.table))
        weigh(connection, release.table, config)
    compact(connection, release.table)
    with connection:
        build_index(
            connection,
            release.table,
            release.table_name,
            config,
            maintenance_work_mem_mb=tools.settings.build.maintenance_work_mem_mb,
            parallel_workers=0,  # which no temporary table can have
        )
        content = content_of(connection, release.table_schema, release.table_name)
    assert content is not None
    stats = filled.to_stats(filled.embedded_now, filled.removed_now, filled.seconds)
    return replace(release, content_digest=content.digest, row_count=content.row_count, ingest_stats=stats, sealed_at=now())


def index_bytes(connection: Connection, release: Release) -> int:
    """What its table takes with its indexes and postings."""
    with connection:
        found = postgres.one(
            connection,
            postgres.read_sql(__file__, "index_bytes"),
            [name.as_string(connection) for name in (release.table, terms_of(release.table))],
        )
    assert found is not None
    return int(found["bytes"])


def evaluate(
    workspace: Workspace,
    connection: Connection,
    release: Release,
    cases: case_files.CaseFile,
    settings: EvaluationSettings,
    folder: Path | None = None,
) -> results.Evaluation:
    """As ``run.evaluate`` of a built scratch release; without a ``folder`` nothing of it stays on disk.

    Raises:
        DocumentsChanged: those that hold the gold changed since those were read that the table was built from.
    """
    asked = run.Request(release, cases, release.locked_config.sources, settings)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golive-scratch-"))) / "evaluation"
        evaluation = run.evaluate(workspace, connection, asked, folder)
    if evaluation.summary["inputs"]["gold_corpus_digest"] != release.corpus_digest:
        raise DocumentsChanged("the documents changed meanwhile", hint="run the same command again")
    return evaluation


def drop(connection: Connection, release: Release) -> None:
    """Drops its table, and whatever of it a build left that failed."""
    if connection.closed:
        return
    connection.rollback()
    with connection, connection.cursor() as cursor:
        cursor.execute(postgres.compose(__file__, "drop_scratch", table=release.table, terms=terms_of(release.table)))


class _Remembering:
    """An embedder whose vectors depend on the batch, asked for each text alone and once: nothing else may keep them."""

    batch_independent = False

    def __init__(self, embedder: Any) -> None:
        self.name, self.dimension, self.identity = embedder.name, embedder.dimension, embedder.identity
        self._embedder = embedder
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        for text in texts:
            if text not in self._known:
                self._known[text] = self._embedder.embed_documents([text])[0]
        return np.stack([self._known[text] for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._embedder.embed_query(text)
        return vector


def remembering(tools: Builder) -> Builder:
    """Tools that embed a text once for all builds of this run, where the embedding cache does not do so."""
    return tools if tools.embedder.batch_independent else replace(tools, embedder=_Remembering(tools.embedder))
