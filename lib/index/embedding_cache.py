"""Embeddings by content in ``golive.embedding_cache``: a text that an embedder has read before is not embedded again.

The key is the embedder's identity (model, prompts, length, runtime, processor) and the text's SHA-256. Only a vector that
its own text decides may be kept, so a batch-dependent runtime is never cached: a build would end in other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection as Connection

from lib.index.embedder import BadVector, Embedder, check_vectors
from lib.platform import postgres
from lib.platform.errors import Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHECK_BYTES = 8


class CachedEmbedder:
    """An embedder over the cache: one look-up a batch, and one insert of what was missing.

    ``connection`` has no transaction open while ``embed_documents`` runs; what was embedded is committed at once, so that a
    build which is killed loses at most one batch. ``hits`` and ``misses`` count texts.

    Raises:
        Refused: the embedder's vectors depend on the batch.
    """

    batch_independent = True

    def __init__(self, embedder: Embedder, connection: Connection) -> None:
        if not embedder.batch_independent:
            raise Refused(
                f"the vectors of {embedder.name} depend on their batch and cannot be cached",
                detail="on torch, the last bits of a vector depend on the texts it was embedded with",
                hint="embedder_runtime: openvino or openvino_int8",
            )
        self._embedder = embedder
        self._connection = connection
        self.name = embedder.name
        self.dimension = embedder.dimension
        self.identity = embedder.identity
        self.hits = 0
        self.misses = 0

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``float32[n_texts, dimension]``: the very bits that the embedder gives without a cache; raises BadVector."""
        import numpy as np

        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        known = self._look_up(sorted(set(keys)))
        missing = {key: position for position, key in reversed(list(enumerate(keys))) if key not in known}
        positions = sorted(missing.values())
        if positions:
            asked = [texts[position] for position in positions]
            try:  # checked before it is kept: what is no vector would be found again when the embedder is long sound
                vectors = check_vectors(self.name, self._embedder.embed_documents(asked), self.dimension, asked)
            except BadVector as error:
                error.position = positions[error.position]
                raise
            fresh = {keys[position]: vector for position, vector in zip(positions, vectors, strict=True)}
            self._store(fresh)
            known |= fresh
        self.misses += len(positions)
        self.hits += len(texts) - len(positions)
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, self.dimension), dtype=np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Not cached: a question is asked once."""
        return self._embedder.embed_query(text)

    def _look_up(self, keys: list[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """What is there and whole. A row whose check or width is wrong counts as missing, and is written over later."""
        if not keys:
            return {}
        parameters = {"identity": bytes.fromhex(self.identity), "keys": keys}
        with self._connection:
            rows = postgres.every(self._connection, postgres.read_sql(__file__, "read_embeddings"), parameters)
            if stale := sorted(bytes(row["text_sha256"]) for row in rows if row["stale"]):
                with self._connection.cursor() as cursor:
                    cursor.execute(postgres.read_sql(__file__, "touch_embeddings"), {**parameters, "keys": stale})
        found = {}
        for row in rows:
            key = bytes(row["text_sha256"])
            vector = self._vector(key, bytes(row["vector"]), bytes(row["check_bytes"]))
            if vector is not None:
                found[key] = vector
        return found

    def _vector(self, key: bytes, content: bytes, check: bytes) -> NDArray[np.float32] | None:
        import numpy as np

        if len(content) != 4 * self.dimension or check != _check(self.identity, key, content):
            return None
        return np.frombuffer(content, dtype="<f4").astype(np.float32)

    def _store(self, fresh: dict[bytes, NDArray[np.float32]]) -> None:
        """In the order of the keys, so that two builders wait for each other and never deadlock."""
        keys = sorted(fresh)
        contents = [fresh[key].astype("<f4").tobytes() for key in keys]
        parameters = {
            "identity": bytes.fromhex(self.identity),
            "keys": keys,
            "vectors": contents,
            "checks": [_check(self.identity, key, content) for key, content in zip(keys, contents, strict=True)],
        }
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(postgres.read_sql(__file__, "store_embeddings"), parameters)


def cached(embedder: Embedder, connection: Connection, enabled: bool) -> Embedder:
    """``embedder`` over the cache where that is ``enabled`` and changes no vector; else the embedder itself."""
    return CachedEmbedder(embedder, connection) if enabled and embedder.batch_independent else embedder


def prune(connection: Connection, *, unused_days: int, max_bytes: int) -> int:
    """Deletes what was not used for over ``unused_days``, then the longest unused beyond ``max_bytes`` of vectors.

    Returns how many vectors went. The caller owns the transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            postgres.read_sql(__file__, "prune_embeddings"), {"unused_days": unused_days, "max_bytes": max_bytes}
        )
        return int(cursor.rowcount)


def size(connection: Connection) -> dict[str, Any]:
    """``texts`` and ``bytes`` of vectors in the cache. The caller owns the transaction."""
    found = postgres.one(
        connection,
        "SELECT count(*) AS texts, coalesce(sum(octet_length(vector)), 0)::bigint AS bytes FROM golive.embedding_cache",
    )
    return found or {}


def _check(identity: str, key: bytes, content: bytes) -> bytes:
    """Ties a vector to its embedder and text: a damaged row, or one under another's key, does not pass."""
    return hashlib.blake2b(bytes.fromhex(identity) + key + content, digest_size=_CHECK_BYTES).digest()
