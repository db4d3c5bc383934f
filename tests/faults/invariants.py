"""What must hold whatever died, each under a name; checked after a fault, and again when the command was repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.releases import Release, find_release, read_pointer
from lib.index.seal import content_of
from lib.platform import audit, postgres
from lib.platform.errors import LeaseHeld
from lib.platform.files import read_json, sha256_file
from lib.platform.lease import lease
from lib.platform.workspace import Workspace
from lib.release import restore_loading

_PATIENCE_S = 20  # the server notices within moments that a client has died


@dataclass(frozen=True)
class Before:
    """The state before a fault: the live release and the pointer's generation; what may be live afterwards instead."""

    live: str | None
    generation: int
    then: str | None

    @classmethod
    def of(cls, url: str, then: str | None) -> Before:
        with closing(postgres.connect(url, "test")) as connection, connection:
            if not _has_state(connection):
                return cls(None, 0, then)
            pointer = read_pointer(connection)
        return cls(pointer.release.release_id if pointer.release else None, pointer.generation, then)


Check = Callable[[Workspace, Connection, Before], None]


def pointer_old_or_new(workspace: Workspace, connection: Connection, before: Before) -> None:
    pointer = read_pointer(connection)
    now = (pointer.release.release_id if pointer.release else None, pointer.generation)
    assert now in ((before.live, before.generation), (before.then, before.generation + 1)), (now, before)


def live_answers(workspace: Workspace, connection: Connection, before: Before) -> None:
    """What is live holds what was sealed, queries are routed to it (unless they are stopped), a search finds each chunk."""
    live = read_pointer(connection).release
    if live is None:
        return
    content = content_of(connection, live.table_schema, live.table_name)
    assert content is not None and content.digest == live.content_digest, live
    state = postgres.one(connection, "SELECT state FROM golive.traffic")
    if state and state["state"] == "open":
        route = postgres.one(connection, "SELECT release_id, table_name FROM golive.route()")
        assert route == {"release_id": live.release_id, "table_name": live.table_name}
    with connection.cursor() as cursor:
        table = live.table.as_string(connection)
        cursor.execute(
            f"SELECT t.id, (SELECT n.id FROM {table} n ORDER BY n.embedding <=> t.embedding LIMIT 1) FROM {table} t"
        )
        assert all(asked == found for asked, found in cursor.fetchall())


def visible_backups_whole(workspace: Workspace, connection: Connection, before: Before) -> None:
    """Every backup that can be seen says how it was proven, and its files are those that its manifest lists."""
    for folder in visible_backups(workspace):
        manifest = read_json(folder / "manifest.json", "manifest")
        assert manifest["proven"], folder
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
        for name, listed in manifest["files"].items():
            assert sha256_file(folder / name) == listed["sha256"], name
        assert there >= manifest["files"].keys(), folder


def audit_whole(workspace: Workspace, connection: Connection, before: Before) -> None:
    assert audit.first_break(connection) is None


def tables_as_named(workspace: Workspace, connection: Connection, before: Before) -> None:
    """A sealed release that stands holds what was sealed; no chunk table lies about unnamed but where a restore loads."""
    releases = [Release(**row) for row in postgres.every(connection, "SELECT * FROM golive.releases")]
    for release in releases:
        content = content_of(connection, release.table_schema, release.table_name)
        assert release.state in ("locked", "building") or content is None or content.digest == release.content_digest
    tables = postgres.every(
        connection,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^document_chunks' AND relname !~ 'terms$'"
        " AND relnamespace <> coalesce(to_regnamespace(%s), 0)",
        (restore_loading.SCHEMA,),
    )
    named = {release.table_name for release in releases}
    assert {row["relname"] for row in tables} <= named, tables


def nothing_left_over(workspace: Workspace, connection: Connection, before: Before) -> None:
    """Where a step was done to its end, nothing stands where a restore loads."""
    stray = postgres.every(connection, "SELECT nspname FROM pg_namespace WHERE nspname ~ '^golive_'")
    assert not stray, stray


def files_whole(workspace: Workspace, connection: Connection, before: Before) -> None:
    """Every JSON file is whole; the active config is one that the database has on record."""
    for folder in (workspace.locked_configs, workspace.root / "metrics"):
        for path in folder.rglob("*.json"):
            if not any(part.startswith(".") for part in path.relative_to(workspace.root).parts):
                json.loads(path.read_bytes())
    active = workspace.locked_configs / "active_config.json"
    if active.exists():
        config = LockedConfig.from_dict(read_json(active, "config"))
        release = find_release(connection, config.ingest_run_id)
        assert release is not None and release.locked_config.digest == config.digest


def lease_free(url: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with lease(url, "test"):
                return
        except LeaseHeld:
            assert time.monotonic() < deadline, "the lease of a run that is dead is still held"
            time.sleep(0.05)


CHECKS: tuple[Check, ...] = (
    pointer_old_or_new,
    live_answers,
    visible_backups_whole,
    audit_whole,
    tables_as_named,
    files_whole,
)
AFTERWARDS: tuple[Check, ...] = (*CHECKS, nothing_left_over)


def check(workspace: Workspace, url: str, before: Before, checks: tuple[Check, ...] = CHECKS) -> None:
    """Asserts that these hold."""
    with closing(postgres.connect(url, "test")) as connection:
        with connection:
            if not _has_state(connection):
                assert before == Before(None, 0, before.then)
                return
        for holds in checks:
            with connection:
                holds(workspace, connection, before)
    lease_free(url)


def _has_state(connection: Connection) -> bool:
    found = postgres.one(connection, "SELECT to_regclass('golive.audit_log') IS NOT NULL AS there")
    return bool(found and found["there"])


def visible_backups(workspace: Workspace) -> list[Path]:
    """Oldest first."""
    if not workspace.backups.is_dir():
        return []
    return sorted(path for path in workspace.backups.iterdir() if path.is_dir() and not path.name.startswith("."))
