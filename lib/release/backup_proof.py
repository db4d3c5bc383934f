"""The proof of a backup: every table restored into fresh ones, counted and digested, then undone.

A file is restored by a session of its own into a temporary table: nobody else sees it, none of it goes to the server's
log and its replicas, and it is gone with the session, however that ends. The hashes of the rows of a table's files are put
in one order here, and so make the digest that the whole table has.
"""

from __future__ import annotations

import hashlib
import heapq
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.index.bm25 import create_postings, terms_of
from lib.index.chunk_table import create_chunk_table
from lib.index.seal import Content, chunk_hashes
from lib.platform import failpoints, postgres
from lib.platform.clock import timestamp
from lib.platform.errors import IntegrityMismatch
from lib.release.snapshot import Crew, Job, pin
from lib.release.table_copies import copy_in, document_hashes, posting_hashes, row_hashes

_HASH_BYTES = 32
_SPOOLED_BYTES = 32 << 20  # of hashes kept in memory, a file; more go to a temporary file
_FETCHED_ROWS = 10_000

Hashes = IO[bytes]


@dataclass(frozen=True)
class _Table:
    """A table of the backup: how an empty one is made, and the query of its rows' hashes."""

    name: str
    entry: dict[str, Any]
    create: Callable[[Connection, sql.Identifier], None]
    hashes: Callable[[sql.Identifier], sql.Composable]


def prove(
    connection: Connection, found: dict[str, Any], folder: Path, workers: int, beside: Sequence[Job] = ()
) -> tuple[dict[str, Any], list[Any]]:
    """Restores every file and compares.

    Args:
        found: what the manifest will say; the digests of postings are written into it.
        beside: what else is done meanwhile.

    Returns:
        ``{at, seconds}``, and what the jobs of ``beside`` returned.

    Raises:
        IntegrityMismatch: a restored table is not what was backed up.
    """
    started = time.monotonic()
    postings = list(map(_postings, found["tables"]))
    tables = [*map(_chunks, found["tables"]), *postings, _documents(found["documents"])]
    tables += [_state(name, entry) for name, entry in found["state_tables"].items()]
    with ExitStack() as spools:
        copies: list[Job] = [
            partial(_restored, table=table, path=folder / name, spools=spools)
            for table in tables
            for name in table.entry["files"]
        ]
        # sealed as their table is, so they are hashed where they stand while their copy is
        sealed: list[Job] = [partial(_standing, entry=entry, spools=spools) for entry in found["tables"]]
        done = Crew(partial(postgres.beside, connection, "backup proof"), workers).run([*copies, *sealed, *beside])
        hashes = iter(done)
        restored = [[next(hashes) for _ in table.entry["files"]] for table in tables]
        for table in postings:
            table.entry["digest"] = _merged([next(hashes)]).digest
        for table, of_its_files in zip(tables, restored, strict=True):
            _compare(_merged(of_its_files), table)
    return {"at": timestamp(), "seconds": round(time.monotonic() - started, 3)}, list(hashes)


def _chunks(entry: dict[str, Any]) -> _Table:
    return _Table(entry["table"], entry, partial(create_chunk_table, dimension=entry["dimension"]), chunk_hashes)


def _postings(entry: dict[str, Any]) -> _Table:
    return _Table(_postings_of(entry).strings[-1], entry["postings"], create_postings, posting_hashes)


def _postings_of(entry: dict[str, Any]) -> sql.Identifier:
    return terms_of(postgres.table_identifier(entry["schema"], entry["table"]))


def _documents(entry: dict[str, Any]) -> _Table:
    original = postgres.table_identifier(entry["schema"], "documents")
    return _Table("documents", entry, partial(_create_like, original=original), document_hashes)


def _state(name: str, entry: dict[str, Any]) -> _Table:
    original = postgres.table_identifier("golive", name)
    return _Table(
        f"golive.{name}",
        entry,
        partial(_create_like, original=original),
        partial(row_hashes, columns=entry["columns"]),
    )


def _create_like(connection: Connection, fresh: sql.Identifier, *, original: sql.Identifier) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED)").format(fresh, original)
        )


def _restored(connection: Connection, *, table: _Table, path: Path, spools: ExitStack) -> Hashes:
    failpoints.reach("backup.prove")
    pin(connection)
    fresh = postgres.table_identifier("pg_temp", "restored")
    table.create(connection, fresh)
    copy_in(connection, fresh, table.entry["columns"], path)
    return _hashed(connection, table.hashes(fresh), spools)


def _standing(connection: Connection, *, entry: dict[str, Any], spools: ExitStack) -> Hashes:
    pin(connection)
    return _hashed(connection, posting_hashes(_postings_of(entry)), spools)


def _hashed(connection: Connection, query: sql.Composable, spools: ExitStack) -> Hashes:
    """The sorted hashes of a query's rows, one after the other."""
    spool: Hashes = tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES)  # noqa: SIM115  closed with spools
    spools.enter_context(spool)
    # OFFSET 0: without it the rows are sorted whole
    ordered = sql.SQL("SELECT row_hash FROM ({} OFFSET 0) AS hashes ORDER BY row_hash").format(query)
    with connection.cursor(name="hashes") as cursor:
        cursor.itersize = _FETCHED_ROWS
        cursor.execute(ordered)
        for (row_hash,) in cursor:
            spool.write(row_hash)
    spool.seek(0)
    return spool


def _merged(spools: Sequence[Hashes]) -> Content:
    """Rows and content digest of what several files hold together, as SQL computes it over one table."""
    digest, rows = hashlib.sha256(), 0
    for row_hash in heapq.merge(*map(_each, spools)):
        digest.update(row_hash)
        rows += 1
    return Content(rows, digest.hexdigest())


def _each(spool: Hashes) -> Iterator[bytes]:
    return iter(lambda: spool.read(_HASH_BYTES), b"")


def _compare(content: Content, table: _Table) -> None:
    entry = table.entry
    if (content.row_count, content.digest) != (entry["rows"], entry["digest"]):
        raise IntegrityMismatch(
            f"the restored copy of {table.name} is not what was backed up; the backup is thrown away",
            detail=f"{content.row_count} rows restored, {entry['rows']} backed up",
            hint="make backup; if that happens again, look at the server's disk and memory",
        )
