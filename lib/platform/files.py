"""Files: whole or not at all, canonical JSON, SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lib.platform import failpoints
from lib.platform.errors import ConfigInvalid, NotFound, Unavailable


def canonical_json(value: Any) -> bytes:
    """The one byte form of ``value`` that digests are taken over: keys sorted, no blanks, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """SHA-256 over the canonical JSON of ``value``, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def pretty_json(value: Any) -> str:
    """JSON for people and for files: keys sorted, two blanks, a final newline; equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write below ``path`` (disk full, no permission) into one clear error."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename or path}"
        raise Unavailable(
            f"cannot write {where}: {(error.strerror or str(error)).lower()}",
            hint="free some space or change the permission, then run the same command again",
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary stream whose content appears at ``path`` whole, on disk (fsync), or not at all."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        failpoints.reach("file.open")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                failpoints.reach("file.write")
                stream.flush()
                failpoints.reach("file.fsync")
                os.fsync(stream.fileno())
                failpoints.reach("file.close")
            os.chmod(temporary, 0o644)
            failpoints.reach("file.rename")
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        failpoints.reach("file.sync_folder")
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Puts on disk which files a folder and those below it hold."""
    for inner in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(inner)
    sync_folder(folder)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_file(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, pretty_json(value))


def write_json_lines(path: Path, rows: list[Any]) -> None:
    write_bytes(path, b"".join(canonical_json(row) + b"\n" for row in rows))


def read_text(path: Path, what: str) -> str:
    """The file's text.

    Raises:
        NotFound: there is no such file.
        ConfigInvalid: it is not UTF-8 text.
        Unavailable: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"no {what} at {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{what} {path} is not UTF-8 text", detail=str(error)) from error
    except OSError as error:
        raise Unavailable(f"cannot read {what} {path}: {(error.strerror or str(error)).lower()}") from error


def read_json(path: Path, what: str) -> Any:
    """The file's JSON value; duplicate keys, and what could not be written as JSON again (NaN, 1e999), are errors.

    Raises:
        NotFound, Unavailable: as ``read_text``.
        ConfigInvalid: it is not JSON; the line and column are named.
    """
    return _parse_json(read_text(path, what), f"{what} {path}")


def read_json_lines(path: Path, what: str) -> list[Any]:
    """The JSON value of each line, under the rules and errors of ``read_json``."""
    # str.splitlines would also split at the Unicode line ends that a text may hold
    lines = read_text(path, what).split("\n")
    return [_parse_json(line, f"{what} {path}:{number}") for number, line in enumerate(lines, 1) if line]


def _parse_json(text: str, where: str) -> Any:
    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not a JSON value")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"duplicate key {next(k for k in keys if keys.count(k) > 1)!r}")
        return found

    try:
        value = json.loads(text, parse_constant=no_constant, object_pairs_hook=no_duplicates)
        canonical_json(value)  # the parser makes 1e999 infinite, and keeps half of a surrogate pair
        return value
    except ValueError as error:
        raise ConfigInvalid(f"{where} is not JSON: {error}") from error
    except RecursionError as error:
        raise ConfigInvalid(f"{where} is nested too deeply") from error
