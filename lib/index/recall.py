"""Recall@k of a table's vector index against exact search: the mean and the minimum over questions, with the plan as proof.

recall@k of a question = the share of its k exact nearest rows that the index finds. A row as near as the k-th counts too,
so that equal vectors, which have no order, cannot lower it (Aumüller, Bernhardsson, Faithfull: ANN-Benchmarks, 2020).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig, RetrievalSettings
from lib.index.embedder import Embedder
from lib.index.releases import Release
from lib.index.settings import RecallSettings
from lib.platform import postgres
from lib.platform.errors import Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGEST_EF_SEARCH = 1000  # of pgvector
_SPARE = 16  # rows nearest by numpy beyond k: it rounds otherwise than pgvector, whose distances count
_PIECE = 2048  # rows
_HEADER = 4  # bytes before a vector's values, as pgvector sends it


@dataclass(frozen=True)
class Question:
    """A question by its name, with its vector as pgvector reads it."""

    name: str
    vector: str


@dataclass(frozen=True)
class Recall:
    """What was measured. ``plan`` is ``index: <name>``, or ``sequential: exact`` where the planner leaves the index aside.

    ``asked``: ``cases`` or ``chunks``; ``worst``: the question with the minimum; ``k`` is less than was set where a query
    asks for fewer rows or the table has fewer.
    """

    k: int
    questions: int
    asked: str
    mean: float
    minimum: float
    worst: str
    plan: str

    def to_stats(self) -> dict[str, Any]:
        return {f"recall_{name}": value for name, value in asdict(self).items()}


def check(
    connection: Connection,
    release: Release,
    embedder: Embedder,
    settings: RecallSettings,
    queries: Sequence[tuple[str, str]],
) -> Recall:
    """Measures the vector index of a table that is about to be sealed.

    Args:
        queries: names and texts of the cases' questions; without any, chunks of the table are asked for instead.

    Raises:
        Refused: below a floor; the setting to raise is named.
    """
    asked = "cases" if queries else "chunks"
    chosen = _spread(sorted(queries), settings.queries)
    questions = [Question(name, _as_text(embedder.embed_query(text))) for name, text in chosen]
    with connection:
        questions = questions or _chunks_as_questions(connection, release, settings.queries)
        found = measure(connection, release, questions, settings.k, asked)
        if found.mean >= settings.mean_floor and found.minimum >= settings.minimum_floor:
            return found
        raise _too_low(found, settings, release, _advice(connection, release, questions, settings))


def measure(connection: Connection, release: Release, questions: Sequence[Question], k: int, asked: str) -> Recall:
    """Asks every question through the index, as queries do, and looks at every row. The caller owns the transaction."""
    retrieval = release.locked_config.retrieval
    shares, depth = _shares(connection, release, questions, k, retrieval.hnsw_ef_search)
    minimum = min(shares)
    return Recall(
        k=depth,
        questions=len(questions),
        asked=asked,
        mean=sum(shares) / len(shares),
        minimum=minimum,
        worst=questions[shares.index(minimum)].name,
        plan=_plan(connection, release, questions[0], retrieval.hnsw_ef_search),
    )


def _shares(
    connection: Connection, release: Release, questions: Sequence[Question], k: int, ef_search: int
) -> tuple[list[float], int]:
    """The recall of each question, and the k that it was taken at."""
    shares, depth = [], k
    nearest = _exact_distances(connection, release, questions, min(k, release.locked_config.retrieval.vector_top_k))
    for question, exact in zip(questions, nearest, strict=True):
        found = _found_distances(connection, release, question, ef_search)[: len(exact)]
        shares.append(sum(distance <= exact[-1] for distance in found) / len(exact))
        depth = min(depth, len(exact))
    return shares, depth


def _found_distances(connection: Connection, release: Release, question: Question, ef_search: int) -> list[float]:
    """The distances of the rows that a query finds, ascending."""
    command = _settings(release.locked_config.retrieval, ef_search) + _search(release)
    return [row["distance"] for row in postgres.every(connection, command, _parameters(release.locked_config, question))]


def _exact_distances(connection: Connection, release: Release, questions: Sequence[Question], k: int) -> list[list[float]]:
    """The distances of each question's ``k`` nearest rows, ascending, as PostgreSQL works them out.

    They are sorted here: an ORDER BY could be answered from the vector index, which is what is being measured.
    """
    query = sql.SQL("SELECT embedding <=> %s::vector AS distance FROM {} WHERE id = ANY(%s)").format(release.table)
    return [
        sorted(row["distance"] for row in postgres.every(connection, query, (question.vector, ids)))[:k]
        for question, ids in zip(questions, _nearest(connection, release, questions, k + _SPARE), strict=True)
    ]


def _nearest(connection: Connection, release: Release, questions: Sequence[Question], count: int) -> list[list[str]]:
    """The ids of each question's nearest rows, by one pass over the table for all of them, in bounded memory."""
    import numpy as np

    asked = _directions(np.array([json.loads(question.vector) for question in questions], np.float32))
    best = np.empty((len(questions), 0), np.float32)
    ids = np.empty((len(questions), 0), object)
    with connection.cursor("exact_search") as cursor:
        cursor.itersize = _PIECE
        cursor.execute(sql.SQL("SELECT id, vector_send(embedding) FROM {}").format(release.table))
        while rows := cursor.fetchmany(_PIECE):
            names, sent = zip(*rows, strict=True)
            values = np.frombuffer(b"".join(sent), np.uint8).reshape(len(rows), -1)[:, _HEADER:]
            vectors = _directions(np.ascontiguousarray(values).view(">f4").astype(np.float32))
            best = np.hstack([best, asked @ vectors.T])
            ids = np.hstack([ids, np.broadcast_to(np.array(names, object), (len(questions), len(rows)))])
            kept = np.argpartition(-best, min(count, best.shape[1]) - 1, axis=1)[:, :count]
            best, ids = np.take_along_axis(best, kept, 1), np.take_along_axis(ids, kept, 1)
    return [row.tolist() for row in ids]


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    directions: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return directions


def _plan(connection: Connection, release: Release, question: Question, ef_search: int) -> str:
    """What the planner does for a query, taken from its own explanation."""
    command = _settings(release.locked_config.retrieval, ef_search) + sql.SQL("EXPLAIN (FORMAT JSON) ") + _search(release)
    rows = postgres.every(connection, command, _parameters(release.locked_config, question))
    names = sorted(_indexes_used(rows[0]["QUERY PLAN"][0]["Plan"]))
    return f"index: {', '.join(names)}" if names else "sequential: exact"


def _indexes_used(node: dict[str, Any]) -> set[str]:
    mine = {node["Index Name"]} if node["Node Type"] == "Index Scan" and "Order By" in node else set()
    return mine.union(*(_indexes_used(child) for child in node.get("Plans", ())))


def _settings(retrieval: RetrievalSettings, ef_search: int) -> sql.Composable:
    chosen = sql.SQL("SET LOCAL hnsw.ef_search = {};\n").format(sql.Literal(ef_search))
    if retrieval.hnsw_iterative_scan == "off":
        return chosen
    return chosen + sql.SQL("SET LOCAL hnsw.iterative_scan = {};\n").format(sql.Literal(retrieval.hnsw_iterative_scan))


def _search(release: Release) -> sql.Composable:
    return postgres.compose(__file__, "nearest", table=release.table)


def _parameters(config: LockedConfig, question: Question) -> dict[str, Any]:
    return {"embedding": question.vector, "vector_top_k": config.retrieval.vector_top_k}


def _chunks_as_questions(connection: Connection, release: Release, count: int) -> list[Question]:
    """Chunks that the hash of their ids picks, the same for equal tables."""
    query = sql.SQL("SELECT id, embedding::text AS vector FROM {} ORDER BY sha256(convert_to(id, 'UTF8')) LIMIT %s")
    return [Question(row["id"], row["vector"]) for row in postgres.every(connection, query.format(release.table), (count,))]


def _as_text(vector: NDArray[np.float32]) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _spread(items: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """At most ``count`` of them, at even steps."""
    step = max(1.0, len(items) / count)
    return [items[int(number * step)] for number in range(min(count, len(items)))]


def _advice(connection: Connection, release: Release, questions: Sequence[Question], settings: RecallSettings) -> str:
    """Which setting to raise, found by asking again with the largest ef_search."""
    retrieval = release.locked_config.retrieval
    shares, _ = _shares(connection, release, questions, settings.k, _LARGEST_EF_SEARCH)
    reached = sum(shares) / len(shares) >= settings.mean_floor and min(shares) >= settings.minimum_floor
    if reached and retrieval.hnsw_ef_search < _LARGEST_EF_SEARCH:
        more = "" if retrieval.hnsw_iterative_scan != "off" else ", or set retrieval.hnsw_iterative_scan to strict_order"
        return f"raise retrieval.hnsw_ef_search (now {retrieval.hnsw_ef_search}; {_LARGEST_EF_SEARCH} is enough){more}"
    return (
        f"raise retrieval.hnsw_m (now {retrieval.hnsw_m}) and retrieval.hnsw_ef_construction"
        f" (now {retrieval.hnsw_ef_construction}): not even hnsw_ef_search {_LARGEST_EF_SEARCH} is enough"
    )


def _too_low(found: Recall, settings: RecallSettings, release: Release, advice: str) -> Refused:
    return Refused(
        f"the vector index of {release.table_name} misses too much: recall@{found.k} is {found.mean:.3f} in the mean"
        f" (floor {settings.mean_floor}) and {found.minimum:.3f} at least (floor {settings.minimum_floor})",
        detail=f"over {found.questions} {found.asked}, the worst {found.worst}; nothing was sealed",
        hint=f"in configs/candidate.yaml, {advice}; then lock again",
    )
