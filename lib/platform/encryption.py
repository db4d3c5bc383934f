"""Encryption of copies: a stream under a key from the environment, readable by any Tink.

The form is Tink's AES256_GCM_HKDF_1MB (https://developers.google.com/tink/streaming-aead): a key of its own for each
stream, segments of 1 MiB that are numbered and whose last one is marked, and a name that is bound to all of them. A segment
that was changed, cut off, moved, or taken from another stream or another name does not open.
"""

from __future__ import annotations

import base64
import binascii
import io
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from lib.platform.errors import ConfigInvalid, IntegrityMismatch, NotFound, Refused
from lib.platform.files import read_text

if TYPE_CHECKING:
    from tink.streaming_aead import StreamingAead

KEY, KEY_FILE = "GOLIVE_BACKUP_KEY", "GOLIVE_BACKUP_KEY_FILE"
SEGMENT_BYTES = 1 << 20
_KEY_BYTES = 32
_TYPE = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"


class Cipher:
    """Encrypts and decrypts streams under one key."""

    def __init__(self, key: bytes) -> None:
        self._aead = _aead(key)

    def encrypted(self, source: BinaryIO, name: str) -> BinaryIO:
        """The ciphertext of ``source`` as a stream to read; ``name`` must be given again to decrypt it."""
        return cast(BinaryIO, io.BufferedReader(_Encrypting(self._aead, source, name.encode()), SEGMENT_BYTES))

    def decrypted(self, source: BinaryIO, name: str) -> BinaryIO:
        """The plaintext of ``source`` as a stream to read, which closes ``source`` with it.

        Reading raises IntegrityMismatch where the key or the name is another one, or where anything was changed or cut off.
        """
        return cast(BinaryIO, io.BufferedReader(_Decrypting(self._aead, source, name), SEGMENT_BYTES))


def load_cipher(environ: Mapping[str, str]) -> Cipher:
    """The cipher under the key that the environment names.

    ``GOLIVE_BACKUP_KEY`` is the base64 of 32 random bytes, ``GOLIVE_BACKUP_KEY_FILE`` a file with it that its owner alone
    may read.

    Raises:
        NotFound: neither is set, or there is no such file. ConfigInvalid: both are set, or it is no such key.
        Refused: others may read the file.
    """
    text, file = environ.get(KEY, ""), environ.get(KEY_FILE, "")
    if text and file:
        raise ConfigInvalid(f"{KEY} and {KEY_FILE} are both set", hint="unset one of them")
    if not (text or file):
        raise NotFound(f"this target is encrypted, and neither {KEY} nor {KEY_FILE} is set", hint="openssl rand -base64 32")
    where = f"the file in {KEY_FILE}" if file else KEY
    try:
        key = base64.b64decode((_private_text(Path(file)) if file else text).strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigInvalid(f"{where} is not the base64 of {_KEY_BYTES} bytes", hint="openssl rand -base64 32")
    return Cipher(key)


def _private_text(path: Path) -> str:
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Refused(f"others than its owner may read the backup key {path}", hint=f"chmod 600 {path}")
    return read_text(path, "backup key")


def _aead(key: bytes) -> StreamingAead:
    import tink
    from tink import secret_key_access, streaming_aead
    from tink.proto import aes_gcm_hkdf_streaming_pb2 as streaming
    from tink.proto import common_pb2, tink_pb2

    streaming_aead.register()
    params = streaming.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=SEGMENT_BYTES, derived_key_size=_KEY_BYTES, hkdf_hash_type=common_pb2.SHA256
    )
    data = tink_pb2.KeyData(
        type_url=_TYPE,
        value=streaming.AesGcmHkdfStreamingKey(version=0, key_value=key, params=params).SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    only = tink_pb2.Keyset.Key(key_id=1, status=tink_pb2.ENABLED, output_prefix_type=tink_pb2.RAW, key_data=data)
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[only]).SerializeToString()
    handle = tink.proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    return cast("StreamingAead", handle.primitive(streaming_aead.StreamingAead))


class _Sink(io.BytesIO):
    """Where Tink writes to; it stays open when Tink closes it, and is emptied as it is read."""

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        found = self.getvalue()
        self.seek(0)
        self.truncate()
        return found


class _Encrypting(io.RawIOBase):
    """Turns Tink's stream to write to into one to read from, a segment at a time."""

    def __init__(self, aead: StreamingAead, source: BinaryIO, name: bytes) -> None:
        self._source = source
        self._sink = _Sink()
        self._stream: Any = aead.new_encrypting_stream(cast(BinaryIO, self._sink), name)
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._stream:
            if block := self._source.read(SEGMENT_BYTES):
                self._stream.write(block)
            else:
                self._stream.close()
                self._stream = None
            self._ready = memoryview(self._sink.take())
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


class _Source(io.RawIOBase):
    """Keeps the error that reading raised, of which Tink would leave only a text."""

    error: Exception | None = None

    def __init__(self, inner: BinaryIO) -> None:
        self._inner = inner

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._inner.read(size)
        except Exception as error:  # whatever it is, the reader of the plaintext gets it
            self.error = error
            raise

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _Decrypting(io.RawIOBase):
    def __init__(self, aead: StreamingAead, source: BinaryIO, name: str) -> None:
        self._source = _Source(source)
        self._name = name
        self._stream: Any = aead.new_decrypting_stream(cast(BinaryIO, self._source), name.encode())

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import tink

        try:
            block = self._stream.read(len(buffer))
        except tink.TinkError as error:  # its message holds addresses in memory
            if self._source.error:
                raise self._source.error from error
            raise IntegrityMismatch(
                f"{self._name} cannot be decrypted: it was encrypted with another key, or was changed since",
                hint=f"check {KEY}",
            ) from error
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()
