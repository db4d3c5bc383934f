"""A live release of many chunks of real text, for benchmarks of backup, restore and cut-over; no model is loaded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index import bm25
from lib.index.chunk_table import build_index, compact, create_chunk_table
from lib.index.loading import COLUMNS
from lib.index.releases import Release, get_release, read_pointer
from lib.index.seal import content_of, seal
from lib.platform import binary_copy, embedded, postgres
from lib.platform.workspace import Workspace
from lib.release import promotion
from tests.benchmarks.bench_load import DIMENSION, rows_with_vectors, values
from tests.benchmarks.harness import PROJECT
from tests.release import staged
from tests.release.staged import FIRST_LOCKED, Project


@dataclass(frozen=True)
class Server:
    """A PostgreSQL of a benchmark's own, with a project whose live release it holds."""

    workspace: Workspace
    url: str
    connection: Connection
    release: Release


@contextmanager
def server(count: int) -> Iterator[Server]:
    """Starts a server with a live release of so many chunks of 2 KB and 384 dimensions; stops and removes it afterwards."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        workspace = Workspace(Path(folder))
        shutil.copytree(PROJECT / "configs", workspace.configs, ignore=shutil.ignore_patterns("locked_configs"))
        url = embedded.address(workspace)
        environment.setenv("DATABASE_URL", url)
        environment.setenv("GOLIVE_HOME", folder)
        connection = postgres.connect(url, "benchmark")
        try:
            postgres.create_state(connection)
            project = Project(workspace, url, connection)
            staged.sync(project, {"one.md": "# One\n\nA document.\n"})
            yield Server(workspace, url, connection, live_release(project, count))
        finally:
            connection.close()
            embedded.stop(workspace)


def live_release(project: Project, count: int, moment: datetime = FIRST_LOCKED) -> Release:
    """Locks a config, fills, indexes and seals its table with the benchmark's rows, and points to it."""
    staged.lock(project, moment)
    connection, release = project.connection, project.release()
    config = release.locked_config
    rows, vectors = rows_with_vectors(count)
    with connection, connection.cursor() as cursor:
        create_chunk_table(connection, release.table, DIMENSION)
        binary_copy.copy_binary(cursor, release.table, COLUMNS, values(rows, vectors, release))
        bm25.weigh(connection, release.table, config)
    compact(connection, release.table)
    with connection, connection.cursor() as cursor:
        build_index(connection, release.table, release.table_name, config, maintenance_work_mem_mb=1024)
        seal(connection, release.table)
        content = content_of(connection, release.table_schema, release.table_name)
        assert content is not None
        cursor.execute(
            "UPDATE golive.releases SET state = 'sealed', content_digest = %s, row_count = %s, sealed_at = now()"
            " WHERE release_id = %s",
            (content.digest, content.row_count, release.release_id),
        )
        sealed = get_release(connection, release.release_id)
        promotion.move_pointer(connection, read_pointer(connection, lock=True), sealed, "benchmark", "retired")
    store.write_active(project.workspace, config.in_production(True))
    return project.release(sealed.release_id)


def after(days: int) -> datetime:
    """When another release was locked."""
    return FIRST_LOCKED + timedelta(days=days)
