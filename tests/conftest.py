"""What the tests share: a real PostgreSQL with pgvector, a workspace of their own, the real embedded model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config import embedder_files
from lib.config.locked_config import FilterSettings, LockedConfig, RerankSettings, RetrievalSettings
from lib.index.embedder import Embedder, sentence_transformer
from lib.platform import embedded, postgres
from lib.platform.workspace import Workspace

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"  # public collections beside the checkout, on some machines
_CLEAN = (
    "DATABASE_URL",
    "GOLIVE_ENV",
    "GOLIVE_LEASE",
    "GOLIVE_FAILPOINT",
    "CHUNK_SIZE",
    "OVERLAP_RATIO",
    "JACCARD_THRESHOLD",
    "PREFIX_POLICY",
    "EXECUTOR",
    "GOLIVE_SIGNING_KEY",
    "GOLIVE_SIGNING_KEY_FILE",
    "GOLIVE_SIGNING_KEY_PASSPHRASE",
    "GOLIVE_VERIFY_KEY",
    "GOLIVE_VERIFY_KEY_FILE",
    "GOLIVE_BACKUP_KEY",
    "GOLIVE_BACKUP_KEY_FILE",
)

HANDBOOK = {
    "backups.md": "# Backups\n\nA backup is proven by restoring it into fresh tables.\n\n## Retention\n\n"
    "Keep the last seven daily backups and the last four weekly ones.\n",
    "chunking.md": "# Chunking\n\nA chunk of 450 tokens with an overlap of ten percent is the validated default.\n\n"
    "## Overlap\n\nOverlap repeats the end of a chunk at the start of the next one.\n",
    "pointer.md": "# The pointer\n\nOne row names the table that answers queries.\n\n## Rollback\n\n"
    "A rollback moves the pointer back in milliseconds, because the old table still stands.\n",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here, because pytest knows only the options of the topmost conftest when it begins."""
    parser.addoption("--fault-rounds", type=int, default=1, help="kill at so many moments where a fault test picks them")
    parser.addoption("--fault-table", default="", help="write the fault matrix's results into this file")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's own settings."""
    for name in _CLEAN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded PostgreSQL that only this test run uses."""
    workspace = Workspace(tmp_path_factory.mktemp("server"))
    yield embedded.address(workspace)
    embedded.stop(workspace)


@pytest.fixture
def database_url(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh, empty database; ``DATABASE_URL`` names it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = server.replace("/postgres?", f"/{name}?")
    monkeypatch.setenv("DATABASE_URL", url)
    yield url
    administer(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """A connection to a database that holds Golive's state and nothing else."""
    made = postgres.connect(database_url, "test")
    postgres.create_state(made)
    yield made
    made.close()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project folder with the shipped configs, a corpus of three short documents, and no cases."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("locked_configs"))
    settings = tmp_path / "configs" / "evaluation.yaml"  # on torch no graph has to be made in every test's own folder
    settings.write_text(settings.read_text().replace("embedder_runtime: openvino ", "embedder_runtime: torch "))
    write_corpus(tmp_path / "eval" / "corpus", HANDBOOK)
    monkeypatch.setenv("GOLIVE_HOME", str(tmp_path))
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The embedded model, loaded once."""
    return sentence_transformer(embedder_files.find(Workspace(PROJECT), "all-MiniLM-L6-v2"))


@pytest.fixture(scope="session")
def make_config() -> Callable[..., LockedConfig]:
    """Builds locked configs for the embedded model; keyword arguments replace fields."""
    files = embedder_files.find(Workspace(PROJECT), "all-MiniLM-L6-v2")

    def make(**changes: Any) -> LockedConfig:
        values: dict[str, Any] = {
            "chunk_size": 450,
            "overlap_ratio": 0.1,
            "jaccard_threshold": 0.8,
            "prefix_policy": "A",
            "chunk_version": "2026-01-02-030405-v1",
            "embedder_name": files.name,
            "tokenizer_name": files.tokenizer_name,
            "tokenizer_hash": files.tokenizer_hash,
            "embedder_weights_hash": files.weights_hash,
            "embedder_dimension": files.dimension,
            "embedder_max_sequence_length": files.max_sequence_length,
            "embedder_query_prompt": files.query_prompt,
            "embedder_document_prompt": files.document_prompt,
            "embedder_runtime": "torch",
            "sources": ("corpus",),
            "retrieval": RetrievalSettings(40, 40, 60, 45, "english", 1.2, 0.75, 16, 64, 100, "off", "rrf", 0.5),
            "rerank": RerankSettings("score_combination"),
            "filter": FilterSettings(6, 3000),
            "created_at": "2026-01-02T03:04:05Z",
            "created_by": "tester@host",
        }
        return LockedConfig(**{**values, **changes})

    return make


@dataclass(frozen=True)
class Finished:
    """A script that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run_script(workspace: Workspace) -> Callable[..., Finished]:
    """Runs ``scripts/<name>.py`` as a user would, in the test's workspace and database, from another folder."""

    def run(name: str, *arguments: str, timeout: int = 300, **environment: str) -> Finished:
        done = subprocess.run(
            [sys.executable, str(PROJECT / "scripts" / f"{name}.py"), *arguments],
            cwd="/",
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def write_corpus(folder: Path, documents: dict[str, str]) -> None:
    for name, text in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def administer(url: str, command: sql.Composable) -> None:
    """Runs one command outside of a transaction, as CREATE DATABASE needs it."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(command)
    connection.close()
