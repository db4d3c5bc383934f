"""Row blocks: any table comes back as it was, and what is cut or put together wrongly is not taken for a table."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.release import row_blocks

tails = st.lists(st.binary(max_size=40), max_size=8)


def messages(rows: list[bytes], header_apart: bool = True) -> list[bytes]:
    """What a server sends for rows: the header alone or before the first one, then the trailer."""
    if header_apart or not rows:
        return [row_blocks.HEADER, *rows, row_blocks.TRAILER]
    return [row_blocks.HEADER + rows[0], *rows[1:], row_blocks.TRAILER]


def row(floats: list[float], tail: bytes) -> bytes:
    vector = struct.pack(f">ihh{len(floats)}f", 4 + 4 * len(floats), len(floats), 0, *floats)
    return struct.pack(">h", 2) + vector + struct.pack(">i", len(tail)) + tail


def blocks_of(sent: list[bytes], dimension: int, *, repeats: bool = False) -> bytes:
    parts: list[bytes] = []
    writer = row_blocks.BlockWriter(parts.append, dimension, repeats=repeats)
    for message in sent:
        assert writer.write(message) == len(message)
    writer.finish()
    return b"".join(parts)


rows_of_three = st.lists(
    st.tuples(st.lists(st.floats(width=32), min_size=3, max_size=3), st.binary(max_size=40)), max_size=8
)


@given(rows_of_three, st.booleans())
@settings(derandomize=True)
def test_rows_with_vectors_come_back_to_the_byte(found, header_apart):
    sent = messages([row(floats, tail) for floats, tail in found], header_apart)
    read = io.BytesIO(blocks_of(sent, 3)).read
    assert b"".join(row_blocks.decode(read, 2)) == b"".join(sent)


@given(tails, st.integers(1, 3))
@settings(derandomize=True)
def test_rows_without_vectors_come_back_to_the_byte_through_blocks_of_any_size(found, size):
    sent = messages([struct.pack(">hi", 1, len(tail)) + tail for tail in found])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK_BYTES", size * 16)
        data = blocks_of(sent, 0)
    assert b"".join(row_blocks.decode(io.BytesIO(data).read, 1)) == b"".join(sent)


def field(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


rows_that_repeat = st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 40), st.binary(max_size=20)), max_size=8)


@given(rows_that_repeat)
@settings(derandomize=True)
def test_a_field_that_repeats_the_end_of_a_text_comes_back_whole(found):
    short, whole = [], []
    for text, size, rest in found:
        end = text[max(0, len(text) - size) :]
        start = row([1.0, 2.0], b"")[:-4] + field(text)
        short.append(start + field(struct.pack(">i", len(end))) + field(rest))
        whole.append(start + field(end) + field(rest))
    data = blocks_of(messages(short), 2, repeats=True)
    assert b"".join(row_blocks.decode(io.BytesIO(data).read, 2)) == b"".join(messages(whole))


@pytest.mark.parametrize(
    "tail",
    [
        field(b"text") + field(struct.pack(">i", 5)),  # longer than the text
        field(b"text") + field(struct.pack(">i", -1)),
        field(b"text") + field(b"text!"),  # not the size of anything
        field(b"text") + struct.pack(">i", -1),  # nothing
        field(b"text"),
        struct.pack(">i", -1) + field(struct.pack(">i", 0)),
        b"",
    ],
)
def test_a_row_that_does_not_say_what_it_repeats_is_noticed(tail):
    data = blocks_of(messages([row([1.0], b"")[:-4] + tail]), 1, repeats=True)
    with pytest.raises(row_blocks.Malformed):
        list(row_blocks.decode(io.BytesIO(data).read, 2))


def test_the_bytes_of_the_vectors_stand_apart():
    data = blocks_of(messages([row([1.0, -2.0], b"a"), row([0.5, 0.25], b"bc")]), 2)
    floats = struct.pack(">4f", 1.0, -2.0, 0.5, 0.25)
    assert data.endswith(floats[0::4] + floats[1::4] + floats[2::4] + floats[3::4])
    assert data[:12] == struct.pack("<3I", 2, 2, 4 + 1 + 4 + 2)


@given(st.data())
@settings(derandomize=True)
def test_what_is_cut_within_a_block_is_noticed(data):
    whole = blocks_of(messages([row([1.0, 2.0], b"tail"), row([3.0, 4.0], b"")]), 2)
    cut = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(row_blocks.Malformed):
        list(row_blocks.decode(io.BytesIO(cut).read, 2))


def test_lengths_that_do_not_fill_their_block_are_noticed():
    whole = bytearray(blocks_of(messages([row([1.0], b"tail")]), 1))
    whole[12] += 1
    with pytest.raises(row_blocks.Malformed, match="do not fill"):
        list(row_blocks.decode(io.BytesIO(bytes(whole)).read, 2))


@pytest.mark.parametrize("bad", [row([1.0], b""), b"\0\2", struct.pack(">hi", 2, -1) + b"\0" * 16])
def test_a_row_that_does_not_begin_with_such_a_vector_is_refused(bad):
    with pytest.raises(row_blocks.Malformed, match="2 dimensions"):
        blocks_of(messages([bad]), 2)


def test_a_copy_without_its_trailer_is_refused():
    with pytest.raises(row_blocks.Malformed, match="trailer"):
        blocks_of(messages([row([1.0], b"")])[:-1], 1)


def test_the_file_reads_tables_by_itself_with_the_standard_library_alone():
    sent = messages([row([1.0, 2.0], b"tail")])
    done = subprocess.run(
        [sys.executable, "-I", "-S", row_blocks.__file__, "2"], input=blocks_of(sent, 2), capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"".join(sent))
