"""Builds a release and kills itself on the way; test_index_shadow.py runs it in a process of its own.

Arguments: the database's address, the release, the model's folder (for its tokenizer), and where to die: ``batch`` (as the
fifth batch is embedded), ``index`` (all rows are there, none is weighed) or ``seal`` (the table is indexed, the seal is not
committed).
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

BATCH_ROWS = 16  # so that a few documents make several batches


class FixedEmbedder:
    """Stands for a model service: unit vectors that only the text decides, without a model."""

    name = "fixed"
    dimension = 384
    identity = "fixed"
    batch_independent = True

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


class DiesAtTheFifthBatch(FixedEmbedder):
    """Three batches are loaded by then: two more may be embedded or wait for it."""

    batches = 0

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        self.batches += 1
        if self.batches == 5:
            die()
        return super().embed_documents(texts)


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    from lib.index import pipeline, settings, shadow
    from lib.index.executors import open_workers
    from lib.index.releases import get_release
    from lib.platform import postgres
    from lib.platform.workspace import CHECKOUT, Workspace

    pipeline.CALL_ROWS = BATCH_ROWS
    url, release_id, folder, where = sys.argv[1:]
    connection = postgres.connect(url, "killed")
    with connection:
        release = get_release(connection, release_id)
    if where == "index":
        shadow.weigh = die
    if where == "seal":
        real_seal = shadow.seal
        shadow.seal = lambda *arguments: (real_seal(*arguments), die())
    embedder = DiesAtTheFifthBatch() if where == "batch" else FixedEmbedder()
    loaded = settings.load(Workspace(CHECKOUT))
    with open_workers(loaded.build, characters=0) as workers:
        shadow.build(connection, release, embedder, pipeline.Chunker(Path(folder), workers, 2), loaded)


if __name__ == "__main__":
    main()
