"""What targets hold: copies of backups, found, read back and checked.

A copy is ``<backup id>/<file>`` in a store, ``.encrypted`` behind each name where the target encrypts. What has no manifest
is no copy, and neither is what has the mark of a deletion.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from lib.platform.encryption import Cipher, load_cipher
from lib.platform.errors import GoliveError, IntegrityMismatch, LeaseHeld, NotFound, Unavailable
from lib.platform.files import write_bytes, writing
from lib.platform.stores import BLOCK_BYTES, Store, Stored, check_key
from lib.release import backup_files, target_settings
from lib.release.backup_files import MANIFEST, SIGNATURE, Backup
from lib.release.tables import text_table
from lib.release.target_settings import TargetSettings

DELETING = ".deleting"
ENCRYPTED = ".encrypted"
_LONGEST_MANIFEST_BYTES = 64 << 20
Digest = tuple[str, int]  # SHA-256 in hex, bytes


@dataclass(frozen=True)
class Target:
    """An open target; ``cipher`` is None where copies are not encrypted."""

    name: str
    store: Store
    cipher: Cipher | None

    def key(self, backup_id: str, name: str) -> str:
        return f"{backup_id}/{name}{ENCRYPTED if self.cipher else ''}"

    def bound(self, backup_id: str, name: str) -> str:
        """What the ciphertext of a file is bound to."""
        return f"golive backup {backup_id}/{name}"

    @contextmanager
    def reading(self, backup_id: str, name: str) -> Iterator[BinaryIO]:
        """A file's plain content as a stream."""
        stream = self.store.read(self.key(backup_id, name))
        if self.cipher:
            stream = self.cipher.decrypted(stream, self.bound(backup_id, name))
        with stream:
            yield stream

    def digest(self, backup_id: str, name: str) -> Digest:
        """SHA-256 and size of what a reader gets now."""
        with self.reading(backup_id, name) as stream:
            return digest_of(stream)


@dataclass(frozen=True)
class Copy:
    """What a target holds under a backup's id; ``backup`` is None where ``problem`` says why it is no usable copy.

    ``state``: ``complete``, ``incomplete`` (no manifest: being copied, or never was to the end), ``deleting``, or
    ``unusable``.
    """

    backup_id: str
    state: str
    objects: list[Stored]
    backup: Backup | None = None
    problem: str = ""

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.objects)

    @property
    def changed_at(self) -> datetime:
        return max(item.changed_at for item in self.objects)

    def to_dict(self) -> dict[str, Any]:
        found = {"backup_id": self.backup_id, "state": self.state, "bytes": self.bytes, "objects": len(self.objects)}
        if self.backup:
            manifest = self.backup.manifest
            found |= {"created_at": manifest["created_at"], "restores": manifest["restores"]["release_id"]}
        return found | ({"problem": self.problem} if self.problem else {})


def open_target(settings: TargetSettings) -> Target:
    """Raises NotFound, ConfigInvalid, Refused where the target encrypts and the environment has no good key for it."""
    cipher = load_cipher(os.environ) if settings.encrypted else None
    return Target(settings.name, target_settings.open_store(settings), cipher)


def verify(target: Target, backup_id: str) -> dict[str, Any]:
    """Reads a copy back, every byte of it; returns ``{backup_id, target, files, bytes, manifest_digest}``.

    Raises:
        NotFound: there is none. IntegrityMismatch: it is not what its manifest says. Unavailable: the target.
    """
    backup_files.check_id(backup_id)
    with tempfile.TemporaryDirectory() as folder:
        found = read_manifest(target, backup_id, Path(folder))
        ours = {target.key(backup_id, name) for name in (*found.manifest["files"], MANIFEST, SIGNATURE)}
        if strangers := sorted({item.key for item in target.store.objects(f"{backup_id}/")} - ours):
            raise IntegrityMismatch(f"backup {backup_id}: {strangers[0]} on {target.name} does not belong to it")
        for name, item in sorted(found.manifest["files"].items()):
            if digest_or_none(target, backup_id, name) != (item["sha256"], item["bytes"]):
                raise IntegrityMismatch(f"backup {backup_id}: {name} on {target.name} is damaged")
        return {
            "backup_id": backup_id,
            "target": target.name,
            "files": len(found.manifest["files"]) + 1,
            "bytes": found.bytes,
            "manifest_digest": found.manifest_digest,
        }


def copies(target: Target) -> list[Copy]:
    """Everything that the target holds, newest first; names that are no backup ids are left alone."""
    held_objects: dict[str, list[Stored]] = {}
    for item in target.store.objects():
        backup_id = item.key.partition("/")[0]
        if backup_files.is_id(backup_id):
            held_objects.setdefault(backup_id, []).append(item)
    return [_look(target, backup_id, held_objects[backup_id]) for backup_id in sorted(held_objects, reverse=True)]


def listing_text(target: Target, found: list[Copy]) -> str:
    """The copies as a table."""
    if not found:
        return f"no backups in {target.store.shown}"
    rows = [["backup", "size", "state", ""]]
    for item in found:
        told = f"restores {item.backup.manifest['restores']['release_id']}" if item.backup else item.problem
        rows.append([item.backup_id, f"{item.bytes / 1e6:.1f} MB", item.state, told])
    return f"{target.store.shown}\n{text_table(rows)}"


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Holds a folder for one run on this machine; the hold goes with the process. Raises LeaseHeld, Unavailable."""
    with writing(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise LeaseHeld(f"another run is at work on {what}", hint="wait for it to end") from error
    finally:
        os.close(handle)


def read_manifest(target: Target, backup_id: str, folder: Path) -> Backup:
    """Fetches the manifest into ``folder`` and checks it; raises as ``fetch``."""
    if target.store.head(f"{backup_id}/{DELETING}"):
        raise NotFound(f"backup {backup_id} on {target.name} is being deleted")
    if target.store.head(target.key(backup_id, MANIFEST)) is None:
        other_form = f"{backup_id}/{MANIFEST}{'' if target.cipher else ENCRYPTED}"
        if target.store.head(other_form):
            state = "not encrypted" if target.cipher else "encrypted"
            raise IntegrityMismatch(
                f"backup {backup_id} on {target.name} is {state}, which configs/backup.yaml denies",
                hint="correct the target's encryption there",
            )
        raise NotFound(f"{target.name} has no backup {backup_id}", hint="scripts/copy_backup.py --list")
    with target.reading(backup_id, MANIFEST) as stream:
        content = stream.read(_LONGEST_MANIFEST_BYTES)
    write_bytes(folder / MANIFEST, content)
    found = backup_files.read_folder(folder, backup_id)
    for name in found.manifest["files"]:
        check_key(name)
    return found


def digest_or_none(target: Target, backup_id: str, name: str) -> Digest | None:
    """The digest; None where the file is missing or does not decrypt."""
    try:
        return target.digest(backup_id, name)
    except (IntegrityMismatch, NotFound):
        return None


def digest_of(stream: BinaryIO) -> Digest:
    found, count = hashlib.sha256(), 0
    while block := stream.read(BLOCK_BYTES):
        found.update(block)
        count += len(block)
    return found.hexdigest(), count


def _look(target: Target, backup_id: str, objects: list[Stored]) -> Copy:
    keys = {item.key for item in objects}
    if f"{backup_id}/{DELETING}" in keys:
        return Copy(backup_id, "deleting", objects, problem="its deletion was begun")
    if not keys & {f"{backup_id}/{MANIFEST}", f"{backup_id}/{MANIFEST}{ENCRYPTED}"}:
        return Copy(
            backup_id, "incomplete", objects, problem="it has no manifest: it is being copied, or a copy never ended"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = read_manifest(target, backup_id, Path(folder))
            absent = [name for name in found.manifest["files"] if target.key(backup_id, name) not in keys]
            if absent:
                raise IntegrityMismatch(f"{absent[0]} is missing")
        except Unavailable:
            raise
        except GoliveError as error:
            return Copy(backup_id, "unusable", objects, problem=error.message)
    return Copy(backup_id, "complete", objects, found)
