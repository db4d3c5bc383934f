"""Copies of backups: whole or not there, equal to the last byte, and enough for a machine that has nothing else."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from lib.platform.errors import ConfigInvalid, GoliveError, IntegrityMismatch, LeaseHeld, NotFound, Unavailable
from lib.platform.workspace import Workspace
from lib.release import backup_copies, backup_files, backup_targets, target_settings
from lib.release.backup_copies import Target
from lib.release.backup_files import MANIFEST, Backup
from tests.platform import s3_stub, swift
from tests.release.copied import KEY, clone, configure, folder_target, run_script, s3_target
from tests.release.staged import files_below, stages


@pytest.fixture(scope="module")
def made(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real backup."""
    (folder,) = (stages(server, tmp_path_factory.getbasetemp() / "stages")["ready"][1] / ".local/backups").iterdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Workspace:
    """A machine that has nothing."""
    return Workspace(tmp_path / "elsewhere")


@pytest.fixture
def local(made: Path, home: Workspace) -> Backup:
    return clone(made, home)


@pytest.fixture
def disk(tmp_path: Path) -> Target:
    return folder_target(tmp_path / "disk")


@pytest.fixture(params=["folder", "folder encrypted", "s3", "s3 encrypted"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    encrypted = request.param.endswith("encrypted")
    if request.param.startswith("folder"):
        return folder_target(tmp_path / "disk", encrypted=encrypted)
    server: swift.Swift = request.getfixturevalue("real")
    monkeypatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_target(server.url, server.new_bucket(), encrypted=encrypted)


def visible(target: Target) -> list[str]:
    return [item.backup_id for item in backup_copies.copies(target) if item.state == "complete"]


def refusal(act: Callable[[], Any]) -> GoliveError:
    with pytest.raises(GoliveError) as caught:
        act()
    assert "\n" not in caught.value.message
    return caught.value


# there and back


def test_a_copy_comes_back_equal_to_the_last_byte(target: Target, local: Backup, elsewhere: Workspace) -> None:
    plan = backup_targets.plan_copy(target, local)
    report = backup_targets.copy(target, local)
    count = len(local.manifest["files"]) + 1
    assert plan["to_send"] == report["sent"] == count
    assert (report["kept"], report["not_enforced"]) == (0, [])
    assert visible(target) == [local.backup_id]
    again = backup_targets.copy(target, local)
    assert (again["sent"], again["kept"]) == (0, count)
    assert backup_targets.plan_copy(target, local)["to_send"] == 0
    assert backup_copies.verify(target, local.backup_id)["manifest_digest"] == local.manifest_digest
    fetched = backup_targets.fetch(elsewhere, target, local.backup_id)
    assert files_below(fetched.folder) == files_below(local.folder)
    assert os.listdir(elsewhere.backups) == [local.backup_id]


@pytest.mark.parametrize("target", ["folder encrypted", "s3 encrypted"], indirect=True)
def test_a_large_file_goes_in_parts_and_comes_back(
    target: Target, made: Path, home: Workspace, elsewhere: Workspace
) -> None:
    local = clone(made, home)
    big = local.folder / "configs" / "large.json"
    big.write_bytes(os.urandom((11 << 20) + 3))
    listed = local.manifest["files"] | {
        "configs/large.json": {"sha256": backup_files.sha256_file(big), "bytes": (11 << 20) + 3}
    }
    shutil.rmtree(home.backups / "20260101-000000-bbbbbb", ignore_errors=True)
    local = clone(local.folder, home, "20260101-000000-bbbbbb", files=listed)
    backup_targets.copy(target, local)
    fetched = backup_targets.fetch(elsewhere, target, local.backup_id)
    assert files_below(fetched.folder) == files_below(local.folder)


def test_a_signature_beside_the_manifest_goes_along(local: Backup, disk: Target) -> None:
    (local.folder / "manifest.intoto.json").write_text("{}")
    backup_targets.copy(disk, local)
    shutil.rmtree(local.folder)
    fetched = backup_targets.fetch(Workspace(local.folder.parents[2]), disk, local.backup_id)
    assert (fetched.folder / "manifest.intoto.json").read_text() == "{}"


def test_from_the_bucket_alone_a_machine_with_nothing_restores(
    real: swift.Swift, local: Backup, elsewhere: Workspace, empty_database: str
) -> None:
    offsite = {"url": f"s3://{real.new_bucket()}/golive", "endpoint": real.url, "encryption": "client", "required": True}
    secrets = {**real.environment(), "GOLIVE_BACKUP_KEY": KEY}
    home = Workspace(local.folder.parents[2])
    for workspace in (home, elsewhere):
        configure(workspace, offsite=offsite)
    sent = run_script(home, "copy_backup", "--backup-id", local.backup_id, **secrets)
    assert (sent.returncode, "read back and equal" in sent.stdout) == (0, True), sent.stderr
    fetched = run_script(elsewhere, "copy_backup", "--fetch", "--backup-id", local.backup_id, **secrets)
    assert fetched.returncode == 0, fetched.stderr
    arguments = ("--backup-id", local.backup_id, "--from-another-system", "--json")
    restored = run_script(elsewhere, "restore_production_state", *arguments, DATABASE_URL=empty_database)
    assert restored.returncode == 0, restored.stderr
    connection = psycopg2.connect(empty_database)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT release_id FROM golive.pointer")
        assert cursor.fetchall() == [(local.manifest["restores"]["release_id"],)]
    connection.close()
    written = sent.stdout + sent.stderr + fetched.stdout + fetched.stderr
    assert real.key not in written
    assert KEY not in written


# killed, and run again


@pytest.mark.parametrize("place", ["copy.file", "copy.file@3", "store.link@2", "store.sync_folder", "copy.manifest"])
def test_a_copy_that_is_killed_is_not_visible_and_is_ended_by_the_next(place: str, local: Backup, tmp_path: Path) -> None:
    home, disk = Workspace(local.folder.parents[2]), folder_target(tmp_path / "disk")
    configure(home, disk={"url": str(tmp_path / "disk")})
    name, _, time = place.partition("@")
    arguments = ("copy_backup", "--backup-id", local.backup_id, "--json")
    killed = run_script(home, *arguments, GOLIVE_FAILPOINT=f"{name}=kill@{time or 1}")
    assert killed.returncode == -9
    assert visible(disk) == []
    report = json.loads(run_script(home, *arguments).stdout)
    assert report["sent"] + report["kept"] == len(local.manifest["files"]) + 1
    assert visible(disk) == [local.backup_id]
    assert {path.name for path in (tmp_path / "disk" / local.backup_id).iterdir()} == {
        path.name for path in local.folder.iterdir()
    }


@pytest.mark.parametrize("place", ["fetch.file=kill@3", "file.rename=kill@2", "fetch.rename=kill"])
def test_a_fetch_that_is_killed_is_not_visible_and_is_ended_by_the_next(
    place: str, local: Backup, elsewhere: Workspace, tmp_path: Path
) -> None:
    backup_targets.copy(folder_target(tmp_path / "disk"), local)
    configure(elsewhere, disk={"url": str(tmp_path / "disk")})
    arguments = ("copy_backup", "--fetch", "--backup-id", local.backup_id)
    assert run_script(elsewhere, *arguments, GOLIVE_FAILPOINT=place).returncode == -9
    assert backup_files.every(elsewhere) == []
    assert run_script(elsewhere, *arguments).returncode == 0
    assert files_below(elsewhere.backups / local.backup_id) == files_below(local.folder)
    assert os.listdir(elsewhere.backups) == [local.backup_id]


def test_two_at_once_do_not_copy_the_same_backup(local: Backup, disk: Target) -> None:
    handle = os.open(local.folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(LeaseHeld, match="another run is at work"):
        backup_targets.copy(disk, local)
    os.close(handle)
    assert backup_copies.copies(disk) == []


# stores that fail


@pytest.mark.parametrize("fault", ["lie", "short"])
@pytest.mark.parametrize("name", ["state.json", MANIFEST])
def test_a_store_that_gives_back_something_else_gets_no_visible_backup(
    stub: s3_stub.Stub, local: Backup, fault: str, name: str
) -> None:
    stub.fault = lambda method, key, count: fault if method == "GET" and key.endswith(f"/{name}") else None
    error = refusal(lambda: backup_targets.copy(s3_target(stub.url, "bucket-1"), local))
    assert (int(error.exit_code), "does not give back what was sent" in error.message) == (14, True)
    stub.fault = lambda method, key, count: None
    assert visible(s3_target(stub.url, "bucket-1")) == []


@pytest.mark.parametrize(
    ("fault", "exit_code"), [("503 SlowDown", 13), ("reset", 13), ("403 AccessDenied", 15), ("404 NoSuchBucket", 12)]
)
@pytest.mark.parametrize("name", ["state.json", MANIFEST])
def test_a_store_that_fails_half_way_has_no_visible_backup_and_is_gone_on_with(
    stub: s3_stub.Stub, local: Backup, fault: str, exit_code: int, name: str
) -> None:
    target = s3_target(stub.url, "bucket-1")
    stub.fault = lambda method, key, count: fault if method == "PUT" and key.endswith(f"/{name}") else None
    error = refusal(lambda: backup_targets.copy(target, local))
    assert int(error.exit_code) == exit_code
    stub.fault = lambda method, key, count: None
    assert visible(target) == []
    report = backup_targets.copy(target, local)
    assert report["kept"] > 0 or name == min(local.manifest["files"])
    assert visible(target) == [local.backup_id]


def test_an_answer_that_was_lost_after_the_write_is_found_out(stub: s3_stub.Stub, local: Backup) -> None:
    stub.fault = lambda method, key, count: (
        "applied-503" if method == "PUT" and key.endswith(("/state.json", f"/{MANIFEST}")) and count == 1 else None
    )
    backup_targets.copy(s3_target(stub.url, "bucket-1"), local)
    assert visible(s3_target(stub.url, "bucket-1")) == [local.backup_id]


@pytest.mark.parametrize("target", ["folder", "s3 encrypted"], indirect=True)
def test_an_id_is_copied_once(target: Target, made: Path, home: Workspace, elsewhere: Workspace) -> None:
    backup_targets.copy(target, clone(made, home))
    other = clone(made, elsewhere, created_by="somebody@else")
    error = refusal(lambda: backup_targets.copy(target, other))
    assert (int(error.exit_code), "holds another backup under the id" in error.message) == (15, True)
    assert (
        backup_copies.verify(target, other.backup_id)["manifest_digest"]
        == backup_files.read(home, made.name).manifest_digest
    )


def test_where_the_store_overwrites_the_report_says_so(stub: s3_stub.Stub, local: Backup) -> None:
    stub.ignores_conditions = True
    report = backup_targets.copy(s3_target(stub.url, "bucket-1", write_once=False), local)
    assert report["not_enforced"] == ["write once: the store overwrites; what is there was only looked at before and after"]
    assert "not enforced there: write once" in backup_targets.report_text(report)


def test_a_damaged_local_backup_is_not_spread(local: Backup, disk: Target) -> None:
    (local.folder / "state.json").write_text("{}")
    with pytest.raises(IntegrityMismatch, match=r"state\.json was changed"):
        backup_targets.copy(disk, local)
    assert backup_copies.copies(disk) == []


def test_what_an_earlier_run_left_wrong_is_replaced(local: Backup, disk: Target, tmp_path: Path) -> None:
    (tmp_path / "disk" / local.backup_id).mkdir()
    (tmp_path / "disk" / local.backup_id / "state.json").write_text("half")
    backup_targets.copy(disk, local)
    assert backup_copies.verify(disk, local.backup_id)["files"] == len(local.manifest["files"]) + 1


# copies that were damaged


def test_one_bit_in_any_file_is_found_and_never_fetched(local: Backup, tmp_path: Path) -> None:
    for encrypted in (False, True):
        target = folder_target(tmp_path / f"disk{encrypted}", encrypted=encrypted)
        backup_targets.copy(target, local)
        for path in sorted((tmp_path / f"disk{encrypted}").rglob("*.*")):
            before = path.read_bytes()
            path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
            elsewhere = Workspace(tmp_path / "elsewhere" / path.name)  # nothing there that an earlier fetch got right
            for act in (backup_copies.verify, lambda t, b, w=elsewhere: backup_targets.fetch(w, t, b)):
                assert int(refusal(lambda act=act, t=target: act(t, local.backup_id)).exit_code) == 14, path
            path.write_bytes(before)
            assert backup_files.every(elsewhere) == []


def test_missing_added_and_swapped_files_are_found(local: Backup, elsewhere: Workspace, tmp_path: Path) -> None:
    target = folder_target(tmp_path / "disk", encrypted=True)
    backup_targets.copy(target, local)
    folder = tmp_path / "disk" / local.backup_id
    one, other = folder / "state.json.encrypted", folder / "restore.sh.encrypted"
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)
    assert int(refusal(lambda: backup_copies.verify(target, local.backup_id)).exit_code) == 14
    other.write_bytes(other_bytes)
    one.unlink()
    assert int(refusal(lambda: backup_copies.verify(target, local.backup_id)).exit_code) == 14
    assert [(item.state, item.problem) for item in backup_copies.copies(target)] == [("unusable", "state.json is missing")]
    one.write_bytes(one_bytes)
    assert target.cipher
    more = target.cipher.encrypted(io.BytesIO(b"{}"), target.bound(local.backup_id, "more.json"))
    target.store.write(target.key(local.backup_id, "more.json"), more, 2)
    for act in (backup_copies.verify, lambda t, b: backup_targets.fetch(elsewhere, t, b)):
        error = refusal(lambda act=act: act(target, local.backup_id))
        assert (int(error.exit_code), "does not belong to it" in error.message) == (14, True)
    assert backup_files.every(elsewhere) == []


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../../x", "a/../../x"])
def test_a_manifest_that_names_a_path_elsewhere_is_refused(
    local: Backup, disk: Target, elsewhere: Workspace, tmp_path: Path, name: str
) -> None:
    backup_targets.copy(disk, local)
    path = tmp_path / "disk" / local.backup_id / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    path.write_text(json.dumps(manifest))
    for act in (backup_copies.verify, lambda t, b: backup_targets.fetch(elsewhere, t, b)):
        assert int(refusal(lambda act=act: act(disk, local.backup_id)).exit_code) == 14
    assert backup_files.every(elsewhere) == []


def test_a_manifest_of_another_backup_is_refused(local: Backup, disk: Target, elsewhere: Workspace, tmp_path: Path) -> None:
    backup_targets.copy(disk, local)
    (tmp_path / "disk" / local.backup_id).rename(tmp_path / "disk" / "20260101-000000-cccccc")
    error = refusal(lambda: backup_targets.fetch(elsewhere, disk, "20260101-000000-cccccc"))
    assert (int(error.exit_code), local.backup_id in error.message) == (14, True)


# encryption


def test_an_encrypted_target_holds_nothing_readable(local: Backup, tmp_path: Path) -> None:
    backup_targets.copy(folder_target(tmp_path / "disk", encrypted=True), local)
    content = b"".join(files_below(tmp_path / "disk").values())
    release_id = local.manifest["restores"]["release_id"].encode()
    assert any(release_id in held for held in files_below(local.folder).values())
    assert release_id not in content


def test_another_key_or_none_opens_nothing_and_says_so(
    local: Backup, elsewhere: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_targets.copy(folder_target(tmp_path / "disk", encrypted=True), local)
    url = str(tmp_path / "disk")
    configure(elsewhere, sealed={"url": url, "encryption": "client"}, plain={"url": url})
    settings = target_settings.load(elsewhere)
    with pytest.raises(NotFound, match="neither GOLIVE_BACKUP_KEY nor"):
        backup_copies.open_target(settings.target("sealed"))
    monkeypatch.setenv("GOLIVE_BACKUP_KEY", "A" * 43 + "=")
    wrong = backup_copies.open_target(settings.target("sealed"))
    assert "another key" in refusal(lambda: backup_targets.fetch(elsewhere, wrong, local.backup_id)).message
    assert backup_copies.copies(wrong)[0].state == "unusable"
    plain = backup_copies.open_target(settings.target("plain"))
    error = refusal(lambda: backup_targets.fetch(elsewhere, plain, local.backup_id))
    assert "is encrypted, which configs/backup.yaml denies" in error.message


# what is asked for in vain


def test_what_is_not_there_is_said(local: Backup, disk: Target, elsewhere: Workspace, home: Workspace) -> None:
    backup_targets.copy(disk, local)
    assert int(refusal(lambda: backup_targets.fetch(elsewhere, disk, "20260101-000000-dddddd")).exit_code) == 12
    assert int(refusal(lambda: backup_targets.fetch(elsewhere, disk, "../../x")).exit_code) == 12
    assert int(refusal(lambda: backup_targets.fetch(home, disk, local.backup_id)).exit_code) == 15
    assert not [name for name in os.listdir(elsewhere.backups) if not name.startswith(".")]


# all of them


def test_every_required_target_gets_a_copy_and_a_failure_is_told_after_all_were_tried(
    local: Backup, home: Workspace, tmp_path: Path
) -> None:
    for name in ("one", "two", "idle"):
        (tmp_path / name).mkdir()
    gone = {"url": str(tmp_path / "gone"), "required": True}
    one, two = ({"url": str(tmp_path / name), "required": True} for name in ("one", "two"))
    configure(home, one=one, two=two, idle={"url": str(tmp_path / "idle")})
    assert [report["target"] for report in backup_targets.copy_to_all(home, local)] == ["one", "two"]
    assert os.listdir(tmp_path / "idle") == []
    shutil.rmtree(tmp_path / "two" / local.backup_id)
    configure(home, one=one, gone=gone, two=two)
    with pytest.raises(Unavailable, match="was not copied to gone") as caught:
        backup_targets.copy_to_all(home, local)
    assert f"gone: no folder {tmp_path / 'gone'}" in caught.value.detail
    assert caught.value.hint == f"scripts/copy_backup.py --backup-id {local.backup_id} --target gone"
    assert os.listdir(tmp_path / "two") == [local.backup_id]
    assert backup_files.read(home, local.backup_id) == local


def test_without_targets_nothing_is_copied(local: Backup, workspace: Workspace) -> None:
    assert backup_targets.copy_to_all(workspace, local) == []


# the config


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"url": "s3://AKIA:hunter2secret@bucket/x"}, "targets.offsite.url holds a password"),
        (
            {"url": "s3://bucket", "endpoint": "https://user:hunter2secret@host"},
            "targets.offsite.endpoint holds a password",
        ),
        (
            {"url": "s3://bucket", "endpoint": "https://host/?X-Amz-Signature=hunter2secret"},
            "targets.offsite.endpoint holds a password",
        ),
        (
            {"url": "s3://bucket", "endpoint": "https://host/?X-Amz-Credential=hunter2secret"},
            "has credentials in an address",
        ),
        ({"url": "s3://bucket", "secret_access_key": "hunter2secret"}, "targets.offsite.secret_access_key holds a"),
        ({"url": "s3://bucket", "password": "hunter2secret"}, "targets.offsite.password holds a"),
        ({"url": "s3://bucket", "endpoint": "http://store.example.com"}, "would send backups readable"),
        ({"url": "s3://bucket", "endpoint": "store.example.com"}, "is not an http address"),
        ({"url": "s3://Bucket"}, "is not s3://bucket/prefix"),
        ({"url": "s3://bucket/a/../b"}, "is not s3://bucket/prefix"),
        ({"url": "backups"}, "neither s3://bucket/prefix nor an absolute path"),
        ({"url": "ftp://host/x"}, "neither s3://bucket/prefix nor an absolute path"),
        ({"url": "/mnt/x", "region": "eu-central-1"}, "region is for s3:// alone"),
        ({"url": "s3://bucket", "kms_key_id": "alias/x"}, "kms_key_id goes with"),
        ({"url": "s3://bucket", "object_lock": {"mode": "COMPLIANCE"}}, "object_lock.days is missing"),
        ({"url": "s3://bucket", "encryption": "rot13"}, "must be one of"),
    ],
)
def test_a_config_that_is_wrong_or_holds_a_password_is_refused(home: Workspace, target: dict[str, Any], words: str) -> None:
    configure(home, offsite=target)
    with pytest.raises(ConfigInvalid) as caught:
        target_settings.load(home)
    told = f"{caught.value.message} {caught.value.detail} {caught.value.hint}"
    assert words in told
    assert "configs/backup.yaml:" in told
    assert "hunter2secret" not in told


def test_a_target_inside_the_folder_of_backups_is_refused(home: Workspace) -> None:
    configure(home, inside={"url": str(home.backups / "copies")})
    with pytest.raises(ConfigInvalid, match="lies in the folder of the backups themselves"):
        target_settings.load(home)


def test_plain_http_is_for_loopback_and_for_what_is_encrypted_before(home: Workspace) -> None:
    configure(
        home,
        one={"url": "s3://bucket", "endpoint": "http://127.0.0.1:9000"},
        two={"url": "s3://bucket", "endpoint": "http://store.example.com", "encryption": "client"},
    )
    assert list(target_settings.load(home).targets) == ["one", "two"]


def test_which_target_is_asked_where_there_are_several(home: Workspace) -> None:
    configure(home, one={"url": "/mnt/one"}, two={"url": "/mnt/two"})
    settings = target_settings.load(home)
    assert settings.target("two").url == "/mnt/two"
    assert refusal(lambda: settings.target("")).exit_code == 2
    assert refusal(lambda: settings.target("three")).exit_code == 12
    configure(home, one={"url": "/mnt/one"})
    assert target_settings.load(home).target("").name == "one"


def test_the_shipped_config_has_no_target(workspace: Workspace) -> None:
    settings = target_settings.load(workspace)
    assert (settings.targets, settings.keep, settings.older_than.days) == ({}, 7, 30)
    assert refusal(lambda: settings.target("")).exit_code == 12


# the script


def test_the_script_lists_verifies_and_plans(local: Backup, home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    configure(home, disk={"url": str(tmp_path / "disk")})
    one = ("--backup-id", local.backup_id)
    planned = run_script(home, "copy_backup", *one, "--dry-run")
    assert planned.stdout.startswith(f"would send {len(local.manifest['files']) + 1} of"), planned.stderr
    assert os.listdir(tmp_path / "disk") == []
    assert run_script(home, "copy_backup", *one).returncode == 0
    listed = json.loads(run_script(home, "copy_backup", "--list", "--json").stdout)
    assert [(item["backup_id"], item["state"]) for item in listed["copies"]] == [(local.backup_id, "complete")]
    assert "is whole" in run_script(home, "copy_backup", "--verify", *one).stdout
    (tmp_path / "disk" / local.backup_id / "state.json").write_text("{}")
    damaged = run_script(home, "copy_backup", "--verify", *one)
    assert (damaged.returncode, damaged.stderr.splitlines()[0]) == (
        14,
        f"error: backup {local.backup_id}: state.json on disk is damaged",
    )
