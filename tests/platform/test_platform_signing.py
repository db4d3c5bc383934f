"""Signatures: what signs, what is trusted, and what an envelope proves; the private key is shown nowhere."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.platform import errors, signing
from lib.platform.errors import ConfigInvalid, NotFound, Refused
from lib.platform.files import write_json

# RFC 8032, section 7.1, test 1
RFC_SECRET = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
RFC_PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
SEED = base64.b64encode(bytes.fromhex(RFC_SECRET)).decode()
STATEMENT = signing.statement({"verdict.json": "0" * 64}, "urn:test:v1", {"verdict": "PASS"})


@pytest.fixture
def key() -> Any:
    return signing.load_signer({signing.SIGNING_KEY: SEED})


@pytest.fixture
def keys(key: Any) -> dict[str, Any]:
    return {key.public_key.keyid: key.public_key}


@pytest.fixture
def envelope(tmp_path: Path, key: Any) -> Path:
    path = tmp_path / "verdict.intoto.json"
    write_json(path, signing.sign(STATEMENT, key))
    return path


def test_the_key_of_the_rfc_has_the_public_key_and_the_id_of_its_bytes(key):
    assert key.public_key.keyval["public"] == RFC_PUBLIC
    assert key.public_key.keyid == hashlib.sha256(bytes.fromhex(RFC_PUBLIC)).hexdigest()


def test_the_signature_is_ed25519_over_the_pre_authentication_encoding_of_dsse(key):
    found = signing.sign(STATEMENT, key)
    payload = base64.b64decode(found["payload"])
    kind = b"application/vnd.in-toto+json"
    signed = b"DSSEv1 28 " + kind + b" %d " % len(payload) + payload
    (signature,) = found["signatures"]
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(RFC_PUBLIC)).verify(base64.b64decode(signature["sig"]), signed)
    assert found["payloadType"].encode() == kind
    assert json.loads(payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "verdict.json", "digest": {"sha256": "0" * 64}}],
        "predicateType": "urn:test:v1",
        "predicate": {"verdict": "PASS"},
    }


def test_what_a_trusted_key_signed_is_good(envelope, keys):
    found = signing.check(envelope, keys)
    assert (found.state, found.statement, [found.keyid]) == ("good", STATEMENT, list(keys))


def test_another_trusted_key_does_no_harm_and_no_good(envelope, keys):
    other = signing.load_signer({signing.SIGNING_KEY: base64.b64encode(b"x" * 32).decode()})
    others = {other.public_key.keyid: other.public_key}
    assert signing.check(envelope, {**others, **keys}).state == "good"
    found = signing.check(envelope, others)
    assert (found.state, found.statement) == ("bad", None)
    assert "is not trusted" in found.found


def test_a_key_that_claims_the_id_of_a_trusted_one_did_not_sign(envelope, keys):
    content = json.loads(envelope.read_text())
    other = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    payload = base64.b64decode(content["payload"])
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    content["signatures"][0]["sig"] = base64.b64encode(other.sign(encoded)).decode()
    write_json(envelope, content)
    found = signing.check(envelope, keys)
    assert (found.state, found.statement) == ("bad", None)
    assert "did not sign this" in found.found


@given(st.data())
@hypothesis_settings(deadline=None, derandomize=True, max_examples=40)
def test_no_changed_byte_of_the_payload_or_the_signature_passes(tmp_path_factory, data):
    key = signing.load_signer({signing.SIGNING_KEY: SEED})
    content = signing.sign(STATEMENT, key)
    place = data.draw(st.sampled_from(["payload", "sig"]))
    holder = content if place == "payload" else content["signatures"][0]
    raw = bytearray(base64.b64decode(holder[place]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    holder[place] = base64.b64encode(bytes(raw)).decode()
    path = tmp_path_factory.mktemp("envelope") / "verdict.intoto.json"
    write_json(path, content)
    found = signing.check(path, {key.public_key.keyid: key.public_key})
    assert (found.state, found.statement) == ("bad", None)


def test_a_payload_of_another_type_is_bad_even_where_its_signature_holds(envelope, keys):
    content = json.loads(envelope.read_text())
    payload = base64.b64decode(content["payload"])
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(RFC_SECRET))
    signed = b"DSSEv1 16 application/json %d " % len(payload) + payload
    content["payloadType"] = "application/json"
    content["signatures"][0]["sig"] = base64.b64encode(private.sign(signed)).decode()
    write_json(envelope, content)
    found = signing.check(envelope, keys)
    assert found.state == "bad"
    assert "'application/json'" in found.found


@pytest.mark.parametrize("length", range(0, 600, 37))
def test_a_truncated_envelope_is_bad(envelope, keys, length):
    whole = envelope.read_bytes()
    assert length < len(whole)
    envelope.write_bytes(whole[:length])
    assert signing.check(envelope, keys).state == "bad"


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"payload": "", "payloadType": signing.PAYLOAD_TYPE, "signatures": []},
        {"payload": "e30=", "payloadType": signing.PAYLOAD_TYPE, "signatures": [{"keyid": "a", "sig": "AA=="}]},
        {"payload": 3, "payloadType": None, "signatures": None},
        {"payload": "e30=", "payloadType": signing.PAYLOAD_TYPE, "signatures": ["x"]},
    ],
)
def test_what_is_no_envelope_is_bad(envelope, keys, content):
    write_json(envelope, content)
    assert signing.check(envelope, keys).state == "bad"


def test_a_signed_payload_that_is_no_statement_is_bad(envelope, key, keys):
    write_json(envelope, signing.sign({"_type": "https://in-toto.io/Statement/v0.1"}, key))
    assert signing.check(envelope, keys).state == "bad"


def test_without_a_trusted_key_nothing_can_be_said(envelope):
    found = signing.check(envelope, {})
    assert (found.state, found.statement) == ("unchecked", STATEMENT)


def test_what_is_not_there_is_unsigned(tmp_path, keys):
    assert signing.check(tmp_path / "verdict.intoto.json", keys).state == "unsigned"


def test_without_a_name_for_a_key_nothing_signs():
    assert signing.load_signer({}) is None
    assert signing.load_signer({signing.SIGNING_KEY: "", signing.SIGNING_KEY_FILE: ""}) is None


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_a_new_key_signs_and_is_trusted_by_its_public_file(tmp_path, passphrase):
    private, public = tmp_path / "keys" / "release.pem", tmp_path / "signing" / "release.pub"
    keyid = signing.write_pair(private, public, passphrase)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in private.read_bytes()) == bool(passphrase)
    signer = signing.load_signer({signing.SIGNING_KEY_FILE: str(private), signing.PASSPHRASE: passphrase})
    assert signer.public_key.keyid == keyid
    path = tmp_path / "verdict.intoto.json"
    write_json(path, signing.sign(STATEMENT, signer))
    assert signing.check(path, signing.trusted_keys(public.parent, {})).state == "good"
    as_text = {signing.SIGNING_KEY: private.read_text(), signing.PASSPHRASE: passphrase}
    assert signing.load_signer(as_text).public_key.keyid == keyid


def test_a_key_is_never_overwritten(tmp_path):
    private, public = tmp_path / "a.pem", tmp_path / "a.pub"
    signing.write_pair(private, public, "")
    before = private.read_bytes(), public.read_bytes()
    with pytest.raises(Refused, match=r"a\.pem is there already"):
        signing.write_pair(private, tmp_path / "b.pub", "")
    with pytest.raises(Refused, match=r"a\.pub is there already"):
        signing.write_pair(tmp_path / "b.pem", public, "")
    assert (private.read_bytes(), public.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pem", "a.pub"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "release.pem"
    signing.write_pair(path, tmp_path / "release.pub", "")
    path.chmod(mode)
    with pytest.raises(Refused, match="others than its owner") as caught:
        signing.load_signer({signing.SIGNING_KEY_FILE: str(path)})
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_key_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no signing key at"):
        signing.load_signer({signing.SIGNING_KEY_FILE: str(tmp_path / "none.pem")})


def encrypted() -> str:
    return signing.new_pair("correct horse")[0].decode()


def other_kind() -> str:
    pem = serialization.Encoding.PEM
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


@pytest.mark.parametrize(
    ("text", "passphrase", "said"),
    [
        ("not base64 at all!", "", "is no Ed25519 key"),
        (base64.b64encode(b"x" * 31).decode(), "", "is no Ed25519 key"),
        ("-----BEGIN PRIVATE KEY-----\nxxxx\n-----END PRIVATE KEY-----\n", "", "is no Ed25519 key"),
        (other_kind(), "", "another kind than Ed25519"),
        (encrypted(), "", "is encrypted"),
        (encrypted(), "battery staple", "is no Ed25519 key"),
        (signing.new_pair("")[0].decode(), "correct horse", "is not encrypted"),
    ],
)
def test_a_key_that_cannot_be_read_is_refused_without_showing_any_of_it(text, passphrase, said):
    with pytest.raises(ConfigInvalid, match=said) as caught:
        signing.load_signer({signing.SIGNING_KEY: text, signing.PASSPHRASE: passphrase})
    shown = json.dumps(caught.value.to_dict())
    secrets = [line for line in text.splitlines() if "-----" not in line]
    assert not any(secret in shown for secret in [*secrets, *filter(None, [passphrase])])
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_two_keys_at_once_are_refused():
    with pytest.raises(ConfigInvalid, match="are both set"):
        signing.load_signer({signing.SIGNING_KEY: SEED, signing.SIGNING_KEY_FILE: "x"})


def test_a_key_in_the_environment_is_a_secret_and_the_name_of_its_file_is_none(monkeypatch):
    monkeypatch.setenv(signing.SIGNING_KEY, SEED)
    monkeypatch.setenv(signing.SIGNING_KEY_FILE, "/etc/keys/release.pem")
    monkeypatch.setenv(signing.PASSPHRASE, "correct horse")
    assert errors.redact(f"{SEED} correct horse /etc/keys/release.pem") == "*** *** /etc/keys/release.pem"


def test_keys_that_the_environment_names_are_trusted_instead_of_the_folders(tmp_path):
    folder = tmp_path / "signing"
    in_folder = signing.write_pair(tmp_path / "a.pem", folder / "a.pub", "")
    in_file = signing.write_pair(tmp_path / "b.pem", tmp_path / "b.pub", "")
    raw = base64.b64encode(bytes.fromhex(RFC_PUBLIC)).decode()
    in_text = hashlib.sha256(bytes.fromhex(RFC_PUBLIC)).hexdigest()
    assert set(signing.trusted_keys(folder, {})) == {in_folder}
    assert set(signing.trusted_keys(folder, {signing.VERIFY_KEY: raw})) == {in_text}
    both = {signing.VERIFY_KEY: raw, signing.VERIFY_KEY_FILE: str(tmp_path / "b.pub")}
    assert set(signing.trusted_keys(folder, both)) == {in_text, in_file}
    assert signing.trusted_keys(tmp_path / "none", {}) == {}


def test_a_public_key_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "broken.pub").write_text("nothing\n")
    with pytest.raises(ConfigInvalid, match=r"broken\.pub is no Ed25519 public key"):
        signing.trusted_keys(tmp_path, {})
    with pytest.raises(NotFound):
        signing.trusted_keys(tmp_path, {signing.VERIFY_KEY_FILE: str(tmp_path / "none.pub")})
