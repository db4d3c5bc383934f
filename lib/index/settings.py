"""How an index is built and kept up to date: ``configs/index.yaml``, with ``EXECUTOR`` from the environment over it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lib.config import layers
from lib.platform.workspace import Workspace


@dataclass(frozen=True)
class BuildSettings:
    """``executor`` is ``local``, ``dask://host:port`` or ``ray://host:port``; ``workers`` 0 means one a core."""

    executor: str
    workers: int
    documents_per_unit: int
    maintenance_work_mem_mb: int
    parallel_workers: int


@dataclass(frozen=True)
class RecallSettings:
    """The floors of the vector index's recall@k against exact search, and over how many queries at most it is measured."""

    k: int
    queries: int
    mean_floor: float
    minimum_floor: float


@dataclass(frozen=True)
class CatchUpSettings:
    """``max_share``: of the documents, how many may have changed since the seal before a promotion is refused."""

    bake_hours: float
    max_share: float


@dataclass(frozen=True)
class IndexSettings:
    build: BuildSettings
    cache_embeddings: bool
    recall: RecallSettings
    catch_up: CatchUpSettings


def load(workspace: Workspace) -> IndexSettings:
    """Reads ``configs/index.yaml`` with the environment's layer over it.

    Raises:
        ConfigInvalid, NotFound: naming the file, the line or the variable.
    """
    executor = os.environ.get("EXECUTOR")
    over = {"build.executor": ("environment variable EXECUTOR", executor)} if executor else {}
    environment = layers.environment_name(workspace, os.environ)
    values = layers.load(workspace, "index", environment=environment, over=over).values
    return IndexSettings(
        build=BuildSettings(**values["build"]),
        cache_embeddings=values["embedding_cache"]["enabled"],
        recall=RecallSettings(**values["recall"]),
        catch_up=CatchUpSettings(**values["catch_up"]),
    )
