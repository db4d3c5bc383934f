"""An evaluation's rows as a file: written as they come and read on demand, so that memory holds numbers and no texts."""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from lib.platform.files import canonical_json

HELD_BYTES = 1 << 23  # a file up to this size is simply held: most are
_PART_BYTES = 1 << 20
# What means, gates and reports ask for again and again, beside query_id and metrics. It takes few values over many cases.
_IN_MEMORY = frozenset(
    {
        "answerable",
        "abstained",
        "unscored",
        "snapshot_size",
        "tags",
        "claims",
        "unmeasured",
        "undefined",
        "lost_at",
    }
)


class StoredRows(Sequence[Mapping[str, Any]]):
    """Rows in a file of JSON lines. Numbers and ids stand in memory, 400 bytes a row at most; the rest is read on demand.

    The file stays open, so that a row is what it was even where the path meanwhile names another file.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL if create else os.O_RDONLY
        self._handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o644)
        weakref.finalize(self, os.close, self._handle)
        self._ends = array("q", [0])
        self._ids: list[str] = []
        self._light: list[dict[str, Any]] = []
        self._documents: list[tuple[str, ...]] = []
        self._keys: list[tuple[str, ...]] = []
        self._names: list[tuple[str, ...] | None] = []
        self._starts = array("q")
        self._values = array("d")
        self._shared: dict[bytes, dict[str, Any]] = {}
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        if not create:
            self._index()

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one more row at the end of the file."""
        line = memoryview(canonical_json(dict(row)) + b"\n")
        written = 0
        while written < len(line):
            written += os.write(self._handle, line[written:])
        self._note(row, len(line))

    def sync(self) -> None:
        os.fsync(self._handle)

    def lines(self) -> Iterator[bytes]:
        """The rows' bytes as they stand in the file, without line ends."""
        for number in range(len(self)):
            yield self._line(number)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(place, slice):
            return [_Row(self, number) for number in range(*place.indices(len(self)))]
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError("no such row")
        return _Row(self, number)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (_Row(self, number) for number in range(len(self)))

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _index(self) -> None:
        rest, offset = b"", 0
        while part := os.pread(self._handle, _PART_BYTES, offset):
            offset += len(part)
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                try:
                    self._note(json.loads(line), len(line) + 1)
                except (AttributeError, KeyError, TypeError) as error:
                    raise ValueError(f"a line is no row: {error!r}") from error
        if rest:
            raise ValueError("the last line has no end")

    def _note(self, row: Mapping[str, Any], length: int) -> None:
        light = {key: value for key, value in row.items() if key in _IN_MEMORY}
        metrics = row["metrics"]
        self._ids.append(row["query_id"])
        self._light.append(self._shared.setdefault(canonical_json(light), light))
        self._documents.append(self._interned(row.get("documents", ())))
        self._keys.append(self._interned(row))
        self._names.append(None if metrics is None else self._interned(metrics))
        self._starts.append(len(self._values))
        self._values.extend(math.nan if value is None else value for value in (metrics or {}).values())
        self._ends.append(self._ends[-1] + length)

    def _interned(self, names: Iterable[str]) -> tuple[str, ...]:
        found = tuple(names)
        return self._tuples.setdefault(found, found)

    def _line(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        return os.pread(self._handle, end - start, start).rstrip(b"\n")

    def _value(self, number: int, key: str) -> Any:
        light = self._light[number]
        if key == "query_id":
            return self._ids[number]
        if key == "metrics":
            names, start = self._names[number], self._starts[number]
            return None if names is None else _Metrics(names, self._values, start)
        if key == "documents" and key in self._keys[number]:
            return list(self._documents[number])
        return light[key] if key in light else json.loads(self._line(number))[key]


class _Row(Mapping[str, Any]):
    __slots__ = ("_number", "_rows")

    def __init__(self, rows: StoredRows, number: int) -> None:
        self._rows, self._number = rows, number

    def __getitem__(self, key: str) -> Any:
        return self._rows._value(self._number, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows._keys[self._number])

    def __len__(self) -> int:
        return len(self._rows._keys[self._number])


class _Metrics(Mapping[str, float | None]):
    __slots__ = ("_names", "_start", "_values")

    def __init__(self, names: tuple[str, ...], values: array[float], start: int) -> None:
        self._names, self._values, self._start = names, values, start

    def __getitem__(self, name: str) -> float | None:
        try:
            value = self._values[self._start + self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None
        return None if math.isnan(value) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_rows(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a file: as they are where it is small, else on demand.

    Raises:
        OSError, ValueError: it cannot be read as rows.
    """
    if path.stat().st_size > HELD_BYTES:
        return StoredRows(path)
    # str.splitlines would also split at the Unicode line ends that an answer may hold
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def digest_of_evaluation(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """``digest_of({"summary": summary, "rows": rows})``, a row at a time."""
    lines = rows.lines() if isinstance(rows, StoredRows) else (canonical_json(row) for row in rows)
    made = hashlib.sha256(b'{"rows":[')
    for number, line in enumerate(lines):
        made.update(b"," + line if number else line)
    made.update(b'],"summary":' + canonical_json(summary) + b"}")
    return made.hexdigest()
