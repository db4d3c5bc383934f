"""Who vouches for a manifest or a verdict: the in-toto attestations beside them, and what they prove.

``manifest.intoto.json`` and ``verdict.intoto.json`` are DSSE envelopes. Their Statements name the files with their SHA-256
and, as the predicate, the digests that matter; the verdict's also names its entry in the audit log, so that a log cut off
or written anew is noticed. Without a signing key there is no envelope, and that is said loudly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection as Connection

from lib.platform import audit, signing
from lib.platform.errors import GoliveError, IntegrityMismatch
from lib.platform.files import digest_of, read_json, sha256_file, write_json
from lib.platform.workspace import Workspace
from lib.release import manifest

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

MANIFEST_TYPE = "urn:golive:attestation:manifest:v1"
VERDICT_TYPE = "urn:golive:attestation:verdict:v1"
EVALUATION_FILES = ("evaluation/metrics.json", "evaluation/case_results.jsonl")
_UNSIGNED = f"UNSIGNED: no signing key ({signing.SIGNING_KEY_FILE} or {signing.SIGNING_KEY}): nothing proves who made this"


def signer() -> CryptoSigner | None:
    """The signing key that the environment names; raises as ``signing.load_signer``."""
    return signing.load_signer(os.environ)


def keyid(key: CryptoSigner | None) -> str | None:
    return key.public_key.keyid if key else None


def trusted(workspace: Workspace) -> dict[str, SSlibKey]:
    """The keys that signatures are held against; raises as ``signing.trusted_keys``."""
    return signing.trusted_keys(workspace.configs / "signing", os.environ)


def signed_line(key: str | None) -> str:
    """One line for people: which key signed, or that none did."""
    return f"signed by key {key[:12]}" if key else _UNSIGNED


def envelope_of(path: Path) -> Path:
    """Where the attestation of a manifest or a verdict stands: beside it."""
    return path.with_suffix(".intoto.json")


def manifest_digest(workspace: Workspace, release_id: str) -> str | None:
    """The digest of the manifest among a release's evidence, as a verdict names it; None where none can be read."""
    path = manifest.find(workspace, release_id)
    try:
        return manifest.evaluated_digest(manifest.read(path)) if path else None
    except GoliveError:
        return None


def manifest_predicate(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "release_id": found["release_id"],
        "manifest_digest": manifest.evaluated_digest(dict(found)),
        "config_hash": found["config_hash"],
        "content_digest": found["index"]["content_digest"],
        "cases_digest": found["cases"]["digest"],
        "corpus_digest": found["corpus"]["digest"],
        "gates_digest": found["thresholds"]["digest"],
        "code_digest": found["code"]["digest"],
        "generated_at": found["generated_at"],
    }


def verdict_predicate(content: Mapping[str, Any], entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """Args: entry: ``{seq, hash}`` of the verdict's entry in the audit log."""
    inputs = content["inputs"]
    digests = ("config_hash", "content_digest", "coverage_digest", "cases_digest", "settings_digest", "code_digest")
    return {
        "release_id": content["release_id"],
        "verdict": content["verdict"],
        "verdict_digest": digest_of(content),
        "manifest_digest": content.get("manifest_digest"),
        "gates_digest": content["gates_digest"],
        "metrics_digest": content["metrics_digest"],
        "baseline": content["baseline_release"],
        "baseline_metrics_digest": content.get("baseline_metrics_digest"),
        "produced_by": content["produced_by"],
        **{name: inputs.get(name) for name in digests},
        "audit_log": dict(entry) if entry else None,
    }


def manifest_statement(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    return signing.statement({path.name: sha256_file(path)}, MANIFEST_TYPE, manifest_predicate(found))


def verdict_statement(folder: Path, content: Mapping[str, Any], entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """About ``verdict.json`` and the files of the evaluation that it judges."""
    files = {name: sha256_file(folder / name) for name in ("verdict.json", *EVALUATION_FILES)}
    return signing.statement(files, VERDICT_TYPE, verdict_predicate(content, entry))


def sign_manifest(path: Path, found: Mapping[str, Any], key: CryptoSigner | None) -> None:
    """Writes the manifest's envelope; without a key, takes away what was signed for an earlier one."""
    envelope_of(path).unlink(missing_ok=True)
    if key:
        write_json(envelope_of(path), signing.sign(manifest_statement(path, found), key))


def sign_verdict(connection: Connection | None, folder: Path, content: Mapping[str, Any], key: CryptoSigner | None) -> None:
    """As ``sign_manifest``, for a verdict that stands in the audit log; without a connection, for one that does not."""
    path = folder / "verdict.json"
    envelope_of(path).unlink(missing_ok=True)
    if key:
        entry = None
        if connection is not None:
            with connection:
                entry = audit.find(connection, "verdict", content["release_id"], digest_of(content))
        write_json(envelope_of(path), signing.sign(verdict_statement(folder, content, entry), key))


def signature_of_verdict(workspace: Workspace, folder: Path) -> signing.Signature:
    """The signature of the verdict in a folder, for people. One that is about something else, or that was taken away, is
    ``bad``; where no key can be read to hold it against, it is ``unchecked``.
    """
    try:
        found = signing.check(envelope_of(folder / "verdict.json"), trusted(workspace))
        if found.statement is not None:
            require_files(found.statement, folder)  # first: what is as it was signed is a whole verdict
            require_verdict(found.statement, folder, read_json(folder / "verdict.json", "verdict"))
    except IntegrityMismatch as error:
        return signing.Signature("bad", error.message)
    except GoliveError as error:
        return signing.Signature("unchecked", error.message)
    if found.state == "unsigned" and (key := _said_to_sign(folder)):
        return signing.Signature("bad", f"the verdict says that key {key[:12]} signed it, but {found.found}", key)
    return found


def _said_to_sign(folder: Path) -> str | None:
    """The key that a verdict names; None where it names none, or cannot be read."""
    try:
        content = read_json(folder / "verdict.json", "verdict")
    except GoliveError:
        return None
    key = content.get("signed_by") if isinstance(content, dict) else None
    return str(key) if key else None


def unsigned_by(path: Path, key: CryptoSigner | None) -> bool:
    """Whether there is a signing key now, and it is not the one whose envelope stands beside ``path``."""
    if key is None:
        return False
    return signing.check(envelope_of(path), {key.public_key.keyid: key.public_key}).state != "good"


def require_files(statement: Mapping[str, Any], folder: Path) -> None:
    """Raises IntegrityMismatch where a file that a Statement names is not as it was signed."""
    for subject in statement["subject"]:
        path = folder / subject["name"]
        if not path.is_file():
            raise IntegrityMismatch(f"{subject['name']} was signed and is not there")
        if sha256_file(path) != subject["digest"]["sha256"]:
            raise IntegrityMismatch(f"{subject['name']} is not as it was signed")


def require_statement(statement: Mapping[str, Any], predicate_type: str, subject: str, expected: Mapping[str, Any]) -> None:
    """Raises IntegrityMismatch where a Statement is of another kind, about another file, or names other digests."""
    if statement["predicateType"] != predicate_type:
        raise IntegrityMismatch(f"it attests {statement['predicateType']}, not {predicate_type}")
    if subject not in [item["name"] for item in statement["subject"]]:
        raise IntegrityMismatch(f"it says nothing of {subject}")
    found = statement["predicate"]
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise IntegrityMismatch(f"it was signed for another {', '.join(differing)}")


def require_manifest(statement: Mapping[str, Any], path: Path, found: Mapping[str, Any]) -> None:
    """Raises IntegrityMismatch unless the Statement is about this manifest."""
    require_statement(statement, MANIFEST_TYPE, path.name, manifest_predicate(found))
    require_files(statement, path.parent)


def require_verdict(statement: Mapping[str, Any], folder: Path, content: Mapping[str, Any]) -> None:
    """Raises IntegrityMismatch unless the Statement is about this verdict and its evaluation."""
    expected = {name: value for name, value in verdict_predicate(content, None).items() if name != "audit_log"}
    require_statement(statement, VERDICT_TYPE, "verdict.json", expected)
    require_files(statement, folder)


def check_manifest(workspace: Workspace, path: Path, found: Mapping[str, Any]) -> signing.Signature:
    """The state of a manifest's signature.

    Raises:
        IntegrityMismatch: it is bad, or was made for something else.
    """
    signature = signing.check(envelope_of(path), trusted(workspace))
    if signature.state == "bad":
        raise IntegrityMismatch(f"the signature of {workspace.show(path)} does not hold", detail=signature.found)
    if signature.statement is not None:
        require_manifest(signature.statement, path, found)
    return signature


def state_line(signature: signing.Signature) -> str:
    """One line for people about a signature that is not bad."""
    if signature.state == "unsigned":
        return f"UNSIGNED: {signature.found}: nothing proves who made this"
    if signature.state == "unchecked":
        return f"SIGNATURE NOT CHECKED: by key {str(signature.keyid)[:12]}, but {signature.found}"
    return signature.found


def judge_signature(workspace: Workspace, release_id: str, *, required: bool) -> tuple[bool, str]:
    """Whether a verdict's signature is good enough for a promotion, and what was found.

    A signature that is bad, or was taken away, is never good enough. One that is missing or that nobody here can check is,
    unless signatures are required.
    """
    folder = workspace.evidence(release_id)
    content = read_json(folder / "verdict.json", "verdict")
    found = signing.check(envelope_of(folder / "verdict.json"), trusted(workspace))
    if found.state == "unsigned":
        if content.get("signed_by"):
            return False, f"the verdict says that key {str(content['signed_by'])[:12]} signed it, but {found.found}"
        return not required, _UNSIGNED + (", and configs/checklist.yaml requires a signature" if required else "")
    if found.state == "bad" or found.statement is None:
        return False, found.found
    require_verdict(found.statement, folder, content)
    if found.state == "unchecked":
        return not required, f"signed by key {str(found.keyid)[:12]}, which could not be checked: {found.found}"
    return True, found.found
