"""The proof of a backup: every table restored into a fresh one, counted and digested, then undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.index.bm25 import create_postings, terms_of
from lib.index.chunk_table import create_chunk_table
from lib.index.seal import Content, content_of
from lib.platform import failpoints, postgres
from lib.platform.clock import timestamp
from lib.platform.errors import IntegrityMismatch
from lib.release.snapshot import Crew, pin
from lib.release.table_copies import copy_in, documents_content, rows_content


def prove(connection: Connection, manifest: dict[str, Any], folder: Path, workers: int) -> dict[str, Any]:
    """Restores every table into a fresh one and compares; each in a transaction that is undone, so nothing is left behind.

    The digests of postings are written into ``manifest``.

    Returns:
        ``{at, seconds}``.

    Raises:
        IntegrityMismatch: a restored table is not what was backed up.
    """
    started = time.monotonic()
    schema = f"golive_proof_{manifest['backup_id'].replace('-', '_')}"
    jobs: list[Callable[[Connection], None]] = [
        partial(_chunks, folder=folder, schema=f"{schema}_{number}", table=table)
        for number, table in enumerate(manifest["tables"])
    ]
    jobs += [
        partial(_postings, folder=folder, schema=f"{schema}_{number}_terms", table=table)
        for number, table in enumerate(manifest["tables"])
    ]
    jobs.append(partial(_documents, folder=folder, schema=f"{schema}_documents", entry=manifest["documents"]))
    for name, entry in manifest["state_tables"].items():
        jobs.append(partial(_state, folder=folder, schema=f"{schema}_{name}", name=name, entry=entry))
    Crew(partial(postgres.beside, connection, "backup proof"), workers).run(jobs)
    return {"at": timestamp(), "seconds": round(time.monotonic() - started, 3)}


def _chunks(connection: Connection, *, folder: Path, schema: str, table: dict[str, Any]) -> None:
    fresh = _begin(connection, schema, table["table"])
    create_chunk_table(connection, fresh, table["dimension"])
    _load(connection, fresh, table, folder)
    _compare(content_of(connection, schema, table["table"]), table["table"], table)
    connection.rollback()


def _postings(connection: Connection, *, folder: Path, schema: str, table: dict[str, Any]) -> None:
    """Sealed as their table is, so they are digested where they stand, once their copy is: neither waits for the other."""
    original, entry = terms_of(postgres.table_identifier(table["schema"], table["table"])), table["postings"]
    fresh = _begin(connection, schema, original.strings[-1])
    create_postings(connection, fresh)
    _load(connection, fresh, entry, folder)
    content = rows_content(connection, fresh, entry["columns"])
    entry["digest"] = rows_content(connection, original, entry["columns"]).digest
    _compare(content, original.strings[-1], entry)
    connection.rollback()


def _documents(connection: Connection, *, folder: Path, schema: str, entry: dict[str, Any]) -> None:
    fresh = _begin(connection, schema, "documents")
    _like(connection, fresh, postgres.table_identifier(entry["schema"], "documents"))
    _load(connection, fresh, entry, folder)
    _compare(documents_content(connection, schema), "documents", entry)
    connection.rollback()


def _state(connection: Connection, *, folder: Path, schema: str, name: str, entry: dict[str, Any]) -> None:
    fresh = _begin(connection, schema, name)
    _like(connection, fresh, postgres.table_identifier("golive", name))
    _load(connection, fresh, entry, folder)
    _compare(rows_content(connection, fresh, entry["columns"]), f"golive.{name}", entry)
    connection.rollback()


def _begin(connection: Connection, schema: str, name: str) -> sql.Identifier:
    pin(connection)
    failpoints.reach("backup.prove")
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    return postgres.table_identifier(schema, name)


def _like(connection: Connection, fresh: sql.Identifier, original: sql.Identifier) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED)").format(fresh, original))


def _load(connection: Connection, table: sql.Identifier, entry: dict[str, Any], folder: Path) -> None:
    for name in entry["files"]:
        copy_in(connection, table, entry["columns"], folder / name)


def _compare(content: Content | None, name: str, entry: dict[str, Any]) -> None:
    if content is None or (content.row_count, content.digest) != (entry["rows"], entry["digest"]):
        raise IntegrityMismatch(
            f"the restored copy of {name} is not what was backed up; the backup is thrown away",
            detail=f"{content.row_count if content else 'no'} rows restored, {entry['rows']} backed up",
            hint="make backup; if that happens again, look at the server's disk and memory",
        )
