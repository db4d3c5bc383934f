"""Six regressions that are planted on purpose, to see whether a release with them would be stopped. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from lib.config.locked_config import LockedConfig, RerankSettings
from lib.index.documents import Document

_DROPPED_SHARE = 0.1
_CHUNK_TOKENS = 60
_NO_RERANKER = "none"


@dataclass(frozen=True)
class Regression:
    """What is done to a release: to its config, its documents, or (``sql``, a file) its filled table.

    ``cannot``: why it cannot be planted into a config; "" where it can.
    """

    name: str
    what: str
    configure: Callable[[LockedConfig], LockedConfig] = lambda config: config
    choose: Callable[[Sequence[Document]], list[Document]] = list
    sql: str | None = None
    cannot: Callable[[LockedConfig], str] = lambda config: ""


def _changed(config: LockedConfig, **changes: Any) -> LockedConfig:
    """The config with other values, and with the hash that fits them."""
    return replace(config, config_hash="", **changes)


def _drop_documents(documents: Sequence[Document]) -> list[Document]:
    """Without a tenth of the documents, at least one: those whose ids' hashes come first."""
    ordered = sorted(documents, key=lambda document: hashlib.sha256(document.doc_id.encode()).digest())
    gone = {document.doc_id for document in ordered[: ceil(_DROPPED_SHARE * len(ordered))]}
    return [document for document in documents if document.doc_id not in gone]


def _halve_top_k(config: LockedConfig) -> LockedConfig:
    found = config.retrieval
    halved = {name: max(1, getattr(found, name) // 2) for name in ("vector_top_k", "bm25_top_k")}
    return _changed(config, retrieval=replace(found, **halved))


REGRESSIONS = (
    Regression("drop_documents", "10 % of the documents are not indexed", choose=_drop_documents),
    Regression("halve_top_k", "retrieval.vector_top_k and bm25_top_k are halved", configure=_halve_top_k),
    Regression(
        "chunk_60",
        f"chunk_size is {_CHUNK_TOKENS}",
        configure=lambda config: _changed(config, chunk_size=_CHUNK_TOKENS),
        cannot=lambda config: f"chunk_size is {config.chunk_size} already" if config.chunk_size <= _CHUNK_TOKENS else "",
    ),
    Regression("shuffle_embeddings", "every chunk has the vector of another", sql="shuffle_embeddings"),
    Regression(
        "leak_prefixes",
        "bm25_text begins with the prefix, under prefix policy A",
        sql="leak_prefixes",
        cannot=lambda config: "" if config.prefix_policy == "A" else "prefix policy B puts the prefix there on purpose",
    ),
    Regression(
        "drop_reranker",
        "rerank.model is none",
        configure=lambda config: _changed(config, rerank=RerankSettings(_NO_RERANKER)),
        cannot=lambda config: "rerank.model is none already" if config.rerank.model == _NO_RERANKER else "",
    ),
)
