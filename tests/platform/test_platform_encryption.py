"""Encrypted copies: what was changed, cut, moved or renamed does not open, and nothing but the key opens the rest."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from lib.platform.encryption import KEY, KEY_FILE, SEGMENT_BYTES, Cipher, load_cipher
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, NotFound, Refused, Unavailable

SECRET = bytes(range(32))
CIPHER = Cipher(SECRET)
NAME = "golive backup 1/state.json"
_HEADER = 40  # its length in one byte, a salt of 32, a nonce prefix of 7


def encrypted(content: bytes, name: str = NAME) -> bytes:
    return CIPHER.encrypted(io.BytesIO(content), name).read()


def decrypted(content: bytes, name: str = NAME, cipher: Cipher = CIPHER) -> bytes:
    return cipher.decrypted(io.BytesIO(content), name).read()


@given(st.integers(-2, 2), st.integers(0, 2))
def test_every_length_comes_back(beside: int, segments: int) -> None:
    content = os.urandom(max(0, segments * SEGMENT_BYTES + beside))
    assert decrypted(encrypted(content)) == content


def test_the_form_is_the_one_that_tink_documents() -> None:
    """Worked out from https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming with another library."""
    content = os.urandom(SEGMENT_BYTES + 1000)
    sent = encrypted(content)
    assert sent[0] == _HEADER
    salt, prefix = sent[1:33], sent[33:40]
    aead = AESGCM(HKDF(hashes.SHA256(), 32, salt, NAME.encode()).derive(SECRET))
    first = aead.decrypt(prefix + (0).to_bytes(4, "big") + b"\0", sent[_HEADER:SEGMENT_BYTES], b"")
    last = aead.decrypt(prefix + (1).to_bytes(4, "big") + b"\1", sent[SEGMENT_BYTES:], b"")
    assert first + last == content


def test_the_same_content_is_never_encrypted_the_same() -> None:
    assert encrypted(b"same") != encrypted(b"same")


@given(st.data())
def test_one_changed_bit_is_noticed(data: st.DataObject) -> None:
    sent = bytearray(encrypted(b"x" * 200))
    place = data.draw(st.integers(0, len(sent) * 8 - 1))
    sent[place // 8] ^= 1 << place % 8
    with pytest.raises(IntegrityMismatch, match="cannot be decrypted"):
        decrypted(bytes(sent))


@given(st.integers(0, 255))
def test_every_truncation_is_noticed(length: int) -> None:
    with pytest.raises(IntegrityMismatch):
        decrypted(encrypted(b"x" * 200)[:length])


def test_segments_that_are_cut_moved_repeated_or_added_are_noticed() -> None:
    sent = encrypted(os.urandom(3 * SEGMENT_BYTES))
    parts = [sent[at : at + SEGMENT_BYTES] for at in range(0, len(sent), SEGMENT_BYTES)]
    head, one, two, last = parts
    for changed in ([head, one, two], [head, two, one, last], [head, one, one, last], [head, one, last], [*parts, last]):
        with pytest.raises(IntegrityMismatch):
            decrypted(b"".join(changed))


def test_a_segment_of_another_stream_is_noticed() -> None:
    one, other = (encrypted(bytes(2 * SEGMENT_BYTES)) for _ in range(2))
    with pytest.raises(IntegrityMismatch):
        decrypted(one[:SEGMENT_BYTES] + other[SEGMENT_BYTES:])


def test_files_that_were_swapped_are_noticed() -> None:
    with pytest.raises(IntegrityMismatch, match="golive backup 1/b"):
        decrypted(encrypted(b"a", "golive backup 1/a"), "golive backup 1/b")


def test_another_key_opens_nothing() -> None:
    with pytest.raises(IntegrityMismatch, match="another key"):
        decrypted(encrypted(b"secret"), cipher=Cipher(bytes(32)))


def test_the_error_of_the_source_is_told_and_not_taken_for_damage() -> None:
    sent = encrypted(os.urandom(3 * SEGMENT_BYTES))

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > SEGMENT_BYTES:
                raise Unavailable("the connection broke")
            return super().read(size)

    with pytest.raises(Unavailable, match="connection broke"):
        CIPHER.decrypted(Breaking(sent), NAME).read()


def test_the_key_comes_from_the_variable_or_from_a_private_file(tmp_path: Path) -> None:
    text = base64.b64encode(SECRET).decode()
    file = tmp_path / "key"
    file.write_text(f"{text}\n")
    file.chmod(0o600)
    for environ in ({KEY: text}, {KEY: f" {text}\n"}, {KEY_FILE: str(file)}):
        assert decrypted(encrypted(b"x"), cipher=load_cipher(environ)) == b"x"
    file.chmod(0o640)
    with pytest.raises(Refused, match="others than its owner"):
        load_cipher({KEY_FILE: str(file)})
    with pytest.raises(NotFound):
        load_cipher({KEY_FILE: str(tmp_path / "none")})
    with pytest.raises(ConfigInvalid, match="both set"):
        load_cipher({KEY: text, KEY_FILE: str(file)})


def test_no_key_is_an_error_and_never_means_unencrypted() -> None:
    with pytest.raises(NotFound, match="neither"):
        load_cipher({})


@pytest.mark.parametrize("text", ["hunter2", base64.b64encode(bytes(16)).decode(), "ä" * 44, "%" * 44])
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="is not the base64 of 32 bytes") as caught:
        load_cipher({KEY: text})
    assert text not in str(caught.value) + caught.value.detail
