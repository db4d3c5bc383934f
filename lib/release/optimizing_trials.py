"""Trials: a point's table built or found, its quality, latency and size measured, on the training cases alone."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from lib.evaluation.cases import Case, evidence_found
from lib.evaluation.settings import EvaluationSettings
from lib.index.documents import Document
from lib.index.embedder import Embedder
from lib.index.releases import Release
from lib.index.retrieval import Retriever
from lib.platform import postgres
from lib.platform.errors import GoliveError, Unavailable
from lib.platform.workspace import Workspace
from lib.release import scratch
from lib.release.ingesting import Builder
from lib.release.optimizing_space import Space, Values, build_key, lock
from lib.release.optimizing_split import Part
from lib.release.optimizing_study import Trial

_RATIO_STEP = 0.05  # what a ratio of latencies is rounded to: less is noise, and noise would crowd the front
_RETRIEVED = {"oracle_hit_rate": "snapshot", "filter_hit_rate": "context"}


@dataclass
class Tables:
    """Built scratch tables, the least recently used dropped beyond ``most``; the first one, the base's, stays."""

    connection: Connection
    documents: Sequence[Document]
    tools: Builder
    most: int
    _standing: OrderedDict[str, tuple[Release, int]] = field(default_factory=OrderedDict)

    def release(self, space: Space, values: Values, name: str) -> tuple[Release, int, bool]:
        """A release that answers as the point's config says, its table's bytes, and whether that was built just now."""
        config, key = lock(space.candidate(values)), build_key(values)
        built = key not in self._standing
        if built:
            self._make_room()
            self._standing[key] = self._build(space, values, key)
        if key != next(iter(self._standing)):
            self._standing.move_to_end(key)
        table, size = self._standing[key]
        found = replace(table, release_id=name, config_hash=config.config_hash, config=config.to_dict())
        return found, size, built

    def _make_room(self) -> None:
        while len(self._standing) >= self.most:
            oldest = list(self._standing)[1]
            scratch.drop(self.connection, self._standing.pop(oldest)[0])

    def _build(self, space: Space, values: Values, key: str) -> tuple[Release, int]:
        config = lock(space.candidate(values))
        blank = scratch.release_of(config, self.documents, release_id=f"search {key[:12]}", table_name=f"search_{key[:16]}")
        try:
            release = scratch.build(self.connection, blank, self.documents, self.tools)
            return release, scratch.index_bytes(self.connection, release)
        except BaseException:
            scratch.drop(self.connection, blank)
            raise


@dataclass(frozen=True)
class Bench:
    """Where trials are measured. It holds the training cases and no others."""

    workspace: Workspace
    connection: Connection
    space: Space
    tables: Tables
    embedder: Embedder
    training: Part
    settings: EvaluationSettings
    objectives: Mapping[str, Any]

    def measure(self, number: int, values: Values) -> Trial:
        """One trial; one that cannot be measured is returned with its reason.

        Raises:
            GoliveError: the database went away, the documents changed, or it is the base's, without which nothing compares.
        """
        started = time.monotonic()
        blank = Trial(number, values, lock(self.space.candidate(values)).config_hash)
        try:
            found = self._measure(blank)
        except scratch.DocumentsChanged:
            raise
        except (GoliveError, psycopg2.Error) as error:
            known = error if isinstance(error, GoliveError) else postgres.translate(error)
            if known is None or self.connection.closed or number == 0:
                raise
            self.connection.rollback()
            reason = f"{known.message}: {known.detail}" if known.detail else known.message
            found = replace(blank, reason=reason)
        return replace(found, seconds=round(time.monotonic() - started, 1))

    def _measure(self, trial: Trial) -> Trial:
        release, size, built = self.tables.release(self.space, trial.values, f"trial {trial.number}")
        quality, unscored = self._quality(release)
        ratio, latency_ms = self._latency(release)
        return replace(
            trial,
            quality=quality,
            latency_ratio=ratio if trial.number else 1.0,  # the base beside itself
            latency_ms=latency_ms,
            index_bytes=size,
            rows=release.row_count,
            unscored=unscored,
            built=built,
            embedded=release.ingest_stats["embedded_now"] if built else 0,
        )

    def _quality(self, release: Release) -> tuple[float, int]:
        """The mean over the training cases, and how many of them are unscored."""
        metric = self.objectives["quality"]
        if metric in _RETRIEVED:
            return self._evidence_rate(release, _RETRIEVED[metric]), 0
        evaluation = scratch.evaluate(self.workspace, self.connection, release, self.training.file, self.settings)
        value = evaluation.summary["metrics"][metric]
        if value is None:
            raise Unavailable(f"{metric} is undefined for every case")
        return float(value), len(evaluation.unscored)

    def _evidence_rate(self, release: Release, where: str) -> float:
        """How many answerable cases have their evidence in the snapshot or in the context, as an evaluation counts them."""
        retriever = self._retriever(release)
        found = [
            evidence_found(case, getattr(retriever.retrieve(case.query), where)) for case in _answerable(self.training)
        ]
        return fmean(found)

    def _latency(self, release: Release) -> tuple[float, float]:
        """The median latency as a ratio to the base's, measured in turn with it, and in ms."""
        base, _, _ = self.tables.release(self.space, self.space.base_point, "base")
        pair = (self._retriever(base), self._retriever(release))
        queries = [case.query for case in self.training.cases][: self.objectives["latency_queries"]]
        fastest: tuple[list[float], list[float]] = ([], [])
        for query in queries:
            asked: tuple[list[float], list[float]] = ([], [])
            for turn in range(self.objectives["latency_rounds"]):
                for side in (0, 1) if turn % 2 == 0 else (1, 0):
                    asked[side].append(pair[side].retrieve(query).latency_ms)
            for side in (0, 1):
                fastest[side].append(min(asked[side]))
        ours = median(fastest[1])
        return round(round(ours / median(fastest[0]) / _RATIO_STEP) * _RATIO_STEP, 2), round(ours, 2)

    def _retriever(self, release: Release) -> Retriever:
        return Retriever.of(self.connection, release.release_id, release.table, release.locked_config, self.embedder)


def widen_buffers(connection: Connection) -> None:
    """Before the first temporary table: else each would be read through the few buffers that a session has by default."""
    with connection, connection.cursor() as cursor:
        cursor.execute(postgres.read_sql(__file__, "widen_temp_buffers"))


def _answerable(part: Part) -> list[Case]:
    return [case for case in part.cases if case.answerable]
