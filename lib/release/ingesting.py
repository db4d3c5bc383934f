"""The ingest step of a release: the locked config's shadow table, built or found, with its receipt."""

from __future__ import annotations

import time
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index import shadow
from lib.index.embedder import load_embedder, locked_files
from lib.index.ingest import IngestPlan, plan_ingest
from lib.index.releases import Release, get_release
from lib.index.tokens import TokenCounter
from lib.platform.workspace import Workspace
from lib.release import receipts


def preview(workspace: Workspace, connection: Connection) -> dict[str, Any]:
    """What an ingest would build; embeds and writes nothing."""
    release, documents, digest = _read(workspace, connection)
    if shadow.already_sealed(connection, release, digest):
        return _outcome(release, reused=True, applied=False)
    plan = plan_ingest(
        documents, release.locked_config, TokenCounter(locked_files(workspace, release.locked_config).folder)
    )
    return {**_outcome(release, reused=False, applied=False), **_plan_stats(plan), "rows": len(plan.rows)}


def ingest(workspace: Workspace, connection: Connection) -> dict[str, Any]:
    """Builds and seals the table of the active config, or says that it stands.

    Raises: as the functions of ``lib.index.shadow``.
    """
    started = time.monotonic()
    release, documents, digest = _read(workspace, connection)
    if shadow.already_sealed(connection, release, digest):
        return _outcome(release, reused=True, applied=True)
    config = release.locked_config
    plan = plan_ingest(documents, config, TokenCounter(locked_files(workspace, config).folder))
    planned = time.monotonic()
    shadow.begin(connection, release, digest)
    embedder = load_embedder(workspace, config)
    loaded = time.monotonic()
    added = shadow.load(connection, release, plan, embedder)
    embed_s = time.monotonic() - loaded
    stats = {
        **_plan_stats(plan),
        "embedded_now": added,
        "plan_s": planned - started,
        "load_model_s": loaded - planned,
        "embed_s": embed_s,
        "chunks_per_s": added / embed_s if added else None,
    }
    sealed = shadow.finish(connection, release, stats)
    receipts.write(
        workspace,
        sealed.release_id,
        "ingest",
        outcome="DONE",
        inputs={"config_hash": sealed.config_hash, "corpus_digest": digest},
        summary={
            "table": sealed.table_name,
            "rows": sealed.row_count,
            "digest": sealed.content_digest,
            **sealed.ingest_stats,
        },
        seconds=time.monotonic() - started,
    )
    return _outcome(sealed, reused=False, applied=True)


def to_text(outcome: dict[str, Any]) -> str:
    if not outcome["applied"] and not outcome["reused"]:
        return f"would build {outcome['table']}: {outcome['rows']} rows from {outcome['documents']} documents"
    head = f"{outcome['table']}: {outcome['rows']} rows, sealed with digest {outcome['content_digest'][:12]}"
    if outcome["reused"]:
        return f"standing: {head}"
    return (
        f"built: {head}\n  {outcome['documents']} documents, {outcome['chunks']} chunks,"
        f" {outcome['duplicates']} near-duplicates dropped ({outcome['deduplication_rate']:.1%})"
    )


def _read(workspace: Workspace, connection: Connection) -> tuple[Release, list[Any], str]:
    config = store.read_active(workspace)
    with connection:
        release = get_release(connection, config.ingest_run_id)
    documents, digest = shadow.read_corpus(connection, config)
    return release, documents, digest


def _plan_stats(plan: IngestPlan) -> dict[str, Any]:
    return {
        "documents": plan.documents,
        "chunks": plan.chunks,
        "duplicates": plan.duplicates,
        "deduplication_rate": plan.deduplication_rate,
        "tokens": sum(row.embedding_token_count for row in plan.rows),
    }


def _outcome(release: Release, *, reused: bool, applied: bool) -> dict[str, Any]:
    return {
        "release_id": release.release_id,
        "table": release.table_name,
        "rows": release.row_count,
        "content_digest": release.content_digest,
        "reused": reused,
        "applied": applied,
        **release.ingest_stats,
    }
