"""Quality on public collections: BM25 beside bm25s, vectors beside exact search, and both together beside each alone.

bm25s ranks PostgreSQL's own lexemes, so that the formula is compared and not the analysis. Vectors are compared with exact
search over sentence-transformers' vectors on torch. Whatever is ranked is a whole document, for chroma_chunking a chunk.
``python -m tests.benchmarks.bench_retrieval_quality FOLDER …`` measures BEIR folders instead.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config import embedder_files
from lib.config.locked_config import LockedConfig
from lib.index.bm25 import terms_of, weigh
from lib.index.chunk_table import build_index, create_chunk_table
from lib.index.embedder import Embedder, load_embedder, sentence_transformer
from lib.index.fusion import Candidate
from lib.index.loading import COLUMNS
from lib.index.retrieval import Retriever
from lib.platform import binary_copy, embedded, postgres
from lib.platform.workspace import Workspace
from tests.benchmarks import harness, public_collections
from tests.benchmarks.harness import Comparison, Run
from tests.benchmarks.public_collections import Collection, any_config
from tests.benchmarks.synthetic import Given

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ranking = Mapping[str, Sequence[str]]  # query -> documents, best first

WORDS, VECTORS, HYBRID = "golive, words alone", "golive, vectors alone", "golive, both"
BM25S, EXACT = "bm25s on the same lexemes", "exact search, sentence-transformers"
MARGIN = 0.005
_TABLE = sql.Identifier("public", "collection")
_DEPTH = 1000  # of the lists for MAP
_ANSERINI = {
    "cacm": {"MAP": 0.3123, "P30": 0.1942}
}  # published; its analyser is Lucene's English one with Porter's stemmer


def run(collections: Sequence[Collection] | None = None) -> list[Comparison]:
    """Three comparisons a collection, of its own measure; the shipped collections where none are given."""
    config = any_config()
    workspace = Workspace(harness.PROJECT)
    embedder = load_embedder(workspace, config)
    torch = sentence_transformer(embedder_files.find(workspace, config.embedder_name))
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="golive-bench-") as folder:
        server = Workspace(Path(folder))
        try:
            connection = postgres.connect(embedded.address(server), "benchmark")
            postgres.create_state(connection)
            for collection in collections or public_collections.shipped():
                vectors = _embed(embedder, collection)
                exact = vectors if embedder is torch else _embed(torch, collection)
                comparisons += compare(connection, collection, config, vectors, exact)
            connection.close()
        finally:
            embedded.stop(server)
    return comparisons


def compare(
    connection: Connection,
    collection: Collection,
    config: LockedConfig,
    vectors: Mapping[str, NDArray[np.float32]],
    exact: Mapping[str, NDArray[np.float32]],
) -> list[Comparison]:
    """Loads a collection, ranks its queries. ``vectors`` and ``exact``: text -> unit vector, ours and the reference's."""
    _load(connection, collection, config, vectors)
    given = Given(dict(vectors))
    hybrid = Retriever.of(connection, "benchmark", _TABLE, config, given)
    deep = any_config(vector_top_k=_DEPTH, bm25_top_k=_DEPTH, hnsw_ef_search=_DEPTH)
    lists = {query: Retriever.of(connection, "benchmark", _TABLE, deep, given).candidates(text)
             for query, text in collection.queries.items()}  # fmt: skip
    found = {
        WORDS: {query: _by_rank(candidates, "bm25_rank") for query, candidates in lists.items()},
        VECTORS: {query: _by_rank(hybrid.candidates(text), "vector_rank") for query, text in collection.queries.items()},
        HYBRID: {query: [c.chunk_id for c in hybrid.retrieve(text).snapshot] for query, text in collection.queries.items()},
        BM25S: _bm25s(connection, collection, config),
        EXACT: _exact(collection, exact),
    }
    runs = {system: Run(system, facts=measures(ranking, collection.qrels)) for system, ranking in found.items()}
    for system in (VECTORS, HYBRID, EXACT):  # their lists are too short for the measures that look deep
        shown = {name: runs[system].facts[name] for name in ("nDCG@10", "any-hit@5")}
        runs[system] = Run(system, facts=shown)
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE {}, {}").format(_TABLE, terms_of(_TABLE)))
    return _comparisons(collection, runs)


def _comparisons(collection: Collection, runs: Mapping[str, Run]) -> list[Comparison]:
    value = {system: run.facts[collection.measure] for system, run in runs.items()}
    name, measure = collection.name, collection.measure
    better = WORDS if value[WORDS] >= value[VECTORS] else VECTORS
    rows = [
        Comparison(
            f"{name}, {measure}: {label}",
            value[ours] / value[peer],
            1 - MARGIN / value[peer],
            peer,
            [runs[ours], runs[peer]],
        )
        for label, ours, peer in (("words", WORDS, BM25S), ("vectors", VECTORS, EXACT))
    ]
    above = math.nextafter(1.0, 2.0)  # above, not equal to, the better one alone
    rows.append(
        Comparison(
            f"{name}, {measure}: both",
            value[HYBRID] / value[better],
            above,
            better,
            [runs[s] for s in (HYBRID, WORDS, VECTORS)],
        )
    )
    if name in _ANSERINI:
        anserini = Run("Anserini, published, another analyser", facts=_ANSERINI[name])
        rows.append(
            Comparison(
                f"{name}, MAP: words",
                runs[WORDS].facts["MAP"] / _ANSERINI[name]["MAP"],
                None,
                anserini.system,
                [runs[WORDS], anserini],
            )
        )
    return rows


def measures(ranking: Ranking, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Means over the queries: nDCG@10 (Järvelin and Kekäläinen, TOIS 2002), any-hit@5, and trec_eval's MAP and P30."""
    rows = [_measures_of(ranking[query], relevant) for query, relevant in qrels.items()]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _measures_of(ranked: Sequence[str], relevant: Mapping[str, int]) -> dict[str, float]:
    grades = [relevant.get(doc, 0) for doc in ranked]
    hits = [place for place, grade in enumerate(grades, 1) if grade > 0]
    ideal = _gain(sorted(relevant.values(), reverse=True)[:10])
    return {
        "nDCG@10": _gain(grades[:10]) / ideal,
        "any-hit@5": float(any(grades[:5])),
        "MAP": sum(number / place for number, place in enumerate(hits, 1)) / len(relevant),
        "P30": sum(place <= 30 for place in hits) / 30,
    }


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(place + 1) for place, grade in enumerate(grades, 1))


def _by_rank(candidates: Sequence[Candidate], rank: str) -> list[str]:
    listed = [candidate for candidate in candidates if getattr(candidate, rank)]
    return [candidate.chunk_id for candidate in sorted(listed, key=lambda candidate: int(getattr(candidate, rank)))]


def _embed(embedder: Embedder, collection: Collection) -> dict[str, NDArray[np.float32]]:
    """Text -> vector, of the documents and of the queries; the longest first, so that little is padded."""
    texts = sorted(set(collection.documents.values()), key=lambda text: (-len(text), text))
    pieces = [texts[start : start + 32] for start in range(0, len(texts), 32)]
    found = {text: vector for piece in pieces for text, vector in zip(piece, embedder.embed_documents(piece), strict=True)}
    return {**found, **{text: embedder.embed_query(text) for text in collection.queries.values()}}


def _load(
    connection: Connection, collection: Collection, config: LockedConfig, vectors: Mapping[str, NDArray[np.float32]]
) -> None:
    rows = (
        (doc, doc, 0, text, text, 1, 1, "v", "r", 0, len(text), "h", vectors[text])
        for doc, text in ((doc, text.replace("\0", " ")) for doc, text in collection.documents.items())
    )
    with connection, connection.cursor() as cursor:
        create_chunk_table(connection, _TABLE, config.embedder_dimension)
        binary_copy.copy_binary(cursor, _TABLE, COLUMNS, rows)
        weigh(connection, _TABLE, config)
        build_index(connection, _TABLE, _TABLE.strings[-1], config)


def _bm25s(connection: Connection, collection: Collection, config: LockedConfig) -> Ranking:
    import bm25s

    settings = config.retrieval
    index = bm25s.BM25(method="lucene", k1=settings.bm25_k1, b=settings.bm25_b)
    lexemes = _lexemes(connection, settings.text_search_config)
    doc_ids = sorted(collection.documents)
    index.index([lexemes(collection.documents[doc]) for doc in doc_ids], show_progress=False)
    found = {}
    for query, text in collection.queries.items():
        asked = sorted(set(lexemes(text)))
        scores = index.get_scores(asked) if asked else np.zeros(len(doc_ids))
        best = np.argsort(-scores, kind="stable")[:_DEPTH]
        found[query] = [doc_ids[place] for place in best if scores[place] > 0]
    return found


def _lexemes(connection: Connection, language: str) -> Callable[[str], list[str]]:
    """What PostgreSQL makes of a text: each lexeme as often as it stands there."""

    def analyse(text: str) -> list[str]:
        query = "SELECT lexeme, cardinality(positions) AS times FROM unnest(to_tsvector(%s::regconfig, %s))"
        with connection:
            rows: list[dict[str, Any]] = postgres.every(connection, query, (language, text))
        return [row["lexeme"] for row in rows for _ in range(row["times"])]

    return analyse


def _exact(collection: Collection, vectors: Mapping[str, NDArray[np.float32]]) -> Ranking:
    doc_ids = sorted(collection.documents)
    documents = np.stack([vectors[collection.documents[doc]] for doc in doc_ids])
    best = {
        query: np.argsort(-(documents @ vectors[text]), kind="stable")[:_DEPTH]
        for query, text in collection.queries.items()
    }
    return {query: [doc_ids[place] for place in places] for query, places in best.items()}


if __name__ == "__main__":
    print(harness.to_text(run([public_collections.beir(Path(folder)) for folder in sys.argv[1:]] or None)))
