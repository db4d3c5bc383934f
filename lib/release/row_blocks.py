"""The form of a backed-up table: PostgreSQL's binary COPY, with its vectors' bytes sorted by their place in the float.

The four bytes of a float compress very differently: sign and exponent well, the last two not at all. Set apart they make a
smaller file in less time. A block holds some rows: a head (rows, dimensions, bytes of the tails; three little-endian 32-bit
numbers), the length of each row's tail, the tails, then every first byte of every float, every second, third and fourth.
A tail is what follows a row's first field, which is the vector (pgvector's ``vector_send``: two 16-bit numbers, then float4
values). A table without vectors has blocks of no dimensions, whose tails are whole rows after their count of fields.

Where the highest bit of the head's second number is set, a tail begins with a text and, in place of a field that repeats
its end, the size of that in bytes (a 32-bit number). Reading puts the text's end there.

This file needs the standard library alone. A backup holds a copy of it, so that its tables can be read without Golive:
``zstd -dc FILE | python3 row_blocks.py FIELDS`` writes what COPY … FROM STDIN (FORMAT binary) takes.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
BLOCK_BYTES = 4 << 20  # of rows, before a block is closed

_HEAD = struct.Struct("<3I")
_COUNT = struct.Struct(">h")
_SIZE = struct.Struct(">i")
_REPEATED = struct.Struct(">ii")  # a field of four bytes, which are the size
_VECTOR = struct.Struct(">iHH")  # of a field: its bytes, the vector's dimensions, two unused bytes
_PLANES = 4
_REPEATS = 1 << 31


class Malformed(ValueError):
    """What was read is not of this form."""


class BlockWriter:
    """Takes a binary COPY row by row, as the server sends it, and hands on blocks.

    Args:
        hand_on: gets each block's bytes.
        dimension: of the vector that is each row's first field; 0 for a table without one.
        repeats: each tail's second field is the size of what repeats the end of the first one.
    """

    def __init__(self, hand_on: Callable[[bytes], object], dimension: int, *, repeats: bool = False) -> None:
        self.rows = 0
        self._hand_on = hand_on
        self._dimension = dimension
        self._form = dimension | (_REPEATS if repeats else 0)
        self._skip = _COUNT.size + (_VECTOR.size if dimension else 0)
        self._tail = self._skip + 4 * dimension
        self._floats: list[bytes] = []
        self._tails: list[bytes] = []
        self._bytes = 0
        self._ended = False

    def write(self, message: bytes) -> int:
        """One message of the server: a row, the first one with the header before it; or the trailer.

        Raises:
            Malformed: it is something else, or its first field is no vector of that dimension.
        """
        row = message
        if not self.rows and row.startswith(HEADER):
            row = row[len(HEADER) :]
            if not row:
                return len(message)
        if row == TRAILER:
            self._ended = True
            return len(message)
        if self._dimension:
            if len(row) < self._tail or _VECTOR.unpack_from(row, 2)[:2] != (4 + 4 * self._dimension, self._dimension):
                raise Malformed(f"a row does not begin with a vector of {self._dimension} dimensions")
            self._floats.append(row[self._skip : self._tail])
        self._tails.append(row[self._tail :])
        self.rows += 1
        self._bytes += len(row)
        if self._bytes >= BLOCK_BYTES:
            self._close_block()
        return len(message)

    def finish(self) -> None:
        """Hands on the last block. Raises Malformed where the server's trailer is missing."""
        if not self._ended:
            raise Malformed("the server ended the copy without its trailer")
        if self._tails:
            self._close_block()

    def _close_block(self) -> None:
        tails, floats = b"".join(self._tails), b"".join(self._floats)
        lengths = array("I", map(len, self._tails))
        if sys.byteorder == "big":
            lengths.byteswap()
        planes = [floats[plane::_PLANES] for plane in range(_PLANES if self._dimension else 0)]
        self._hand_on(b"".join([_HEAD.pack(len(lengths), self._form, len(tails)), lengths.tobytes(), tails, *planes]))
        self._floats, self._tails, self._bytes = [], [], 0


def decode(read: Callable[[int], bytes], fields: int) -> Iterator[bytes]:
    """The binary COPY again, a block at a time.

    Args:
        read: returns so many bytes, or fewer at the end.
        fields: how many fields each row has.

    Raises:
        Malformed: the bytes are not of this form, or end within a block.
    """
    yield HEADER
    while head := _exactly(read, _HEAD.size, may_end=True):
        rows, form, tail_bytes = _HEAD.unpack(head)
        dimension = form & ~_REPEATS
        lengths = array("I")
        lengths.frombytes(_exactly(read, 4 * rows))
        if sys.byteorder == "big":
            lengths.byteswap()
        tails = _exactly(read, tail_bytes)
        if sum(lengths) != tail_bytes:
            raise Malformed("the rows of a block do not fill it")
        start = _COUNT.pack(fields)
        if form & _REPEATS:
            lengths, tails = _repeated(lengths, tails)
        if not dimension:
            yield b"".join(_plain_rows(start, lengths, tails))
            continue
        start += _VECTOR.pack(4 + 4 * dimension, dimension, 0)
        floats = bytearray(4 * rows * dimension)
        for plane in range(_PLANES):
            floats[plane::_PLANES] = _exactly(read, rows * dimension)
        yield b"".join(_vector_rows(start, lengths, tails, bytes(floats), 4 * dimension))
    yield TRAILER


def _repeated(lengths: array[int], tails: bytes) -> tuple[array[int], bytes]:
    """The tails with what repeats the end of the text before it."""
    place, longer = 0, array("I")
    parts: list[bytes] = []
    for length in lengths:
        try:
            (size,) = _SIZE.unpack_from(tails, place)
            text = place + _SIZE.size, place + _SIZE.size + size
            four, again = _REPEATED.unpack_from(tails, text[1])
        except struct.error as error:
            raise Malformed("a row ends within a field") from error
        rest = text[1] + _REPEATED.size
        if four != _SIZE.size or not 0 <= again <= size or rest > place + length:
            raise Malformed("a row does not say what it repeats of its text")
        parts += (tails[place : text[1]], _SIZE.pack(again), tails[text[1] - again : text[1]], tails[rest : place + length])
        longer.append(length - _SIZE.size + again)
        place += length
    return longer, b"".join(parts)


def _plain_rows(start: bytes, lengths: array[int], tails: bytes) -> Iterator[bytes]:
    place = 0
    for length in lengths:
        yield start
        yield tails[place : place + length]
        place += length


def _vector_rows(start: bytes, lengths: array[int], tails: bytes, floats: bytes, stride: int) -> Iterator[bytes]:
    place = vector = 0
    for length in lengths:
        yield start
        yield floats[vector : vector + stride]
        yield tails[place : place + length]
        place += length
        vector += stride


def _exactly(read: Callable[[int], bytes], size: int, *, may_end: bool = False) -> bytes:
    parts, left = [], size
    while left:
        part = read(left)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    if left and not (may_end and left == size):
        raise Malformed("the bytes end within a block")
    return b"".join(parts)


if __name__ == "__main__":
    for piece in decode(sys.stdin.buffer.read, int(sys.argv[1])):
        sys.stdout.buffer.write(piece)
