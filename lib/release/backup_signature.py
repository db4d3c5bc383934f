"""Who vouches for a backup: the in-toto attestation beside its manifest, which names that by its SHA-256."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib.platform import signing
from lib.platform.errors import IntegrityMismatch, Refused
from lib.platform.files import write_json
from lib.platform.workspace import Workspace
from lib.release import attesting
from lib.release.backup_files import MANIFEST, SIGNATURE, Backup

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

TYPE = "urn:golive:attestation:backup:v1"
_NAMED = ("backup_id", "number", "previous", "identity")


def sign(made: Backup, key: CryptoSigner | None) -> None:
    """Writes the signature beside the manifest, where there is a key."""
    if key:
        files = {MANIFEST: made.manifest_digest}
        write_json(made.folder / SIGNATURE, signing.sign(signing.statement(files, TYPE, _predicate(made.manifest)), key))


def check(workspace: Workspace, backup: Backup) -> signing.Signature:
    """The state of a backup's signature; ``bad`` too where it was taken away or is about something else."""
    found = signing.check(backup.folder / SIGNATURE, attesting.trusted(workspace))
    named = backup.manifest.get("signed_by")
    if found.state == "unsigned" and named:
        return signing.Signature(
            "bad", f"its manifest says that key {str(named)[:12]} signed it, and the signature is gone"
        )
    if found.statement is not None:
        try:
            attesting.require_statement(found.statement, TYPE, MANIFEST, _predicate(backup.manifest))
            attesting.require_files(found.statement, backup.folder)
        except IntegrityMismatch as error:
            return signing.Signature("bad", error.message, found.keyid)
    return found


def require(workspace: Workspace, backup: Backup, *, required: bool) -> str:
    """One line about a signature that is good enough for a restore.

    Raises:
        IntegrityMismatch: it does not hold. Refused: it is missing or cannot be checked, and ``required``.
    """
    found = check(workspace, backup)
    if found.state == "bad":
        raise IntegrityMismatch(
            f"the signature of backup {backup.backup_id} does not hold",
            detail=found.found,
            hint="take another one: make backups",
        )
    if required and found.state != "good":
        raise Refused(
            f"backup {backup.backup_id} is not signed by a trusted key, and configs/checklist.yaml requires that",
            detail=found.found,
            hint="take another one (make backups), or name the key: GOLIVE_VERIFY_KEY_FILE",
        )
    return attesting.state_line(found)


def _predicate(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in _NAMED}
