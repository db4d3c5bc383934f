"""Copying backups to targets and back: files first, manifest last, every byte read back before a copy counts."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from lib.platform import failpoints
from lib.platform.errors import GoliveError, IntegrityMismatch, Refused, Unavailable
from lib.platform.files import atomic_file, sha256_file, sync_folder, sync_tree, writing
from lib.platform.stores import BLOCK_BYTES, AlreadyThere, check_key
from lib.platform.workspace import Workspace
from lib.release import backup_files, target_settings
from lib.release.backup_copies import (
    DELETING,
    ENCRYPTED,
    Digest,
    Target,
    digest_or_none,
    held,
    open_target,
    read_manifest,
    verify,
)
from lib.release.backup_files import MANIFEST, Backup

_FETCHING = ".fetching-"
_LONGEST_UNLISTED_BYTES = 1 << 20  # a signature beside the manifest


def copy_to_all(workspace: Workspace, backup: Backup) -> list[dict[str, Any]]:
    """Copies a backup to every target that is ``required``; the local one stays, whatever happens.

    Raises:
        ConfigInvalid: ``configs/backup.yaml``.
        Unavailable: one of them does not hold a whole copy now; the others were still tried.
    """
    reports, failed = [], []
    for settings in target_settings.load(workspace).targets.values():
        if settings.required:
            try:
                reports.append(copy(open_target(settings), backup))
            except GoliveError as error:
                failed.append((settings.name, error))
    if failed:
        names = ", ".join(name for name, _ in failed)
        raise Unavailable(
            f"backup {backup.backup_id} is whole on this machine, but was not copied to {names}",
            detail="; ".join(f"{name}: {error.message} {error.detail}".rstrip() for name, error in failed),
            hint=f"scripts/copy_backup.py --backup-id {backup.backup_id} --target {failed[0][0]}",
        )
    return reports


def plan_copy(target: Target, backup: Backup) -> dict[str, Any]:
    """What ``copy`` would do, from a look that writes nothing."""
    there = {item.key for item in target.store.objects(f"{backup.backup_id}/")}
    names = [*_names(backup), MANIFEST]
    missing = [name for name in names if target.key(backup.backup_id, name) not in there]
    sizes = [(backup.folder / name).stat().st_size for name in missing]
    return {
        "backup_id": backup.backup_id,
        "target": target.name,
        "to": f"{target.store.shown}/{backup.backup_id}",
        "files": len(names),
        "to_send": len(missing),
        "bytes_to_send": sum(sizes),
        "encrypted": target.cipher is not None,
    }


def copy(target: Target, backup: Backup) -> dict[str, Any]:
    """Makes the target hold a whole copy; what an earlier run left is used where it is right.

    Returns ``{backup_id, target, to, sent, kept, bytes, encrypted, not_enforced}``.

    Raises:
        IntegrityMismatch: the local backup is damaged, or what the target gives back is not what was sent.
        Refused: another backup is there under this id, or it is being deleted there, or the target lacks what is asked for.
        LeaseHeld: another run copies or deletes this backup. NotFound, Unavailable: the target.
    """
    with held(backup.folder, f"backup {backup.backup_id}"):
        backup_files.verify_files(backup)
        not_enforced = target.store.prepare()
        _refuse_another(target, backup)
        not_enforced += target.store.clean(f"{backup.backup_id}/")
        names = _names(backup)
        sent = [name for name in names if _put(target, backup, name)]
        failpoints.reach("copy.manifest")
        if _put(target, backup, MANIFEST):
            sent.append(MANIFEST)
        failpoints.reach("copy.done")
        if not_enforced:  # somebody may have written over what was already read back
            verify(target, backup.backup_id)
    return {
        "backup_id": backup.backup_id,
        "target": target.name,
        "to": f"{target.store.shown}/{backup.backup_id}",
        "sent": len(sent),
        "kept": len(names) + 1 - len(sent),
        "bytes": sum((backup.folder / name).stat().st_size for name in [*names, MANIFEST]),
        "encrypted": target.cipher is not None,
        "not_enforced": not_enforced,
    }


def report_text(report: dict[str, Any]) -> str:
    """What ``copy`` did, for people."""
    how = ", encrypted" if report["encrypted"] else ""
    lines = [f"backup {report['backup_id']} is in {report['to']}: {report['bytes'] / 1e6:.1f} MB{how}, read back and equal"]
    lines.append(f"  {report['sent']} files sent, {report['kept']} were there already")
    return "\n".join([*lines, *(f"  not enforced there: {what}" for what in report["not_enforced"])])


def plan_fetch(workspace: Workspace, target: Target, backup_id: str) -> dict[str, Any]:
    """What ``fetch`` would do; raises as it does."""
    backup_files.check_id(backup_id)
    _require_absent(workspace, backup_id)
    with tempfile.TemporaryDirectory() as folder:
        found = read_manifest(target, backup_id, Path(folder))
        return {
            "backup_id": backup_id,
            "target": target.name,
            "to": workspace.show(workspace.backups / backup_id),
            "files": len(found.manifest["files"]) + 1,
            "bytes": found.bytes,
        }


def _require_absent(workspace: Workspace, backup_id: str) -> None:
    if (workspace.backups / backup_id).exists():
        raise Refused(f"backup {backup_id} is on this machine already", hint="make backups")


def fetch(workspace: Workspace, target: Target, backup_id: str) -> Backup:
    """Brings a copy back as a local backup, visible only when whole; what an earlier run fetched is used where it is right.

    Raises:
        NotFound: the target has no such backup. Refused: there is a local one already.
        IntegrityMismatch: the copy is damaged. Unavailable: the target, or the disk here.
    """
    backup_files.check_id(backup_id)
    _require_absent(workspace, backup_id)
    folder = workspace.backups / f"{_FETCHING}{backup_id}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder, f"the fetch of backup {backup_id}"):
        found = read_manifest(target, backup_id, folder)
        listed = found.manifest["files"]
        for name in [*sorted(listed), *_unlisted(target, found)]:
            failpoints.reach("fetch.file")
            _get(target, backup_id, name, folder / name, listed.get(name))
        _drop_strangers(folder, {*listed, *_unlisted(target, found), MANIFEST})
        backup_files.verify_files(backup_files.read_folder(folder, backup_id))
        with writing(folder):
            sync_tree(folder)
            failpoints.reach("fetch.rename")
            folder.rename(workspace.backups / backup_id)
            sync_folder(workspace.backups)
        failpoints.reach("fetch.done")
    return backup_files.read(workspace, backup_id)


def _names(backup: Backup) -> list[str]:
    """The files of a backup but for its manifest; ``backup_files.verify_files`` has accepted each of them."""
    files = (path for path in backup.folder.rglob("*") if path.is_file())
    return sorted({path.relative_to(backup.folder).as_posix() for path in files} - {MANIFEST})


def _refuse_another(target: Target, backup: Backup) -> None:
    if target.store.head(f"{backup.backup_id}/{DELETING}"):
        raise Refused(
            f"backup {backup.backup_id} is being deleted on {target.name}", hint="scripts/prune_backups.py ends it"
        )
    if target.store.head(target.key(backup.backup_id, MANIFEST)) is None:
        return
    if digest_or_none(target, backup.backup_id, MANIFEST) != _local_digest(backup, MANIFEST):
        raise AlreadyThere(f"{target.name} holds another backup under the id {backup.backup_id}")


def _put(target: Target, backup: Backup, name: str) -> bool:
    """Makes the target hold one file, and reads it back; whether it had to be sent."""
    backup_id, wanted = backup.backup_id, _local_digest(backup, name)
    key = target.key(backup_id, name)
    failpoints.reach("copy.file")
    if target.store.head(key):
        if digest_or_none(target, backup_id, name) == wanted:
            return False
        if target.store.head(target.key(backup_id, MANIFEST)):
            raise IntegrityMismatch(f"backup {backup_id}: {name} on {target.name} is damaged")
        target.store.delete(key)  # what a run that was killed left, or what was damaged on its way
    with ExitStack() as open_streams:
        source: BinaryIO = open_streams.enter_context((backup.folder / name).open("rb"))
        if target.cipher:
            source = target.cipher.encrypted(source, target.bound(backup_id, name))
        try:
            target.store.write(key, source, wanted[1])
        except AlreadyThere:  # by another run, or by a request of ours whose answer was lost
            if digest_or_none(target, backup_id, name) != wanted:
                raise
    if digest_or_none(target, backup_id, name) != wanted:
        target.store.delete(key)
        raise IntegrityMismatch(
            f"{target.name} does not give back what was sent: {key}", hint="do not trust this target before you know why"
        )
    return True


def _local_digest(backup: Backup, name: str) -> Digest:
    path = backup.folder / name
    return sha256_file(path), path.stat().st_size


def _unlisted(target: Target, found: Backup) -> list[str]:
    """Files beside those that the manifest lists; ``backup_files.verify_files`` says whether they belong to a backup."""
    suffix = ENCRYPTED if target.cipher else ""
    keys = (item.key.partition("/")[2] for item in target.store.objects(f"{found.backup_id}/"))
    names = {key.removesuffix(suffix) for key in keys if key.endswith(suffix)}
    for name in names:
        check_key(name)
    return sorted(names - found.manifest["files"].keys() - {MANIFEST})


def _get(target: Target, backup_id: str, name: str, path: Path, listed: dict[str, Any] | None) -> None:
    wanted = (listed["sha256"], listed["bytes"]) if listed else None
    if wanted and path.is_file() and not path.is_symlink() and (sha256_file(path), path.stat().st_size) == wanted:
        return
    found, count = hashlib.sha256(), 0
    with target.reading(backup_id, name) as stream, atomic_file(path) as written:
        while block := stream.read(BLOCK_BYTES):
            found.update(block)
            count += len(block)
            if count > (wanted[1] if wanted else _LONGEST_UNLISTED_BYTES):
                raise IntegrityMismatch(f"backup {backup_id}: {name} on {target.name} is too long")
            written.write(block)
        if wanted and (found.hexdigest(), count) != wanted:
            raise IntegrityMismatch(f"backup {backup_id}: {name} on {target.name} is damaged")


def _drop_strangers(folder: Path, names: set[str]) -> None:
    """Removes what an earlier fetch left half-written."""
    for path in list(folder.rglob("*")):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in names:
            path.unlink()
