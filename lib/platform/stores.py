"""Stores: where copies of backups lie. Objects are named by keys, written once, read as streams, never changed.

``FolderStore`` is a folder on another disk or machine; ``lib.platform.s3`` has the one for S3. A store compares no digests:
whoever writes reads back (``lib.release.backup_targets``), because only that tells what a later reader will get.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from lib.platform import failpoints
from lib.platform.errors import IntegrityMismatch, NotFound, Refused, Unavailable
from lib.platform.files import sync_folder, writing

BLOCK_BYTES = 1 << 20
_PART = re.compile(r"[A-Za-z0-9._-]{1,200}")
_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Stored:
    """An object as the store tells of it; ``locked_until`` is when an object lock ends, None without one."""

    key: str
    bytes: int
    changed_at: datetime
    locked_until: datetime | None = None


class AlreadyThere(Refused):
    """The key is taken: an object is written once."""


class Store(Protocol):
    """What a target of backups must be able to do. Every method raises ``Unavailable`` where the store does not answer,
    ``Refused`` where it forbids, ``NotFound`` where bucket, folder or object is missing."""

    @property
    def shown(self) -> str:
        """The address as a person would type it."""

    def prepare(self) -> list[str]:
        """Checks before the first write that the store is what the config asks for; returns what it does not enforce."""

    def write(self, key: str, source: BinaryIO, size: int) -> None:
        """Writes ``source`` to its end; about ``size`` bytes. Raises AlreadyThere where the key is taken."""

    def read(self, key: str) -> BinaryIO:
        """The object as a stream, which the caller closes."""

    def head(self, key: str) -> Stored | None:
        """What is known of an object without reading it; None where there is none."""

    def objects(self, prefix: str = "") -> Iterator[Stored]:
        """The objects whose keys begin with ``prefix``, by key."""

    def delete(self, key: str) -> None:
        """Takes an object away; one that is not there is no error."""

    def clean(self, prefix: str) -> list[str]:
        """Takes away what writes that never ended left under ``prefix``; returns what could not be looked for."""


def check_key(key: str) -> None:
    """Raises IntegrityMismatch for what could lead out of the store: keys are plain names with slashes between them."""
    parts = key.split("/")
    if not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
        raise IntegrityMismatch(f"{key[:200]!r} cannot be the name of a file in a backup")


class FolderStore:
    """A folder on another disk, or on another machine's (NFS)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def shown(self) -> str:
        return str(self._root)

    def prepare(self) -> list[str]:
        if not self._root.is_dir():  # an unmounted disk must not be taken for an empty one
            raise NotFound(f"no folder {self._root}", hint="mount it, or create it once by hand")
        return []

    def write(self, key: str, source: BinaryIO, size: int) -> None:
        path = self._path(key)
        temporary = path.with_name(f"{_TEMPORARY}{path.name}-{secrets.token_hex(4)}")
        with writing(path):
            self._make_folders(path.parent)
            try:
                with temporary.open("xb") as stream:
                    shutil.copyfileobj(source, stream, BLOCK_BYTES)
                    stream.flush()
                    os.fsync(stream.fileno())
                failpoints.reach("store.link")
                os.link(temporary, path)  # unlike a rename it never replaces
            except FileExistsError as error:
                raise AlreadyThere(f"{key} is in {self._root} already") from error
            finally:
                with suppress(OSError):
                    temporary.unlink()
            failpoints.reach("store.sync_folder")
            sync_folder(path.parent)

    def read(self, key: str) -> BinaryIO:
        path = self._path(key)
        try:
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except FileNotFoundError as error:
            raise NotFound(f"no {key} in {self._root}") from error
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error

    def head(self, key: str) -> Stored | None:
        path = self._path(key)
        if path.is_symlink() or not path.is_file():
            return None
        facts = path.stat()
        return Stored(key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def objects(self, prefix: str = "") -> Iterator[Stored]:
        self.prepare()
        first, _, rest = prefix.partition("/")
        tops = (
            [first] if rest or prefix.endswith("/") else sorted(n for n in os.listdir(self._root) if n.startswith(prefix))
        )
        for top in tops:
            found = sorted(self._files(self._root / top))
            keys = [path.relative_to(self._root).as_posix() for path in found]
            for key in (key for key in keys if key.startswith(prefix)):
                if stored := self.head(key):
                    yield stored

    def delete(self, key: str) -> None:
        path = self._path(key)
        with writing(path):
            if not path.exists():
                return
            path.unlink()
            sync_folder(path.parent)
            folder = path.parent
            while folder != self._root and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent
                sync_folder(folder)

    def clean(self, prefix: str) -> list[str]:
        folder = self._root / prefix
        for path in sorted(folder.rglob(f"{_TEMPORARY}*")) if folder.is_dir() else []:
            with writing(path):
                path.unlink()
        return []

    def _path(self, key: str) -> Path:
        check_key(key)
        path = self._root / key
        if not path.parent.resolve().is_relative_to(self._root.resolve()):
            raise IntegrityMismatch(f"{path.parent} is a link that leads out of {self._root}")
        return path

    def _make_folders(self, folder: Path) -> None:
        self.prepare()
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            sync_folder(each.parent)

    def _files(self, top: Path) -> Iterator[Path]:
        if top.is_symlink() or not top.is_dir():
            return
        for folder, _, names in os.walk(top):
            yield from (Path(folder) / name for name in names if not name.startswith(_TEMPORARY))
