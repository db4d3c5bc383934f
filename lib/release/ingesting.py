"""The ingest step of a release: the locked config's shadow table, built or found, with its receipt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.config.locked_config import LockedConfig
from lib.evaluation import cases as case_files
from lib.index import settings as index_settings
from lib.index import shadow
from lib.index.documents import Document
from lib.index.embedder import Embedder, load_embedder, locked_files
from lib.index.embedding_cache import cached
from lib.index.executors import open_workers
from lib.index.ingest import IngestPlan, plan_ingest
from lib.index.pipeline import Chunker, ClusterEmbedder
from lib.index.releases import Release, get_release
from lib.index.tokens import TokenCounter
from lib.platform import failpoints, postgres
from lib.platform.workspace import Workspace
from lib.release import receipts


def preview(workspace: Workspace, connection: Connection) -> dict[str, Any]:
    """What an ingest would build; embeds and writes nothing."""
    release, documents, digest = _read(workspace, connection)
    if shadow.already_sealed(connection, release, digest):
        return _outcome(release, reused=True, applied=False)
    config = release.locked_config
    plan = plan_ingest(documents, config, TokenCounter(locked_files(workspace, config).folder))
    return {**_outcome(release, reused=False, applied=False), **_plan_stats(plan), "rows": len(plan.rows)}


def ingest(workspace: Workspace, connection: Connection, cases_path: Path | None = None) -> dict[str, Any]:
    """Builds and seals the table of the active config, or says that it stands.

    Args:
        cases_path: whose questions the vector index is checked with (default: eval/test_cases.json); where there are
            none, chunks of the table stand in for them.

    Raises: as the functions of ``lib.index.shadow``; Unavailable where the cluster that was asked for is not there.
    """
    started = time.monotonic()
    release, documents, digest = _read(workspace, connection)
    if shadow.already_sealed(connection, release, digest):
        if not receipts.holds(workspace, release.release_id, "ingest", _receipt_inputs(release)):
            _write_receipt(workspace, release, started)  # the build was killed between its seal and its receipt
        return _outcome(release, reused=True, applied=True)
    queries = _queries(workspace, cases_path)
    with builder(workspace, release.locked_config, documents) as tools:
        facts = {"load_model_s": tools.load_model_s}
        sealed = shadow.build(connection, release, tools.embedder, tools.chunker, tools.settings, queries, facts)
    failpoints.reach("ingest.receipt")
    _write_receipt(workspace, sealed, started)
    return _outcome(sealed, reused=False, applied=True)


def _receipt_inputs(release: Release) -> dict[str, Any]:
    return {"config_hash": release.config_hash, "corpus_digest": release.corpus_digest}


def _write_receipt(workspace: Workspace, sealed: Release, started: float) -> None:
    receipts.write(
        workspace,
        sealed.release_id,
        "ingest",
        outcome="DONE",
        inputs=_receipt_inputs(sealed),
        summary={
            "table": sealed.table_name,
            "rows": sealed.row_count,
            "digest": sealed.content_digest,
            **sealed.ingest_stats,
        },
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class Builder:
    """What a table is built with: the embedder over its cache, the chunker with its workers, and the settings."""

    embedder: Embedder
    chunker: Chunker
    settings: index_settings.IndexSettings
    load_model_s: float


@contextmanager
def builder(workspace: Workspace, config: LockedConfig, documents: Sequence[Document]) -> Iterator[Builder]:
    """The executor, the cache and the model that the settings and the config name; ``documents`` are what will be built."""
    characters = sum(len(document.content) for document in documents)
    settings = index_settings.load(workspace)
    tokenizer = locked_files(workspace, config).folder
    with ExitStack() as stack:
        workers = stack.enter_context(open_workers(settings.build, characters=characters))
        loading = time.monotonic()
        embedder: Embedder = load_embedder(workspace, config)
        load_model_s = time.monotonic() - loading
        cache = settings.cache_embeddings and embedder.batch_independent
        if workers.on_cluster and config.embedder_runtime != "remote":
            embedder = ClusterEmbedder(embedder, config, workers)
        if cache:
            # a connection of its own: the thread that embeds looks up and remembers while this one loads
            beside = postgres.connect(postgres.address(workspace), "embedding cache")
            stack.callback(beside.close)
            embedder = cached(embedder, beside, enabled=True)
        yield Builder(embedder, Chunker(tokenizer, workers, settings.build.documents_per_unit), settings, load_model_s)


def _queries(workspace: Workspace, cases_path: Path | None) -> list[tuple[str, str]]:
    """Names and texts of the cases' questions; none where no file is named and the default one is not there."""
    if cases_path is None and not workspace.default_cases.exists():
        return []
    return [(case.query_id, case.query) for case in case_files.load(cases_path or workspace.default_cases).cases]


def to_text(outcome: dict[str, Any]) -> str:
    if not outcome["applied"] and not outcome["reused"]:
        return f"would build {outcome['table']}: {outcome['rows']} rows from {outcome['documents']} documents"
    head = f"{outcome['table']}: {outcome['rows']} rows, sealed with digest {outcome['content_digest'][:12]}"
    if outcome["reused"]:
        return f"standing: {head}"
    return (
        f"built: {head}\n  {outcome['documents']} documents, {outcome['chunks']} chunks,"
        f" {outcome['duplicates']} near-duplicates dropped ({outcome['deduplication_rate']:.1%})\n"
        f"  vector search finds {outcome['recall_mean']:.1%} of the {outcome['recall_k']} nearest rows, at least"
        f" {outcome['recall_minimum']:.1%} ({outcome['recall_questions']} {outcome['recall_asked']};"
        f" {outcome['recall_plan']})"
    )


def _read(workspace: Workspace, connection: Connection) -> tuple[Release, list[Document], str]:
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
