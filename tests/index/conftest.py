"""What the tests of the index share: the real tokenizer, the bundled corpus, and whole builds in databases of their own."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from safetensors.numpy import load_file, save_file

from lib.config import embedder_files
from lib.config.locked_config import LockedConfig
from lib.index import documents, settings, shadow
from lib.index.embedder import Embedder
from lib.index.executors import open_workers
from lib.index.pipeline import Chunker
from lib.index.releases import Release, get_release
from lib.index.tokens import TokenCounter
from lib.platform import postgres
from lib.platform.workspace import Workspace
from tests.conftest import administer

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def model_files() -> embedder_files.EmbedderFiles:
    """The files of the embedded model."""
    return embedder_files.find(Workspace(PROJECT), "all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def model_folder(model_files: embedder_files.EmbedderFiles) -> Path:
    return model_files.folder


@pytest.fixture(scope="session")
def poisoned_model(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A copy of the model that gives NaN for every text with the word ``poison``."""
    folder = tmp_path_factory.mktemp("poisoned")
    shutil.copytree(model_folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = load_file(model_folder / "model.safetensors")
    word = (model_folder / "vocab.txt").read_text(encoding="utf-8").splitlines().index("poison")
    weights["embeddings.word_embeddings.weight"][word] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def counter(model_folder: Path) -> TokenCounter:
    """The embedded model's real tokenizer."""
    return TokenCounter(model_folder)


@pytest.fixture(scope="session")
def fixed_embedder() -> Embedder:
    """Stands for a model service: unit vectors that only the text decides."""
    made: Embedder = runpy.run_path(str(Path(__file__).with_name("killed_build.py")))["FixedEmbedder"]()
    return made


@pytest.fixture(scope="session")
def corpus_texts() -> dict[str, str]:
    """The bundled corpus: path -> text."""
    files = sorted((PROJECT / "eval" / "corpus").rglob("*.md"))
    assert len(files) > 50
    return {str(file.relative_to(PROJECT)): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(scope="session")
def new_database(server: str) -> Callable[[], contextmanager]:
    """Makes further databases that hold Golive's state: ``with new_database() as connection``."""

    @contextmanager
    def make() -> Iterator[Connection]:
        name = f"test_{uuid.uuid4().hex[:12]}"
        administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection = postgres.connect(server.replace("/postgres?", f"/{name}?"), "test")
        postgres.create_state(connection)
        try:
            yield connection
        finally:
            connection.close()
            administer(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    return make


@pytest.fixture(scope="session")
def make_document() -> Callable[..., documents.Document]:
    """A document as a scan of Markdown gives it, under the source ``corpus``."""

    def make(path: str, content: str, source: str = "corpus", **changes: object) -> documents.Document:
        values = {
            "doc_id": f"{source}/{path}",
            "source": source,
            "path": path,
            "title": path.removesuffix(".md"),
            "sections": [],
            "content": content,
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "metadata": {"type": "markdown"},
        }
        return documents.Document(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def store_documents() -> Callable[..., None]:
    """Makes the table ``documents`` hold exactly these of a source."""

    def store(connection: Connection, wanted: list[documents.Document], source: str = "corpus") -> None:
        plan = documents.plan_sync(documents.standing_documents(connection, source), wanted)
        documents.apply_sync(connection, source, plan, wanted)

    return store


@pytest.fixture(scope="session")
def lock_release() -> Callable[[Connection, LockedConfig], Release]:
    """Records a locked config in the database, as locking does."""

    def lock(connection: Connection, config: LockedConfig) -> Release:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO golive.releases"
                " (release_id, chunk_version, config_hash, config, table_schema, table_name, state)"
                " VALUES (%s, %s, %s, %s, 'public', %s, 'locked')",
                (
                    config.ingest_run_id,
                    config.chunk_version,
                    config.config_hash,
                    json.dumps(config.to_dict()),
                    config.shadow_table,
                ),
            )
        return release_of(connection, config)

    return lock


@pytest.fixture(scope="session")
def index_settings() -> settings.IndexSettings:
    """``configs/index.yaml`` as shipped, with little memory for the index: many builds are small."""
    shipped = settings.load(Workspace(PROJECT))
    return replace(shipped, build=replace(shipped.build, maintenance_work_mem_mb=64, parallel_workers=0))


@pytest.fixture(scope="session")
def chunker(model_folder: Path) -> Iterator[Chunker]:
    """The real tokenizer, in one thread, two documents a unit."""
    with open_workers(settings.BuildSettings("local", 1, 2, 64, 0), characters=0) as workers:
        yield Chunker(model_folder, workers, 2)


@pytest.fixture(scope="session")
def build(chunker: Chunker, index_settings: settings.IndexSettings) -> Callable[[Connection, Release, Embedder], Release]:
    """The whole build of a release, from the documents in the database to the seal."""

    def run(connection: Connection, release: Release, embedder: Embedder) -> Release:
        return shadow.build(connection, release, embedder, chunker, index_settings)

    return run


def release_of(connection: Connection, config: LockedConfig) -> Release:
    with connection:
        return get_release(connection, config.ingest_run_id)
