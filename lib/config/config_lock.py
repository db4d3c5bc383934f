"""The specification's public names, as thin faces over the real parts. Nothing in ``lib`` imports this module.

It stands above the layers: it may use any of them, which is why the import check treats it as the library's front door.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib.config import guardrails, store, strict_yaml
from lib.config.locked_config import FIRST_PRIMARY_TABLE, LockedConfig
from lib.platform.clock import now
from lib.platform.errors import NotFound
from lib.platform.workspace import Workspace

__all__ = [
    "ConfigLockManager",
    "EvaluationRunbook",
    "LockedConfig",
    "ProductionGuardrails",
    "ShadowIndexManager",
    "create_production_config",
]


def create_production_config(
    chunk_size: int = 450,
    overlap_ratio: float = 0.10,
    jaccard_threshold: float = 0.8,
    prefix_policy: str = "A",
    embedder_name: str = "BAAI/bge-large-en-v1.5",
) -> LockedConfig:
    """A locked config with these values over ``configs/candidate.yaml``; nothing is stored until a manager locks it.

    Raises:
        ConfigInvalid: a value is out of bounds. Unavailable: the embedder's files are not here.
    """
    from lib.release import locking

    flags = {
        "chunk_size": str(chunk_size),
        "overlap_ratio": strict_yaml.plain(overlap_ratio),
        "jaccard_threshold": strict_yaml.plain(jaccard_threshold),
        "prefix_policy": prefix_policy,
        "embedder": embedder_name,
    }
    candidate = locking.read_candidate(Workspace.find(), flags=flags)
    return locking.freeze(candidate, moment=now(), ordinal=1, baseline_metrics={})


class ConfigLockManager:
    """Locked configs of one project: the active one, the history, locking and promoting."""

    def __init__(self, workspace: Workspace | None = None) -> None:
        self._workspace = workspace or Workspace.find()

    def get_active_config(self) -> LockedConfig | None:
        """The config that the scripts work on; None where nothing was locked yet."""
        try:
            return store.read_active(self._workspace)
        except NotFound:
            return None

    def get_config(self, chunk_version: str) -> LockedConfig:
        """A config of the history; raises NotFound."""
        from lib.platform.files import read_json

        return LockedConfig.from_dict(read_json(store.history_path(self._workspace, chunk_version), "locked config"))

    def list_versions(self) -> list[str]:
        """The chunk versions of the history, newest first."""
        return sorted((path.stem for path in (self._workspace.locked_configs / "history").glob("*.json")), reverse=True)

    def lock_config(self, config: LockedConfig) -> LockedConfig:
        """Stores a config in the database and as files and makes it the active one."""
        from lib.platform.lease import lease
        from lib.platform.postgres import address, database
        from lib.release import locking

        with database(self._workspace, "lock", write=True) as connection, lease(address(self._workspace), "lock_config"):
            return locking.store_config(connection, self._workspace, config)

    def promote_to_production(self) -> LockedConfig:
        """Promotes the active config's release; raises Refused where a condition does not hold."""
        from lib.release import promotion

        promotion.promote_active(self._workspace)
        return store.read_active(self._workspace)


class ShadowIndexManager:
    """The two tables of a rollout: the primary one, which answers queries, and a config's shadow table beside it."""

    def __init__(self, config: LockedConfig, workspace: Workspace | None = None) -> None:
        self.config = config
        self._workspace = workspace or Workspace.find()

    @property
    def ingest_run_id(self) -> str:
        """``{chunk_version}-{config_hash[:8]}``."""
        return self.config.ingest_run_id

    def get_ingest_run_id(self) -> str:
        return self.ingest_run_id

    def create_shadow_table(self) -> str:
        """Creates the config's empty table where it is missing and returns its name."""
        from psycopg2 import sql

        from lib.index.chunk_table import create_chunk_table

        name = str(self.config.shadow_table)
        with self._database() as connection, connection:
            create_chunk_table(connection, sql.Identifier(name), self.config.embedder_dimension)
        return name

    def get_retrieval_table(self, use_shadow: bool = False) -> str:
        """The shadow table where asked for, else the table that the pointer names (``document_chunks`` before any)."""
        from lib.index.releases import read_pointer

        if use_shadow:
            return str(self.config.shadow_table)
        with self._database() as connection, connection:
            release = read_pointer(connection).release
        return release.table_name if release else FIRST_PRIMARY_TABLE

    @contextmanager
    def _database(self) -> Iterator[Any]:
        from lib.platform.postgres import database

        with database(self._workspace, "shadow index", write=True) as connection:
            yield connection


class ProductionGuardrails:
    """Bounds of a config, and the health of what is retrieved with it."""

    def __init__(self, config: LockedConfig) -> None:
        self.config = config

    def validate_config(self) -> dict[str, Any]:
        """``{valid, issues, warnings}``."""
        return guardrails.validate_config(self.config)

    def check_retrieval_health(self, results: Sequence[Mapping[str, Any] | Any]) -> dict[str, Any]:
        """``{healthy, queries, bm25_prefix_leakage, over_budget_chunks, avg_snapshot_size, issues}``.

        Args:
            results: what a retriever gave, or mappings with a ``snapshot`` of chunks (see ``lib.config.guardrails``).
        """
        plain = [result if isinstance(result, Mapping) else _as_mapping(result) for result in results]
        return guardrails.check_retrieval_health(self.config, plain)


class EvaluationRunbook:
    """The exact commands for one locked config."""

    def __init__(self, config: LockedConfig, workspace: Workspace | None = None) -> None:
        self.config = config
        self._workspace = workspace or Workspace.find()

    def generate(self) -> str:
        """The runbook's Markdown."""
        from lib.release import runbook

        return runbook.render(self.config, self._workspace.root)

    def save(self) -> Path:
        """Writes the runbook beside the locked configs and returns its path."""
        from lib.release import runbook

        return runbook.write(self._workspace, self.config)


def _as_mapping(retrieved: Any) -> dict[str, Any]:
    """A ``Retrieved`` in the guardrails' form; under policy A the chunk's span text is what embedding_text ends in."""
    chunks = [asdict(chunk) for chunk in retrieved.snapshot]
    return {"snapshot": [{**chunk, "source_text": _source_text(chunk)} for chunk in chunks]}


def _source_text(chunk: Mapping[str, Any]) -> str:
    length = chunk["span_end"] - chunk["span_start"]
    return str(chunk["embedding_text"])[-length:] if length else ""
