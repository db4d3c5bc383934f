"""Signatures: Ed25519 over a DSSE envelope that holds an in-toto Statement, and whose keys are trusted.

Envelope: https://github.com/secure-systems-lab/dsse; Statement: https://github.com/in-toto/attestation/tree/main/spec/v1.
The envelope is securesystemslib's. A key is named by the SHA-256 of its 32 public bytes, in hex.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lib.platform.errors import ConfigInvalid, GoliveError, NotFound, Refused, secret
from lib.platform.files import canonical_json, read_json, read_text, writing

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
SIGNING_KEY, SIGNING_KEY_FILE = "GOLIVE_SIGNING_KEY", "GOLIVE_SIGNING_KEY_FILE"
PASSPHRASE = "GOLIVE_SIGNING_KEY_PASSPHRASE"
VERIFY_KEY, VERIFY_KEY_FILE = "GOLIVE_VERIFY_KEY", "GOLIVE_VERIFY_KEY_FILE"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Signature:
    """What an envelope proves.

    ``state``: ``good`` (a trusted key signed it), ``bad`` (none did, or it is no whole envelope), ``unchecked`` (no key is
    trusted, so that nothing can be said) or ``unsigned``. ``statement`` is None where the state is bad or unsigned.
    """

    state: str
    found: str
    keyid: str | None = None
    statement: dict[str, Any] | None = None


def load_signer(environ: Mapping[str, str]) -> CryptoSigner | None:
    """The signing key that the environment names; None where it names none.

    ``GOLIVE_SIGNING_KEY_FILE`` is a PEM file that its owner alone may read, ``GOLIVE_SIGNING_KEY`` a PEM or the base64 of
    the 32 secret bytes; ``GOLIVE_SIGNING_KEY_PASSPHRASE`` (or ``_FILE``) opens an encrypted PEM.

    Raises:
        ConfigInvalid: both are set, or what is there is no Ed25519 key. NotFound, Unavailable: the file.
        Refused: others may read the file.
    """
    text, file = environ.get(SIGNING_KEY, ""), environ.get(SIGNING_KEY_FILE, "")
    if not (text or file):
        return None
    if text and file:
        raise ConfigInvalid(f"{SIGNING_KEY} and {SIGNING_KEY_FILE} are both set", hint="unset one of them")
    where = f"the file in {SIGNING_KEY_FILE}" if file else SIGNING_KEY
    private = _private_key(_private_text(Path(file)) if file else text, secret(PASSPHRASE, environ), where)
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner(private, _named(private.public_key()))


def _private_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise NotFound(f"no signing key at {path}", detail=(error.strerror or "").lower()) from error
    if stat.S_IMODE(mode) & 0o077:
        raise Refused(f"others than its owner may read the signing key {path}", hint=f"chmod 600 {path}")
    return read_text(path, "signing key")


def _private_key(text: str, passphrase: str, where: str) -> Ed25519PrivateKey:
    # errors are raised "from None": nothing that a parser says of a secret is shown
    try:
        if "-----BEGIN" not in text:
            return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text.strip(), validate=True))
        found = serialization.load_pem_private_key(text.encode(), passphrase.encode() or None)
    except TypeError:
        problem = "is not encrypted, but a passphrase is set" if passphrase else "is encrypted"
        raise ConfigInvalid(f"{where} {problem}", hint=f"set or unset {PASSPHRASE}") from None
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        hint = f"a PEM (is {PASSPHRASE} right?), or {_KEY_BYTES} bytes as base64; scripts/signing_keys.py makes one"
        raise ConfigInvalid(f"{where} is no Ed25519 key that can be read", hint=hint) from None
    if not isinstance(found, Ed25519PrivateKey):
        raise ConfigInvalid(f"{where} is a key of another kind than Ed25519", hint="scripts/signing_keys.py makes one")
    return found


def trusted_keys(folder: Path, environ: Mapping[str, str]) -> dict[str, SSlibKey]:
    """The public keys that signatures are held against, by their ids: the environment's or else ``folder/*.pub``.

    Raises:
        ConfigInvalid: one is no Ed25519 public key (PEM, or 32 bytes as base64). NotFound: the named file is missing.
    """
    text, file = environ.get(VERIFY_KEY, ""), environ.get(VERIFY_KEY_FILE, "")
    texts = {VERIFY_KEY: text} if text else {}
    if file:
        texts[file] = read_text(Path(file), "public key")
    if not texts:
        texts = {str(path): read_text(path, "public key") for path in sorted(folder.glob("*.pub"))}
    keys = [_named(_public_key(content, where)) for where, content in texts.items()]
    return {key.keyid: key for key in keys}


def _public_key(text: str, where: str) -> Ed25519PublicKey:
    try:
        if "-----BEGIN" not in text:
            return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True))
        found = serialization.load_pem_public_key(text.encode())
    except (ValueError, binascii.Error, UnsupportedAlgorithm) as error:
        raise ConfigInvalid(f"{where} is no Ed25519 public key", hint="a PEM, or 32 bytes as base64") from error
    if not isinstance(found, Ed25519PublicKey):
        raise ConfigInvalid(f"{where} is a key of another kind than Ed25519")
    return found


def _named(key: Ed25519PublicKey) -> SSlibKey:
    from securesystemslib.signer import SSlibKey

    return SSlibKey.from_crypto(key, keyid=hashlib.sha256(key.public_bytes_raw()).hexdigest())


def new_pair(passphrase: str) -> tuple[bytes, bytes, str]:
    """A new key: its private PEM (encrypted where there is a passphrase), its public PEM, and its id."""
    private = Ed25519PrivateKey.generate()
    hidden: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    pem = serialization.Encoding.PEM
    return (
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, hidden),
        private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
        _named(private.public_key()).keyid,
    )


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto Statement about files: name → SHA-256."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def sign(content: dict[str, Any], signer: CryptoSigner) -> dict[str, Any]:
    """The DSSE envelope of a Statement, as it is written to a file."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(canonical_json(content), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return dict(envelope.to_dict())


def check(path: Path, keys: Mapping[str, SSlibKey]) -> Signature:
    """Holds the envelope at ``path`` against the trusted keys."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error as SigningError

    if not path.exists():
        return Signature("unsigned", f"there is no {path.name}")
    try:
        envelope = Envelope.from_dict(read_json(path, "signature"))
        keyid = next(iter(envelope.signatures), None)
        if envelope.payload_type != PAYLOAD_TYPE:
            return Signature("bad", f"the payload's type is {envelope.payload_type!r}, not {PAYLOAD_TYPE}", keyid)
        if not keys:
            return Signature("unchecked", "no key is trusted here", keyid, _statement(envelope.payload))
        (accepted,) = envelope.verify(list(keys.values()), 1)
        return Signature("good", f"signed by key {accepted[:12]}", accepted, _statement(envelope.payload))
    except GoliveError as error:
        return Signature("bad", error.message)
    except SigningError:
        untrusted = keyid not in keys
        return Signature("bad", f"key {str(keyid)[:12]} {'is not trusted' if untrusted else 'did not sign this'}", keyid)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # all that a damaged envelope makes of its parser
        return Signature("bad", f"{path.name} is no whole envelope: {type(error).__name__}")


def _statement(payload: bytes) -> dict[str, Any]:
    found = json.loads(payload)
    if not isinstance(found, dict) or found.get("_type") != STATEMENT_TYPE:
        raise ValueError("not an in-toto Statement")
    return found


def require_free(*paths: Path) -> None:
    """Raises Refused where one of the files is there already."""
    for path in paths:
        if path.exists():
            raise Refused(f"{path} is there already", hint="a key is never overwritten: name another file")


def write_pair(private_path: Path, public_path: Path, passphrase: str) -> str:
    """Writes a new key's two files, the private one for its owner alone; returns the key's id.

    Raises:
        Refused: one of the files is there already.
    """
    require_free(private_path, public_path)
    private, public, keyid = new_pair(passphrase)
    for path, content, mode in ((private_path, private, 0o600), (public_path, public, 0o644)):
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
    return keyid
