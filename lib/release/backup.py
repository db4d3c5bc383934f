"""Backup: one snapshot of chunk tables, documents and Golive's state, proven by a real restore before it is visible."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index.chunk_table import create_chunk_table
from lib.index.releases import Release, find_release, read_pointer
from lib.index.seal import Content, content_of
from lib.platform import audit, postgres
from lib.platform.clock import now, timestamp
from lib.platform.errors import GoliveError, IntegrityMismatch, NotFound
from lib.platform.files import pretty_json, sha256_file, sync_folder, write_json, write_text, writing
from lib.platform.lease import who
from lib.platform.workspace import Workspace
from lib.release import backup_files, probes, receipts, restore_script
from lib.release.backup_files import Backup
from lib.release.table_copies import columns_of, copy_in, copy_out, documents_content

_STATE_TABLES = ("pointer", "traffic", "releases", "verdicts", "backups")
_CONFIG_FILES = ("candidate.yaml", "gates.yaml", "evaluation.yaml", "checklist.yaml", "embedders.yaml")


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

    Raises:
        NotFound: there is nothing to back up.
        IntegrityMismatch: a table is not what was sealed, or the restored copy differs.
        Unavailable: it cannot be written (disk full, permission).
    """
    started = time.monotonic()
    plan = plan_backup(workspace, connection)
    backup_id = backup_files.new_id(now())
    folder = workspace.backups / f"{backup_files.INCOMPLETE}{backup_id}"
    with writing(folder):
        workspace.backups.mkdir(parents=True, exist_ok=True)
        for left_over in workspace.backups.glob(f"{backup_files.INCOMPLETE}*"):
            shutil.rmtree(left_over)
        folder.mkdir()
    try:
        manifest = _write_files(workspace, connection, plan, backup_id, folder)
        manifest["proven"] = _prove(connection, manifest, folder)
        manifest["seconds"] = round(time.monotonic() - started, 3)
        with writing(folder):
            write_json(folder / backup_files.MANIFEST, manifest)
            sync_folder(folder)
            folder.rename(workspace.backups / backup_id)
            sync_folder(workspace.backups)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    made = backup_files.read(workspace, backup_id)
    _register(workspace, connection, plan, made, time.monotonic() - started)
    return made


def standing(workspace: Workspace, connection: Connection, releases: Sequence[Release]) -> Backup | str:
    """The newest proven backup that holds these releases as they were sealed and is whole on disk; else why there is none.

    The caller owns the transaction.
    """
    found = "no proven backup holds this release and what is live"
    needed = {release.release_id: release.content_digest for release in releases}
    for row in postgres.every(connection, "SELECT * FROM golive.backups ORDER BY created_at DESC"):
        if any(row["digests"].get(name) != digest for name, digest in needed.items()):
            continue
        try:
            made = backup_files.read(workspace, row["backup_id"])
            if made.manifest_digest == row["manifest_digest"]:
                backup_files.verify_files(made)
                return made
            found = f"the manifest of backup {made.backup_id} was changed since it was made"
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


def _write_files(
    workspace: Workspace, connection: Connection, plan: BackupPlan, backup_id: str, folder: Path
) -> dict[str, Any]:
    """Everything but the manifest, from one snapshot; returns the manifest."""
    files: dict[str, dict[str, Any]] = {}
    connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ)
    try:
        with connection:
            schema = _lock_and_pin(connection, plan)
            tables = [_copy_table(connection, role, release, folder, files) for role, release in plan.held]
            documents = _copy_documents(connection, schema, folder, files)
            state = {name: _state_rows(connection, name) for name in _STATE_TABLES}
            server = _server(connection)
            asked = {release.release_id: probes.take(connection, release) for _, release in plan.held}
    finally:
        if not connection.closed:
            connection.set_session(isolation_level="DEFAULT")
    _write(folder, "state.json", pretty_json(state), files)
    _write(folder, probes.FILE, pretty_json(asked), files)
    for _, release in plan.held:
        _write(folder, f"configs/history/{release.chunk_version}.json", pretty_json(release.config), files)
    for path in (store.active_path(workspace), *(workspace.configs / name for name in _CONFIG_FILES)):
        if path.exists():
            _write(folder, f"configs/{path.name}", path.read_text(encoding="utf-8"), files)
    manifest = {
        "manifest_version": backup_files.MANIFEST_VERSION,
        "backup_id": backup_id,
        "created_at": timestamp(),
        "created_by": who(),
        "restores": {"release_id": plan.restores.release_id, "why": plan.why},
        "tables": tables,
        "documents": documents,
        "files": files,
        "server": server,
    }
    _write(folder, "restore.sh", restore_script.render(manifest), files)
    return manifest


def _lock_and_pin(connection: Connection, plan: BackupPlan) -> str:
    """Locks every table before the first read: a TRUNCATE in between would read as empty.

    Returns:
        the schema in which the documents stand.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL row_security = off; SET LOCAL DateStyle = 'ISO'; SET LOCAL lock_timeout = '10s'")
        for _, release in plan.held:
            cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(release.table))
        cursor.execute("LOCK TABLE documents IN ACCESS SHARE MODE")
        for name in _STATE_TABLES:
            cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.Identifier("golive", name)))
    found = postgres.one(
        connection,
        "SELECT n.nspname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = 'documents'::regclass",
    )
    assert found is not None
    return str(found["name"])


def _copy_table(
    connection: Connection, role: str, release: Release, folder: Path, files: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    content = content_of(connection, release.table_schema, release.table_name)
    if content is None or content.digest != release.content_digest:
        raise IntegrityMismatch(
            f"{role} table {release.table_name} is not what was sealed: it is not backed up",
            hint="make rollback BACKUP=id brings back a sound one",
        )
    columns = columns_of(connection, release.table_schema, release.table_name)
    name = f"tables/{release.table_name}.copy.zst"
    files[name] = copy_out(connection, release.table, columns, folder / name)
    return {
        "release_id": release.release_id,
        "role": role,
        "schema": release.table_schema,
        "table": release.table_name,
        "rows": content.row_count,
        "digest": content.digest,
        "file": name,
        "columns": columns,
        "dimension": release.locked_config.embedder_dimension,
    }


def _copy_documents(connection: Connection, schema: str, folder: Path, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    content = documents_content(connection, schema)
    columns = columns_of(connection, schema, "documents")
    name = "tables/documents.copy.zst"
    files[name] = copy_out(connection, postgres.table_identifier(schema, "documents"), columns, folder / name)
    return {"schema": schema, "rows": content.row_count, "digest": content.digest, "file": name, "columns": columns}


def _state_rows(connection: Connection, name: str) -> list[Any]:
    query = sql.SQL("SELECT to_jsonb(t) AS row FROM {} t ORDER BY to_jsonb(t)::text").format(sql.Identifier("golive", name))
    return [row["row"] for row in postgres.every(connection, query)]


def _server(connection: Connection) -> dict[str, Any]:
    found = postgres.one(
        connection,
        "SELECT current_setting('server_version') AS postgresql, current_database() AS database,"
        " (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector",
    )
    assert found is not None
    return found


def _write(folder: Path, name: str, text: str, files: dict[str, dict[str, Any]]) -> None:
    write_text(folder / name, text)
    files[name] = {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}


def _prove(connection: Connection, manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Restores every table into fresh ones and compares; the transaction is undone, so nothing is left behind.

    Raises:
        IntegrityMismatch: a restored table is not what was backed up.
    """
    started = time.monotonic()
    schema = f"golive_proof_{manifest['backup_id'].replace('-', '_')}"
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            for table in manifest["tables"]:
                fresh = postgres.table_identifier(schema, table["table"])
                create_chunk_table(connection, fresh, table["dimension"])
                copy_in(connection, fresh, table["columns"], folder / table["file"])
                _compare(content_of(connection, schema, table["table"]), table)
            fresh = postgres.table_identifier(schema, "documents")
            original = postgres.table_identifier(manifest["documents"]["schema"], "documents")
            cursor.execute(
                sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED)").format(fresh, original)
            )
            copy_in(connection, fresh, manifest["documents"]["columns"], folder / manifest["documents"]["file"])
            _compare(documents_content(connection, schema), {"table": "documents", **manifest["documents"]})
    finally:
        connection.rollback()
    return {"at": timestamp(), "seconds": round(time.monotonic() - started, 3)}


def _compare(content: Content | None, table: dict[str, Any]) -> None:
    if content is None or (content.row_count, content.digest) != (table["rows"], table["digest"]):
        raise IntegrityMismatch(
            f"the restored copy of {table['table']} is not what was backed up; the backup is thrown away",
            detail=f"{content.row_count if content else 'no'} rows restored, {table['rows']} backed up",
        )


def _register(workspace: Workspace, connection: Connection, plan: BackupPlan, made: Backup, seconds: float) -> None:
    digests = {table["release_id"]: table["digest"] for table in made.manifest["tables"]}
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO golive.backups (backup_id, manifest_digest, location, restores, digests, created_at, proven_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (
                made.backup_id,
                made.manifest_digest,
                workspace.show(made.folder),
                plan.restores.release_id,
                json.dumps(digests),
                made.manifest["created_at"],
                made.manifest["proven"]["at"],
            ),
        )
        audit.record(connection, "back up", made.backup_id, "backup proven by a restore", after=made.manifest_digest)
    release_id = plan.held[-1][1].release_id
    receipts.write(
        workspace,
        release_id,
        "backup",
        outcome="DONE",
        inputs={"digests": digests},
        summary={
            "backup_id": made.backup_id,
            "bytes": made.bytes,
            "restores": plan.restores.release_id,
            "restore_s": made.manifest["proven"]["seconds"],
        },
        seconds=seconds,
    )
