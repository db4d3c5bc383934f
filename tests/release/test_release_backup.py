"""Backups: everything that a release needs, proven by a restore, and visible only then."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import resource
import struct
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, NotFound
from lib.release import backup, backup_files, receipts, row_blocks, traffic
from lib.release.backup_writing import STATE_TABLES
from lib.release.table_copies import decompressing
from tests.conftest import PROJECT
from tests.release.staged import SECOND_LOCKED, files_below, lock

FIRST, SECOND = "document_chunks_2026_01_02_030405_v1", "document_chunks_2026_01_03_030405_v1"
_CONFIGS = ("active_config.json", "candidate.yaml", "gates.yaml", "evaluation.yaml", "checklist.yaml", "embedders.yaml")
ROLE = "backup_that_cannot_be_proven"
_CONFIGS += ("index.yaml", "monitoring.yaml", "backup.yaml")


def test_a_backup_holds_tables_documents_state_configs_and_a_script(second):
    made = backup.create(second.workspace, second.connection)
    expected = {
        f"tables/{FIRST}.0.rows.zst",
        f"tables/{SECOND}.0.rows.zst",
        f"tables/{FIRST}_terms.0.rows.zst",
        f"tables/{SECOND}_terms.0.rows.zst",
        "tables/documents.0.rows.zst",
        "state.json",
        "probes.json",
        "restore.sh",
        "row_blocks.py",
        *(f"tables/golive.{name}.0.rows.zst" for name in STATE_TABLES),
        "configs/history/2026-01-02-030405-v1.json",
        "configs/history/2026-01-03-030405-v1.json",
        *(f"configs/{name}" for name in _CONFIGS),
    }
    there = files_below(made.folder)
    assert set(there) == {*expected, "manifest.json"}
    assert made.manifest["files"] == {
        name: {"sha256": hashlib.sha256(there[name]).hexdigest(), "bytes": len(there[name])} for name in expected
    }
    backup_files.verify_files(made)


def test_the_manifest_is_the_last_file_written(live):
    made = backup.create(live.workspace, live.connection)
    written = {name: (made.folder / name).stat().st_mtime_ns for name in files_below(made.folder)}
    assert max(written, key=written.get) == "manifest.json"


def test_rows_and_digests_are_those_of_the_sealed_tables(second):
    made = backup.create(second.workspace, second.connection)
    sealed = {release.release_id: (release.row_count, release.content_digest) for release in second.releases()}
    assert {t["release_id"]: (t["rows"], t["digest"]) for t in made.manifest["tables"]} == sealed
    for table in made.manifest["tables"]:
        assert rows_in_copy(made.folder / table["files"][0], len(table["columns"])) == table["rows"]
    assert rows_in_copy(made.folder / "tables/documents.0.rows.zst", len(made.manifest["documents"]["columns"])) == 3
    assert made.manifest["documents"]["rows"] == 3


def test_a_backup_is_registered_with_its_manifests_digest_and_has_a_receipt(live):
    made = backup.create(live.workspace, live.connection)
    release = live.release()
    (row,) = live.ask("SELECT * FROM golive.backups WHERE backup_id = %s", (made.backup_id,))
    digest = hashlib.sha256((made.folder / "manifest.json").read_bytes()).hexdigest()
    assert (row["manifest_digest"], row["restores"]) == (digest, release.release_id)
    assert row["digests"] == {release.release_id: release.content_digest}
    assert row["location"] == f".local/backups/{made.backup_id}"
    (entry,) = live.ask("SELECT * FROM golive.audit_log WHERE subject = %s", (made.backup_id,))
    assert (entry["action"], entry["to_digest"]) == ("back up", digest)
    receipt = receipts.read(live.workspace, release.release_id, "backup")
    assert (receipt.summary["backup_id"], receipt.inputs["digests"]) == (made.backup_id, row["digests"])


def test_the_state_in_a_backup_is_the_state_of_the_database(second):
    made = backup.create(second.workspace, second.connection)
    state = json.loads((made.folder / "state.json").read_text())
    assert state["pointer"][0]["release_id"] == second.live_id()
    assert {row["release_id"]: row["state"] for row in state["releases"]} == {
        release.release_id: release.state for release in second.releases()
    }
    assert [row["verdict"] for row in state["verdicts"]] == ["PASS", "PASS"]


def test_a_first_release_is_backed_up_to_be_restored_itself(ready):
    plan = backup.plan_backup(ready.workspace, ready.connection)
    assert [(role, release.release_id) for role, release in plan.held] == [("candidate", ready.release().release_id)]
    assert plan.restores.release_id == ready.release().release_id
    assert "nothing is live yet" in plan.why


def test_a_later_release_is_backed_up_beside_what_is_live_which_is_what_comes_back(second):
    made = backup.create(second.workspace, second.connection)
    live = second.live_id()
    assert [(t["role"], t["release_id"]) for t in made.manifest["tables"]] == [
        ("live", live),
        ("candidate", second.release().release_id),
    ]
    assert made.manifest["restores"] == {"release_id": live, "why": "it is live"}


def test_a_live_release_without_a_candidate_is_backed_up_alone(live):
    plan = backup.plan_backup(live.workspace, live.connection)
    assert [role for role, _ in plan.held] == ["live"]


def test_a_candidate_that_is_not_sealed_is_left_out(live):
    lock(live, SECOND_LOCKED, chunk_size="100")
    plan = backup.plan_backup(live.workspace, live.connection)
    assert [release.release_id for _, release in plan.held] == [live.live_id()]


def test_without_a_release_there_is_nothing_to_back_up(workspace, connection):
    with pytest.raises(NotFound, match="no release to back up"):
        backup.create(workspace, connection)
    assert not workspace.backups.exists()


@pytest.mark.parametrize("table", [FIRST, SECOND])
@pytest.mark.parametrize("damage", ["DELETE FROM {table} WHERE chunk_index = 0", "UPDATE {table} SET bm25_text = 'x'"])
def test_a_damaged_table_is_refused_and_leaves_no_trace(second, table, damage):
    second.tamper(damage, table)
    before, registered = files_below(second.workspace.local), second.ask("SELECT * FROM golive.backups")
    with pytest.raises(IntegrityMismatch, match=table):
        backup.create(second.workspace, second.connection)
    assert files_below(second.workspace.local) == before
    assert second.ask("SELECT * FROM golive.backups") == registered


def test_a_backup_that_cannot_be_proven_is_thrown_away(live):
    before = files_below(live.workspace.local)
    live.execute(f"CREATE ROLE {ROLE} LOGIN IN ROLE pg_read_all_data")  # may read all, and create nothing to restore into
    live.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(live.connection.info.dbname)))
    connection = postgres.connect(live.url.replace("postgres@", f"{ROLE}@"), "test")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="temporary tables"):
        backup.create(live.workspace, connection)
    connection.close()
    live.execute(f"DROP ROLE {ROLE}")
    assert files_below(live.workspace.local) == before


def test_proving_a_backup_leaves_nothing_in_the_database(live):
    relations = (
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname !~ '^pg_' ORDER BY 1, 2"
    )
    before, schemas = live.ask(relations), live.ask("SELECT nspname FROM pg_namespace ORDER BY 1")
    backup.create(live.workspace, live.connection)
    assert live.ask(relations) == before
    assert live.ask("SELECT nspname FROM pg_namespace ORDER BY 1") == schemas


def test_a_refused_backup_leaves_the_connection_as_it_was(live):
    live.tamper("DELETE FROM {table}")
    before = live.connection.isolation_level
    with pytest.raises(IntegrityMismatch):
        backup.create(live.workspace, live.connection)
    assert live.connection.isolation_level == before


def test_what_a_killed_backup_left_behind_is_no_backup_and_is_removed_by_the_next(live):
    left = live.workspace.backups / ".incomplete-20260101-000000-abc123"
    (left / "tables").mkdir(parents=True)
    (left / "tables" / "documents.copy.zst").write_bytes(b"half")
    listed = [item.backup_id for item in backup_files.every(live.workspace)]
    assert left.name not in listed
    made = backup.create(live.workspace, live.connection)
    assert not left.exists()
    assert [item.backup_id for item in backup_files.every(live.workspace)] == [made.backup_id, *listed]


@pytest.mark.parametrize(("limit_bytes", "file"), [(2_000, FIRST), (60_000, "state.json")])
def test_a_full_disk_leaves_no_visible_backup_and_the_next_one_succeeds(live, limit_bytes, file):
    traffic.stop(live.connection, "x" * 100_000)  # makes state.json the largest file
    before, registered = files_below(live.workspace.backups), live.ask("SELECT * FROM golive.backups")
    done = run_limited("backup_production_state", limit_bytes)
    assert done.returncode == 13
    assert re.search(f"cannot write .*{file}.*: file too large", done.stderr)
    assert files_below(live.workspace.backups) == before
    assert live.ask("SELECT * FROM golive.backups") == registered
    backup.create(live.workspace, live.connection)


def test_no_secret_of_the_environment_is_in_any_file_of_a_backup(live, run_script):
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENG",
        "MY_API_KEY": "key-4711-4711",
        "DB_PASSWORD": "correcthorse",
    }
    url = live.url.replace("postgres@", "postgres:hunter2hunter2@")
    done = run_script("backup_production_state", "--json", DATABASE_URL=url, **secrets)
    assert done.code == 0
    folder = live.workspace.backups / done.json["backup_id"]
    assert_no_secret(folder, [*secrets.values(), "hunter2hunter2"])
    assert "hunter2hunter2" not in done.out + done.err


def test_a_secret_given_as_a_reason_is_not_in_a_backup(live, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correcthorse")
    traffic.stop(live.connection, "cannot log in with correcthorse")
    made = backup.create(live.workspace, live.connection)
    assert_no_secret(made.folder, ["correcthorse"])


def test_two_backups_of_the_same_state_hold_the_same_data(live):
    first, other = (backup.create(live.workspace, live.connection) for _ in range(2))
    assert first.backup_id != other.backup_id
    for name in (f"tables/{FIRST}.0.rows.zst", "tables/documents.0.rows.zst", "configs/active_config.json"):
        assert first.manifest["files"][name] == other.manifest["files"][name]


def rows_in_copy(path: Path, fields: int) -> int:
    """Rows of a binary COPY (PostgreSQL's manual, COPY, "Binary Format"), counted by walking through it."""
    with path.open("rb") as stream:
        data = b"".join(row_blocks.decode(decompressing(stream), fields))
    assert data.startswith(b"PGCOPY\n\xff\r\n\0")
    place, rows = 19, 0
    while (columns := struct.unpack_from(">h", data, place)[0]) != -1:
        place, rows = place + 2, rows + 1
        for _ in range(columns):
            place += 4 + max(0, struct.unpack_from(">i", data, place)[0])
    return rows


def run_limited(script: str, limit_bytes: int) -> subprocess.CompletedProcess[str]:
    """Runs a script that cannot write a file of more than so many bytes."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / f"{script}.py")],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )


def assert_no_secret(folder: Path, secrets: list[str]) -> None:
    for name, content in files_below(folder).items():
        if name.endswith(".zst"):
            content = decompressing(io.BytesIO(content))(-1)
        found = [secret for secret in secrets if secret.encode() in content]
        assert not found, f"{name} holds {found}"
