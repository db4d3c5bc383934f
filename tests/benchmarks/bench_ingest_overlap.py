"""A whole ingest against embedding the same texts alone: what chunking, deduplication, load, indexes and seal add.

The ratio is embedding alone over the whole ingest: 1 would mean that all the rest costs nothing. Both sides use the same
loaded model; the embedding cache is off.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import embedder_files
from lib.config.locked_config import LockedConfig
from lib.index import documents, settings, shadow
from lib.index.embedder import embedder_of
from lib.index.executors import open_workers
from lib.index.ingest import plan_ingest
from lib.index.pipeline import Chunker
from lib.index.releases import Release, get_release
from lib.index.tokens import TokenCounter
from lib.platform import embedded, postgres
from lib.platform.workspace import Workspace
from tests.benchmarks.harness import PROJECT, SHARED_DATA, Comparison, alternate, median_s
from tests.benchmarks.public_collections import any_config

TARGET = 1 / 1.10
ROUNDS = 3
RUNTIME = "openvino_int8"  # the faster embedding is, the more the rest weighs


def run(runtime: str = RUNTIME, rounds: int = ROUNDS, count: int | None = None) -> list[Comparison]:
    """With ``count``, over so many of the documents."""
    files = embedder_files.find(Workspace(PROJECT), "all-MiniLM-L6-v2")
    embedder = embedder_of(Workspace(PROJECT), files, runtime)
    found, questions = _documents()[:count], _questions()
    config = replace(any_config(), sources=("corpus",), embedder_runtime=runtime, config_hash="")
    texts = [row.embedding_text for row in plan_ingest(found, config, TokenCounter(files.folder)).rows]
    embedder.embed_documents(texts[:64])
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        connection = postgres.connect(embedded.address(workspace), "benchmark")
        postgres.create_state(connection)
        documents.apply_sync(connection, "corpus", documents.plan_sync({}, found), found)
        loaded = settings.load(Workspace(PROJECT))

        def embed() -> dict[str, Any]:
            embedder.embed_documents(texts)
            return {"chunks": len(texts)}

        def ingest() -> dict[str, Any]:
            release = _lock(connection, config)
            with open_workers(loaded.build, characters=sum(len(document.content) for document in found)) as workers:
                chunker = Chunker(files.folder, workers, loaded.build.documents_per_unit)
                sealed = shadow.build(connection, release, embedder, chunker, loaded, questions)
            assert sealed.row_count == len(texts)
            names = ("fill_s", "index_s", "recall_s", "seal_s", "recall_mean", "recall_minimum")
            return {"chunks": sealed.row_count, **{name: sealed.ingest_stats[name] for name in names}}

        try:
            runs = alternate({"embedding alone": embed, "whole ingest": ingest}, rounds)
        finally:
            connection.close()
            embedded.stop(workspace)
    ratio = median_s(runs, "embedding alone") / median_s(runs, "whole ingest")
    return [Comparison("ingest_overlap", ratio, TARGET, f"embedding alone ({runtime})", runs)]


def _documents() -> list[documents.Document]:
    """Real text in parts: the chunking corpora, and the paragraphs and abstracts of two other collections."""
    chroma = sorted((SHARED_DATA / "chroma_chunking" / "corpora").iterdir())
    texts = [part for file in chroma for part in _parts(file.read_text(encoding="utf-8").replace("\0", ""))]
    texts += _parts(json.dumps(json.loads((SHARED_DATA / "xquad" / "xquad.en.json").read_text()), indent=0))
    texts += _parts((SHARED_DATA / "cranfield" / "cran.all.1400.xml").read_text(encoding="utf-8", errors="replace"))
    return [
        documents.Document(
            doc_id=f"corpus/{number:04}.md",
            source="corpus",
            path=f"{number:04}.md",
            title=f"Part {number}",
            sections=[],
            content=text,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            metadata={"type": "text"},
        )
        for number, text in enumerate(texts)
    ]


def _parts(text: str, characters: int = 20_000) -> list[str]:
    return [text[start : start + characters] for start in range(0, len(text), characters)]


def _questions() -> list[tuple[str, str]]:
    with (SHARED_DATA / "chroma_chunking" / "questions_df.csv").open(encoding="utf-8", newline="") as stream:
        return [(f"{number:04}", row["question"]) for number, row in enumerate(csv.DictReader(stream))]


def _lock(connection: Connection, config: LockedConfig) -> Release:
    """A release of its own for each run: the same config under another version."""
    version = f"2026-01-02-{uuid.uuid4().int % 10**6:06}-v1"
    mine = replace(config, chunk_version=version, shadow_table=None, config_hash="")
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO golive.releases (release_id, chunk_version, config_hash, config, table_schema, table_name, state)"
            " VALUES (%s, %s, %s, %s, 'public', %s, 'locked')",
            (mine.ingest_run_id, version, mine.config_hash, json.dumps(mine.to_dict()), mine.shadow_table),
        )
        return get_release(connection, mine.ingest_run_id)
