"""Embedders: texts in, unit-length float32 vectors out; the interface, and the one that runs sentence-transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from lib.config import embedder_files
from lib.config.locked_config import LockedConfig
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, Unavailable
from lib.platform.files import digest_of
from lib.platform.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

if "OMP_WAIT_POLICY" not in os.environ:
    # Read by torch's libgomp when it is loaded, after this module. Its threads else spin where they wait: beside another
    # busy process on two cores the same texts took five times as long (18 s, with this 5.7 s; alone 3.3 s either way).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class BadVector(IntegrityMismatch):
    """An embedder gave something that is no vector. ``position``: of the text in the list that it was given."""

    def __init__(self, message: str, *, position: int, detail: str = "", hint: str = "") -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.position = position

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole again on the other side of a process pool, which hands on an exception's arguments alone."""
        return _bad_vector, (self.message, self.position, self.detail, self.hint)


def _bad_vector(message: str, position: int, detail: str, hint: str) -> BadVector:
    return BadVector(message, position=position, detail=detail, hint=hint)


class Embedder(Protocol):
    """What the index needs of an embedding model.

    ``dimension`` is the width of its vectors. ``identity`` is a digest of all that decides a vector besides the text: equal
    identities and equal texts mean equal vectors, to the bit where ``batch_independent`` says that a vector depends on its
    own text alone, and not on the texts embedded together with it.
    """

    name: str
    dimension: int
    identity: str
    batch_independent: bool

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``float32[n_texts, dimension]``; raises BadVector."""

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """``float32[dimension]``; raises BadVector."""


class TokenEmbedder(Embedder, Protocol):
    """A local embedder, which shows its token vectors too."""

    def embed_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Contextual token vectors of each text as it stands, without a prompt: ``float32[n_tokens, hidden_size]``.

        Of unit length; special tokens are left out, so a text without tokens has none.
        """


def check_vectors(name: str, vectors: NDArray[np.float32], dimension: int, texts: Sequence[str]) -> NDArray[np.float32]:
    """``vectors``, one for each text, or an error.

    Raises:
        BadVector: one is not finite or has another width than the locked one; ``position`` says which text it is for.
    """
    import numpy as np

    if vectors.shape != (len(texts), dimension):
        raise BadVector(
            f"the embedder {name} gave {len(vectors)} vectors of width {vectors.shape[-1]}, {dimension} was locked",
            position=0,
            detail=f"for {len(texts)} texts",
            hint="lock a new config with the embedder as it is now",
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        position = int(bad[0])
        raise BadVector(
            f"the embedder {name} gave a vector that is not finite",
            position=position,
            detail=f"for: {texts[position][:80]!r}",
        )
    return vectors


class SentenceTransformerEmbedder:
    """A sentence-transformers model on the CPU, with the locked prompts and maximum length.

    A batch is padded to its longest text, and the matrix products' blocking follows from the shape: the last bits of a
    vector depend on the texts it was embedded with.
    """

    batch_independent = False

    def __init__(self, files: embedder_files.EmbedderFiles) -> None:
        import torch

        self._model = load_sentence_transformer(files)
        self.name = files.name
        self.dimension = files.dimension
        self.identity = digest_of(
            {
                **deciding(files),
                "runtime": f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
            }
        )
        self._query_prompt = files.query_prompt
        self._document_prompt = files.document_prompt

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """All texts as one batch, so that the caller's batches alone decide the last bits of a vector.

        Raises:
            BadVector: a vector is not finite or has another width than the locked one.
        """
        return self._encode([self._document_prompt + text for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._encode([self._query_prompt + text])[0]
        return vector

    def embed_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """As ``TokenEmbedder`` says; all texts as one batch."""
        import torch

        if not texts:
            return []
        features = self._model.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._model.max_seq_length,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        kept = features["attention_mask"].bool() & ~features.pop("special_tokens_mask").bool()
        with torch.inference_mode():
            vectors = torch.nn.functional.normalize(self._model[0](dict(features))["token_embeddings"], dim=-1)
        return [row[mask].numpy() for row, mask in zip(vectors, kept, strict=True)]

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
        return check_vectors(self.name, vectors, self.dimension, texts)


def load_sentence_transformer(files: embedder_files.EmbedderFiles) -> Any:
    """The ``SentenceTransformer`` of these files, on the CPU, with the locked maximum length.

    Raises:
        Unavailable: it does not load.
    """
    import logging

    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(files.folder), device="cpu", local_files_only=True)
    except Exception as error:  # the model's file formats raise kinds of their own; each means that it does not load
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unavailable(
            f"the embedder {files.name} does not load", detail=reason, hint=f"put whole model files in {files.folder}"
        ) from error
    model.max_seq_length = files.max_sequence_length
    return model


def deciding(files: embedder_files.EmbedderFiles) -> dict[str, Any]:
    """What of a model's files and locked settings decides its vectors; an ``identity`` adds the runtime."""
    return {
        "weights": files.weights_hash,
        "tokenizer": files.tokenizer_hash,
        "dimension": files.dimension,
        "max_sequence_length": files.max_sequence_length,
        "query_prompt": files.query_prompt,
        "document_prompt": files.document_prompt,
    }


def load_embedder(workspace: Workspace, config: LockedConfig) -> Embedder:
    """The embedder that a locked config names, checked against the locked hashes before it is loaded.

    Raises:
        IntegrityMismatch: the weights or the tokenizer are not those that were locked.
        Unavailable: the model is not here.
        ConfigInvalid: the locked runtime does not run it.
    """
    return embedder_of(workspace, locked_files(workspace, config), config.embedder_runtime)


def embedder_of(workspace: Workspace, files: embedder_files.EmbedderFiles, runtime: str) -> Embedder:
    """The embedder of these files on a runtime, loaded once in a process; raises as ``load_embedder``."""
    if problem := embedder_files.runtime_problem(files, runtime):
        raise ConfigInvalid(problem, hint="lock a new config")
    if runtime == "remote":
        from lib.index.embedder_remote import remote_embedder

        return remote_embedder(files)
    return local_embedder(workspace, files, runtime)


def local_embedder(workspace: Workspace, files: embedder_files.EmbedderFiles, runtime: str) -> TokenEmbedder:
    """As ``embedder_of``, for a model that runs in this process and so shows its token vectors too."""
    if runtime == "torch":
        return sentence_transformer(files)
    from lib.index.embedder_openvino import openvino_embedder

    return openvino_embedder(files, runtime, workspace.local / "embedders")


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
