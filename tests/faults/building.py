"""A shadow build without a model: the embedder is a function of the text, in batches of two rows."""

from __future__ import annotations

import hashlib
from contextlib import closing

import numpy as np

from lib.index import pipeline
from lib.platform import postgres
from lib.platform.lease import lease
from lib.platform.workspace import Workspace
from lib.release import ingesting
from tests.index.killed_build import FixedEmbedder

_BATCH_ROWS = 2  # so that three short documents make several batches


class HashedEmbedder(FixedEmbedder):
    """With an identity as the cache of vectors needs it."""

    identity = hashlib.sha256(b"fixed").hexdigest()


class NotANumber(HashedEmbedder):
    """Gives NaN for one text of the corpus."""

    def embed_query(self, text: str) -> np.ndarray:
        found: np.ndarray = super().embed_query(text)
        if "milliseconds" in text:
            found[3] = np.nan
        return found


def ingest(workspace: Workspace, embedder: FixedEmbedder | None = None) -> None:
    """As scripts/shadow_ingest.py. For a process that ends with it: the changes to the modules are not undone."""
    ingesting.load_embedder = lambda *_: embedder or HashedEmbedder()  # type: ignore[assignment]
    pipeline.CALL_ROWS = _BATCH_ROWS
    url = postgres.address(workspace)
    with closing(postgres.connect(url, "shadow ingest")) as connection, lease(url, "shadow_ingest"):
        ingesting.ingest(workspace, connection)
