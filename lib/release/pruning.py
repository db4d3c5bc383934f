"""Deleting backups: looks at what lies here or on a target, plans, and deletes so that a kill leaves no half of one.

Here a backup is renamed out of sight first and then recorded as deleted. On a target a mark is written first, which takes
the copy out of every list; then the manifest goes, then the files, then the mark. The next run ends what a kill cut.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from psycopg2.extensions import connection as Connection

from lib.index.releases import read_pointer
from lib.platform import audit, clock, failpoints, postgres
from lib.platform.errors import GoliveError, IntegrityMismatch, LeaseHeld, Unavailable
from lib.platform.files import sync_folder, writing
from lib.platform.stores import AlreadyThere
from lib.platform.workspace import Workspace
from lib.release import backup_chain, backup_copies, backup_files, receipts, retention
from lib.release.backup_copies import DELETING, Copy, Target
from lib.release.backup_files import Backup
from lib.release.retention import Decision, Held

_DOOMED = ".deleting-"
_ABANDONED = timedelta(days=1)
_BACKUP_ID = re.compile(r"\b[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\b")
_RECEIPTS = ("backup", "validate", "promote")


@dataclass(frozen=True)
class Rules:
    keep: int
    older_than: timedelta


def plan(workspace: Workspace, connection: Connection, rules: Rules, target: Target | None) -> list[Decision]:
    """What would be deleted on the target, here where there is none; the caller owns no transaction."""
    if target:
        return plan_target(workspace, connection, rules, target)
    return plan_local(workspace, connection, rules)


def apply(workspace: Workspace, connection: Connection, target: Target | None, decisions: Sequence[Decision]) -> list[str]:
    """Deletes what the plan says; raises as ``apply_local`` and ``apply_target``."""
    if target:
        return apply_target(connection, target, decisions)
    return apply_local(workspace, connection, decisions)


def plan_local(workspace: Workspace, connection: Connection, rules: Rules) -> list[Decision]:
    """What would be deleted in ``.local/backups``; the caller owns no transaction."""
    held = _local(workspace)
    running = [item.backup_id for item in held if not item.remains and _is_busy(workspace.backups / item.backup_id)]
    return _plan(workspace, connection, rules, held, running)


def plan_target(workspace: Workspace, connection: Connection, rules: Rules, target: Target) -> list[Decision]:
    """What would be deleted on a target. Locks are looked up for what nothing else keeps."""
    now = moment(connection)
    found = {item.backup_id: item for item in backup_copies.copies(target)}
    held = [_of_copy(item, now) for item in found.values()]
    doomed = {item.backup_id for item in _plan(workspace, connection, rules, held, []) if item.deletes}
    held = [
        replace(item, locked_until=_locked_until(target, found[item.backup_id])) if item.backup_id in doomed else item
        for item in held
    ]
    return _plan(workspace, connection, rules, held, [])


def apply_local(workspace: Workspace, connection: Connection, decisions: Sequence[Decision]) -> list[str]:
    """Deletes what the plan says; returns the ids.

    Raises:
        LeaseHeld: another run reads one of them. Unavailable: a folder cannot be removed.
        IntegrityMismatch: one is still there.
    """
    doomed = [item for item in decisions if item.deletes]
    for item in doomed:
        folder, out_of_sight = workspace.backups / item.backup_id, workspace.backups / f"{_DOOMED}{item.backup_id}"
        if folder.is_dir():
            with backup_copies.held(folder, f"backup {item.backup_id}"), writing(folder):
                failpoints.reach("prune.rename")
                folder.rename(out_of_sight)
                sync_folder(workspace.backups)
        failpoints.reach("prune.record")
        with connection:
            _record(connection, item)
        failpoints.reach("prune.remove")
        with writing(out_of_sight):
            shutil.rmtree(out_of_sight)
            sync_folder(workspace.backups)
    return _require_gone(doomed, [item.backup_id for item in _local(workspace)])


def apply_target(connection: Connection, target: Target, decisions: Sequence[Decision]) -> list[str]:
    """Deletes what the plan says; returns the ids; raises as ``apply_local``, and what the store raises."""
    doomed = [item for item in decisions if item.deletes]
    for item in doomed:
        mark = f"{item.backup_id}/{DELETING}"
        failpoints.reach("prune.mark")
        with suppress(AlreadyThere):  # a run that was killed wrote it
            target.store.write(mark, io.BytesIO(b"deleted on purpose\n"), 19)
        failpoints.reach("prune.record")
        with connection:
            audit.record(connection, "delete backup copy", f"{item.backup_id} on {target.name}", item.reason)
        keys = [stored.key for stored in target.store.objects(f"{item.backup_id}/")]
        # the manifest first, so that even who knows nothing of marks sees no backup
        for key in sorted(keys, key=lambda key: (key == mark, not key.startswith(f"{item.backup_id}/manifest."), key)):
            failpoints.reach("prune.delete")
            target.store.delete(key)
    target_ids = {stored.key.partition("/")[0] for stored in target.store.objects()}
    return _require_gone(doomed, sorted(target_ids))


def moment(connection: Connection) -> datetime:
    """The earlier of this machine's clock and the database's: where one of them is ahead, more is kept."""
    with connection:
        found = postgres.one(connection, "SELECT clock_timestamp() AS now")
    assert found is not None
    theirs: datetime = found["now"]
    return min(theirs, clock.now())


def _plan(
    workspace: Workspace, connection: Connection, rules: Rules, held: Sequence[Held], running: Sequence[str]
) -> list[Decision]:
    needed, named = _needed(workspace, connection)
    return retention.plan(
        held,
        moment(connection),
        keep=rules.keep,
        older_than=rules.older_than,
        referenced=retention.references(held, needed, named),
        running=running,
    )


def _needed(workspace: Workspace, connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
    """Release id → its part, for what is live, was live, or may still be promoted; backup id → whose receipt names it."""
    with connection:
        pointer = read_pointer(connection)
        before = postgres.one(connection, "SELECT previous FROM golive.pointer")
        sealed = postgres.every(connection, "SELECT release_id FROM golive.releases WHERE state = 'sealed'")
    needed = {row["release_id"]: "a sealed release" for row in sealed}
    if before and before["previous"]:
        needed[before["previous"]] = "the previous release"
    if pointer.release:
        needed[pointer.release.release_id] = "the live release"
    named: dict[str, str] = {}
    for release_id in needed:
        for step in _RECEIPTS:
            path = receipts.path_of(workspace, release_id, step)
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""  # a damaged one counts too
            for backup_id in _BACKUP_ID.findall(text):
                named.setdefault(backup_id, f"named by the {step} receipt of {release_id}")
    return needed, named


def _local(workspace: Workspace) -> list[Held]:
    found = [_of_backup(item) if isinstance(item, Backup) else _unreadable(*item) for item in backup_files.every(workspace)]
    for folder in sorted(workspace.backups.glob(f"{_DOOMED}*")) if workspace.backups.is_dir() else []:
        backup_id = folder.name.removeprefix(_DOOMED)
        if backup_files.is_id(backup_id):
            found.append(Held(backup_id, _bytes_below(folder), remains="its deletion was begun"))
    return found


def _unreadable(name: str, error: GoliveError) -> Held:
    return Held(name, 0, problem=error.message)


def _of_backup(backup: Backup) -> Held:
    manifest = backup.manifest
    releases = tuple(table["release_id"] for table in manifest["tables"])
    return Held(backup.backup_id, backup.bytes, backup.created_at, bool(manifest["proven"]), releases)


def _of_copy(copy: Copy, now: datetime) -> Held:
    if copy.backup:
        return replace(_of_backup(copy.backup), bytes=copy.bytes)
    remains = copy.problem if copy.state == "deleting" else ""
    if copy.state == "incomplete" and copy.changed_at < now - _ABANDONED:
        remains = "the rest of a copy that never ended, untouched for over a day"
    return Held(copy.backup_id, copy.bytes, problem=copy.problem, remains=remains)


def _locked_until(target: Target, copy: Copy) -> datetime | None:
    heads = (target.store.head(item.key) for item in copy.objects)
    return max((head.locked_until for head in heads if head and head.locked_until), default=None)


def _record(connection: Connection, deleted: Decision) -> None:
    """Says in the database that a local backup was deleted on purpose; once, however often the deletion is begun anew."""
    row = postgres.one(connection, "SELECT deleted_at FROM golive.backups WHERE backup_id = %s", (deleted.backup_id,))
    if row is None:  # fetched: it was made from another database
        audit.record(connection, "delete backup", deleted.backup_id, deleted.reason)
    elif row["deleted_at"] is None:
        backup_chain.tombstone(connection, deleted.backup_id, deleted.reason)


def _is_busy(folder: Path) -> bool:
    try:
        with backup_copies.held(folder, folder.name):
            return False
    except (LeaseHeld, Unavailable):
        return True


def _require_gone(doomed: Sequence[Decision], there: Sequence[str]) -> list[str]:
    ids = [item.backup_id for item in doomed]
    if left := sorted(set(ids) & set(there)):
        raise IntegrityMismatch(f"backup {left[0]} was deleted and is still there", hint="run the same command again")
    return ids


def _bytes_below(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
