"""Backups as folders: ids, manifests, listing. A folder without a manifest is no backup: the manifest is written last."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.config import schemas
from lib.platform import clock
from lib.platform.errors import ConfigInvalid, GoliveError, IntegrityMismatch, NotFound, UsageError
from lib.platform.files import read_json, sha256_file
from lib.platform.workspace import Workspace

MANIFEST = "manifest.json"
SIGNATURE = "manifest.intoto.json"  # beside the manifest, where there was a signing key
MANIFEST_VERSION = 3
POSTINGS_BY_BYTES = 3  # from this version on, postings are digested over their values' bytes; before, over their text
INCOMPLETE = ".incomplete-"  # what the folder's name begins with until its manifest is there
_ID = re.compile("[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_ANOTHER = "take another one: make backups"


@dataclass(frozen=True)
class Backup:
    """A complete backup: its folder and its checked manifest."""

    backup_id: str
    folder: Path
    manifest: dict[str, Any]

    @property
    def created_at(self) -> datetime:
        return clock.moment_of(self.manifest["created_at"])

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
        raise NotFound(
            f"backup {self.backup_id} does not hold release {release_id}",
            detail=f"it holds {held}",
            hint="name one that it holds, or take another backup: make backups",
        )


def new_id(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def moment_of(backup_id: str) -> datetime:
    """When the backup with this id was begun."""
    return datetime.strptime(backup_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)


def is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text))


def check_id(backup_id: str) -> None:
    """Raises UsageError where none is given, NotFound where it cannot be the id of a backup."""
    if not backup_id:
        raise UsageError("which backup?", hint="make backups lists them; then make rollback BACKUP=id")
    if not _ID.fullmatch(backup_id):
        raise NotFound(f"{backup_id!r} is not a backup id", hint="make backups lists them")


def read(workspace: Workspace, backup_id: str, place: Path | None = None) -> Backup:
    """Reads a backup's manifest.

    Raises:
        UsageError, NotFound: no id, or no such backup.
        IntegrityMismatch: the folder is there, and its manifest is missing, damaged or of a newer format.
    """
    check_id(backup_id)
    place = place or workspace.backups
    folder = place / backup_id
    if not folder.is_dir():
        if (place / f"{INCOMPLETE}{backup_id}").exists():
            raise NotFound(f"backup {backup_id} is not complete: it is being made, or was broken off", hint=_ANOTHER)
        raise NotFound(f"no backup {backup_id}", hint="make backups lists them")
    return read_folder(folder, backup_id)


def read_folder(folder: Path, backup_id: str) -> Backup:
    """The backup in a folder of whatever name; raises IntegrityMismatch as ``read``."""
    if not (folder / MANIFEST).is_file():
        raise IntegrityMismatch(f"backup {backup_id} has no manifest: it was never completed", hint=_ANOTHER)
    try:
        manifest = read_json(folder / MANIFEST, "backup manifest")
        version = manifest.get("manifest_version") if isinstance(manifest, dict) else None
        if isinstance(version, int) and version > MANIFEST_VERSION:
            raise IntegrityMismatch(
                f"backup {backup_id} was made by a newer Golive",
                detail=f"its format is {version}, this Golive reads {MANIFEST_VERSION}",
                hint="restore it with the Golive that made it, or with a newer one",
            )
        schemas.check(manifest, "backup", lambda dotted: f"backup {backup_id}: {dotted or 'manifest'}")
    except ConfigInvalid as error:
        raise IntegrityMismatch(
            f"backup {backup_id} has a damaged manifest", detail=error.message, hint=_ANOTHER
        ) from error
    if manifest["backup_id"] != backup_id:
        raise IntegrityMismatch(
            f"backup {backup_id} holds the manifest of {manifest['backup_id']}", hint="give the folder its own name back"
        )
    manifest = _as_of_now(manifest)
    postings = [table["postings"] for table in manifest["tables"] if "postings" in table]
    for entry in (*manifest["tables"], *postings, manifest["documents"], *manifest["state_tables"].values()):
        if missing := [name for name in entry["files"] if name not in manifest["files"]]:
            raise IntegrityMismatch(
                f"backup {backup_id} has a damaged manifest", detail=f"it does not list {missing[0]}", hint=_ANOTHER
            )
    return Backup(backup_id, folder, manifest)


def _as_of_now(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an earlier format as one of this format: each table had one file, and no backup named another."""
    if manifest["manifest_version"] == 1:
        for entry in (*manifest["tables"], manifest["documents"]):
            entry["files"] = [entry.pop("file")]
        manifest |= {"state_tables": {}, "identity": None, "number": None, "previous": None, "rto": None, "rpo": None}
    return manifest


def find_backup(workspace: Workspace, backup_id: str, place: Path | None = None) -> Backup:
    """The backup, with its state file there; raises as ``read``.

    Args:
        place: the folder that holds the backup's own; the workspace's unless another is named.
    """
    backup = read(workspace, backup_id, place)
    if not (backup.folder / "state.json").is_file():
        raise NotFound(f"backup {backup_id} has lost its state.json", hint=_ANOTHER)
    return backup


def state_of(backup: Backup) -> dict[str, Any]:
    """What ``state.json`` says; raises as ``listed``."""
    return dict(read_json(listed(backup, "state.json"), "backup state"))


def listed(backup: Backup, name: str) -> Path:
    """Where a file of a backup stands, which is the one that the manifest lists.

    Raises:
        IntegrityMismatch: it is missing, changed, or no plain file.
    """
    path, item = backup.folder / name, backup.manifest["files"].get(name)
    wrong = ""
    if path.is_symlink() or not path.resolve().is_relative_to(backup.folder.resolve()):
        wrong = "is a link"
    elif item is None or not path.exists():
        wrong = "is missing"
    elif not path.is_file():  # a pipe would be read for ever
        wrong = "is no file"
    elif path.stat().st_size != item["bytes"] or sha256_file(path) != item["sha256"]:
        wrong = "was changed since it was made"
    if wrong:
        raise IntegrityMismatch(f"backup {backup.backup_id}: {name} {wrong}", hint=_ANOTHER)
    return path


def require_manifest(backup: Backup, digest: str) -> None:
    """Raises IntegrityMismatch where its manifest is not the one with this digest, which is on record."""
    if backup.manifest_digest != digest:
        raise IntegrityMismatch(f"the manifest of backup {backup.backup_id} was changed since it was made", hint=_ANOTHER)


def verify_files(backup: Backup) -> None:
    """Checks every file against the manifest.

    Raises:
        IntegrityMismatch: a file is missing, changed, added, or no plain file.
    """
    names = backup.manifest["files"].keys()
    there = {
        path.relative_to(backup.folder).as_posix()
        for path in backup.folder.rglob("*")
        if path.is_symlink() or not (path.is_dir() or path in (backup.folder / MANIFEST, backup.folder / SIGNATURE))
    }
    for name in sorted(there ^ names):
        what = "is missing" if name in names else "does not belong to it"
        raise IntegrityMismatch(f"backup {backup.backup_id}: {name} {what}", hint=_ANOTHER)
    for name in sorted(names):
        listed(backup, name)


def every(workspace: Workspace, but: Collection[str] = ()) -> list[Backup | tuple[str, GoliveError]]:
    """All complete backups, newest first; a folder that cannot be read as one comes as its name and the reason.

    Args:
        but: ids that are not looked at.
    """
    found: list[Backup | tuple[str, GoliveError]] = []
    names = os.listdir(workspace.backups) if workspace.backups.is_dir() else []
    for name in sorted((name for name in names if not name.startswith(".") and name not in but), reverse=True):
        try:
            found.append(read(workspace, name))
        except GoliveError as error:
            found.append((name, error))
    return found
