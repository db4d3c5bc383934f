"""Verifying a release: all that was really evaluated and signed passes; each thing that is not as it was is named."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.platform import signing
from lib.platform.errors import ExitCode, NotFound
from lib.platform.files import canonical_json, digest_of, pretty_json, read_json, sha256_file, write_json
from lib.platform.workspace import Workspace
from lib.release import assessment, attesting, manifest, verification
from tests.release.evaluated import private_key
from tests.release.staged import Project, files_below

DATABASE_CHECKS = {"release record", "verdict record", "audit chain", "audit entry", "table"}
SIGNATURES = {"manifest signature", "verdict signature"}


def test_everything_of_a_signed_release_passes(evaluated):
    checks = verify(evaluated)
    assert {check.name: check.status for check in checks} == dict.fromkeys(verification.CHECKS, "PASS"), not_passed(checks)
    assert verification.exit_code(checks, allow_unsigned=False) == ExitCode.DONE


def test_a_folder_alone_is_verified_but_for_what_the_database_knows(evaluated, tmp_path):
    moved = tmp_path / "elsewhere" / folder(evaluated).name
    shutil.copytree(folder(evaluated), moved)
    checks = verification.verify(evidence(evaluated, moved, offline=True))
    assert {check.name for check in checks if check.status == "UNCHECKED"} == DATABASE_CHECKS
    assert {check.status for check in checks if check.name not in DATABASE_CHECKS} == {"PASS"}
    assert verification.exit_code(checks, allow_unsigned=True) == ExitCode.UNAVAILABLE


def test_the_cases_that_are_not_there_are_not_checked(evaluated):
    evaluated.workspace.default_cases.unlink()
    assert not_passed(verify(evaluated)) == {"cases": "UNCHECKED"}


def flip(name: str) -> Callable[[Project], None]:
    """Changes one byte near the end of a file, and keeps it readable as what it is where that is possible."""

    def do(project: Project) -> None:
        path = folder(project) / name
        raw = bytearray(path.read_bytes())
        place = max(index for index, byte in enumerate(raw) if chr(byte).isdigit())
        raw[place] = ord("1") if raw[place] != ord("1") else ord("2")
        path.write_bytes(bytes(raw))

    return do


def edit_verdict(project: Project) -> None:
    path = folder(project) / "verdict.json"
    content = read_json(path, "verdict")
    path.write_text(pretty_json({**content, "verdict": "PASS", "reasons": ["it is good"]}))


def swap_evaluation(project: Project) -> None:
    """The baseline's evaluation in the place of the candidate's: whole, of the same cases, and not what was judged."""
    shutil.rmtree(folder(project) / "evaluation")
    shutil.copytree(folder(project) / "baseline", folder(project) / "evaluation")


def other_baseline(project: Project) -> None:
    shutil.rmtree(folder(project) / "baseline")
    shutil.copytree(folder(project) / "evaluation", folder(project) / "baseline")


def manifest_of_another_release(project: Project) -> None:
    path = folder(project) / "manifest.yaml"
    found = manifest.read(path)
    manifest.write(path.parent, {**found, "release_id": "2026-01-02-030405-v1-01234567"}, "yaml")


def touch_manifest(project: Project) -> None:
    path = folder(project) / "manifest.yaml"
    manifest.write(path.parent, {**manifest.read(path), "generated_at": "2031-01-01T00:00:00Z"}, "yaml")


def drop_verdict_signature(project: Project) -> None:
    (folder(project) / "verdict.intoto.json").unlink()


def signature_of_the_other(project: Project) -> None:
    shutil.copy(folder(project) / "manifest.intoto.json", folder(project) / "verdict.intoto.json")


def cut_envelope(project: Project) -> None:
    path = folder(project) / "verdict.intoto.json"
    path.write_bytes(path.read_bytes()[:200])


def other_cases(project: Project) -> None:
    content = read_json(project.workspace.default_cases, "cases")
    content["cases"][0]["query"] += "?"
    write_json(project.workspace.default_cases, content)


def tamper_log(command: str) -> Callable[[Project], None]:
    return lambda project: project.tamper(command, "audit_log")


def change_a_row(project: Project) -> None:
    project.tamper("UPDATE {table} SET bm25_text = bm25_text || ' more'")


def edit_record(project: Project) -> None:
    project.execute("UPDATE golive.verdicts SET gates_digest = repeat('0', 64)")


@pytest.mark.parametrize(
    ("tamper", "failing"),
    [
        (edit_verdict, {"verdict", "verdict signature", "verdict recomputed", "receipts", "verdict record", "audit entry"}),
        (flip("verdict.txt"), {"verdict"}),
        (flip("evaluation/case_results.jsonl"), {"verdict signature", "evaluation", "verdict recomputed"}),
        (swap_evaluation, {"verdict signature", "evaluation"}),
        (other_baseline, {"baseline", "verdict recomputed"}),
        (
            manifest_of_another_release,
            {"manifest", "manifest signature", "manifest of the verdict", "receipts"},
        ),
        (touch_manifest, {"manifest signature"}),
        (drop_verdict_signature, {"verdict signature"}),
        (signature_of_the_other, {"verdict signature", "audit entry"}),
        (cut_envelope, {"verdict signature"}),
        (other_cases, {"cases"}),
        (tamper_log("DELETE FROM golive.audit_log WHERE seq = 2"), {"audit chain"}),
        (
            tamper_log("DELETE FROM golive.audit_log WHERE seq = (SELECT max(seq) FROM golive.audit_log)"),
            {"audit entry"},
        ),
        (change_a_row, {"table"}),
        (edit_record, {"verdict record"}),
    ],
)
def test_what_is_not_as_it_was_fails_by_name_and_nothing_else_does(evaluated, tamper, failing):
    tamper(evaluated)
    checks = verify(evaluated)
    assert not_passed(checks) == dict.fromkeys(failing, "FAIL")
    assert verification.exit_code(checks, allow_unsigned=True) == ExitCode.INTEGRITY


def test_a_log_written_anew_with_a_whole_chain_is_not_what_was_signed(evaluated):
    """Every entry is chained again after the first one was changed: only the signed hash tells."""
    evaluated.tamper(
        "DO $$ DECLARE entry golive.audit_log; last text := ''; BEGIN"
        " FOR entry IN SELECT * FROM golive.audit_log ORDER BY seq LOOP"
        "   IF entry.seq = 1 THEN entry.actor := 'somebody else'; END IF;"
        "   entry.previous_hash := last; entry.hash := golive.audit_hash(entry); last := entry.hash;"
        "   UPDATE golive.audit_log SET actor = entry.actor, previous_hash = entry.previous_hash, hash = entry.hash"
        "     WHERE seq = entry.seq;"
        " END LOOP; END $$"
    )
    checks = verify(evaluated)
    assert not_passed(checks) == {"audit entry": "FAIL"}
    assert "written anew" in next(check.found for check in checks if check.name == "audit entry")


def test_without_signatures_all_digests_are_still_checked_and_unsigned_is_not_a_pass(evaluated):
    unsign(evaluated)
    checks = verify(evaluated)
    assert not_passed(checks) == dict.fromkeys(SIGNATURES, "UNSIGNED")
    assert verification.exit_code(checks, allow_unsigned=False) == ExitCode.UNAVAILABLE
    assert verification.exit_code(checks, allow_unsigned=True) == ExitCode.DONE


def test_without_a_trusted_key_a_signature_is_not_checked(evaluated):
    (evaluated.workspace.configs / "signing" / "release.pub").unlink()
    checks = verify(evaluated)
    assert not_passed(checks) == dict.fromkeys(SIGNATURES, "UNCHECKED")
    assert verification.exit_code(checks, allow_unsigned=True) == ExitCode.UNAVAILABLE


def test_another_key_than_the_trusted_one_fails(evaluated):
    pair = evaluated.workspace.configs / "signing"
    (pair / "release.pub").unlink()
    signing.write_pair(evaluated.workspace.root / "other.pem", pair / "other.pub", "")
    assert {name for name, status in not_passed(verify(evaluated)).items() if status == "FAIL"} == SIGNATURES


def test_no_checks_at_all_are_no_pass():
    assert verification.exit_code([], allow_unsigned=True) == ExitCode.UNAVAILABLE


def test_evidence_that_is_not_there_never_passes(evaluated):
    shutil.rmtree(folder(evaluated))
    checks = verify(evaluated)
    left = {check.name for check in checks if check.status == "PASS"}
    assert left == {"audit chain"}
    assert verification.exit_code(checks, allow_unsigned=True) == ExitCode.UNAVAILABLE


def test_the_signed_statement_names_the_files_and_the_digests_that_matter(evaluated):
    content = read_json(folder(evaluated) / "verdict.json", "verdict")
    payload = base64.b64decode(read_json(folder(evaluated) / "verdict.intoto.json", "envelope")["payload"])
    statement = json.loads(payload)
    assert payload == canonical_json(statement)
    assert statement["predicateType"] == "urn:golive:attestation:verdict:v1"
    assert {item["name"]: item["digest"]["sha256"] for item in statement["subject"]} == {
        name: sha256_file(folder(evaluated) / name)
        for name in ("verdict.json", "evaluation/metrics.json", "evaluation/case_results.jsonl")
    }
    release, predicate = evaluated.release(), statement["predicate"]
    (entry,) = evaluated.ask("SELECT seq, hash FROM golive.audit_log WHERE action = 'verdict'")
    assert predicate == {
        "release_id": release.release_id,
        "verdict": content["verdict"],
        "verdict_digest": digest_of(content),
        "manifest_digest": manifest.evaluated_digest(manifest.read(folder(evaluated) / "manifest.yaml")),
        "gates_digest": digest_of(assessment.load_gates(evaluated.workspace)),
        "metrics_digest": content["metrics_digest"],
        "baseline": evaluated.live_id(),
        "baseline_metrics_digest": content["baseline_metrics_digest"],
        "produced_by": content["produced_by"],
        "config_hash": release.config_hash,
        "content_digest": release.content_digest,
        "coverage_digest": content["inputs"]["coverage_digest"],
        "cases_digest": content["inputs"]["cases_digest"],
        "settings_digest": content["inputs"]["settings_digest"],
        "code_digest": content["inputs"]["code_digest"],
        "audit_log": {"seq": entry["seq"], "hash": entry["hash"]},
    }


def test_the_private_key_stands_in_no_file_of_the_evidence(evaluated, server, tmp_path_factory):
    key = private_key(server, tmp_path_factory)
    secret = [line for line in key.read_text().splitlines() if "-----" not in line]
    assert secret
    for name, content in files_below(evaluated.workspace.root).items():
        assert not any(line.encode() in content for line in secret), name


def test_a_bundle_holds_the_envelopes_as_they_stand(evaluated):
    bundle, signed = verification.export(evidence(evaluated))
    lines = bundle.decode().splitlines()
    assert signed
    assert [json.loads(line) for line in lines] == [
        read_json(folder(evaluated) / f"{name}.intoto.json", "envelope") for name in ("manifest", "verdict")
    ]


def test_without_signatures_a_bundle_holds_the_statements_that_would_have_been_signed(evaluated):
    payloads = [
        json.loads(base64.b64decode(read_json(folder(evaluated) / f"{name}.intoto.json", "envelope")["payload"]))
        for name in ("manifest", "verdict")
    ]
    for name in ("manifest", "verdict"):
        (folder(evaluated) / f"{name}.intoto.json").unlink()
    bundle, signed = verification.export(evidence(evaluated))
    assert not signed
    assert [json.loads(line) for line in bundle.decode().splitlines()] == payloads


def test_without_a_verdict_there_is_nothing_to_export(evaluated):
    (folder(evaluated) / "verdict.json").unlink()
    with pytest.raises(NotFound):
        verification.export(evidence(evaluated))


def test_the_script_prints_a_table_and_exports(evaluated, run_script, tmp_path):
    release_id = evaluated.release().release_id
    target = tmp_path / "release.intoto.jsonl"
    done = run_script("verify_release", release_id, "--export", str(target))
    assert done.code == 0, done.out + done.err
    assert done.out.splitlines()[0].split() == ["check", "result", "found"]
    assert "15 PASS" in done.out
    assert len(target.read_text().splitlines()) == 2
    edit_verdict(evaluated)
    found = run_script("verify_release", release_id, "--offline", "--json")
    assert found.code == 14
    assert (found.json["FAIL"], found.json["UNCHECKED"]) == (4, 5)


def test_the_script_says_which_checks_no_database_let_it_make(evaluated, run_script):
    done = run_script("verify_release", evaluated.release().release_id, DATABASE_URL="postgresql://x@127.0.0.1:1/x")
    assert done.code == 13
    assert "no database" in done.out
    assert "10 PASS, 5 could not check" in done.out


def folder(project: Project) -> Path:
    return project.workspace.evidence(project.release().release_id)


def evidence(project: Project, where: Path | None = None, *, offline: bool = False) -> verification.Evidence:
    workspace: Workspace = project.workspace
    return verification.Evidence(
        project.release().release_id,
        where or folder(project),
        workspace.root,
        attesting.trusted(workspace),
        None if offline else project.connection,
    )


def verify(project: Project) -> list[verification.Check]:
    return verification.verify(evidence(project))


def not_passed(checks: list[verification.Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks if check.status != "PASS"}


def unsign(project: Project) -> None:
    """As an assessment without a key would have left it, in files and in the database."""
    path = folder(project) / "verdict.json"
    content = {**read_json(path, "verdict"), "signed_by": None}
    write_json(path, content)
    (path.parent / "verdict.txt").write_text(assessment.verdict_text(content) + "\n")
    assessment.record(project.connection, project.release(), content)
    for name in ("manifest", "verdict"):
        (path.parent / f"{name}.intoto.json").unlink()
