"""Embedders: texts in, unit-length float32 vectors out; the interface, and the one that runs sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

from lib.config import embedder_files
from lib.config.locked_config import LockedConfig
from lib.platform.errors import IntegrityMismatch, Unavailable
from lib.platform.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """What the index needs of an embedding model. ``dimension`` is the width of its vectors."""

    name: str
    dimension: int

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``float32[n_texts, dimension]``."""

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """``float32[dimension]``."""


class SentenceTransformerEmbedder:
    """A sentence-transformers model on the CPU, with the locked prompts and maximum length."""

    def __init__(self, files: embedder_files.EmbedderFiles) -> None:
        import logging

        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(str(files.folder), device="cpu", local_files_only=True)
        except Exception as error:  # the model's file formats raise kinds of their own; each means that it does not load
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise Unavailable(
                f"the embedder {files.name} does not load", detail=reason, hint=f"put whole model files in {files.folder}"
            ) from error
        self._model.max_seq_length = files.max_sequence_length
        self.name = files.name
        self.dimension = files.dimension
        self._query_prompt = files.query_prompt
        self._document_prompt = files.document_prompt

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """All texts as one batch, so that the caller's batches alone decide the last bits of a vector.

        Raises:
            IntegrityMismatch: a vector is not finite or has another width than the locked one.
        """
        return self._encode([self._document_prompt + text for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._encode([self._query_prompt + text])[0]
        return vector

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        import numpy as np

        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        vectors: NDArray[np.float32] = self._model.encode(
            texts,
            batch_size=len(texts),
            prompt="",  # the locked prompt stands in the texts already; a default of the model's own would come before it
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        ).astype(np.float32)
        if vectors.shape != (len(texts), self.dimension):
            raise IntegrityMismatch(
                f"the embedder {self.name} gave vectors of width {vectors.shape[-1]}, {self.dimension} was locked"
            )
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise IntegrityMismatch(
                f"the embedder {self.name} gave a vector that is not finite", detail=f"for: {texts[bad[0]][:80]!r}"
            )
        return vectors


def load_embedder(workspace: Workspace, config: LockedConfig) -> Embedder:
    """The embedder that a locked config names, checked against the locked hashes before it is loaded.

    Raises:
        IntegrityMismatch: the weights or the tokenizer are not those that were locked.
        Unavailable: the model is not here.
    """
    return sentence_transformer(locked_files(workspace, config))


@cache
def sentence_transformer(files: embedder_files.EmbedderFiles) -> SentenceTransformerEmbedder:
    """The model of these files, loaded once in a process."""
    return SentenceTransformerEmbedder(files)


def locked_files(workspace: Workspace, config: LockedConfig) -> embedder_files.EmbedderFiles:
    """The files of the locked embedder, with the locked prompts and length; raises as ``load_embedder``."""
    found = embedder_files.find(workspace, config.embedder_name)
    for what, now, locked in (
        ("weights", found.weights_hash, config.embedder_weights_hash),
        ("tokenizer", found.tokenizer_hash, config.tokenizer_hash),
    ):
        if now != locked:
            raise IntegrityMismatch(
                f"the {what} of {config.embedder_name} are not the ones that were locked",
                detail=f"locked {locked[:12]}…, found {now[:12]}…",
                hint="put the locked model back, or lock a new config",
            )
    return replace(
        found,
        max_sequence_length=config.embedder_max_sequence_length,
        query_prompt=config.embedder_query_prompt,
        document_prompt=config.embedder_document_prompt,
    )
