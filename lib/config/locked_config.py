"""The locked config: a candidate frozen with its version, its models' hashes and the baseline's metrics."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from lib.platform.errors import ConfigInvalid, IntegrityMismatch
from lib.platform.files import digest_of

CHUNK_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{6}-v[1-9][0-9]*")
FIRST_PRIMARY_TABLE = "document_chunks"


@dataclass(frozen=True)
class RetrievalSettings:
    vector_top_k: int
    bm25_top_k: int
    rrf_k: int
    snapshot_size: int
    text_search_config: str
    bm25_k1: float
    bm25_b: float
    hnsw_m: int
    hnsw_ef_construction: int
    hnsw_ef_search: int
    hnsw_iterative_scan: str
    fusion: str
    vector_weight: float


@dataclass(frozen=True)
class RerankSettings:
    model: str


@dataclass(frozen=True)
class FilterSettings:
    max_chunks: int
    max_tokens: int


@dataclass(frozen=True)
class LockedConfig:
    """Immutable. ``config_hash`` covers what decides retrieval; ``digest`` covers every field."""

    chunk_size: int
    overlap_ratio: float
    jaccard_threshold: float
    prefix_policy: str

    chunk_version: str
    embedder_name: str
    tokenizer_name: str
    tokenizer_hash: str

    embedder_weights_hash: str
    embedder_dimension: int
    embedder_max_sequence_length: int
    embedder_query_prompt: str
    embedder_document_prompt: str
    embedder_runtime: str
    sources: tuple[str, ...]
    retrieval: RetrievalSettings
    rerank: RerankSettings
    filter: FilterSettings

    created_at: str
    created_by: str
    baseline_metrics: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    is_locked: bool = True
    is_production: bool = False
    shadow_table: str | None = None

    def __post_init__(self) -> None:
        if not CHUNK_VERSION.fullmatch(self.chunk_version):
            raise ConfigInvalid(f"chunk_version {self.chunk_version!r} is not YYYY-MM-DD-HHMMSS-vN")
        try:
            computed = digest_of(self.deciding())
        except ValueError as error:  # not a number, or half of a surrogate pair
            raise ConfigInvalid(
                f"locked config {self.chunk_version} holds a value that cannot be written", detail=str(error)
            ) from error
        if not self.config_hash:
            object.__setattr__(self, "config_hash", computed)
        elif self.config_hash != computed:
            raise IntegrityMismatch(
                f"locked config {self.chunk_version} does not match its config_hash",
                detail=f"recorded {self.config_hash[:12]}…, computed {computed[:12]}…",
                hint="a locked config never changes: lock a new one with scripts/lock_production_config.py",
            )
        if self.shadow_table is None:
            object.__setattr__(self, "shadow_table", shadow_table_name(self.chunk_version))

    def deciding(self) -> dict[str, Any]:
        """What decides retrieval, and so what ``config_hash`` is taken over."""
        values = asdict(self)
        kept = (
            "chunk_size",
            "overlap_ratio",
            "jaccard_threshold",
            "prefix_policy",
            "embedder_name",
            "embedder_weights_hash",
            "embedder_dimension",
            "embedder_max_sequence_length",
            "embedder_query_prompt",
            "embedder_document_prompt",
            "embedder_runtime",
            "tokenizer_hash",
            "retrieval",
            "rerank",
            "filter",
        )
        return {**{name: values[name] for name in kept}, "sources": sorted(self.sources)}

    @property
    def ingest_run_id(self) -> str:
        """``{chunk_version}-{config_hash[:8]}``; also the id of the release."""
        return f"{self.chunk_version}-{self.config_hash[:8]}"

    @property
    def digest(self) -> str:
        """SHA-256 over the frozen fields; the production flag is a state, not a part of the config."""
        return digest_of({**self.to_dict(), "is_production": False})

    def in_production(self, flag: bool) -> LockedConfig:
        return replace(self, is_production=flag)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sources": list(self.sources)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LockedConfig:
        """The inverse of ``to_dict``.

        Raises:
            ConfigInvalid: a field is missing, unknown or of the wrong kind.
            IntegrityMismatch: the fields do not give the recorded ``config_hash``.
        """
        if not isinstance(values, dict):
            raise ConfigInvalid("a locked config is a mapping of names to values", detail=f"not {values!r:.80}")
        unknown = sorted(set(values) - {item.name for item in fields(cls)})
        if unknown:
            raise ConfigInvalid("a locked config has unknown fields", detail=str(unknown))
        if not values.get("config_hash"):  # an edited config would be given the hash that fits it
            raise ConfigInvalid("a locked config is incomplete", detail="config_hash is missing")
        try:
            nested = {
                "retrieval": RetrievalSettings(**values["retrieval"]),
                "rerank": RerankSettings(**values["rerank"]),
                "filter": FilterSettings(**values["filter"]),
                "sources": tuple(values["sources"]),
            }
            return cls(**{**values, **nested})
        except (KeyError, TypeError) as error:
            raise ConfigInvalid("a locked config is incomplete", detail=str(error)) from error


def chunk_version_at(moment: datetime, ordinal: int) -> str:
    """``YYYY-MM-DD-HHMMSS-vN`` in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d-%H%M%S}-v{ordinal}"


def shadow_table_name(chunk_version: str) -> str:
    """``document_chunks_{chunk_version with _}``."""
    return f"{FIRST_PRIMARY_TABLE}_{chunk_version.replace('-', '_')}"
