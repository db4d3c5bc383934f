"""docs/serving.md: what it shows is run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from lib.index import serving
from lib.platform import embedded, postgres
from lib.platform.errors import NotFound, Refused
from lib.release import traffic
from tests.benchmarks import cutover_load
from tests.conftest import PROJECT
from tests.platform import managed

_PAGE = (PROJECT / "docs" / "serving.md").read_text(encoding="utf-8")
_LIVE = "release-768"


@pytest.fixture
def serving_url(database_url: str) -> str:
    release(database_url)
    return database_url


@pytest.fixture
def client(serving_url: str) -> Iterator[psycopg2.extensions.connection]:
    with closing(postgres.connect(serving_url, "test")) as made:
        yield made


def release(url: str) -> None:
    """Makes two releases, of which the one with 768 dimensions is live."""
    with closing(postgres.connect(url, "test")) as connection:
        postgres.create_state(connection)
        cutover_load.move(connection, cutover_load.make_releases(connection, rows=20)[1])


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)


def run(command: list[str | Path], url: str, given: str = "", **environment: str) -> str:
    done = subprocess.run(
        command, input=given, env={**os.environ, "DATABASE_URL": url, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_it_shows_for_psql_answers_from_the_live_release(serving_url: str) -> None:
    psql = [embedded.client("psql"), serving_url, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
    routed, found = (run(psql, serving_url, block) for block in blocks("psql"))
    assert routed.strip() == f"{_LIVE}|1|public|document_chunks_768|document_chunks_768|768|live"
    assert [line.split("|")[1] for line in found.splitlines()] == [_LIVE] * 3


def test_what_it_shows_for_python_answers_from_the_live_release(serving_url: str) -> None:
    (block,) = blocks("python")
    assert run([sys.executable, "-c", block], serving_url).strip() == _LIVE


def test_what_it_shows_for_python_works_through_a_pooler() -> None:
    try:
        with managed.running() as service:
            release(service.url())
            (block,) = blocks("python")
            assert run([sys.executable, "-c", block], service.url(pooled=True)).strip() == _LIVE
    except managed.Missing as missing:
        pytest.skip(str(missing))


def test_what_it_shows_for_node_answers_from_the_live_release(serving_url: str) -> None:
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('pg')"], capture_output=True).returncode:
        pytest.skip("node with the package pg is not installed (NODE_PATH names where it is)")
    (block,) = blocks("js")
    assert run([node, "-e", block], serving_url).strip() == _LIVE


def test_a_route_names_release_table_embedder_and_arm_and_is_asked_anew(client) -> None:
    with client:
        route = serving.route(client, "a request")
    assert (route.release_id, route.generation, route.arm) == (_LIVE, 1, "live")
    assert (route.table.strings, route.embedder["dimension"]) == (("public", "document_chunks_768"), 768)
    traffic.stop(client, "wrong prices")
    with pytest.raises(Refused, match="wrong prices"), client:
        serving.route(client, "another")
    with client, client.cursor() as cursor:
        cursor.execute("UPDATE golive.traffic SET state = 'open'; UPDATE golive.pointer SET release_id = NULL")
    with pytest.raises(NotFound, match="no release is live"), client:
        serving.route(client)


def test_its_search_shows_changed_documents_as_they_are_now(
    serving_url: str, client: psycopg2.extensions.connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sealed chunks are of one document, which was changed since: none of them may answer."""
    with client, client.cursor() as cursor:
        cursor.execute("INSERT INTO golive.superseded VALUES (%s, 'doc')", (_LIVE,))
        cursor.execute(
            "INSERT INTO golive.changed_chunks (release_id, id, doc_id, chunk_index, embedding_text, bm25_text,"
            " chunk_version, embedding_token_count, bm25_token_count, ingest_run_id, span_start, span_end, doc_sha256,"
            " embedding)"
            " VALUES (%(id)s, 'now', 'doc', 0, '', '', '', 1, 1, %(id)s, 0, 1, '', array_fill(1, '{768}')::vector)",
            {"id": _LIVE},
        )
    monkeypatch.setenv("DATABASE_URL", serving_url)
    shown: dict[str, Any] = {}
    exec(blocks("python")[0], shown)  # our own page
    shown["connection"].close()
    assert shown["found"] == {"release_id": _LIVE, "rows": [("now", _LIVE)]}
