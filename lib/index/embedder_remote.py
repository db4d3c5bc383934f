"""Embedders behind a service: HTTP (OpenAI's form, or a plain one) and Bedrock (Titan, Cohere), rate-limited and retried.

What is sent and what is understood of the answer:

* ``format: openai``: ``{"model", "input": [texts]}`` -> ``{"data": [{"index", "embedding"}]}``
* ``format: plain``: ``{"model", "kind": "document" | "query", "texts"}`` -> ``{"embeddings": [vectors]}``
* Titan: ``{"inputText", "dimensions", "normalize"}``, one text a call -> ``{"embedding"}``
* Cohere: ``{"texts", "input_type", "truncate": "NONE"}``, at most 96 texts a call -> ``{"embeddings"}``

No answer is trusted: the count, the width and every number are checked, and vectors are scaled to unit length here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

from lib.config.embedder_files import EmbedderFiles, RemoteSettings
from lib.index.embedder import BadVector, check_vectors, deciding
from lib.platform.errors import IntegrityMismatch
from lib.platform.files import digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COHERE_BATCH = 96  # texts in one request, as Bedrock's documentation has it

# One request: texts and their kind (document or query) in, one list of numbers for each text out.
Ask = Callable[[Sequence[str], str], list[Any]]


class RemoteEmbedder:
    """A service's embedding model through the interface of the local ones.

    That a text's vector does not depend on its batch is the service's promise, not a measured fact, and a service may
    answer a text with other last bits tomorrow. The cache keeps the first answer: a build done again uses the same.
    """

    batch_independent = True

    def __init__(self, files: EmbedderFiles, ask: Ask, batch_size: int, max_in_flight: int) -> None:
        self.name = files.name
        self.dimension = files.dimension
        self.identity = digest_of({**deciding(files), "runtime": "remote"})
        self._query_prompt = files.query_prompt
        self._document_prompt = files.document_prompt
        self._ask = ask
        self._batch_size = batch_size
        self._max_in_flight = max_in_flight

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``float32[n_texts, dimension]``, several requests at a time within the limits.

        Raises:
            BadVector: an answer's vector is not finite, has no length, or has another width than the locked one.
            IntegrityMismatch: an answer is not of the documented form. Unavailable: there is none.
        """
        import numpy as np

        prompted = [self._document_prompt + text for text in texts]
        starts = range(0, len(prompted), self._batch_size)
        if not prompted:
            return np.empty((0, self.dimension), dtype=np.float32)
        with ThreadPoolExecutor(min(self._max_in_flight, len(starts)), thread_name_prefix="embed") as pool:
            batches = [pool.submit(self._embed, prompted[start : start + self._batch_size], "document") for start in starts]
            try:
                return np.concatenate([self._placed(batch, start) for batch, start in zip(batches, starts, strict=True)])
            finally:
                pool.shutdown(cancel_futures=True)  # after a failure, nothing more is asked and paid for

    def embed_query(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._embed([self._query_prompt + text], "query")[0]
        return vector

    def _placed(self, batch: Any, start: int) -> NDArray[np.float32]:
        try:
            vectors: NDArray[np.float32] = batch.result()
        except BadVector as error:
            error.position += start
            raise
        return vectors

    def _embed(self, texts: Sequence[str], kind: str) -> NDArray[np.float32]:
        import numpy as np

        answer = self._ask(texts, kind)
        if not isinstance(answer, list) or len(answer) != len(texts):
            count = len(answer) if isinstance(answer, list) else "no"
            raise IntegrityMismatch(f"the embedder {self.name} gave {count} vectors for {len(texts)} texts")
        rows = [self._numbers(vector, position) for position, vector in enumerate(answer)]
        vectors = check_vectors(self.name, np.stack(rows), self.dimension, texts)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if (bad := np.flatnonzero(lengths == 0)).size:
            position = int(bad[0])
            raise BadVector(
                f"the embedder {self.name} gave a vector without length",
                position=position,
                detail=f"for: {texts[position][:80]!r}",
            )
        unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
        return unit

    def _numbers(self, vector: Any, position: int) -> NDArray[np.float32]:
        import numpy as np

        numbers = isinstance(vector, list) and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in vector
        )
        if not numbers or len(vector) != self.dimension:
            what = f"a vector of width {len(vector)}" if numbers else "something that is no vector"
            raise BadVector(f"the embedder {self.name} gave {what}, {self.dimension} was locked", position=position)
        try:
            with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused as that
                values: NDArray[np.float32] = np.array(vector, dtype=np.float64).astype(np.float32)
        except OverflowError as error:
            raise BadVector(f"the embedder {self.name} gave a number without bounds", position=position) from error
        return values


@cache
def remote_embedder(files: EmbedderFiles) -> RemoteEmbedder:
    """The embedder behind the service that ``files.remote`` names, with one set of limits for the whole process."""
    remote = files.remote
    assert remote is not None
    if remote.provider == "http":
        return RemoteEmbedder(files, _http(files, remote), remote.batch_size, remote.max_in_flight)
    batch_size = min(remote.batch_size, COHERE_BATCH) if _is_cohere(remote.model) else 1
    return RemoteEmbedder(files, _bedrock(files, remote), batch_size, remote.max_in_flight)


def _http(files: EmbedderFiles, remote: RemoteSettings) -> Ask:
    from lib.platform.http import HttpLimits, JsonService

    limits = HttpLimits(remote.requests_per_second, remote.max_in_flight, remote.timeout_s, remote.attempts)
    service = JsonService(
        remote.url, limits, api_key_variable=remote.api_key_variable, allow_internal=remote.allow_internal
    )

    def openai(texts: Sequence[str], kind: str) -> list[Any]:
        answer = service.post({"model": remote.model, "input": list(texts), "encoding_format": "float"})
        found = _of(files.name, answer, "data")
        try:
            by_index = {item["index"]: item["embedding"] for item in found}
            return [by_index[index] for index in range(len(texts))] if len(found) == len(texts) else found
        except (KeyError, TypeError) as error:
            raise _no_form(files.name, f"data has no index or embedding: {error}") from error

    def plain(texts: Sequence[str], kind: str) -> list[Any]:
        return _of(files.name, service.post({"model": remote.model, "kind": kind, "texts": list(texts)}), "embeddings")

    return openai if remote.format == "openai" else plain


def _bedrock(files: EmbedderFiles, remote: RemoteSettings) -> Ask:
    from lib.platform.bedrock import InvokeClient
    from lib.platform.model_client import Limits

    limits = Limits(
        requests_per_second=remote.requests_per_second,
        max_in_flight=remote.max_in_flight,
        call_timeout_s=remote.timeout_s,
        text_timeout_s=remote.timeout_s,
        attempts=remote.attempts,
        max_tokens=0,
        temperature=0.0,
    )
    client = InvokeClient(remote.model, remote.region, limits, endpoint_url=remote.url or None)

    def titan(texts: Sequence[str], kind: str) -> list[Any]:
        settings = _titan_settings(remote.model, files.dimension)
        return [_of(files.name, client.invoke({"inputText": text, **settings}), "embedding") for text in texts]

    def cohere(texts: Sequence[str], kind: str) -> list[Any]:
        body: dict[str, Any] = {"texts": list(texts), "input_type": f"search_{kind}", "truncate": "NONE"}
        if "embed-v4" in remote.model:
            body |= {"embedding_types": ["float"], "output_dimension": files.dimension}
        found = client.invoke(body).get("embeddings")
        # v4, and v3 where types are named, give them by type
        return _of(files.name, {"embeddings": found.get("float") if isinstance(found, dict) else found}, "embeddings")

    return cohere if _is_cohere(remote.model) else titan


def _titan_settings(model: str, dimension: int) -> dict[str, Any]:
    """Version 1 has one width and takes no settings."""
    return {} if "embed-text-v1" in model else {"dimensions": dimension, "normalize": True}


def _is_cohere(model: str) -> bool:
    return "cohere." in model


def _of(name: str, answer: Any, key: str) -> list[Any]:
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise _no_form(name, f"no list {key!r} in it")
    return found


def _no_form(name: str, detail: str) -> IntegrityMismatch:
    return IntegrityMismatch(
        f"the answer of the embedder {name} is not of the documented form",
        detail=detail,
        hint="check provider, format and model in configs/embedders.yaml",
    )
