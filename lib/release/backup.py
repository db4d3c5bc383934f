"""Backup: one snapshot of chunk tables, documents and Golive's state, proven by a real restore before it is visible."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index.releases import Release, find_release, read_pointer
from lib.index.seal import content_of
from lib.platform import audit, clock, failpoints, postgres
from lib.platform.errors import GoliveError, IntegrityMismatch, NotFound
from lib.platform.files import sync_folder, sync_tree, write_json, writing
from lib.platform.workspace import Workspace
from lib.release import attesting, backup_chain, backup_files, backup_signature, receipts
from lib.release.backup_files import Backup
from lib.release.backup_writing import Writing


@dataclass(frozen=True)
class BackupPlan:
    """What a backup will hold: the live release, the candidate if it is sealed, and which of them it restores."""

    held: list[tuple[str, Release]]
    restores: Release
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "tables": [
                {"role": role, "release_id": r.release_id, "table": r.table_name, "rows": r.row_count}
                for role, r in self.held
            ],
            "restores": {"release_id": self.restores.release_id, "why": self.why},
        }


def plan_backup(workspace: Workspace, connection: Connection) -> BackupPlan:
    """Raises NotFound where there is nothing to back up."""
    with connection:
        live = read_pointer(connection).release
        candidate = _candidate(workspace, connection)
    held = [("live", live)] if live else []
    if candidate and (live is None or candidate.release_id != live.release_id):
        held.append(("candidate", candidate))
    if not held:
        raise NotFound("there is no release to back up", hint="make golive")
    if live:
        return BackupPlan(held, live, "it is live")
    return BackupPlan(held, held[0][1], "nothing is live yet, so this backup holds the first release itself")


def create(workspace: Workspace, connection: Connection) -> Backup:
    """Makes, proves and publishes a backup; a killed or failed one leaves nothing that looks like a backup.

    The caller holds the lease: what another run left unfinished is removed first.

    Raises:
        NotFound: there is nothing to back up.
        IntegrityMismatch: a table is not what was sealed, or the restored copy differs.
        Unavailable: it cannot be written (disk full, permission), or a table is being changed all the time.
    """
    started = time.monotonic()
    plan, signer = plan_backup(workspace, connection), attesting.signer()
    _record_unrecorded(workspace, connection)
    backup_id = backup_files.new_id(clock.now())
    folder = workspace.backups / f"{backup_files.INCOMPLETE}{backup_id}"
    failpoints.reach("backup.begin")
    with writing(folder):
        workspace.backups.mkdir(parents=True, exist_ok=True)
        for left_over in workspace.backups.glob(f"{backup_files.INCOMPLETE}*"):
            shutil.rmtree(left_over)
        folder.mkdir()
    try:
        manifest = _fill(workspace, connection, plan, backup_id, folder)
        manifest["signed_by"] = attesting.keyid(signer)
        manifest["seconds"] = round(time.monotonic() - started, 3)
        with writing(folder):
            failpoints.reach("backup.manifest")
            write_json(folder / backup_files.MANIFEST, manifest)
            backup_signature.sign(Backup(backup_id, folder, manifest), signer)
            sync_tree(folder)
            failpoints.reach("backup.publish")
            folder.rename(workspace.backups / backup_id)
            sync_folder(workspace.backups)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    failpoints.reach("backup.register")
    made = backup_files.read(workspace, backup_id)
    _register(workspace, connection, made, time.monotonic() - started)
    failpoints.reach("backup.done")
    return made


def _fill(workspace: Workspace, connection: Connection, plan: BackupPlan, backup_id: str, folder: Path) -> dict[str, Any]:
    """Writes and proves everything but the manifest, and returns that."""
    with connection:
        number, previous = backup_chain.following(backup_chain.registered(connection))
    files = Writing(workspace, connection, plan.held, backup_id, folder)
    copying = time.monotonic()
    found = files.write()
    found["copy_s"] = round(time.monotonic() - copying, 3)
    found |= {"number": number, "previous": previous}
    found["restores"] = {"release_id": plan.restores.release_id, "why": plan.why}
    try:
        found["proven"] = files.prove(found)
    except IntegrityMismatch as error:
        _require_sealed(connection, plan, error)
        raise
    manifest = files.finish(found)
    manifest["rto"] = _recovery_time(plan.restores, manifest["proven"]["seconds"])
    manifest["rpo"] = _recovery_point(workspace, manifest)
    return manifest


def _require_sealed(connection: Connection, plan: BackupPlan, error: IntegrityMismatch) -> None:
    """Raises IntegrityMismatch where what could not be proven is not what was sealed: then the table is at fault."""
    for role, release in plan.held:
        with connection:
            content = content_of(connection, release.table_schema, release.table_name)
        if content is None or content.digest != release.content_digest:
            raise IntegrityMismatch(
                f"{role} table {release.table_name} is not what was sealed: it is not backed up",
                detail=f"{content.row_count if content else 'no'} rows are there, {release.row_count} were sealed",
                hint="make rollback BACKUP=id brings back a sound one",
            ) from error


def _recovery_time(release: Release, load_s: float) -> dict[str, Any]:
    """How long a restore takes where the tables are lost: loading, as the proof just took, and the indexes, as at the seal.

    ``index_s`` and ``total_s`` are None where no such measurement is on record.
    """
    index_s = release.ingest_stats.get("index_s")
    total = None if index_s is None else round(load_s + index_s, 3)
    return {"load_s": load_s, "index_s": index_s and round(index_s, 3), "total_s": total}


def _recovery_point(workspace: Workspace, manifest: dict[str, Any]) -> dict[str, Any]:
    """How old the newest backup was until this one: so much would have been lost. None where it was the first."""
    if manifest["previous"] is None:
        return {"since_previous_s": None, "documents_changed": None}
    row = manifest["previous"]["backup_id"]
    made = clock.moment_of(manifest["created_at"])
    try:
        before = backup_files.read(workspace, row)
    except GoliveError:  # its folder is elsewhere, or gone: its id says when it was made
        return {"since_previous_s": (made - backup_files.moment_of(row)).total_seconds(), "documents_changed": None}
    changed = before.manifest["documents"]["digest"] != manifest["documents"]["digest"]
    return {"since_previous_s": (made - before.created_at).total_seconds(), "documents_changed": changed}


def recovery_lines(manifest: dict[str, Any]) -> list[str]:
    """RTO and RPO of a backup, for people."""
    time_, point = manifest["rto"], manifest["rpo"]
    total = (
        ""
        if time_["total_s"] is None
        else f" and at most {time_['index_s']:.2f} s to index, as at the seal: {time_['total_s']:.2f} s"
    )
    lost = point["since_previous_s"]
    changed = {True: "; documents have changed since", False: "; no document has changed since", None: ""}
    return [
        f"  RTO: {time_['load_s']:.2f} s to load, just measured without the server's log{total};"
        " where the tables stand, only the pointer moves",
        "  RPO: this is the first backup"
        if lost is None
        else f"  RPO: {lost:.0f} s since the backup before{changed[point['documents_changed']]}",
    ]


def standing(workspace: Workspace, connection: Connection, releases: Sequence[Release]) -> Backup | str:
    """The newest proven backup that holds these releases as they were sealed and is whole on disk; else why there is none.

    The caller owns the transaction.
    """
    found = "no proven backup holds this release and what is live"
    needed = {release.release_id: release.content_digest for release in releases}
    for row in postgres.every(connection, "SELECT * FROM golive.backups WHERE deleted_at IS NULL ORDER BY created_at DESC"):
        if any(row["digests"].get(name) != digest for name, digest in needed.items()):
            continue
        try:
            made = backup_files.read(workspace, row["backup_id"])
            backup_files.require_manifest(made, row["manifest_digest"])
            backup_files.verify_files(made)
            return made
        except GoliveError as error:
            found = error.message
    return found


def _candidate(workspace: Workspace, connection: Connection) -> Release | None:
    """The active config's release, where it is sealed."""
    try:
        found = find_release(connection, store.read_active(workspace).ingest_run_id)
    except GoliveError:
        return None
    return found if found and found.state == "sealed" else None


def _record_unrecorded(workspace: Workspace, connection: Connection) -> None:
    """Records what an earlier run had made and proven when it was killed; only what follows the last backup on record."""
    with connection:
        rows = backup_chain.registered(connection)
        number, previous = backup_chain.following(rows)
        identity, known = backup_chain.identity_of(connection), {row["backup_id"] for row in rows}
    for made in backup_files.every(workspace, but=known):
        if isinstance(made, tuple):
            continue
        said = made.manifest
        if (said["identity"], said["number"], said["previous"]) == (identity, number, previous):
            backup_files.verify_files(made)
            _register(workspace, connection, made, said["seconds"])


def _register(workspace: Workspace, connection: Connection, made: Backup, seconds: float) -> None:
    manifest = made.manifest
    digests = {table["release_id"]: table["digest"] for table in manifest["tables"]}
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO golive.backups"
            " (backup_id, manifest_digest, location, restores, digests, created_at, proven_at, number, previous_digest)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                made.backup_id,
                made.manifest_digest,
                workspace.show(made.folder),
                manifest["restores"]["release_id"],
                json.dumps(digests),
                manifest["created_at"],
                manifest["proven"]["at"],
                manifest["number"],
                (manifest["previous"] or {}).get("manifest_digest"),
            ),
        )
        audit.record(connection, "back up", made.backup_id, "backup proven by a restore", after=made.manifest_digest)
    receipts.write(
        workspace,
        manifest["tables"][-1]["release_id"],
        "backup",
        outcome="DONE",
        inputs={"digests": digests},
        summary={
            "backup_id": made.backup_id,
            "bytes": made.bytes,
            "restores": manifest["restores"]["release_id"],
            "restore_s": manifest["proven"]["seconds"],
            "rto": manifest["rto"],
            "rpo": manifest["rpo"],
        },
        seconds=seconds,
    )
