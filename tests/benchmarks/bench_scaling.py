"""What a million chunks cost in time, memory and disk, measured at growing sizes and carried on to a billion.

Each row compares what the smaller sizes predict for the largest (by n, or n log n for the vector index) with what was
measured there: 1 means that the cost grows as predicted. Runs named "calculated" are that growth carried on; nothing
of that size was built. ``docs/scaling.md`` rests on these figures.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config import embedder_files
from lib.config.locked_config import LockedConfig
from lib.index.bm25 import weigh
from lib.index.chunk_table import build_index, create_chunk_table
from lib.index.documents import Document
from lib.index.embedder import load_embedder
from lib.index.ingest import ChunkRow, chunk_documents
from lib.index.loading import COLUMNS
from lib.index.near_duplicates import Deduplicator, shingle_sets
from lib.index.seal import content_of
from lib.index.structure import sections_of
from lib.index.tokens import TokenCounter
from lib.platform import binary_copy, embedded, postgres
from lib.platform.workspace import Workspace
from lib.release import table_copies
from tests.benchmarks.harness import PROJECT, SHARED_DATA, Comparison, Run
from tests.benchmarks.public_collections import any_config
from tests.benchmarks.synthetic import Synthetic

SIZES = (4_000, 16_000, 64_000)
CALCULATED = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
DIMENSION = 384
_STAGES = ("load", "weigh", "index", "digest", "copy out", "exact scan")
_TEXTS_PER_CHUNK = 3  # of 120 words: 360 words are about 450 tokens
_VECTOR_ROWS = 4_000
_ENOUGH_MB, _TOO_LITTLE_MB = 1024, 2
_DEDUPLICATED = 20_000
_EMBEDDED = 64
_RUNTIMES = ("torch", "openvino", "openvino_int8")
_DAY_S = 86_400


def run() -> list[Comparison]:
    config = replace(any_config(), sources=("corpus",), embedder_runtime="torch", config_hash="")
    chunks = _real_chunks(config)
    with _server() as connection:
        built = [_build(connection, config, count) for count in SIZES]
        memory = _index_memory(connection)
    return [
        *(_grown(stage, [run[stage] for run in built]) for stage in _STAGES),
        _disk([run["sizes"].facts for run in built]),
        *memory,
        _deduplication(),
        _embedding(config, chunks),
    ]


# growth


def growth(stage: str) -> Callable[[float], float]:
    """How a stage's cost grows with the number of chunks: HNSW inserts each chunk by a search of log n steps."""
    return (lambda n: n * math.log(n)) if stage == "index" else float


def predict(stage: str, seconds: dict[int, float], count: float) -> float:
    """Seconds for ``count`` chunks: the median of what each measured size says."""
    grows = growth(stage)
    return statistics.median(measured / grows(n) * grows(count) for n, measured in seconds.items())


def _grown(stage: str, runs: Sequence[Run]) -> Comparison:
    seconds = {count: run.seconds or 0.0 for count, run in zip(SIZES, runs, strict=True)}
    smaller = dict(list(seconds.items())[:-1])
    largest = SIZES[-1]
    calculated = []
    for count in CALCULATED:
        needed = predict(stage, seconds, count)
        calculated.append(Run(f"{count:,} calculated", needed, {"calculated": True, "hours": needed / 3600}))
    return Comparison(
        name=f"scaling: {stage}",
        ratio=predict(stage, smaller, largest) / seconds[largest],
        target=None,
        against=f"{'n log n' if stage == 'index' else 'linear'} growth from the smaller sizes",
        runs=[*runs, *calculated],
    )


# a whole table, as a release has it


def _build(connection: Connection, config: LockedConfig, count: int) -> dict[str, Run]:
    """Every stage of a table of ``count`` chunks that costs the database something."""
    name = f"document_chunks_scaling_{count}"
    table = postgres.table_identifier("public", name)
    with connection:
        create_chunk_table(connection, table, DIMENSION)

    def load() -> None:
        with connection, connection.cursor() as cursor:
            binary_copy.copy_binary(cursor, table, COLUMNS, rows)

    rows = _rows(count)
    stages: dict[str, Callable[[], Any]] = {
        "load": load,
        "weigh": lambda: _in_transaction(connection, lambda: weigh(connection, table, config)),
        "index": lambda: _in_transaction(connection, lambda: build_index(connection, table, name, config)),
        "digest": lambda: _in_transaction(connection, lambda: content_of(connection, "public", name)),
        "copy out": lambda: _in_transaction(connection, lambda: _copy_out(connection, name, table, count)),
        "exact scan": lambda: _in_transaction(connection, lambda: _exact_scan(connection, table)),
    }
    done = {}
    for stage, work in stages.items():
        started = time.perf_counter()
        facts = work()
        seconds = time.perf_counter() - started
        more = facts if isinstance(facts, dict) else {}
        done[stage] = Run(f"{count:,} chunks", seconds, {"chunks_per_s": count / seconds, **more})
        if stage == "weigh":  # as a build does between the two: the weights' update leaves a dead copy of every row
            _vacuum(connection, table)
    with connection:
        done["sizes"] = Run(f"{count:,} chunks", facts=_sizes(connection, name, count))
    return done


def _in_transaction(connection: Connection, work: Callable[[], Any]) -> Any:
    with connection:
        return work()


def _vacuum(connection: Connection, table: sql.Identifier) -> None:
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("VACUUM (FULL) {}").format(table))
    connection.autocommit = False


def _copy_out(connection: Connection, name: str, table: sql.Identifier, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        columns = table_copies.columns_of(connection, "public", name)
        written = table_copies.copy_out(connection, table, columns, Path(folder) / "rows.zst")
    return {"bytes_per_chunk": written["bytes"] / count}


def _exact_scan(connection: Connection, table: sql.Identifier) -> None:
    """One search without the vector index, as the recall check makes for each query, and a search of changed chunks."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_indexscan = off; SET LOCAL max_parallel_workers_per_gather = 0")
        query = "SELECT id FROM {0} ORDER BY embedding <=> (SELECT embedding FROM {0} LIMIT 1) LIMIT 40"
        cursor.execute(sql.SQL(query).format(table))


def _rows(count: int) -> list[tuple[Any, ...]]:
    made = Synthetic(seed=count)
    texts = made.texts(count * _TEXTS_PER_CHUNK)
    found = []
    for number, vector in enumerate(made.vectors(count)):
        text = " ".join(next(texts) for _ in range(_TEXTS_PER_CHUNK))
        values = {
            "id": f"corpus/{number // 20:08}.md#{number % 20}",
            "doc_id": f"corpus/{number // 20:08}.md",
            "chunk_index": number % 20,
            "embedding_text": f"Document: {number // 20}\n\n{text}",
            "bm25_text": text,
            "embedding_token_count": 450,
            "bm25_token_count": 445,
            "chunk_version": "2026-01-02-030405-v1",
            "ingest_run_id": "2026-01-02-030405-v1-00000000",
            "span_start": 0,
            "span_end": len(text),
            "doc_sha256": f"{number // 20:064x}",
            "duplicates": "[]",
            "embedding": vector,
        }
        found.append(tuple(values[column] for column in COLUMNS))
    return found


def _sizes(connection: Connection, name: str, count: int) -> dict[str, float]:
    """Bytes a chunk, by part; and how many values a chunk has in TOAST, of which a table can hold 2^32."""
    found = postgres.one(
        connection,
        "SELECT pg_relation_size(c.oid) AS heap, pg_relation_size(c.reltoastrelid) AS toast,"
        " c.reltoastrelid::regclass::text AS toast_table,"
        " (SELECT sum(pg_relation_size(indexrelid)) FROM pg_index WHERE indrelid = c.oid AND"
        "  (SELECT amname FROM pg_class i JOIN pg_am a ON a.oid = i.relam WHERE i.oid = indexrelid) = 'hnsw') AS hnsw,"
        " pg_indexes_size(c.oid) AS indexes,"
        " (SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class"
        "  WHERE relkind = 'r' AND relname LIKE %(name)s || '\\_%%') AS beside"
        " FROM pg_class c WHERE c.oid = %(name)s::regclass",
        {"name": name},
    )
    assert found is not None
    toasted = postgres.one(connection, f"SELECT count(*) AS n FROM {found['toast_table']} WHERE chunk_seq = 0")
    bytes_of = {part: float(found[part]) / count for part in ("heap", "toast", "hnsw", "indexes", "beside")}
    bytes_of["other_indexes"] = bytes_of.pop("indexes") - bytes_of["hnsw"]
    return {**bytes_of, "total": sum(bytes_of.values()), "toasted_values": toasted["n"] / count if toasted else 0.0}


def _disk(facts: Sequence[Any]) -> Comparison:
    runs = [Run(f"{count:,} chunks", facts=found) for count, found in zip(SIZES, facts, strict=True)]
    for count in CALCULATED:
        shown = {f"{part}_gb": facts[-1][part] * count / 1e9 for part in ("heap", "toast", "hnsw", "beside", "total")}
        runs.append(Run(f"{count:,} calculated", facts={"calculated": True, **shown}))
    ratio = facts[0]["total"] / facts[-1]["total"]
    return Comparison("scaling: bytes a chunk", ratio, None, "linear growth from the smallest size", runs)


# the vector index: memory, by type and width


def _index_memory(connection: Connection) -> list[Comparison]:
    """Index builds of the same vectors with enough memory and with too little, and what the graph takes in memory."""
    rows = []
    for dimension in (384, 1024):
        vectors = _clustered(_VECTOR_ROWS, dimension)
        for kind in ("vector", "halfvec", "bit"):
            runs = [_index_run(connection, kind, vectors, memory_mb) for memory_mb in (_ENOUGH_MB, _TOO_LITTLE_MB)]
            rows.append(
                Comparison(
                    name=f"scaling: hnsw memory, {kind}({dimension})",
                    ratio=(runs[1].seconds or 0.0) / (runs[0].seconds or 1.0),
                    target=None,
                    against=f"the same with {_TOO_LITTLE_MB} MB of maintenance_work_mem",
                    runs=[*runs, *_graph_memory(runs[1])],
                )
            )
    return rows


def _index_run(connection: Connection, kind: str, vectors: NDArray[np.float32], memory_mb: int) -> Run:
    count, dimension = vectors.shape
    table = sql.Identifier(f"vectors_{kind}_{dimension}")
    width = sql.SQL(f"{kind}({dimension})")
    with connection, connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE staged (embedding vector({})) ON COMMIT DROP").format(sql.Literal(dimension))
        )
        binary_copy.copy_binary(
            cursor, sql.Identifier("staged"), {"embedding": binary_copy.vector}, ((v,) for v in vectors)
        )
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        made = sql.SQL("binary_quantize(embedding)" if kind == "bit" else "embedding")
        cursor.execute(sql.SQL("CREATE TABLE {} AS SELECT {}::{} AS embedding FROM staged").format(table, made, width))
    del connection.notices[:]
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL maintenance_work_mem = '{memory_mb}MB'; SET LOCAL max_parallel_maintenance_workers = 1")
        started = time.perf_counter()
        operators = sql.SQL("bit_hamming_ops" if kind == "bit" else f"{kind}_cosine_ops")
        cursor.execute(sql.SQL("CREATE INDEX built ON {} USING hnsw (embedding {})").format(table, operators))
        seconds = time.perf_counter() - started
        size = postgres.one(connection, "SELECT pg_relation_size('built') AS bytes")
        cursor.execute("DROP INDEX built")
    fitted = [
        int(word)
        for notice in connection.notices
        if "no longer fits" in notice
        for word in notice.split()
        if word.isdigit()
    ]
    facts: dict[str, Any] = {"index_bytes_per_vector": size["bytes"] / count if size else 0.0}
    if fitted:  # pgvector says after how many
        facts |= {"fitted": fitted[0], "memory_bytes_per_vector": memory_mb * 2**20 / fitted[0]}
    return Run(f"{memory_mb} MB", seconds, facts)


def _graph_memory(too_little: Run) -> list[Run]:
    """The memory that holds the whole graph, by how many vectors fitted into too little of it."""
    each = too_little.facts["memory_bytes_per_vector"]
    return [Run(f"{n:,} calculated", facts={"calculated": True, "memory_gb": each * n / 1e9}) for n in CALCULATED]


def _clustered(count: int, dimension: int) -> NDArray[np.float32]:
    random = np.random.default_rng(dimension)
    centres = random.standard_normal((200, dimension))
    found = centres[random.integers(0, len(centres), count)] + 0.9 * random.standard_normal((count, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


# before the database: chunks, near-duplicates, vectors


def _deduplication() -> Comparison:
    """Memory and time of near-duplicate removal, which sees every kept chunk of the corpus in one process."""
    made = Synthetic(seed=7)
    texts = list(made.texts(_DEDUPLICATED * _TEXTS_PER_CHUNK))
    joined = [" ".join(texts[start : start + _TEXTS_PER_CHUNK]) for start in range(0, len(texts), _TEXTS_PER_CHUNK)]
    sets = shingle_sets(joined)
    found = {}
    for traced in (False, True):  # tracing costs time, so the two are not measured at once
        deduplicator = Deduplicator(0.8)
        if traced:
            tracemalloc.start()
        started = time.perf_counter()
        for start in range(0, len(sets), 1000):
            deduplicator.add([np.array(each) for each in sets[start : start + 1000]])
        found["bytes" if traced else "seconds"] = (
            float(tracemalloc.get_traced_memory()[0]) if traced else time.perf_counter() - started
        )
        tracemalloc.stop()
    each = found["bytes"] / _DEDUPLICATED
    runs = [Run(f"{_DEDUPLICATED:,} chunks", found["seconds"], {"memory_bytes_per_chunk": each})]
    for count in CALCULATED:
        seconds = found["seconds"] / _DEDUPLICATED * count
        runs.append(Run(f"{count:,} calculated", seconds, {"calculated": True, "memory_gb": each * count / 1e9}))
    own = statistics.mean(len(one) for one in sets) * 8  # the hashes themselves, which an exact comparison needs
    return Comparison("scaling: near-duplicate memory", own / each, None, "the shingles' hashes alone", runs)


def _embedding(config: LockedConfig, chunks: Sequence[ChunkRow]) -> Comparison:
    """Vectors a second of each runtime on all cores, and the machine-days of a million and a billion chunks."""
    texts = [row.embedding_text for row in sorted(chunks, key=lambda row: -row.embedding_token_count)[:_EMBEDDED]]
    runs = []
    for runtime in _RUNTIMES:
        embedder = load_embedder(Workspace(PROJECT), replace(config, embedder_runtime=runtime, config_hash=""))
        embedder.embed_documents(texts[:4])
        started = time.perf_counter()
        embedder.embed_documents(texts)
        seconds = time.perf_counter() - started
        rate = len(texts) / seconds
        days = {f"machine_days_{count:,}": count / rate / _DAY_S for count in (CALCULATED[0], CALCULATED[-1])}
        runs.append(Run(runtime, seconds, {"chunks_per_s": rate, **days}))
    slowest, fastest = max(run.seconds or 0.0 for run in runs), min(run.seconds or 0.0 for run in runs)
    return Comparison("scaling: embedding", slowest / fastest, None, "the slowest runtime", runs)


def _real_chunks(config: LockedConfig) -> list[ChunkRow]:
    documents = []
    for path in sorted((SHARED_DATA / "chroma_chunking" / "corpora").glob("*.md"))[:2]:
        text = path.read_text(encoding="utf-8")[:200_000]
        sections = [{"level": s.level, "title": s.title, "start": s.start} for s in sections_of(text)]
        documents.append(
            Document(path.name, "corpus", path.name, path.stem, sections, text, "0" * 64, {"type": "markdown"})
        )
    counter = TokenCounter(embedder_files.find(Workspace(PROJECT), config.embedder_name).folder)
    return chunk_documents(documents, config, counter).rows


@contextmanager
def _server() -> Iterator[Connection]:
    """A connection to a server of its own with PostgreSQL's default settings."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        connection = postgres.connect(embedded.address(workspace), "benchmark")
        try:
            postgres.create_state(connection)
            yield connection
        finally:
            connection.close()
            embedded.stop(workspace)
