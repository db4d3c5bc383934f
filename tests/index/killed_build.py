"""Builds a release and kills itself on the way; test_index_shadow.py runs it in a process of its own.

Arguments: the database's address, the release, the model's folder (for its tokenizer), and where to die: ``batch`` (before
the third batch) or ``seal`` (the table is indexed, the seal is not committed).
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class FixedEmbedder:
    """Stands for a model service: unit vectors that only the text decides, without a model."""

    name = "fixed"
    dimension = 384

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


class DiesAtTheThirdBatch(FixedEmbedder):
    batches = 0

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        self.batches += 1
        if self.batches == 3:
            die()
        return super().embed_documents(texts)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    from lib.index import shadow
    from lib.index.ingest import plan_ingest
    from lib.index.releases import get_release
    from lib.index.tokens import TokenCounter
    from lib.platform import postgres

    url, release_id, folder, where = sys.argv[1:]
    connection = postgres.connect(url, "killed")
    with connection:
        release = get_release(connection, release_id)
    documents, digest = shadow.read_corpus(connection, release.locked_config)
    plan = plan_ingest(documents, release.locked_config, TokenCounter(Path(folder)))
    shadow.begin(connection, release, digest)
    if where == "seal":
        real_seal = shadow.seal
        shadow.seal = lambda *arguments: (real_seal(*arguments), die())
    shadow.load(connection, release, plan, DiesAtTheThirdBatch() if where == "batch" else FixedEmbedder())
    shadow.finish(connection, release, {})


if __name__ == "__main__":
    main()
