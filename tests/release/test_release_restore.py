"""Restore: a release comes back into new tables, proved; whatever goes wrong, nothing that stands is changed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import zstandard
from psycopg2 import sql

from lib.config import store
from lib.config.locked_config import LockedConfig
from lib.index import seal
from lib.index.bm25 import terms_of
from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, NotFound, Refused
from lib.platform.files import sha256_file, write_json
from lib.release import (
    backup,
    backup_files,
    backup_listing,
    promotion,
    restore,
    rollback_validation,
    row_blocks,
    snapshot,
    traffic,
)
from lib.release.backup_files import Backup
from lib.release.table_copies import Part, copy_out, decompressing, documents_content, row_hashes
from tests.conftest import HANDBOOK, PROJECT
from tests.release.staged import Project, files_below, sync

TABLE = "document_chunks_2026_01_02_030405_v1"


def test_a_table_that_lost_rows_comes_back_beside_the_damaged_one(live):
    made, before, release = only_backup(live), live.pointer(), live.release()
    live.tamper("DELETE FROM {table} WHERE chunk_index = 0")
    plan = restore.plan_restore(live.connection, made)
    assert (plan.action, plan.table, plan.rows) == ("load table", f"{TABLE}_r1", 3)
    done = apply(live, made)
    after = live.release()
    assert (after.table_name, after.content_digest, after.state) == (f"{TABLE}_r1", release.content_digest, "live")
    assert (done["rows"], done["digest"]) == (3, release.content_digest)
    assert content(live, after.table_name).digest == release.content_digest
    assert content(live, TABLE).row_count == 0
    assert live.pointer().generation == before.generation + 1
    assert route(live) == after.table_name


def test_a_restored_table_is_indexed_and_sealed_and_answers(live):
    live.tamper("DELETE FROM {table}")
    apply(live, only_backup(live))
    table = live.release().table
    (index,) = live.ask(
        "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
        " WHERE a.amname = 'hnsw' AND i.indrelid = %s::regclass",
        (f"{TABLE}_r1",),
    )
    assert index["indisvalid"]
    with pytest.raises(psycopg2.Error, match="is sealed"):
        live.execute(sql.SQL("DELETE FROM {}").format(table))
    assert all(check["holds"] for check in rollback_validation.validate(live.workspace, live.connection, only_backup(live)))


def test_a_table_restored_after_a_rename_has_its_own_vector_index(live):
    live.execute(f"ALTER TABLE {TABLE} RENAME TO kept_for_analysis")
    apply(live, only_backup(live))
    found = live.ask(
        "SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
        " WHERE a.amname = 'hnsw' AND i.indrelid = %s::regclass",
        (live.release().table_name,),
    )
    assert len(found) == 1


def test_a_dropped_table_comes_back_under_its_own_name(live):
    release = live.release()
    live.tamper("DROP TABLE {table}")
    apply(live, only_backup(live))
    assert live.release().table_name == TABLE
    assert content(live, TABLE).digest == release.content_digest


def test_a_second_restore_takes_the_next_free_name(live):
    made = only_backup(live)
    for suffix in ("_r1", "_r2"):
        live.tamper("DELETE FROM {table}", live.release().table_name)
        apply(live, made)
        assert live.release().table_name == TABLE + suffix


@pytest.mark.parametrize("loss", ["DROP TABLE documents", "TRUNCATE documents"])
def test_lost_documents_come_back_with_the_release(live, loss):
    made = only_backup(live)
    live.execute(loss)
    live.tamper("DROP TABLE {table}")
    postgres.create_state(live.connection)
    assert "none are there: 3 will be loaded" in restore.plan_restore(live.connection, made).documents
    apply(live, made)
    with live.connection:
        found = documents_content(live.connection, "public")
    assert (found.row_count, found.digest) == (3, made.manifest["documents"]["digest"])


def test_documents_that_are_there_are_left_as_they_are(live):
    made = only_backup(live)
    sync(live, {**HANDBOOK, "pointer.md": "# The pointer\n\nSomething newer.\n"})
    before = live.ask("SELECT * FROM documents ORDER BY id")
    live.tamper("DELETE FROM {table}")
    assert "left as they are" in restore.plan_restore(live.connection, made).documents
    apply(live, made)
    assert live.ask("SELECT * FROM documents ORDER BY id") == before


def test_only_the_pointer_moves_where_the_table_stands(second):
    first = second.live_id()
    promotion.promote(second.workspace, second.connection)
    promoted, before = second.live_id(), second.pointer().generation
    tables, config = file_numbers(second), second.release(first).locked_config
    made = backup_of(second, restores=first)[-1]
    plan = restore.plan_restore(second.connection, made)
    assert (plan.action, plan.live_now) == ("move pointer", promoted)
    apply(second, made)
    assert (second.live_id(), second.pointer().generation) == (first, before + 1)
    assert file_numbers(second) == tables
    assert (second.release(first).state, second.release(promoted).state) == ("live", "rolled_back")
    assert store.read_active(second.workspace) == config.in_production(True)


def test_a_manifest_that_is_not_the_one_on_record_is_refused_in_whatever_it_differs(live):
    made = backup.create(live.workspace, live.connection)
    restore.require_own(live.connection, made, another_allowed=False)
    write_json(made.folder / "manifest.json", made.manifest | {"created_by": "nobody"})
    with pytest.raises(IntegrityMismatch, match="was changed since it was made"):
        restore.require_own(live.connection, backup_files.read(live.workspace, made.backup_id), another_allowed=True)


def test_a_pointer_that_only_moves_needs_no_file_of_the_backup(second):
    first = second.live_id()
    promotion.promote(second.workspace, second.connection)
    made = backup_of(second, restores=first)[-1]
    flip_bit(made.folder / f"tables/{TABLE}.0.rows.zst")
    apply(second, made)
    assert second.live_id() == first


@pytest.mark.parametrize("damage", ["DELETE FROM {table} WHERE chunk_index = 0", "DROP TABLE {table}"])
def test_a_table_that_was_damaged_since_the_plan_is_not_named_by_the_pointer(second, damage):
    first = second.live_id()
    promotion.promote(second.workspace, second.connection)
    made = backup_of(second, restores=first)[-1]
    plan = restore.plan_restore(second.connection, made)
    second.tamper(damage, TABLE)
    before = state_of(second)
    with pytest.raises((IntegrityMismatch, psycopg2.errors.UndefinedTable)):
        restore.apply_restore(second.workspace, second.connection, made, plan)
    assert state_of(second) == before


@pytest.mark.parametrize(
    "change", ["config = jsonb_set(config, '{chunk_size}', '21')", "content_digest = repeat('0', 64)", "row_count = 1"]
)
def test_a_release_whose_record_was_changed_is_not_named_by_the_pointer(second, change):
    first = second.live_id()
    promotion.promote(second.workspace, second.connection)
    second.execute(f"UPDATE golive.releases SET {change} WHERE release_id = %s", (first,))
    assert_refused_without_a_change(second, backup_of(second, restores=first)[-1])


def test_a_table_that_lost_its_vector_index_comes_back_with_one(live):
    made = only_backup(live)
    live.execute(f"DROP INDEX {TABLE}_hnsw")
    assert restore.plan_restore(live.connection, made).action == "load table"
    apply(live, made)
    assert live.release().table_name == f"{TABLE}_r1"
    assert all(check["holds"] for check in rollback_validation.validate(live.workspace, live.connection, made))


def test_every_move_is_recorded_with_the_digests_it_went_between(second):
    first = second.live_id()
    promotion.promote(second.workspace, second.connection)
    promoted = second.live_id()
    apply(second, backup_of(second, restores=first)[-1])
    (entry,) = second.ask("SELECT * FROM golive.audit_log ORDER BY seq DESC LIMIT 1")
    assert (entry["action"], entry["subject"]) == ("move pointer", first)
    assert entry["from_digest"] == second.release(promoted).content_digest
    assert entry["to_digest"] == second.release(first).content_digest


def test_where_the_release_is_live_and_sound_there_is_nothing_to_do(live):
    made, before = only_backup(live), live.pointer()
    shutil.rmtree(live.workspace.locked_configs)
    plan = restore.plan_restore(live.connection, made)
    assert (plan.action, plan.table) == ("nothing", TABLE)
    apply(live, made)
    assert live.pointer() == before
    assert store.read_active(live.workspace) == live.release().locked_config.in_production(True)


def test_another_release_of_the_backup_can_be_asked_for_by_name(second):
    candidate = second.release().release_id
    made = backup_of(second, restores=second.live_id())[-1]
    plan = restore.plan_restore(second.connection, made, candidate)
    restore.apply_restore(second.workspace, second.connection, made, plan)
    assert second.live_id() == candidate
    with pytest.raises(NotFound, match="does not hold"):
        restore.plan_restore(second.connection, made, "2026-01-02-030405-v1-ffffffff")


def test_planning_changes_nothing(live):
    made = only_backup(live)
    live.tamper("DROP TABLE {table}")
    before = state_of(live), files_below(live.workspace.root)
    assert json.loads(json.dumps(restore.plan_restore(live.connection, made).to_dict()))["action"] == "load table"
    assert (state_of(live), files_below(live.workspace.root)) == before


def test_a_backup_brings_a_completely_empty_database_to_life(live, empty_database):
    made, release = only_backup(live), live.release()
    elsewhere = Project(live.workspace, empty_database, postgres.connect(empty_database, "test"))
    postgres.create_state(elsewhere.connection)
    apply(elsewhere, made)
    found = elsewhere.release()
    assert (elsewhere.live_id(), found.content_digest, found.row_count) == (release.release_id, release.content_digest, 3)
    assert route(elsewhere) == TABLE
    with elsewhere.connection:
        assert documents_content(elsewhere.connection, "public").digest == made.manifest["documents"]["digest"]
    assert all(check["holds"] for check in rollback_validation.validate(live.workspace, elsewhere.connection, made))
    elsewhere.connection.close()


def test_an_empty_database_gets_the_record_of_the_restored_release_alone(second, empty_database):
    first = second.live_id()
    with opened(second, empty_database) as elsewhere:
        apply(elsewhere, backup_of(second, restores=first)[-1])
        assert [release.release_id for release in elsewhere.releases()] == [first]


def test_documents_with_columns_of_ones_own_come_back_where_the_table_has_them(live, empty_database):
    extra = "ADD COLUMN team text, ADD COLUMN words tsvector GENERATED ALWAYS AS (to_tsvector('english', content)) STORED"
    live.execute(f"ALTER TABLE documents {extra}; UPDATE documents SET team = 'search'")
    made = backup.create(live.workspace, live.connection)
    with opened(live, empty_database) as elsewhere:
        with pytest.raises(Refused, match="lacks a column") as raised:
            apply(elsewhere, made)
        assert "team" in raised.value.detail
        assert elsewhere.releases() == []
        elsewhere.execute(f"ALTER TABLE documents {extra}")
        apply(elsewhere, made)
        assert elsewhere.ask("SELECT DISTINCT team FROM documents WHERE words IS NOT NULL") == [{"team": "search"}]


def test_the_script_restores_into_an_empty_database(live, empty_database, run_script):
    made = only_backup(live)
    done = run_script(
        "restore_production_state",
        "--backup-id",
        made.backup_id,
        "--from-another-system",
        "--json",
        DATABASE_URL=empty_database,
    )
    assert (done.code, done.json["action"], done.json["rows"]) == (0, "load table", 3)


def test_one_flipped_bit_in_the_data_is_found_and_nothing_is_changed(live):
    made = only_backup(live)
    live.tamper("DROP TABLE {table}")
    flip_bit(made.folder / f"tables/{TABLE}.0.rows.zst")
    assert_refused_without_a_change(live, made)


@pytest.mark.parametrize("name", [f"tables/{TABLE}.0.rows.zst", "configs/gates.yaml", "state.json"])
def test_a_damaged_backup_changes_nothing_in_an_empty_database_either(live, empty_database, name):
    made = only_backup(live)
    path = made.folder / name
    path.write_bytes(path.read_bytes() + b"\n")
    with opened(live, empty_database) as elsewhere:
        assert_refused_without_a_change(elsewhere, made)


@pytest.mark.parametrize("damage", [lambda data: b"\0\0\0\0" + data[4:], lambda data: data[: len(data) // 2]])
def test_a_damaged_documents_file_is_an_integrity_mismatch(live, damage):
    made = only_backup(live)
    live.execute("TRUNCATE documents")
    path = made.folder / "tables/documents.0.rows.zst"
    path.write_bytes(damage(path.read_bytes()))
    assert_refused_without_a_change(live, made)


def test_after_a_damaged_backup_a_sound_one_still_restores(live, empty_database):
    sound, damaged = only_backup(live), backup.create(live.workspace, live.connection)
    path = damaged.folder / "state.json"
    path.write_text(path.read_text().replace('"chunk_size": 450', '"chunk_size": 451'))
    with opened(live, empty_database) as elsewhere:
        with pytest.raises(IntegrityMismatch):
            apply(elsewhere, damaged)
        apply(elsewhere, sound)
        assert elsewhere.live_id() == live.live_id()


def test_a_copy_cut_at_a_row_boundary_is_found_by_its_rows_and_nothing_is_changed(live):
    made = only_backup(live)
    live.tamper("DROP TABLE {table}")
    path = made.folder / f"tables/{TABLE}.0.rows.zst"
    rewrite(path, made.manifest["tables"][0], lambda rows: rows[:-1])
    made = make_manifest_agree(live, made)
    backup_files.verify_files(made)
    assert_refused_without_a_change(live, made)


def test_rows_that_are_not_those_of_the_manifest_are_found_and_nothing_is_changed(live):
    made = only_backup(live)
    live.tamper("DROP TABLE {table}")
    path = made.folder / f"tables/{TABLE}.0.rows.zst"
    rewrite(path, made.manifest["tables"][0], lambda rows: [row.replace(b"fresh tables", b"stale tables") for row in rows])
    made = make_manifest_agree(live, made)
    assert_refused_without_a_change(live, made)


def test_the_postings_of_a_backup_that_digested_their_text_are_proven_so(live):
    made, terms = only_backup(live), terms_of(live.release().table)
    entry = made.manifest["tables"][0]["postings"]
    made.manifest["manifest_version"] = 2
    with live.connection:
        snapshot.pin(live.connection)
        digest = seal.content(live.connection, row_hashes(terms, entry["columns"])).digest
    assert digest != entry["digest"]
    live.execute(sql.SQL("DROP TABLE {}; DROP TABLE {}").format(live.release().table, terms))
    with pytest.raises(IntegrityMismatch, match="postings"):
        apply(live, make_manifest_agree(live, made))
    entry["digest"] = digest
    assert apply(live, make_manifest_agree(live, made))["rows"] == 3


def test_a_backup_that_agrees_with_itself_and_not_with_the_record_is_refused(live):
    made, release = only_backup(live), live.release()
    live.tamper("UPDATE {table} SET bm25_text = 'never evaluated' WHERE id = 'corpus/backups.md#0'")
    entry = made.manifest["tables"][0]
    with live.connection:
        part = Part(release.table, entry["columns"], entry["dimension"])
        copy_out(live.connection, part, made.folder / entry["files"][0])
        entry["digest"] = content_of(live.connection, "public", TABLE).digest
    live.tamper("DROP TABLE {table}")
    made = make_manifest_agree(live, made)
    assert_refused_without_a_change(live, made)


@pytest.mark.parametrize(("name", "error"), [("state.json", NotFound), ("manifest.json", IntegrityMismatch)])
def test_a_backup_without_its_state_or_manifest_is_not_used(live, name, error):
    made = only_backup(live)
    (made.folder / name).unlink()
    with pytest.raises(error, match=made.backup_id):
        backup_files.find_backup(live.workspace, made.backup_id)


@pytest.mark.parametrize("moment", [0.15, 0.3, 0.45, 0.6])
def test_killed_at_any_moment_and_run_again_it_ends_right(live, moment):
    moment += random.Random(moment).uniform(-0.07, 0.07)
    made, before = only_backup(live), live.pointer().generation
    live.tamper("DELETE FROM {table} WHERE chunk_index = 0")
    process = start_restore(made)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    wait_until_gone(live)
    assert_old_or_new(live, before)
    assert start_restore(made).wait(timeout=60) == 0
    assert_restored(live, before)


@pytest.mark.parametrize("held", ["golive.releases", "documents", "golive.audit_log", "golive.pointer"])
def test_killed_while_it_waits_for_a_lock_it_changed_nothing_and_run_again_it_ends_right(live, held):
    made, before = only_backup(live), live.pointer().generation
    live.tamper("DELETE FROM {table} WHERE chunk_index = 0")
    with live.connect() as blocking:
        with blocking.cursor() as cursor:
            mode = "ACCESS EXCLUSIVE" if held in ("golive.releases", "documents") else "EXCLUSIVE"
            cursor.execute(f"LOCK TABLE {held} IN {mode} MODE")
        process = start_restore(made)
        wait_for(
            live, "SELECT FROM pg_stat_activity WHERE application_name = 'golive restore' AND wait_event_type = 'Lock'"
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
    blocking.close()
    wait_until_gone(live)
    assert (live.pointer().generation, live.release().table_name) == (before, TABLE)
    assert start_restore(made).wait(timeout=60) == 0
    assert_restored(live, before)


def test_the_list_is_newest_first_and_says_what_each_backup_restores(second):
    rows = backup_listing.listing(second.workspace)
    assert [row["backup_id"] for row in rows] == sorted((row["backup_id"] for row in rows), reverse=True)
    assert [row["usable"] for row in rows] == [True, True]
    assert {row["restores"] for row in rows} == {second.live_id()}
    assert rows[0]["rows"] == sum(release.row_count for release in second.releases())
    assert backup_listing.listing_text(rows).splitlines()[1].startswith(rows[0]["backup_id"])


def test_an_unusable_backup_is_listed_as_such(live):
    made = only_backup(live)
    (made.folder / "manifest.json").write_text("")
    (row,) = backup_listing.listing(live.workspace)
    assert (row["backup_id"], row["usable"]) == (made.backup_id, False)
    assert "UNUSABLE" in backup_listing.listing_text([row])


def test_without_backups_the_list_says_how_to_make_one(workspace):
    assert "make backup" in backup_listing.listing_text(backup_listing.listing(workspace))


def test_a_stopped_service_stays_stopped_through_a_restore(live):
    traffic.stop(live.connection, "rollback")
    live.tamper("DELETE FROM {table}")
    apply(live, only_backup(live))
    assert traffic.read(live.connection).state == "stopped"
    assert traffic.resume(live.connection, "restored").state == "open"


def apply(project: Project, made: Backup) -> dict[str, Any]:
    plan = restore.plan_restore(project.connection, made)
    return restore.apply_restore(project.workspace, project.connection, made, plan)


def only_backup(project: Project) -> Backup:
    (made,) = backup_files.every(project.workspace)
    assert isinstance(made, Backup)
    return made


def backup_of(project: Project, *, restores: str) -> list[Backup]:
    """The backups that restore a release, oldest first."""
    found = [item for item in backup_files.every(project.workspace) if isinstance(item, Backup)]
    return sorted(
        (item for item in found if item.manifest["restores"]["release_id"] == restores), key=lambda item: item.backup_id
    )


def content(project: Project, table: str) -> Any:
    with project.connection:
        return content_of(project.connection, "public", table)


def route(project: Project) -> str:
    return str(project.ask("SELECT table_name FROM golive.route()")[0]["table_name"])


def file_numbers(project: Project) -> list[dict[str, Any]]:
    """Which files on disk hold the chunk tables: rewritten ones have others."""
    return project.ask("SELECT relname, relfilenode FROM pg_class WHERE relname LIKE 'document_chunks%' ORDER BY 1")


def state_of(project: Project) -> dict[str, Any]:
    """Everything of Golive's own in a database, and which tables there are."""
    tables = ("golive.pointer", "golive.releases", "golive.audit_log", "golive.traffic", "documents")
    return {
        **{name: project.ask(f"SELECT * FROM {name} ORDER BY 1") for name in tables},
        "relations": file_numbers(project),
    }


def assert_refused_without_a_change(project: Project, made: Backup) -> None:
    before = state_of(project), files_below(project.workspace.configs)
    with pytest.raises(IntegrityMismatch):
        apply(project, made)
    project.connection.rollback()
    assert (state_of(project), files_below(project.workspace.configs)) == before


def flip_bit(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, entry: dict[str, Any], change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Changes the rows of a file, which stays one of whole blocks."""
    with path.open("rb") as stream:
        data = b"".join(row_blocks.decode(decompressing(stream), len(entry["columns"])))
    place, rows = 19, []
    while (columns := struct.unpack_from(">h", data, place)[0]) != -1:
        start, place = place, place + 2
        for _ in range(columns):
            place += 4 + max(0, struct.unpack_from(">i", data, place)[0])
        rows.append(data[start:place])
    blocks: list[bytes] = []
    writer = row_blocks.BlockWriter(blocks.append, entry["dimension"])
    for row in (row_blocks.HEADER, *change(rows), row_blocks.TRAILER):
        writer.write(row)
    writer.finish()
    path.write_bytes(zstandard.ZstdCompressor().compress(b"".join(blocks)))


def make_manifest_agree(project: Project, made: Backup) -> Backup:
    """Writes the manifest anew so that it fits the files as they are now."""
    manifest = made.manifest
    for name, item in manifest["files"].items():
        item.update(sha256=sha256_file(made.folder / name), bytes=(made.folder / name).stat().st_size)
    write_json(made.folder / "manifest.json", manifest)
    return backup_files.read(project.workspace, made.backup_id)


@contextmanager
def opened(project: Project, url: str) -> Iterator[Project]:
    """The project's workspace with an empty database that has Golive's state."""
    connection = postgres.connect(url, "test")
    postgres.create_state(connection)
    yield Project(project.workspace, url, connection)
    connection.close()


def start_restore(made: Backup) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts" / "restore_production_state.py"), "--backup-id", made.backup_id],
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(project: Project, query: str, *, there: bool = True) -> None:
    """Asks until the query has a row (or none); a test that waits in vain is ended by the count."""
    for _ in range(100_000):
        if bool(project.ask(query)) == there:
            return
    raise AssertionError(f"waited in vain: {query}")


def wait_until_gone(project: Project) -> None:
    """Until the server has noticed that the killed client is no more."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    wait_for(project, query + " AND backend_type = 'client backend'", there=False)


def assert_old_or_new(project: Project, before: int) -> None:
    release, pointer = project.release(), project.pointer()
    assert (pointer.generation, release.table_name) in [(before, TABLE), (before + 1, f"{TABLE}_r1")]
    assert route(project) == release.table_name
    if pointer.generation == before + 1:
        assert content(project, release.table_name).digest == release.content_digest


def assert_restored(project: Project, before: int) -> None:
    release = project.release()
    assert (project.pointer().generation, release.table_name) == (before + 1, f"{TABLE}_r1")
    assert content(project, release.table_name).digest == release.content_digest
    assert store.read_active(project.workspace) == LockedConfig.from_dict(release.config).in_production(True)


def test_a_new_machine_goes_on_with_the_audit_log_of_the_backup(live, empty_database):
    made = backup.create(live.workspace, live.connection)
    entries = "SELECT seq, hash FROM golive.audit_log ORDER BY seq"
    before = live.ask(entries)[: made.manifest["state_tables"]["audit_log"]["rows"]]
    with opened(live, empty_database) as elsewhere:
        apply(elsewhere, made)
        after = elsewhere.ask(entries)
        assert after[: len(before)] == before and len(after) > len(before) > 3
        assert elsewhere.ask("SELECT golive.audit_break() AS place") == [{"place": None}]


def test_a_new_machine_answers_from_the_documents_that_had_changed_since_the_seal(live, empty_database):
    live.execute(
        "INSERT INTO golive.release_documents (release_id, doc_id, sealed_digest, doc_digest, chunks)"
        " VALUES (%s, 'corpus/new.md', NULL, '\\x01', 0)",
        (live.live_id(),),
    )
    made = backup.create(live.workspace, live.connection)
    with opened(live, empty_database) as elsewhere:
        apply(elsewhere, made)
        query = "SELECT release_id, doc_id, sealed_digest::text FROM golive.release_documents ORDER BY doc_id"
        assert elsewhere.ask(query) == live.ask(query)
        assert elsewhere.ask("SELECT origin, seen FROM golive.coverage") == [{"origin": "seal", "seen": None}]
