"""Probes: questions that a sealed table is asked when it is backed up and again after a rollback, with their answers.

A probe's vector and words are those of one of the table's own chunks, so that no model is needed. Its answers are the exact
ones, found by looking at every row: they are equal if and only if the rows are. The lists that live queries get are held
against them: by words they must be the same, and by vector they must reach the recall that was asked for at the seal, as an
index that was built again may find other neighbours. Both ask the sealed table alone, whatever documents changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.index.bm25 import terms_of
from lib.index.releases import Release
from lib.index.retrieval import search_lists
from lib.index.settings import RecallSettings
from lib.platform import postgres

FILE = "probes.json"
_COUNT = 10
_WORDS = 12
_LONGEST_QUERY = 200  # characters, where a language has no blanks between words
# Distances and scores are sums of 32-bit numbers, which another processor adds in another order.
_TOLERANCE = 1e-5

Ranked = Sequence[Sequence[Any]]  # (id, value), the best first


def take(connection: Connection, release: Release) -> dict[str, Any]:
    """The probes of a release's sealed table, with their exact answers, and what stands over it.

    The caller owns the transaction.

    Returns:
        ``{content_digest, structure, probes}``; a probe is ``{chunk_id, query, vector, nearest, words}``, where ``nearest``
        are the ids and distances of the nearest rows, and ``words`` the ids and scores of the best ones by BM25.
    """
    chunks = postgres.every(connection, postgres.compose(__file__, "probe_chunks", table=release.table), {"count": _COUNT})
    asked = [{"chunk_id": chunk["id"], "query": _first_words(chunk["text"]), "vector": chunk["vector"]} for chunk in chunks]
    return {
        "content_digest": release.content_digest,
        "structure": structure_of(connection, release),
        "probes": [{**probe, **found} for probe, found in zip(asked, answers(connection, release, asked), strict=True)],
    }


def structure_of(connection: Connection, release: Release) -> dict[str, Any]:
    """The indexes over a release's table, and whether it and its postings refuse writes; in the caller's transaction."""
    names = {
        name: postgres.quoted_name(*table.strings)
        for name, table in (("table", release.table), ("terms", terms_of(release.table)))
    }
    found = postgres.one(connection, postgres.read_sql(__file__, "structure"), names)
    assert found is not None
    return found


def answers(connection: Connection, release: Release, asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The exact answers to probes: ``{nearest, words}`` for each. The caller owns the transaction."""
    settings = release.locked_config.retrieval
    parameters = {
        "vectors": [probe["vector"] for probe in asked],
        "queries": [probe["query"] for probe in asked],
        "search_config": settings.text_search_config,
        "vector_top_k": settings.vector_top_k,
        "bm25_top_k": settings.bm25_top_k,
    }
    rows = postgres.every(connection, postgres.compose(__file__, "probe_answers", table=release.table), parameters)
    found: list[dict[str, Any]] = [{"nearest": [], "words": []} for _ in asked]
    for row in rows:
        found[row["probe"] - 1][row["list"]].append([row["id"], row["value"]])
    return found


def compare_rows(connection: Connection, release: Release, recorded: Mapping[str, Any]) -> list[str]:
    """Which probes the rows answer otherwise than was recorded, one line each. The caller owns the transaction."""
    probes = recorded["probes"]
    problems = []
    for probe, found in zip(probes, answers(connection, release, probes), strict=True):
        for name in ("nearest", "words"):
            if difference := differ(probe[name], found[name]):
                problems.append(f"{name} of {probe['chunk_id']}: {difference}")
    return problems


def compare_search(
    connection: Connection, release: Release, recorded: Mapping[str, Any], floors: RecallSettings
) -> tuple[list[str], str]:
    """What live queries would get, held against the recorded answers: the problems, and what was found in the vector lists.

    The caller owns the transaction.
    """
    if not postgres.table_exists(connection, *terms_of(release.table).strings):
        return ["the postings are gone: no query by words is answered"], ""
    settings, problems, recalls = release.locked_config.retrieval, [], []
    for probe in recorded["probes"]:
        rows = search_lists(connection, release.table, settings, probe["query"], json.loads(probe["vector"]))
        by_words = sorted((row for row in rows if row["bm25_rank"]), key=lambda row: row["bm25_rank"])
        if difference := differ(probe["words"], [[row["chunk_id"], row["bm25_score"]] for row in by_words]):
            problems.append(f"words of {probe['chunk_id']}: {difference}")
        distances = [1 - row["similarity"] for row in rows if row["vector_rank"]]
        recalls.append(recall([distance for _, distance in probe["nearest"]], distances))
    if not recalls:
        return ["there is no probe: the table was empty"], ""
    mean, least = sum(recalls) / len(recalls), min(recalls)
    if mean < floors.mean_floor or least < floors.minimum_floor:
        problems.insert(0, "the vector index misses too much")
    found = f"recall {mean:.3f} in the mean, {least:.3f} at least (floors {floors.mean_floor}, {floors.minimum_floor})"
    return problems, found


def differ(recorded: Ranked, found: Ranked) -> str:
    """How a list differs from the recorded one; empty where it doesn't. Pure.

    Values may differ by rounding; so may the order of rows that are that near, and which of them is the last one.
    """
    if len(recorded) != len(found):
        return f"{len(found)} rows, {len(recorded)} were recorded"
    if not recorded:
        return ""
    values, last = dict(map(tuple, found)), recorded[-1][1]
    for (_, then), (_, now) in zip(recorded, found, strict=True):
        if not _near(then, now):
            return f"a value of {now:.6f} where {then:.6f} was recorded"
    for chunk_id, then in recorded:
        if chunk_id in values:
            if not _near(then, values[chunk_id]):
                return f"{chunk_id} has {values[chunk_id]:.6f}, {then:.6f} was recorded"
        elif not _near(then, last):
            return f"{chunk_id} is not found"
    return ""


def recall(nearest: Sequence[float], found: Sequence[float]) -> float:
    """The share of the exact nearest rows that were found; a row as near as the last of them counts. Pure."""
    if not nearest:
        return 1.0
    limit = nearest[-1] + _TOLERANCE
    return min(1.0, sum(distance <= limit for distance in sorted(found)[: len(nearest)]) / len(nearest))


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _TOLERANCE * max(1.0, abs(one))


def _first_words(text: str) -> str:
    return " ".join(text.split()[:_WORDS])[:_LONGEST_QUERY]
