"""Locking: a candidate becomes a locked config, or is found to be one already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import embedder_files, layers, schemas, store
from lib.config.bounds import check_bounds, check_token_budget
from lib.config.locked_config import (
    FilterSettings,
    LockedConfig,
    RerankSettings,
    RetrievalSettings,
    chunk_version_at,
)
from lib.index.documents import corpus_digest
from lib.index.releases import Release, read_pointer
from lib.index.seal import content_of
from lib.index.tokens import TokenCounter
from lib.platform import audit, failpoints, postgres
from lib.platform.clock import timestamp
from lib.platform.errors import ConfigInvalid, Refused
from lib.platform.lease import who
from lib.platform.workspace import Workspace

_REUSABLE = ("locked", "building", "sealed", "live")


@dataclass(frozen=True)
class Candidate:
    """A checked candidate: its values, where each came from, its embedder's files, and what to be aware of."""

    layered: layers.Layered
    embedder: embedder_files.EmbedderFiles
    warnings: list[str]


@dataclass(frozen=True)
class LockPlan:
    """The locked config that locking will make, or the one that stands already."""

    config: LockedConfig
    reused: bool
    why: str
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "release_id": self.config.ingest_run_id,
            "reused": self.reused,
            "why": self.why,
            "warnings": self.warnings,
            "config": self.config.to_dict(),
        }


def read_candidate(
    workspace: Workspace,
    *,
    file: str | None = None,
    flags: Mapping[str, str | None] | None = None,
    sources: list[str] | None = None,
) -> Candidate:
    """Merges file, environment and flags, and refuses what the caps or the embedder do not allow.

    Raises:
        ConfigInvalid, NotFound, Unavailable: naming the value and the place that it came from.
    """
    environment = layers.environment_name(workspace, os.environ)
    over = {**layers.from_environment(os.environ), **layers.from_flags(flags or {})}
    if sources:
        over["sources"] = ("flag --source", sources)
    layered = layers.load(workspace, "candidate", environment=environment, file=file, over=over)
    warnings = _require_bounds(layered)
    files = _fitting_embedder(layered, embedder_files.find(workspace, layered.values["embedder"]))
    return Candidate(layered, files, warnings)


def check_candidate(layered: layers.Layered, files: embedder_files.EmbedderFiles) -> Candidate:
    """Merged values as a candidate for an embedder whose files are known; raises ConfigInvalid as ``read_candidate``."""
    schemas.check(layered.values, "candidate", layered.where)
    warnings = _require_bounds(layered)
    return Candidate(layered, _fitting_embedder(layered, files), warnings)


def _require_bounds(layered: layers.Layered) -> list[str]:
    """The warnings about values that are within the caps; raises ConfigInvalid where one is not."""
    findings = check_bounds(layered.values)
    if findings.issues:
        lines = [f"{layered.where(dotted)}: {message}" for dotted, message in findings.issues]
        raise ConfigInvalid(lines[0], detail="; ".join(lines[1:]))
    return [message for _, message in findings.warnings]


def _fitting_embedder(layered: layers.Layered, files: embedder_files.EmbedderFiles) -> embedder_files.EmbedderFiles:
    """``files``, where the runtime runs them and a whole chunk with its prefix is read; else raises ConfigInvalid."""
    if problem := embedder_files.runtime_problem(files, layered.values["embedder_runtime"]):
        raise ConfigInvalid(f"{layered.where('embedder_runtime')}: {problem}")
    prompt_tokens = TokenCounter(files.folder).count(files.document_prompt) if files.document_prompt else 0
    over_budget = check_token_budget(layered.values["chunk_size"], files.max_sequence_length, prompt_tokens)
    if over_budget:
        longer = files.position_table > files.max_sequence_length
        raise ConfigInvalid(
            f"{layered.where('chunk_size')}: {over_budget}",
            detail=f"embedder {files.name}; text beyond its limit would be dropped in silence",
            hint=f"its position table has {files.position_table}: set max_sequence_length in configs/embedders.yaml"
            if longer
            else "lower chunk_size, or take an embedder that reads more",
        )
    return files


def freeze(candidate: Candidate, *, moment: datetime, ordinal: int, baseline_metrics: dict[str, Any]) -> LockedConfig:
    """The locked config of a candidate, with its version and baseline."""
    values, files = candidate.layered.values, candidate.embedder
    retrieval = dict(values["retrieval"])
    for name in ("bm25_k1", "bm25_b", "vector_weight"):
        retrieval[name] = float(retrieval[name])
    return LockedConfig(
        chunk_size=int(values["chunk_size"]),
        overlap_ratio=float(values["overlap_ratio"]),
        jaccard_threshold=float(values["jaccard_threshold"]),
        prefix_policy=values["prefix_policy"],
        chunk_version=chunk_version_at(moment, ordinal),
        embedder_name=files.name,
        tokenizer_name=files.tokenizer_name,
        tokenizer_hash=files.tokenizer_hash,
        embedder_weights_hash=files.weights_hash,
        embedder_dimension=files.dimension,
        embedder_max_sequence_length=files.max_sequence_length,
        embedder_query_prompt=files.query_prompt,
        embedder_document_prompt=files.document_prompt,
        embedder_runtime=values["embedder_runtime"],
        sources=tuple(values["sources"]),
        retrieval=RetrievalSettings(**retrieval),
        rerank=RerankSettings(**values["rerank"]),
        filter=FilterSettings(**values["filter"]),
        created_at=timestamp(moment),
        created_by=who(),
        baseline_metrics=baseline_metrics,
    )


def plan_lock(connection: Connection, candidate: Candidate, moment: datetime) -> LockPlan:
    """Reuses the newest release with the same config hash and the same documents, unless it was retired or rolled back."""
    with connection:
        fresh = freeze(candidate, moment=moment, ordinal=1, baseline_metrics=_baseline_metrics(connection))
        standing = _same_config(connection, fresh.config_hash)
        documents = corpus_digest(connection, fresh.sources)
        live = read_pointer(connection).release
        taken = {row["chunk_version"] for row in postgres.every(connection, "SELECT chunk_version FROM golive.releases")}
        newest = next((release for release in standing if release.corpus_digest in (None, documents)), None)
        newest = newest or (standing[0] if standing else None)
        damaged = newest is not None and newest.state == "sealed" and not _is_sound(connection, newest)
    if newest and newest.state in _REUSABLE and newest.corpus_digest in (None, documents) and not damaged:
        config = newest.locked_config.in_production(bool(live and live.release_id == newest.release_id))
        why = "it is live" if config.is_production else f"it was locked before ({newest.state})"
        return LockPlan(config, True, f"same config and same documents: {why}", candidate.warnings)
    if newest is None:
        why = "this config was never locked here"
    elif damaged:
        why = f"the table of {newest.release_id} is not what was sealed"
    elif newest.state not in _REUSABLE:
        why = f"{newest.release_id} with the same config was {newest.state.replace('_', ' ')}"
    else:
        why = f"the documents have changed since {newest.release_id}"
    ordinal = len(standing) + 1
    while chunk_version_at(moment, ordinal) in taken:
        ordinal += 1
    config = freeze(candidate, moment=moment, ordinal=ordinal, baseline_metrics=fresh.baseline_metrics)
    return LockPlan(config, False, why, candidate.warnings)


def apply_lock(connection: Connection, workspace: Workspace, plan: LockPlan) -> LockedConfig:
    """Records the config in the database, then as files; done again after a kill, it completes what is missing."""
    return store_config(connection, workspace, plan.config)


def store_config(connection: Connection, workspace: Workspace, config: LockedConfig) -> LockedConfig:
    """Writes a locked config to the database (once), its history file (once) and the active file; reads it back.

    Raises:
        Refused: another config was locked under this version.
    """
    store.in_history(workspace, config)
    failpoints.reach("lock.record")
    with connection, connection.cursor() as cursor:
        frozen = config.in_production(False)
        cursor.execute(
            "INSERT INTO golive.releases (release_id, chunk_version, config_hash, config, table_schema, table_name, state)"
            " VALUES (%s, %s, %s, %s, current_schema(), %s, 'locked') ON CONFLICT DO NOTHING RETURNING 1",
            (
                config.ingest_run_id,
                config.chunk_version,
                config.config_hash,
                json.dumps(frozen.to_dict()),
                config.shadow_table,
            ),
        )
        if cursor.fetchone():
            audit.record(connection, "lock config", config.chunk_version, "locked", after=config.digest)
        else:
            _require_the_same(connection, config)
        failpoints.reach("lock.commit")
    failpoints.reach("lock.history_file")
    store.write_history(workspace, config)
    failpoints.reach("lock.active_file")
    store.write_active(workspace, config)
    failpoints.reach("lock.read_back")
    return store.read_active(workspace)


def _require_the_same(connection: Connection, config: LockedConfig) -> None:
    row = postgres.one(connection, "SELECT config FROM golive.releases WHERE chunk_version = %s", (config.chunk_version,))
    if row is None or LockedConfig.from_dict(row["config"]).digest != config.digest:
        raise Refused(
            f"another config is locked as {config.chunk_version}", hint="lock it again: it gets a version of its own"
        )


def _same_config(connection: Connection, config_hash: str) -> list[Release]:
    """Releases with this config, newest first."""
    rows = postgres.every(
        connection, "SELECT * FROM golive.releases WHERE config_hash = %s ORDER BY chunk_version DESC", (config_hash,)
    )
    return [Release(**row) for row in rows]


def _is_sound(connection: Connection, release: Release) -> bool:
    content = content_of(connection, release.table_schema, release.table_name)
    return content is not None and content.digest == release.content_digest


def _baseline_metrics(connection: Connection) -> dict[str, Any]:
    """The newest passed metrics of what is live; empty before the first release."""
    found = postgres.one(
        connection,
        "SELECT v.release_id, v.metrics FROM golive.verdicts v JOIN golive.pointer p USING (release_id)"
        " WHERE v.verdict = 'PASS' ORDER BY v.verdict_id DESC LIMIT 1",
    )
    return {"release_id": found["release_id"], "metrics": found["metrics"]} if found else {}
