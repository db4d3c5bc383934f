"""Heads of the audit log: whatever is done to a log, by whomever, is found by who kept its head."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib.platform import audit, postgres, signing
from lib.platform.errors import ExitCode, IntegrityMismatch
from lib.release import audit_heads, promotion
from tests.release.staged import Project

HERE = "7000000000000000000/5"
_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
_FIELDS = ("seq", "at", "actor", "action", "subject", "reason", "from_digest", "to_digest", "previous_hash", "hash", "role")


def chained(told: list[tuple[str, str | None, str | None]], first: int = 1, previous: str = "") -> list[audit.Entry]:
    """Entries that follow from one another; each is told as subject, digest and role."""
    entries = []
    for seq, (subject, digest, role) in enumerate(told, first):
        at = f"2026-01-02T03:04:{seq % 60:02}.000001"
        entry = audit.Entry(seq, at, "me@here", "stop", subject, "why", None, digest, previous, "", role)
        entries.append(replace(entry, hash=audit.hash_of(entry)))
        previous = entries[-1].hash
    return entries


def head_of(entries: list[audit.Entry], state: str = "good", database: str = HERE) -> audit_heads.Found:
    last = entries[-1]
    return audit_heads.Found("kept", audit.Head(last.seq, last.hash, last.at, len(entries), database), state, "signed")


def verdict(entries: list[audit.Entry], *heads: audit_heads.Found, keys_trusted: bool = True) -> str:
    return audit_heads.judge(entries, HERE, heads, keys_trusted=keys_trusted).verdict


LOGS = st.lists(st.tuples(_TEXT, st.none() | _TEXT, st.none() | _TEXT), min_size=2, max_size=6).map(chained)


@given(LOGS, st.data())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_any_single_change_of_a_log_is_found(log: list[audit.Entry], data: st.DataObject) -> None:
    head = head_of(log)
    assert verdict(log, head) == "PASS"
    changed = data.draw(st.sampled_from([_edited, _removed, _swapped, _inserted, _cut]))(log, data)
    assume(changed != log)
    assert verdict(changed, head) == "FAIL"


@given(LOGS, st.data())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_a_log_whose_hashes_were_all_computed_anew_is_found(log: list[audit.Entry], data: st.DataObject) -> None:
    changed = data.draw(st.sampled_from([_edited, _removed, _swapped, _inserted, _cut]))(log, data)
    anew = chained([(entry.subject, entry.to_digest, entry.role) for entry in changed])
    assume(anew[: len(log)] != log)  # else it has only grown
    assert list(audit.find_faults(anew)) == []
    assert verdict(anew, head_of(log)) == "FAIL"


@given(LOGS, LOGS)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_a_log_that_went_on_is_whole_and_what_has_no_head_yet_is_told(
    log: list[audit.Entry], more: list[audit.Entry]
) -> None:
    longer = log + chained([(e.subject, e.to_digest, e.role) for e in more], len(log) + 1, log[-1].hash)
    report = audit_heads.judge(longer, HERE, [head_of(log)], keys_trusted=True)
    assert (report.verdict, report.entries, report.covered) == ("PASS", len(longer), len(log))
    assert f"the last {len(more)} have no head yet" in report.to_text()


def test_without_a_head_that_counts_nothing_is_passed() -> None:
    log = chained([("a", None, "ann"), ("b", None, "ann")])
    assert verdict(log) == "INCONCLUSIVE"
    assert verdict(log, head_of(log, database="another/1")) == "INCONCLUSIVE"
    assert verdict(log, head_of(log, "unsigned"), keys_trusted=True) == "INCONCLUSIVE"
    assert verdict(log, head_of(log, "unsigned"), keys_trusted=False) == "PASS"
    assert verdict(log, head_of(log, "unchecked"), keys_trusted=False) == "PASS"
    assert verdict([], keys_trusted=False) == "INCONCLUSIVE"
    assert "cannot be said" in audit_heads.judge(log, HERE, [], keys_trusted=False).to_text()


def test_a_head_that_does_not_hold_is_wrong_whoever_signed_it() -> None:
    log = chained([("a", None, None), ("b", None, None)])
    for state in ("good", "unsigned", "unchecked"):
        assert verdict(log[:1], head_of(log, state)) == "FAIL"
    assert verdict(log, audit_heads.Found("kept", None, "bad", "key 12 did not sign this"), head_of(log)) == "FAIL"


# on a real log


def test_a_promotion_exports_the_head_signed_and_the_script_holds_the_log_against_it(
    ready: Project, run_script: Callable[..., Any], key: Path
) -> None:
    assert run_script("verify_audit_log", "--json").json["verdict"] == "INCONCLUSIVE"
    release_id = promotion.promote_active(ready.workspace).release_id
    folder = ready.workspace.evidence(release_id)
    (last,) = ready.ask("SELECT seq, hash, action FROM golive.audit_log ORDER BY seq DESC LIMIT 1")
    content = json.loads((folder / "audit_head.json").read_text())
    assert (content["seq"], content["hash"], content["entries"]) == (last["seq"], last["hash"], last["seq"])
    assert last["action"] == "move pointer"
    found = run_script("verify_audit_log", "--json")
    assert (found.code, found.json["verdict"], found.json["covered"]) == (0, "PASS", last["seq"]), found.err
    assert [head["state"] for head in found.json["heads"]] == ["good"]
    ready.tamper("DELETE FROM golive.audit_log WHERE action = 'move pointer'", "documents")
    cut = run_script("verify_audit_log")
    assert (cut.code, "is gone: the log was cut off" in cut.out) == (int(ExitCode.INTEGRITY), True)
    with pytest.raises(IntegrityMismatch, match="is not the one whose head was exported"):
        audit_heads.export(ready.workspace, ready.connection, release_id)
    assert json.loads((folder / "audit_head.json").read_text()) == content


def test_heads_that_are_kept_elsewhere_are_looked_at(live: Project, run_script: Callable[..., Any], tmp_path: Path) -> None:
    release_id = str(live.live_id())
    audit_heads.export(live.workspace, live.connection, release_id)
    kept = tmp_path / "kept"
    kept.mkdir()
    (live.workspace.evidence(release_id) / audit_heads.NAME).rename(kept / audit_heads.NAME)
    assert run_script("verify_audit_log").code == int(ExitCode.INCONCLUSIVE)
    found = run_script("verify_audit_log", "--heads", str(kept))
    assert (found.code, "UNSIGNED" in found.out) == (0, True), found.err
    assert run_script("verify_audit_log", "--heads", str(tmp_path / "nowhere")).code == int(ExitCode.NOT_FOUND)


def test_a_head_that_was_altered_or_whose_signature_was_taken_away_is_wrong(live: Project, key: Path) -> None:
    audit_heads.export(live.workspace, live.connection, str(live.live_id()))
    folder = live.workspace.evidence(str(live.live_id()))
    plain, envelope = folder / "audit_head.json", folder / "audit_head.intoto.json"
    assert _verify(live).verdict == "PASS"
    content = json.loads(plain.read_text())
    plain.write_text(json.dumps({**content, "seq": content["seq"] - 1}))
    assert _verify(live).verdict == "FAIL"
    plain.write_text(json.dumps(content))
    kept = envelope.read_bytes()
    envelope.unlink()
    assert _verify(live).verdict == "FAIL"
    for damaged in (b"", b"{}", kept.replace(b'"payload": "', b'"payload": "A'), b"[" * 5):
        assert damaged != kept
        envelope.write_bytes(damaged)
        assert _verify(live).verdict == "FAIL", damaged
    envelope.write_bytes(kept)
    for damaged in ("", "[]", '{"seq": "x"}'):
        plain.write_text(damaged)
        assert _verify(live).verdict == "FAIL", damaged
    plain.unlink()
    assert _verify(live).verdict == "PASS"


def test_a_head_signed_by_a_stranger_proves_nothing(live: Project, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signing.write_pair(live.workspace.root / "stranger.key", live.workspace.root / "stranger.pub", "")
    monkeypatch.setenv("GOLIVE_SIGNING_KEY_FILE", str(live.workspace.root / "stranger.key"))
    audit_heads.export(live.workspace, live.connection, str(live.live_id()))
    found = _verify(live)
    assert (found.verdict, "is not trusted" in found.to_text()) == ("FAIL", True)


def test_a_log_that_somebody_with_all_rights_wrote_anew_is_found(live: Project, key: Path) -> None:
    audit_heads.export(live.workspace, live.connection, str(live.live_id()))
    live.execute("ALTER TABLE golive.audit_log DISABLE TRIGGER ALL")
    live.execute("UPDATE golive.audit_log SET reason = 'nicer' WHERE seq = 1")
    for entry in live.ask("SELECT seq FROM golive.audit_log ORDER BY seq"):
        live.execute(
            "UPDATE golive.audit_log SET previous_hash ="
            " coalesce((SELECT hash FROM golive.audit_log WHERE seq = %(seq)s - 1), '') WHERE seq = %(seq)s",
            entry,
        )
        live.execute("UPDATE golive.audit_log l SET hash = golive.audit_hash(l) WHERE seq = %(seq)s", entry)
    with live.connection:
        assert audit.first_break(live.connection) is None
    found = _verify(live)
    assert (found.verdict, "was written anew" in found.to_text()) == ("FAIL", True)


def test_functions_that_were_replaced_in_the_database_hide_nothing(live: Project) -> None:
    live.tamper("UPDATE golive.audit_log SET reason = 'nicer' WHERE seq = 1", "documents")
    live.execute(
        "CREATE OR REPLACE FUNCTION golive.audit_break() RETURNS bigint LANGUAGE sql AS 'SELECT NULL::bigint';"
        "CREATE OR REPLACE FUNCTION golive.audit_hash(entry golive.audit_log) RETURNS text LANGUAGE sql"
        " AS 'SELECT entry.hash'"
    )
    assert _verify(live).faults == ["entry 1: it is not what was written: its hash differs"]


@pytest.fixture
def key(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signing key that the environment names, and that is trusted here."""
    private = workspace.root / "signing.key"
    signing.write_pair(private, workspace.configs / "signing" / "release.pub", "")
    monkeypatch.setenv("GOLIVE_SIGNING_KEY_FILE", str(private))
    return Path(private)


def _verify(project: Project) -> audit_heads.Report:
    from lib.release import attesting

    heads = audit_heads.collect(project.workspace, [project.workspace.root / "metrics"])
    trusted = bool(attesting.trusted(project.workspace))
    with postgres.database(project.workspace, "test") as connection:
        return audit_heads.verify(connection, heads, keys_trusted=trusted)


def _edited(log: list[audit.Entry], data: st.DataObject) -> list[audit.Entry]:
    place = data.draw(st.integers(0, len(log) - 1))
    field = data.draw(st.sampled_from(_FIELDS))
    value = data.draw(
        st.integers(0, 9) if field == "seq" else _TEXT if field in _FIELDS[1:6] + _FIELDS[8:10] else st.none() | _TEXT
    )
    return [replace(entry, **{field: value}) if at == place else entry for at, entry in enumerate(log)]


def _removed(log: list[audit.Entry], data: st.DataObject) -> list[audit.Entry]:
    place = data.draw(st.integers(0, len(log) - 1))
    return log[:place] + log[place + 1 :]


def _swapped(log: list[audit.Entry], data: st.DataObject) -> list[audit.Entry]:
    """Two entries in each other's place, under the numbers of the places: they are read in the order of their numbers."""
    one, other = sorted(data.draw(st.lists(st.integers(0, len(log) - 1), min_size=2, max_size=2, unique=True)))
    made = list(log)
    made[one], made[other] = replace(log[other], seq=log[one].seq), replace(log[one], seq=log[other].seq)
    return made


def _inserted(log: list[audit.Entry], data: st.DataObject) -> list[audit.Entry]:
    """An entry that follows from the one before it, with all later ones renumbered."""
    place = data.draw(st.integers(0, len(log) - 1))
    previous = log[place - 1].hash if place else ""
    (new,) = chained([(data.draw(_TEXT), None, None)], place + 1, previous)
    return [*log[:place], new, *(replace(entry, seq=entry.seq + 1) for entry in log[place:])]


def _cut(log: list[audit.Entry], data: st.DataObject) -> list[audit.Entry]:
    return log[: data.draw(st.integers(0, len(log) - 1))]
