"""Recall of the vector index: measured against exact search, as queries search, with the plan as proof."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index import recall
from lib.index.chunk_table import create_chunk_table
from lib.index.loading import COLUMNS
from lib.index.releases import Release
from lib.index.settings import RecallSettings
from lib.platform import binary_copy, postgres
from lib.platform.errors import Refused

ROWS, DIMENSION = 6000, 32
FLOORS = RecallSettings(k=20, queries=50, mean_floor=0.95, minimum_floor=0.5)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Random directions, the hardest case for a graph index, and some of them several times."""
    made = np.random.default_rng(42).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    made[1000:1100] = made[0]
    return made / np.linalg.norm(made, axis=1, keepdims=True)


class FixedQueries:
    """An embedder whose text is the number of a vector."""

    name, dimension, identity, batch_independent = "queries", DIMENSION, "queries", True

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def embed_query(self, text: str) -> np.ndarray:
        return self.vectors[int(text)]


@pytest.fixture(scope="module")
def table(new_database, vectors, make_config) -> Callable[..., tuple[Connection, Release]]:
    """A loaded table, with an index as narrow as pgvector makes one; the settings of queries are the caller's."""
    with new_database() as connection:
        name = sql.Identifier("public", "t")
        with connection, connection.cursor() as cursor:
            create_chunk_table(connection, name, DIMENSION)
            rows = (
                (f"d#{n:04}", "d", n, "x", "x", 1, 1, "v", "r", n, n + 1, "0", vector) for n, vector in enumerate(vectors)
            )
            binary_copy.copy_binary(cursor, name, COLUMNS, rows)
            cursor.execute(
                "CREATE INDEX t_hnsw ON t USING hnsw (embedding vector_cosine_ops) WITH (m = 4, ef_construction = 8)"
            )
            cursor.execute("ANALYZE t")

        def release(**changes: Any) -> tuple[Connection, Release]:
            return connection, release_with(make_config(), "t", **changes)

        yield release


def release_with(config: LockedConfig, table: str, **changes: Any) -> Release:
    locked = replace(config, retrieval=replace(config.retrieval, **changes), config_hash="")
    return Release("r", "v", "h", locked.to_dict(), "public", table, "building", "d", None, None, {}, None, None)


def queries(count: int) -> list[tuple[str, str]]:
    return [(f"case-{number}", str(number)) for number in range(0, ROWS, ROWS // count)]


def exact_recall(connection: Connection, vectors: np.ndarray, asked: list[tuple[str, str]], ef_search: int) -> list[float]:
    """Worked out in numpy from the ids that PostgreSQL gives through the index."""
    shares = []
    for _, text in asked:
        query = vectors[int(text)].astype(np.float64)
        distances = 1 - vectors.astype(np.float64) @ query
        kth = np.sort(distances)[19]
        with connection, connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(ef_search),))
            cursor.execute("SELECT chunk_index FROM t ORDER BY embedding <=> %s LIMIT 40", (json.dumps(query.tolist()),))
            found = [row[0] for row in cursor.fetchall()][:20]
        shares.append(sum(distances[number] <= kth + 1e-6 for number in found) / 20)
    return shares


def test_recall_is_the_share_of_the_exact_nearest_that_the_index_finds(table, vectors):
    connection, release = table(hnsw_ef_search=40)
    asked = queries(40)
    found = recall.check(connection, release, FixedQueries(vectors), replace(FLOORS, mean_floor=0, minimum_floor=0), asked)
    expected = exact_recall(connection, vectors, asked, 40)
    assert 0.1 < found.mean < 0.95
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.minimum == pytest.approx(min(expected))
    assert expected[[name for name, _ in asked].index(found.worst)] == pytest.approx(min(expected))
    assert (found.k, found.questions, found.asked, found.plan) == (20, 40, "cases", "index: t_hnsw")


def test_below_a_floor_the_setting_that_helps_is_named(table, vectors):
    connection, release = table(hnsw_ef_search=40)
    with pytest.raises(Refused, match=r"the vector index of t misses too much: recall@20 is 0\.\d+ in the mean") as caught:
        recall.check(connection, release, FixedQueries(vectors), FLOORS, queries(40))
    assert "hnsw_m (now 16)" in caught.value.hint or "hnsw_ef_search (now 40" in caught.value.hint
    assert "nothing was sealed" in caught.value.detail
    low = replace(FLOORS, mean_floor=0.5, minimum_floor=0.2)
    with pytest.raises(Refused) as caught:
        recall.check(connection, release, FixedQueries(vectors), low, queries(40))
    assert "raise retrieval.hnsw_ef_search (now 40; 1000 is enough)" in caught.value.hint


def test_the_minimum_counts_beside_the_mean(table, vectors):
    connection, release = table(hnsw_ef_search=400)
    asked = queries(40)
    found = recall.check(connection, release, FixedQueries(vectors), replace(FLOORS, mean_floor=0, minimum_floor=0), asked)
    assert found.minimum < found.mean
    between = (found.minimum + found.mean) / 2
    with pytest.raises(Refused, match=r"at least \(floor"):
        recall.check(
            connection, release, FixedQueries(vectors), replace(FLOORS, mean_floor=0, minimum_floor=between), asked
        )


def test_more_equal_vectors_than_were_asked_for_do_not_lower_recall(table, vectors):
    connection, release = table(hnsw_ef_search=1000)
    found = recall.check(connection, release, FixedQueries(vectors), FLOORS, [("equal", "0")])
    assert found.mean == 1.0


def test_without_cases_chunks_of_the_table_are_asked_for_always_the_same(table, vectors):
    connection, release = table(hnsw_ef_search=1000)
    settings = replace(FLOORS, mean_floor=0, minimum_floor=0)
    first = recall.check(connection, release, FixedQueries(vectors), settings, [])
    assert (first.asked, first.questions) == ("chunks", 50)
    assert first == recall.check(connection, release, FixedQueries(vectors), settings, [])


def test_of_many_cases_so_many_are_asked_as_the_settings_say_in_whatever_order_they_come(table, vectors):
    connection, release = table(hnsw_ef_search=1000)
    settings = replace(FLOORS, queries=7, mean_floor=0, minimum_floor=0)
    asked = queries(60)
    found = recall.check(connection, release, FixedQueries(vectors), settings, asked)
    assert found.questions == 7
    assert found == recall.check(connection, release, FixedQueries(vectors), settings, asked[::-1])


def test_a_query_that_asks_for_fewer_rows_is_measured_at_so_many(table, vectors):
    connection, release = table(hnsw_ef_search=1000, vector_top_k=5)
    settings = replace(FLOORS, mean_floor=0, minimum_floor=0)
    assert recall.check(connection, release, FixedQueries(vectors), settings, queries(5)).k == 5


def test_a_list_that_ef_search_cuts_short_counts_as_missed_and_an_iterative_scan_fills_it(table, vectors):
    settings = replace(FLOORS, k=40, mean_floor=0, minimum_floor=0)
    connection, short = table(hnsw_ef_search=10)
    cut = recall.check(connection, short, FixedQueries(vectors), settings, queries(20))
    connection, iterative = table(hnsw_ef_search=10, hnsw_iterative_scan="strict_order")
    filled = recall.check(connection, iterative, FixedQueries(vectors), settings, queries(20))
    assert cut.mean <= 0.25
    assert filled.mean > cut.mean


def test_a_table_so_small_that_the_planner_reads_it_all_says_so(connection, make_config, vectors):
    with connection, connection.cursor() as cursor:
        create_chunk_table(connection, sql.Identifier("public", "small"), DIMENSION)
        rows = ((f"d#{n}", "d", n, "x", "x", 1, 1, "v", "r", n, n + 1, "0", vectors[n]) for n in range(3))
        binary_copy.copy_binary(cursor, sql.Identifier("public", "small"), COLUMNS, rows)
        cursor.execute("CREATE INDEX small_hnsw ON small USING hnsw (embedding vector_cosine_ops); ANALYZE small")
    found = recall.check(connection, release_with(make_config(), "small"), FixedQueries(vectors), FLOORS, queries(5))
    assert (found.plan, found.mean, found.minimum, found.k) == ("sequential: exact", 1.0, 1.0, 3)


def test_measuring_leaves_the_sessions_settings_as_they_were(table, vectors):
    connection, release = table(hnsw_ef_search=1000)
    recall.check(connection, release, FixedQueries(vectors), replace(FLOORS, mean_floor=0, minimum_floor=0), queries(5))
    with connection:
        assert postgres.one(connection, "SHOW enable_indexscan") == {"enable_indexscan": "on"}
        assert postgres.one(connection, "SHOW hnsw.ef_search") == {"hnsw.ef_search": "40"}
