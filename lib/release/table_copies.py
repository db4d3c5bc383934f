"""Tables to files and back: binary COPY in row blocks through zstd, with counts and digests taken in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import psycopg2
import psycopg2.errors
import zstandard
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.index.seal import Content, content
from lib.platform import binary_copy, failpoints, postgres
from lib.platform.errors import IntegrityMismatch, Refused
from lib.platform.files import atomic_file
from lib.release import row_blocks

_LEVEL = 1  # 3 takes half as long again for 4 % less
_CHUNK_BYTES = 1 << 20
_PART_PAGES = 256  # a smaller table is one part
_PLAIN = ".copy.zst"  # the form of backups of version 1: a compressed binary COPY as it is
_DAMAGE = (
    psycopg2.DataError,
    psycopg2.IntegrityError,
    psycopg2.errors.ProtocolViolation,
    psycopg2.errors.ProgramLimitExceeded,
)


@dataclass(frozen=True)
class Part:
    """Some pages of a table, to be copied to one file.

    Attributes:
        dimension: of the vectors in the first column; 0 where there are none.
        pages: from which one on, and before which; None for all.
        repeats: the third column repeats the end of the second, and is copied as its size alone.
    """

    table: sql.Identifier
    columns: Sequence[str]
    dimension: int = 0
    pages: tuple[int, int | None] | None = None
    repeats: bool = False


def columns_of(connection: Connection, schema: str, table: str, first: Sequence[str] = ()) -> list[str]:
    """The table's columns, without those that the database computes, in order; those of ``first`` come before the others.

    The caller owns the transaction.
    """
    rows = postgres.every(
        connection,
        "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
        " AND is_generated = 'NEVER' ORDER BY array_position(%s::text[], column_name::text), ordinal_position",
        (schema, table, list(first)),
    )
    return [row["column_name"] for row in rows]


def parts_of(connection: Connection, whole: Part, count: int) -> list[Part]:
    """Cuts a table into parts of about equal size, the last of which is open. The caller owns the transaction."""
    found = postgres.one(
        connection,
        "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint AS pages",
        (whole.table.as_string(connection),),
    )
    pages = found["pages"] if found else 0
    count = max(1, min(count, pages // _PART_PAGES))
    if count == 1:
        return [whole]
    cuts = [*(pages * number // count for number in range(count)), None]
    return [replace(whole, pages=(first or 0, end)) for first, end in pairwise(cuts)]


def copy_out(connection: Connection, part: Part, path: Path) -> dict[str, Any]:
    """Writes a part of a table to a compressed file; returns ``{sha256, bytes}`` of the file and its ``rows``.

    Raises:
        IntegrityMismatch: the table's vectors are not of that dimension.
    """
    fields: list[sql.Composable] = list(map(sql.Identifier, part.columns))
    if part.repeats:
        fields[2] = sql.SQL("octet_length({})").format(fields[2])
    query = sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT binary)").format(
        sql.SQL(", ").join(fields), part.table, _where(part)
    )
    with atomic_file(path) as stream:
        sink = _Sink(stream)
        blocks = row_blocks.BlockWriter(sink.write, part.dimension, repeats=part.repeats)
        try:
            with connection.cursor() as cursor:
                cursor.copy_expert(query, blocks, size=_CHUNK_BYTES)
            blocks.finish()
        except row_blocks.Malformed as error:
            raise IntegrityMismatch(f"{path.name} cannot be written: {error}") from error
        return {**sink.finish(), "rows": blocks.rows}


def copy_in(connection: Connection, table: sql.Identifier, columns: Sequence[str], path: Path) -> None:
    """Loads a file into a table. Count and digest must be compared afterwards: COPY does not notice every damage.

    Raises:
        IntegrityMismatch: the file cannot be decompressed, or does not hold rows of such a table.
        Refused: the table lacks a column of the file.
    """
    command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, _names(columns))
    failpoints.reach("restore.rows")
    try:
        with path.open("rb") as stream, connection.cursor() as cursor:
            rows: Any = binary_copy.Stream(_rows_of(path, stream, len(columns)))
            cursor.copy_expert(command, rows, size=_CHUNK_BYTES)
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


def documents_content(connection: Connection, schema: str) -> Content:
    """Row count and content digest of the documents table. The caller owns the transaction."""
    return content(connection, document_hashes(postgres.table_identifier(schema, "documents")))


def document_hashes(table: sql.Identifier) -> sql.Composed:
    """The query of the hash of every document."""
    return postgres.compose(__file__, "document_hashes", table=table)


def posting_hashes(table: sql.Identifier) -> sql.Composed:
    """The query of the hash of every row of a table of postings."""
    return postgres.compose(__file__, "posting_hashes", table=table)


def row_hashes(table: sql.Identifier, columns: Sequence[str]) -> sql.Composed:
    """The query of the hash of every row of any table, over these columns, whose texts depend on pinned settings."""
    return postgres.compose(__file__, "row_hashes", table=table, columns=_names(columns))


def _where(part: Part) -> sql.Composable:
    if part.pages is None:
        return sql.SQL("")
    first, end = part.pages
    return sql.SQL(" WHERE ctid >= {}::tid").format(sql.Literal(f"({first},0)")) + (
        sql.SQL("") if end is None else sql.SQL(" AND ctid < {}::tid").format(sql.Literal(f"({end},0)"))
    )


class _Sink:
    """Compresses, hashes and counts what is written to a file, each block by itself."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, block: bytes) -> None:
        failpoints.reach("backup.bytes")
        data = self._compressor.compress(block)
        self._hash.update(data)
        self._bytes += len(data)
        self._target.write(data)

    def finish(self) -> dict[str, Any]:
        if not self._bytes:
            self.write(b"")  # a frame without rows: an empty file is none of zstd
        return {"sha256": self._hash.hexdigest(), "bytes": self._bytes}


def decompressing(stream: BinaryIO) -> Callable[[int], bytes]:
    """Reads so many bytes, or fewer at the end, of what a file's frames hold."""
    read: Callable[[int], bytes] = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True).read
    return read


def _rows_of(path: Path, stream: BinaryIO, fields: int) -> Iterator[bytes]:
    """A file's rows as binary COPY."""
    read = decompressing(stream)
    if not path.name.endswith(_PLAIN):
        return row_blocks.decode(read, fields)
    return iter(lambda: read(_CHUNK_BYTES), b"")


def _damaged(path: Path, error: psycopg2.Error) -> IntegrityMismatch:
    return IntegrityMismatch(f"{path.name} is damaged", detail=_first_line(error), hint="take another backup: make backups")


def _first_line(error: psycopg2.Error) -> str:
    return str(error).partition("\n")[0]


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
