"""Backups as folders: what is one, what is none, and what was changed in one since it was made."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.platform.errors import IntegrityMismatch, NotFound, UsageError
from lib.platform.files import write_json
from lib.platform.workspace import Workspace
from lib.release import backup_files

ID = "20260102-030405-abc123"
RELEASE = "2026-01-02-030405-v1-0123abcd"
FILES = {
    "tables/chunks.0.rows.zst": b"rows of chunks",
    "tables/documents.0.rows.zst": b"rows of documents",
    "configs/gates.yaml": b"min_cases: 30\n",
    "state.json": b"{}\n",
    "restore.sh": b"#!/bin/sh\n",
}


@pytest.fixture
def home(tmp_path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def folder(home) -> Path:
    """A whole backup, made without Golive."""
    return write_backup(home, ID)


def test_a_complete_backup_is_read_with_what_its_manifest_says(home, folder):
    found = backup_files.read(home, ID)
    assert (found.backup_id, found.folder) == (ID, folder)
    assert found.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found.bytes == 14 + 17 + 14 + 3 + 10  # the lengths of FILES
    assert found.manifest_digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert found.table_of(RELEASE)["rows"] == 7
    backup_files.verify_files(found)


def test_a_manifest_of_the_first_format_is_read_as_one_of_this(home, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in (*manifest["tables"], manifest["documents"]):
        (entry["file"],) = entry.pop("files")
    for name in ("state_tables", "number", "previous", "identity", "rto", "rpo"):
        del manifest[name]
    write_json(folder / "manifest.json", {**manifest, "manifest_version": 1})
    found = backup_files.read(home, ID)
    assert found.manifest["tables"][0]["files"] == ["tables/chunks.0.rows.zst"]
    assert (found.manifest["identity"], found.manifest["previous"]) == (None, None)
    backup_files.verify_files(found)


def test_data_that_the_manifest_does_not_list_is_damage(home, folder):
    tables = json.loads((folder / "manifest.json").read_text())["tables"]
    change_manifest(folder, tables=[{**tables[0], "files": ["tables/other.rows.zst"]}])
    with pytest.raises(IntegrityMismatch) as raised:
        backup_files.read(home, ID)
    assert "tables/other.rows.zst" in raised.value.detail


@pytest.mark.parametrize("name", ["manifest.json", "manifest.intoto.json"])
def test_a_manifest_or_a_signature_that_is_a_link_does_not_belong_to_a_backup(home, folder, tmp_path, name):
    made = backup_files.read(home, ID)
    path = folder / name
    path.write_bytes(b"{}") if not path.exists() else None
    backup_files.verify_files(made)
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    with pytest.raises(IntegrityMismatch, match=name):
        backup_files.verify_files(made)


def test_a_release_that_a_backup_does_not_hold_is_not_found_in_it(home, folder):
    with pytest.raises(NotFound) as raised:
        backup_files.read(home, ID).table_of("2026-01-02-030405-v1-ffffffff")
    assert RELEASE in raised.value.detail


def test_an_id_is_the_moment_in_utc_and_is_its_own():
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    ids = {backup_files.new_id(moment) for _ in range(50)}
    assert len(ids) == 50
    assert all(name.startswith("20260102-010405-") for name in ids)  # 03:04:05+02:00 is 01:04:05 UTC
    for name in ids:
        backup_files.check_id(name)


def test_no_id_is_a_wrong_call_and_says_how_to_find_one(home):
    with pytest.raises(UsageError) as raised:
        backup_files.read(home, "")
    assert "make backups" in raised.value.hint


@given(st.text(min_size=1))
@example("../../etc")
@example(f"../backups/{ID}")
@example(f"{ID}/..")
@example(f"./{ID}")
@example("/etc/passwd")
@example(".incomplete-20260102-030405-abc123")
@example(ID.upper())
@example("latest")
@hypothesis_settings(deadline=None, derandomize=True, max_examples=100)
def test_what_is_no_id_is_never_looked_up_as_a_path(name):
    if not name.strip("0123456789abcdef-"):
        return
    with pytest.raises(NotFound):
        backup_files.check_id(name)


def test_a_backup_that_is_not_there_is_not_found(home):
    with pytest.raises(NotFound, match=ID):
        backup_files.read(home, ID)


def test_a_folder_without_a_manifest_was_never_completed(home, folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(IntegrityMismatch, match="never completed"):
        backup_files.read(home, ID)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"a": NaN}', b"[" * 9999]
)
def test_a_manifest_that_cannot_be_understood_is_damaged(home, folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityMismatch, match=ID):
        backup_files.read(home, ID)


def test_a_manifest_of_a_newer_format_says_so(home, folder):
    change_manifest(folder, manifest_version=backup_files.MANIFEST_VERSION + 1)
    with pytest.raises(IntegrityMismatch, match="newer"):
        backup_files.read(home, ID)


@pytest.mark.parametrize("version", ["1", None, [1], {}])
def test_a_manifest_version_that_is_no_number_is_damage(home, folder, version):
    change_manifest(folder, manifest_version=version)
    with pytest.raises(IntegrityMismatch, match=ID):
        backup_files.read(home, ID)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other/state.json", "tables/../../x", "a//b", "./state.json", ".hidden", ""]
)
def test_a_manifest_that_leads_out_of_the_backup_is_damaged(home, folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    change_manifest(folder, files={**files, name: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(IntegrityMismatch):
        backup_files.read(home, ID)


@pytest.mark.parametrize("part", ["tables", "documents"])
def test_data_files_outside_of_the_backup_are_damage_too(home, folder, part):
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest[part][0] if part == "tables" else manifest[part]
    entry["files"] = ["/etc/passwd"]
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(IntegrityMismatch):
        backup_files.read(home, ID)


@pytest.mark.parametrize("name", ["backup_id", "created_at", "restores", "tables", "documents", "files", "proven"])
def test_a_manifest_that_lacks_something_is_damaged(home, folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest[name]
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(IntegrityMismatch) as raised:
        backup_files.read(home, ID)
    assert name in raised.value.detail


def test_a_folder_that_was_renamed_is_not_the_backup_of_that_name(home, folder):
    other = "20260102-030405-abc124"
    folder.rename(folder.parent / other)
    with pytest.raises(IntegrityMismatch, match=ID):
        backup_files.read(home, other)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(home, folder, name):
    (folder / name).unlink()
    with pytest.raises(IntegrityMismatch, match=f"{name} is missing"):
        backup_files.verify_files(backup_files.read(home, ID))


@given(st.sampled_from(sorted(FILES)), st.data())
@hypothesis_settings(deadline=None, derandomize=True, max_examples=40)
def test_one_flipped_bit_anywhere_is_found(tmp_path_factory, name, data):
    home = Workspace(tmp_path_factory.mktemp("flip"))
    path = write_backup(home, ID) / name
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(IntegrityMismatch, match=f"{name} was changed"):
        backup_files.verify_files(backup_files.read(home, ID))


@pytest.mark.parametrize("change", [lambda old: b"", lambda old: old[:-1], lambda old: old + b"\n"])
def test_a_file_of_another_length_is_found(home, folder, change):
    path = folder / "tables/chunks.0.rows.zst"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(IntegrityMismatch, match="was changed"):
        backup_files.verify_files(backup_files.read(home, ID))


@pytest.mark.parametrize(
    "name",
    [
        "more.txt",
        "tables/more.rows.zst",
        ".hidden",
        "configs/.hidden",
        "configs/manifest.json",
    ],
)
def test_a_file_that_was_added_is_found(home, folder, name):
    (folder / name).write_text("added")
    with pytest.raises(IntegrityMismatch, match=f"{name} does not belong"):
        backup_files.verify_files(backup_files.read(home, ID))


def test_a_link_to_the_same_bytes_is_not_the_file(home, folder, tmp_path):
    outside = tmp_path / "outside"
    shutil.move(folder / "state.json", outside)
    (folder / "state.json").symlink_to(outside)
    with pytest.raises(IntegrityMismatch, match=r"state\.json is a link"):
        backup_files.verify_files(backup_files.read(home, ID))


def test_a_folder_that_became_a_link_is_found(home, folder, tmp_path):
    shutil.move(folder / "tables", tmp_path / "tables")
    (folder / "tables").symlink_to(tmp_path / "tables")
    with pytest.raises(IntegrityMismatch, match="tables"):
        backup_files.verify_files(backup_files.read(home, ID))


def test_backups_are_listed_newest_first_and_unfinished_ones_are_not(home):
    names = ["20260102-030405-abc123", "20260103-030405-000000", "20251231-235959-ffffff"]
    for name in names:
        write_backup(home, name)
    shutil.copytree(home.backups / ID, home.backups / f".incomplete-{ID}")
    assert [item.backup_id for item in backup_files.every(home)] == sorted(names, reverse=True)


@pytest.mark.parametrize(
    "break_",
    [
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text(""),
        lambda folder: change_manifest(folder, manifest_version="1"),
    ],
)
def test_a_damaged_backup_is_listed_with_the_reason_and_hides_no_other(home, folder, break_):
    bad = write_backup(home, "20260103-030405-000000")
    break_(bad)
    (name, error), good = backup_files.every(home)
    assert (name, good.backup_id) == (bad.name, ID)
    assert isinstance(error, IntegrityMismatch)


def test_something_else_in_the_folder_is_listed_as_no_backup(home, folder):
    (home.backups / "notes").mkdir()
    (name, error), good = backup_files.every(home)
    assert (name, good.backup_id) == ("notes", ID)
    assert isinstance(error, NotFound)


def test_without_a_folder_there_are_no_backups(home):
    assert backup_files.every(home) == []


def write_backup(home: Workspace, backup_id: str) -> Path:
    folder = home.backups / backup_id
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = {
        "manifest_version": 2,
        "backup_id": backup_id,
        "created_at": "2026-01-02T03:04:05Z",
        "created_by": "tester@host",
        "restores": {"release_id": RELEASE, "why": "it is live"},
        "tables": [
            {
                "release_id": RELEASE,
                "role": "live",
                "schema": "public",
                "table": "chunks",
                "rows": 7,
                "digest": "1" * 64,
                "files": ["tables/chunks.0.rows.zst"],
                "columns": ["id"],
                "dimension": 384,
            }
        ],
        "documents": {
            "schema": "public",
            "rows": 3,
            "digest": "2" * 64,
            "files": ["tables/documents.0.rows.zst"],
            "columns": ["id"],
        },
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in FILES.items()
        },
        "state_tables": {},
        "number": 1,
        "previous": None,
        "identity": "6f9619ff-8b86-4011-b42d-00cf4fc964ff",
        "rto": {"load_s": 0.5, "index_s": None, "total_s": None},
        "rpo": {"since_previous_s": None, "documents_changed": None},
        "server": {},
        "proven": {"at": "2026-01-02T03:04:06Z", "seconds": 0.5},
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def change_manifest(folder: Path, **fields: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**manifest, **fields})
