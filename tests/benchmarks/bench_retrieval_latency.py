"""One query's latency at 10,000, 100,000 and 500,000 chunks: the whole retrieval beside pgvector alone and bm25s in memory.

``python -m tests.benchmarks.bench_retrieval_latency [SIZE …]`` takes other sizes. Embedding the query is left out: it costs
the same everywhere. Plots the cost against the size in ``metrics/benchmarks/retrieval_latency.svg``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.bm25 import terms_of, weigh
from lib.index.chunk_table import build_index, create_chunk_table
from lib.index.loading import COLUMNS
from lib.index.rerank import load_reranker
from lib.index.retrieval import Retriever
from lib.platform import binary_copy, embedded, postgres
from lib.platform.workspace import Workspace
from tests.benchmarks import harness
from tests.benchmarks.harness import Comparison, Run
from tests.benchmarks.public_collections import any_config
from tests.benchmarks.synthetic import DIMENSION, Given, Synthetic, literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = (10_000, 100_000, 500_000)
OURS, VECTORS, WORDS, SCAN = "golive, both lists", "pgvector alone", "bm25s in memory", "sparsevec, sequential"
_QUERIES = 100
_SCANS = 10  # the sequential scan is slow, and its cost is the same for every query
_PIECE = 20_000
_MEMORY_MB = 3072
_PLOT = harness.RESULTS / "retrieval_latency.svg"


def run(sizes: Sequence[int] = SIZES) -> list[Comparison]:
    """Two comparisons a size, of the median query: against both peers together, and against the sequential scan."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="golive-bench-") as folder:
        workspace = Workspace(Path(folder))
        try:
            connection = postgres.connect(embedded.address(workspace), "benchmark")
            postgres.create_state(connection)
            for size in sizes:
                found[size] = _measure(connection, size)
            connection.close()
        finally:
            embedded.stop(workspace)
    _plot(found)
    return [comparison for size, runs in found.items() for comparison in _compare(size, runs)]


def _compare(size: int, runs: Sequence[Run]) -> list[Comparison]:
    median = {run.system: harness.median_s(runs, run.system) for run in runs}
    together = median[VECTORS] + median[WORDS]
    return [
        Comparison(f"{size:,} chunks", together / median[OURS], None, f"{VECTORS} + {WORDS}", runs),
        Comparison(
            f"{size:,} chunks, words by postings",
            (median[SCAN] + median[VECTORS]) / median[OURS],
            1.0 if size >= 100_000 else None,
            f"{SCAN} + {VECTORS}",
            [run for run in runs if run.system in (OURS, SCAN, VECTORS)],
        ),
    ]


def _measure(connection: Connection, size: int) -> list[Run]:
    """Builds a table of so many chunks, and asks each system each question in turn."""
    source = Synthetic()
    table, config = sql.Identifier("public", f"chunks_{size}"), any_config()
    facts, texts = _build(connection, table, source, size, config)
    questions = source.queries(_QUERIES)
    vectors = dict(zip(questions, source.vectors(_QUERIES), strict=True))
    retriever = Retriever(connection, "benchmark", table, config, Given(vectors), load_reranker("none"))
    systems: dict[str, Callable[[str], Any]] = {
        OURS: retriever.retrieve,
        VECTORS: lambda question: _nearest(connection, table, config, vectors[question]),
        WORDS: _bm25s(texts, config.retrieval.bm25_top_k),
        SCAN: lambda question: _scan(connection, table, config, question),
    }
    connection.autocommit = True
    for question in questions:  # once, so that every system answers out of warm memory
        for system in (OURS, VECTORS, WORDS):
            systems[system](question)
    seconds: dict[str, list[float]] = {system: [] for system in systems}
    for place, question in enumerate(questions):
        for system, ask in systems.items():
            if system != SCAN or place < _SCANS:
                started = time.perf_counter()
                ask(question)
                seconds[system].append(time.perf_counter() - started)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE {}, {}").format(table, terms_of(table)))
    connection.autocommit = False
    return [Run(system, float(np.median(taken)), _facts(taken, system, facts)) for system, taken in seconds.items()]


def _facts(seconds: Sequence[float], system: str, build: dict[str, float]) -> dict[str, float]:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return {"p50_ms": float(p50), "p95_ms": float(p95), **(build if system == OURS else {})}


def _build(
    connection: Connection, table: sql.Identifier, source: Synthetic, size: int, config: LockedConfig
) -> tuple[dict[str, float], list[str]]:
    """The loaded, weighed, indexed table; what each step took, in seconds; and the texts."""
    texts = list(source.texts(size))
    marks = [time.monotonic()]
    with connection, connection.cursor() as cursor:
        create_chunk_table(connection, table, DIMENSION)
        for start in range(0, size, _PIECE):
            piece = texts[start : start + _PIECE]
            vectors = source.vectors(len(piece))
            rows = (
                (f"d/{n // 4}#{n % 4}", f"d/{n // 4}", n % 4, text, text, 1, 1, "v", "r", 0, len(text), "h", vector)
                for n, (text, vector) in enumerate(zip(piece, vectors, strict=True), start)
            )
            binary_copy.copy_binary(cursor, table, COLUMNS, rows)
    marks.append(time.monotonic())
    with connection:
        weigh(connection, table, config)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("VACUUM (FULL) {}").format(table))
    connection.autocommit = False
    marks.append(time.monotonic())
    with connection:
        build_index(connection, table, table.strings[-1], config, maintenance_work_mem_mb=_MEMORY_MB, parallel_workers=1)
    marks.append(time.monotonic())
    load_s, weigh_s, index_s = np.diff(marks)
    return {"load_s": float(load_s), "weigh_s": float(weigh_s), "index_s": float(index_s)}, texts


def _nearest(connection: Connection, table: sql.Identifier, config: LockedConfig, vector: NDArray[np.float32]) -> Any:
    query = sql.SQL(
        "SELECT set_config('jit', 'off', true), set_config('hnsw.ef_search', %(ef)s, true);"
        " SELECT id, 1 - (embedding <=> %(vector)s::vector) FROM {} ORDER BY embedding <=> %(vector)s::vector LIMIT %(k)s"
    )
    settings = config.retrieval
    parameters = {"ef": str(settings.hnsw_ef_search), "vector": literal(vector.tolist()), "k": settings.vector_top_k}
    return postgres.every(connection, query.format(table), parameters)


def _scan(connection: Connection, table: sql.Identifier, config: LockedConfig, question: str) -> Any:
    query = sql.SQL(
        "WITH asked AS (SELECT '{{' || string_agg(DISTINCT golive.lexeme_dimension(lexeme) || ':1', ',') || '}}/1000000000'"
        " AS terms FROM unnest(tsvector_to_array(to_tsvector(%(language)s::regconfig, %(question)s))) AS lexeme)"
        " SELECT id, -(bm25_weights <#> (SELECT terms::sparsevec FROM asked)) AS score FROM {}"
        " ORDER BY score DESC, id LIMIT %(k)s"
    )
    settings = config.retrieval
    parameters = {"language": settings.text_search_config, "question": question, "k": settings.bm25_top_k}
    return postgres.every(connection, query.format(table), parameters)


def _bm25s(texts: Sequence[str], k: int) -> Callable[[str], Any]:
    import bm25s

    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(bm25s.tokenize(list(texts), stopwords="en", show_progress=False), show_progress=False)

    def ask(question: str) -> Any:
        tokens = bm25s.tokenize([question], stopwords="en", return_ids=False, show_progress=False)
        return index.retrieve(tokens, k=k, show_progress=False)

    return ask


def _plot(found: dict[int, list[Run]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "golive"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for system in (OURS, VECTORS, WORDS, SCAN):
        runs = [next(run for run in runs if run.system == system) for runs in found.values()]
        (line,) = axes.plot(list(found), [run.facts["p50_ms"] for run in runs], marker="o", label=system)
        axes.plot(list(found), [run.facts["p95_ms"] for run in runs], linestyle="--", color=line.get_color(), linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="chunks", ylabel="ms a query (solid: p50, dashed: p95)")
    axes.grid(visible=True, which="major", linewidth=0.3)
    axes.legend(frameon=False)
    _PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(_PLOT, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    print(harness.to_text(run([int(size) for size in sys.argv[1:]] or SIZES)))
