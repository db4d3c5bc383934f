"""What the platform's tests share: a database with Golive's state that they leave as it is, and a server that they kill."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from lib.platform import embedded, postgres
from lib.platform.workspace import Workspace
from tests.platform.s3_servers import real, stub

__all__ = ["home", "real", "state", "state_url", "stub"]


@pytest.fixture(scope="session")
def state_url(server: str) -> Iterator[str]:
    """Its address. A fresh database for each test costs more than most of these tests."""
    name = f"state_{uuid.uuid4().hex[:12]}"
    _execute(server, f"CREATE DATABASE {name}")
    yield server.replace("/postgres?", f"/{name}?")
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def state(state_url: str) -> Iterator[Connection]:
    made = postgres.connect(state_url, "test")
    postgres.create_state(made)
    yield made
    made.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project whose server tests start, stop and kill; it may be found in any of these states."""
    workspace = Workspace(tmp_path_factory.mktemp("home"))
    yield workspace
    embedded.stop(workspace)


def _execute(url: str, command: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(command)
    connection.close()
