"""Rows into a table by binary COPY: encoded a piece at a time while the server takes in the piece before it.

The form is PostgreSQL's "COPY binary format": a header, for each row its fields' count, for each field its length and
bytes, all in network order. pgvector's ``vector_recv`` reads its dimension, two unused bytes, and float4 values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Encoder = Callable[[Any], bytes]

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_length = struct.Struct(">i").pack
_int4 = struct.Struct(">ii").pack
_vector_head = struct.Struct(">iHH").pack
_PIECE_ROWS = 64


def text(value: str) -> bytes:
    """A field of type text."""
    data = value.encode()
    return _length(len(data)) + data


def int4(value: int) -> bytes:
    """A field of type integer."""
    return _int4(4, value)


def jsonb(value: str) -> bytes:
    """A field of type jsonb, given as JSON text."""
    data = value.encode()
    return _length(len(data) + 1) + b"\x01" + data


def vector(value: NDArray[np.float32]) -> bytes:
    """A field of pgvector's type vector: ``float32[dimension]``."""
    data = value.astype(">f4").tobytes()
    return _vector_head(4 + len(data), len(data) // 4, 0) + data


def copy_binary(cursor: Any, table: sql.Identifier, columns: Mapping[str, Encoder], rows: Iterable[Sequence[Any]]) -> None:
    """Loads rows whose fields stand in the order of ``columns``; no field may be None. The caller owns the transaction.

    Raises:
        psycopg2.Error: the server refuses a value; then no row of the call is there.
    """
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, names)
    cursor.copy_expert(command, Stream(encode(list(columns.values()), rows)), size=1 << 16)


def encode(encoders: Sequence[Encoder], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """The bytes of a binary COPY, a few rows at a time."""
    head = struct.pack(">h", len(encoders))
    parts = [_HEADER]
    for number, row in enumerate(rows, 1):
        parts.append(head)
        parts += [encoder(value) for encoder, value in zip(encoders, row, strict=True)]
        if number % _PIECE_ROWS == 0:
            yield b"".join(parts)
            parts = []
    yield b"".join([*parts, _TRAILER])


class Stream:
    """What psycopg2 reads from: pieces as they come, so that the server works while the next one is encoded."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        taken, self._piece = self._piece[:size], self._piece[size:]
        return bytes(taken)
