"""Backups as folders: ids, manifests, listing. A folder without a manifest is no backup: the manifest is written last."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.config import schemas
from lib.platform.errors import ConfigInvalid, GoliveError, IntegrityMismatch, NotFound, UsageError
from lib.platform.files import read_json, sha256_file
from lib.platform.workspace import Workspace

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
_ID = re.compile("[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")


@dataclass(frozen=True)
class Backup:
    """A complete backup: its folder and its checked manifest."""

    backup_id: str
    folder: Path
    manifest: dict[str, Any]

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.manifest["created_at"].replace("Z", "+00:00"))

    @property
    def bytes(self) -> int:
        return sum(item["bytes"] for item in self.manifest["files"].values())

    @property
    def manifest_digest(self) -> str:
        return sha256_file(self.folder / MANIFEST)

    def table_of(self, release_id: str) -> dict[str, Any]:
        """The entry of a release's chunk table; raises NotFound where the backup does not hold it."""
        for table in self.manifest["tables"]:
            if table["release_id"] == release_id:
                return dict(table)
        held = ", ".join(table["release_id"] for table in self.manifest["tables"])
        raise NotFound(f"backup {self.backup_id} does not hold release {release_id}", detail=f"it holds {held}")


def new_id(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text))


def check_id(backup_id: str) -> None:
    """Raises UsageError where none is given, NotFound where it cannot be the id of a backup."""
    if not backup_id:
        raise UsageError("which backup?", hint="make backups lists them; then make rollback BACKUP=id")
    if not _ID.fullmatch(backup_id):
        raise NotFound(f"{backup_id!r} is not a backup id", hint="make backups lists them")


def read(workspace: Workspace, backup_id: str) -> Backup:
    """Reads a backup's manifest.

    Raises:
        UsageError, NotFound: no id, or no such backup.
        IntegrityMismatch: the folder is there, and its manifest is missing, damaged or of a newer format.
    """
    check_id(backup_id)
    folder = workspace.backups / backup_id
    if not folder.is_dir():
        raise NotFound(f"no backup {backup_id}", hint="make backups lists them")
    return read_folder(folder, backup_id)


def read_folder(folder: Path, backup_id: str) -> Backup:
    """The backup in a folder of whatever name; raises IntegrityMismatch as ``read``."""
    if not (folder / MANIFEST).is_file():
        raise IntegrityMismatch(f"backup {backup_id} has no manifest: it was never completed", hint="make backups")
    try:
        manifest = read_json(folder / MANIFEST, "backup manifest")
        version = manifest.get("manifest_version") if isinstance(manifest, dict) else None
        if isinstance(version, int) and version > MANIFEST_VERSION:
            raise IntegrityMismatch(f"backup {backup_id} was made by a newer Golive")
        schemas.check(manifest, "backup", lambda dotted: f"backup {backup_id}: {dotted or 'manifest'}")
    except ConfigInvalid as error:
        raise IntegrityMismatch(f"backup {backup_id} has a damaged manifest", detail=error.message) from error
    if manifest["backup_id"] != backup_id:
        raise IntegrityMismatch(f"backup {backup_id} holds the manifest of {manifest['backup_id']}")
    return Backup(backup_id, folder, manifest)


def find_backup(workspace: Workspace, backup_id: str) -> Backup:
    """The backup, with its state file there; raises as ``backup_files.read``."""
    backup = read(workspace, backup_id)
    if not (backup.folder / "state.json").is_file():
        raise NotFound(f"backup {backup_id} has lost its state.json", hint="take another one: make backups")
    return backup


def verify_files(backup: Backup) -> None:
    """Checks every file against the manifest.

    Raises:
        IntegrityMismatch: a file is missing, changed, added, or a link.
    """
    listed = backup.manifest["files"]
    there = {
        path.relative_to(backup.folder).as_posix()
        for path in backup.folder.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and path != backup.folder / MANIFEST
    }
    for name in sorted(there ^ listed.keys()):
        what = "is missing" if name in listed else "does not belong to it"
        raise IntegrityMismatch(f"backup {backup.backup_id}: {name} {what}")
    for name, item in sorted(listed.items()):
        path = backup.folder / name
        if path.is_symlink() or not path.resolve().is_relative_to(backup.folder.resolve()):
            raise IntegrityMismatch(f"backup {backup.backup_id}: {name} is a link")
        if path.stat().st_size != item["bytes"] or sha256_file(path) != item["sha256"]:
            raise IntegrityMismatch(f"backup {backup.backup_id}: {name} was changed since it was made")


def every(workspace: Workspace) -> list[Backup | tuple[str, GoliveError]]:
    """All complete backups, newest first; a folder that cannot be read as one comes as its name and the reason."""
    found: list[Backup | tuple[str, GoliveError]] = []
    names = os.listdir(workspace.backups) if workspace.backups.is_dir() else []
    for name in sorted((name for name in names if not name.startswith(".")), reverse=True):
        try:
            found.append(read(workspace, name))
        except GoliveError as error:
            found.append((name, error))
    return found
