"""Signatures where they decide: what a promotion asks of a verdict's, and which step is done again for a new key."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.evaluation import settings
from lib.platform import signing
from lib.platform.errors import ConfigInvalid, Refused
from lib.platform.files import read_json, write_json
from lib.release import assessment, attesting, promotion, steps
from tests.release.staged import Project, files_below, record_verdict, write_checklist


@pytest.fixture
def key(ready: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key that signs now and is trusted."""
    private = ready.workspace.root / "release.pem"
    signing.write_pair(private, ready.workspace.configs / "signing" / "release.pub", "")
    monkeypatch.setenv(signing.SIGNING_KEY_FILE, str(private))
    return private


def require_signature(project: Project) -> None:
    path = project.workspace.configs / "checklist.yaml"
    text = path.read_text()
    assert "require_signature: false" in text
    path.write_text(text.replace("require_signature: false", "require_signature: true"))


def sign(project: Project) -> None:
    """As an assessment does: the verdict names the key, then is recorded, then signed."""
    path, signer = verdict_path(project), attesting.signer()
    content = {**read_json(path, "verdict"), "signed_by": attesting.keyid(signer)}
    write_json(path, content)
    record_verdict(project, content)
    attesting.sign_verdict(project.connection, path.parent, content, signer)


def test_an_unsigned_verdict_goes_live_unless_a_signature_is_required(ready):
    condition = signature_of(ready)
    assert condition.holds
    assert condition.found.startswith("UNSIGNED: no signing key")
    require_signature(ready)
    write_checklist(ready)
    with pytest.raises(Refused, match="signature: UNSIGNED"):
        promotion.promote(ready.workspace, ready.connection)
    assert ready.live_id() is None


def test_a_signed_verdict_goes_live_where_a_signature_is_required(ready, key):
    require_signature(ready)
    sign(ready)
    write_checklist(ready)
    done = promotion.promote(ready.workspace, ready.connection)
    assert done.applied
    assert "signed by key" in next(item.found for item in done.conditions if item.name == "signature")


def unlink_envelope(project: Project) -> None:
    attesting.envelope_of(verdict_path(project)).unlink()


def truncate_envelope(project: Project) -> None:
    path = attesting.envelope_of(verdict_path(project))
    path.write_bytes(path.read_bytes()[:100])


def stranger(project: Project) -> None:
    signing.write_pair(project.workspace.root / "other.pem", project.workspace.root / "other.pub", "")
    other = signing.load_signer({signing.SIGNING_KEY_FILE: str(project.workspace.root / "other.pem")})
    path = verdict_path(project)
    attesting.sign_verdict(project.connection, path.parent, read_json(path, "verdict"), other)


def swap_evaluation(project: Project) -> None:
    path = verdict_path(project).parent / "evaluation" / "metrics.json"
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("tamper", [unlink_envelope, truncate_envelope, stranger, swap_evaluation])
@pytest.mark.parametrize("required", [True, False])
def test_a_bad_signature_never_goes_live(ready, key, tamper, required):
    if required:
        require_signature(ready)
    sign(ready)
    assert signature_of(ready).holds
    tamper(ready)
    assert not signature_of(ready).holds


@pytest.mark.parametrize("required", [True, False])
def test_a_signature_that_nobody_here_can_check_is_not_enough_where_one_is_required(ready, key, required):
    if required:
        require_signature(ready)
    sign(ready)
    (ready.workspace.configs / "signing" / "release.pub").unlink()
    condition = signature_of(ready)
    assert condition.holds is not required
    assert "could not be checked: no key is trusted here" in condition.found


def test_trusted_keys_that_cannot_be_read_hold_a_promotion_back(ready, key):
    sign(ready)
    (ready.workspace.configs / "signing" / "broken.pub").write_text("nothing")
    condition = signature_of(ready)
    assert not condition.holds
    assert "broken.pub is no Ed25519 public key" in condition.found


def test_a_step_is_done_again_for_a_key_that_did_not_sign_and_not_for_none(ready, key, monkeypatch):
    context = steps.Context(
        ready.workspace, ready.connection, ready.release(), steps.Options(None, "", ready.workspace.default_cases, False)
    )
    holds = {step.name: step.holds for step in steps.STEPS}
    held = Holds(holds["manifest"], holds["evaluate"])
    assert held(context) == (False, False)
    monkeypatch.delenv(signing.SIGNING_KEY_FILE)
    assert held(context) == (True, True)
    monkeypatch.setenv(signing.SIGNING_KEY_FILE, str(key))
    path = verdict_path(ready).parent / "manifest.yaml"
    attesting.sign_manifest(path, read_manifest(path), attesting.signer())
    sign(ready)
    assert held(context) == (True, True)


class Holds:
    """Whether the manifest's and the evaluation's steps hold."""

    def __init__(self, *holds: Callable[[steps.Context], bool] | None) -> None:
        self.holds = holds

    def __call__(self, context: steps.Context) -> tuple[bool, ...]:
        return tuple(bool(holds and holds(context)) for holds in self.holds)


def test_a_key_that_cannot_be_read_stops_an_assessment_before_its_work(ready, key):
    key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    shutil.rmtree(verdict_path(ready).parent / "evaluation")
    files = files_below(ready.workspace.root)
    with pytest.raises(ConfigInvalid, match="is no Ed25519 key"):
        assessment.assess(
            ready.workspace,
            ready.connection,
            cases_path=ready.workspace.default_cases,
            settings=settings.load(ready.workspace),
        )
    assert files_below(ready.workspace.root) == files


def test_the_script_makes_a_key_once_and_lists_it(workspace, run_script, tmp_path):
    private = tmp_path / "keys" / "release.pem"
    planned = run_script("signing_keys", "--new", str(private), "--dry-run")
    assert (planned.code, private.exists()) == (0, False)
    made = run_script("signing_keys", "--new", str(private), "--json", GOLIVE_SIGNING_KEY_PASSPHRASE="correct horse")
    assert (made.code, made.json["public"]) == (0, "configs/signing/release.pub"), made.err
    assert "PRIVATE KEY" not in made.out + made.err
    listed = run_script("signing_keys", "--json")
    assert listed.json == {"trusted": [made.json["keyid"]], "signs_with": None}
    before = private.read_bytes()
    for flags in ([], ["--dry-run"]):
        assert run_script("signing_keys", "--new", str(private), *flags).code == 15
    assert private.read_bytes() == before


def verdict_path(project: Project) -> Path:
    return project.workspace.evidence(project.release().release_id) / "verdict.json"


def signature_of(project: Project) -> promotion.Condition:
    found = promotion.promote(project.workspace, project.connection, dry_run=True)
    (condition,) = [item for item in found.conditions if item.name == "signature"]
    return condition


def read_manifest(path: Path):
    from lib.release import manifest

    return manifest.read(path)
