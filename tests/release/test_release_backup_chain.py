"""The chain of backups and their signatures: one that is gone, replaced, or not signed as it says is noticed."""

from __future__ import annotations

import json
import shutil

import pytest

from lib.platform import signing
from lib.platform.errors import IntegrityMismatch, NotFound, Refused
from lib.platform.files import write_json
from lib.release import backup, backup_chain, backup_files, backup_listing, backup_signature


@pytest.fixture
def three(live):
    """A live release with three backups, oldest first."""
    made = [backup_files.read(live.workspace, row["backup_id"]) for row in live.ask("SELECT * FROM golive.backups")]
    while len(made) < 3:
        made.append(backup.create(live.workspace, live.connection))
    return made


def breaks(project):
    return backup_listing.chain_breaks(project.workspace, project.connection)


def test_each_backup_names_the_one_before_it(live, three):
    first, second, third = (item.manifest for item in three)
    assert [item["number"] for item in (first, second, third)] == [1, 2, 3]
    assert first["previous"] is None
    assert third["previous"] == {"backup_id": second["backup_id"], "manifest_digest": three[1].manifest_digest}
    assert breaks(live) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_is_gone_is_noticed_unless_it_was_deleted_on_purpose(live, three, place):
    gone = three[place]
    shutil.rmtree(gone.folder)
    assert breaks(live) == [f"{gone.backup_id} was made and is gone, and nobody recorded that it was deleted"]
    with live.connection:
        backup_chain.tombstone(live.connection, gone.backup_id, "no longer needed")
    assert breaks(live) == []
    assert live.ask("SELECT action, subject FROM golive.audit_log ORDER BY seq DESC LIMIT 1") == [
        {"action": "delete backup", "subject": gone.backup_id}
    ]
    with pytest.raises(NotFound), live.connection:
        backup_chain.tombstone(live.connection, gone.backup_id, "again")


def test_one_that_was_replaced_is_noticed(live, three):
    manifest = json.loads((three[1].folder / "manifest.json").read_text())
    write_json(three[1].folder / "manifest.json", {**manifest, "created_by": "somebody@else"})
    assert breaks(live) == [f"{three[1].backup_id} is not the one that was made: its manifest was replaced"]


def test_a_record_that_was_taken_out_of_the_database_is_noticed(live, three):
    live.execute("DELETE FROM golive.backups WHERE backup_id = %s", (three[1].backup_id,))
    assert breaks(live) == [
        f"before {three[2].backup_id} a backup is missing on record",
        f"{three[1].backup_id} is not on record; make backup records it if it follows the last one",
    ]


def test_the_list_says_what_is_broken_and_exits_with_14(live, three, run_script):
    done = run_script("restore_production_state", "--list", "--json")
    assert (done.code, done.json["chain_breaks"], done.json["chain_unchecked"]) == (0, [], None)
    shutil.rmtree(three[0].folder)
    done = run_script("restore_production_state", "--list")
    assert done.code == 14
    assert f"CHAIN BROKEN: {three[0].backup_id} was made and is gone" in done.out


def test_without_a_database_the_list_says_that_the_chain_was_not_checked(live, run_script):
    done = run_script("restore_production_state", "--list", DATABASE_URL="postgresql://nobody@127.0.0.1:1/x")
    assert done.code == 0
    assert "chain not checked: cannot connect to the database" in done.out


@pytest.fixture
def signed(live, monkeypatch):
    """A backup that was made with a signing key, which is trusted."""
    private, public, _ = signing.new_pair("")
    monkeypatch.setenv(signing.SIGNING_KEY, private.decode())
    monkeypatch.setenv(signing.VERIFY_KEY, public.decode())
    return backup.create(live.workspace, live.connection)


def test_a_signature_is_good_as_long_as_the_manifest_is_the_signed_one(live, signed):
    assert backup_signature.check(live.workspace, signed).state == "good"
    backup_files.verify_files(signed)
    manifest = json.loads((signed.folder / "manifest.json").read_text())
    write_json(signed.folder / "manifest.json", {**manifest, "created_by": "somebody@else"})
    changed = backup_files.read(live.workspace, signed.backup_id)
    with pytest.raises(IntegrityMismatch, match="signature of backup"):
        backup_signature.require(live.workspace, changed, required=False)


def test_a_signature_that_was_taken_away_or_is_of_another_key_does_not_hold(live, signed, monkeypatch):
    monkeypatch.setenv(signing.VERIFY_KEY, signing.new_pair("")[1].decode())
    assert backup_signature.check(live.workspace, signed).state == "bad"
    (signed.folder / backup_files.SIGNATURE).unlink()
    assert backup_signature.check(live.workspace, signed).state == "bad"


def test_a_backup_without_a_signature_is_restored_unless_one_is_required(live):
    (made,) = backup_files.every(live.workspace)
    assert "UNSIGNED" in backup_signature.require(live.workspace, made, required=False)
    with pytest.raises(Refused, match="not signed by a trusted key"):
        backup_signature.require(live.workspace, made, required=True)


def test_one_that_was_proven_and_not_recorded_when_its_run_was_killed_is_recorded_by_the_next(live, run_script):
    assert run_script("backup_production_state", GOLIVE_FAILPOINT="backup.register=kill").code == -9
    recorded = {row["backup_id"] for row in live.ask("SELECT backup_id FROM golive.backups")}
    (killed,) = [item for item in backup_files.every(live.workspace) if item.backup_id not in recorded]
    assert breaks(live) == [f"{killed.backup_id} is not on record; make backup records it if it follows the last one"]
    made = backup.create(live.workspace, live.connection)
    assert made.manifest["previous"] == {"backup_id": killed.backup_id, "manifest_digest": killed.manifest_digest}
    assert breaks(live) == []
