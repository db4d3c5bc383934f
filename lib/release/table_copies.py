"""Tables to files and back: binary COPY through zstd, with counts and content digests taken inside the database."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psycopg2.errors
import zstandard
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.index.seal import Content
from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, Refused
from lib.platform.files import atomic_file

_LEVEL = 3
_CHUNK_BYTES = 1 << 20
_DAMAGE = (
    psycopg2.DataError,
    psycopg2.IntegrityError,
    psycopg2.errors.ProtocolViolation,
    psycopg2.errors.ProgramLimitExceeded,
)


class _HashingWriter:
    """Hashes and counts what passes through to ``target``."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.bytes += len(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def columns_of(connection: Connection, schema: str, table: str) -> list[str]:
    """The table's columns in order, without those that the database computes. The caller owns the transaction."""
    rows = postgres.every(
        connection,
        "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
        " AND is_generated = 'NEVER' ORDER BY ordinal_position",
        (schema, table),
    )
    return [row["column_name"] for row in rows]


def copy_out(connection: Connection, table: sql.Identifier, columns: Sequence[str], path: Path) -> dict[str, Any]:
    """Writes a table to a compressed file; returns ``{sha256, bytes}`` of the file."""
    command = sql.SQL("COPY {} ({}) TO STDOUT (FORMAT binary)").format(table, _names(columns))
    with atomic_file(path) as stream:
        counted = _HashingWriter(stream)
        with (
            zstandard.ZstdCompressor(level=_LEVEL).stream_writer(counted, closefd=False) as writer,  # type: ignore[arg-type]
            connection.cursor() as cursor,
        ):
            cursor.copy_expert(command, writer, size=_CHUNK_BYTES)
        return {"sha256": counted.sha256, "bytes": counted.bytes}


def copy_in(connection: Connection, table: sql.Identifier, columns: Sequence[str], path: Path) -> None:
    """Loads a file into a table. Count and digest must be compared afterwards: COPY does not notice every damage.

    Raises:
        IntegrityMismatch: the file cannot be decompressed, or does not hold rows of such a table.
        Refused: the table lacks a column of the file.
    """
    command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, _names(columns))
    try:
        with (
            path.open("rb") as stream,
            zstandard.ZstdDecompressor().stream_reader(stream) as reader,
            connection.cursor() as cursor,
        ):
            cursor.copy_expert(command, reader, size=_CHUNK_BYTES)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    except psycopg2.errors.QueryCanceled as error:
        if ".read() call" not in str(error):  # psycopg2 cancels the COPY where reading failed, and says so in these words
            raise
        raise _damaged(path, error) from error
    except psycopg2.errors.UndefinedColumn as error:
        raise Refused(
            f"the table that {path.name} goes into lacks a column",
            detail=_first_line(error),
            hint="create the table as it was when it was backed up, then run the same command again",
        ) from error


def documents_content(connection: Connection, schema: str, table: str = "documents") -> Content:
    """Row count and content digest of a documents table. The caller owns the transaction."""
    query = postgres.compose(__file__, "documents_digest", table=postgres.table_identifier(schema, table))
    found = postgres.one(connection, query)
    assert found is not None
    return Content(found["row_count"], found["digest"])


def _damaged(path: Path, error: psycopg2.Error) -> IntegrityMismatch:
    return IntegrityMismatch(f"{path.name} is damaged", detail=_first_line(error), hint="take another backup: make backups")


def _first_line(error: psycopg2.Error) -> str:
    return str(error).partition("\n")[0]


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
