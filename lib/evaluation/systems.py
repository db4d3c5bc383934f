"""The system under test: a question in; an answer, and the passages it was given from, out.

Golive's own retriever and reader are one; an HTTP endpoint (``systems_http``) or a command (``systems_command``) is
another. All are asked, judged and measured in the same way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lib.config import schemas
from lib.evaluation import attribution
from lib.evaluation.cases import Case, source_text
from lib.evaluation.reader import Answer, Reader, is_no_answer
from lib.index.exact_search import ExactSearch
from lib.index.fusion import Candidate
from lib.index.retrieval import Retriever
from lib.platform.errors import ConfigInvalid, redact
from lib.platform.files import canonical_json
from lib.platform.model_client import ModelFailed

PATIENCE = 20  # questions in a row without an answer after which an external system counts as away
_ANOTHER_VERSION = "another version"  # never a SHA-256: evidence then is what the text holds, wherever it stands
_SHOWN = 200


@dataclass(frozen=True)
class Answered:
    """What a system gave for one question. ``text`` is empty where it says that it does not know.

    ``snapshot``: what it found; ``context``: the part of it that the answer was given from, in ranked order.
    ``problem``: why there is no answer; the case then is unscored. ``record`` holds what is the same at every run (model,
    prompt, decoding, tokens); ``timings`` what is not, in milliseconds.
    """

    text: str
    context: Sequence[Candidate] = ()
    snapshot: Sequence[Candidate] = ()
    problem: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    by_text: bool = False  # its passages name no place in a sealed table: evidence is looked for in their texts
    snapshot_given: bool = True

    @property
    def abstained(self) -> bool:
        return not (self.text or self.problem)


class System(Protocol):
    """Answers questions; several threads may ask at once.

    ``name`` stands beside every number it led to; ``identity`` is what decides its answers, as far as it can be known from
    here, and holds no secret. ``patience``: after how many failures in a row asking on is useless; None where each failure
    stands for itself.
    """

    name: str
    identity: Mapping[str, Any]
    workers: int
    patience: int | None

    def answer(self, query_id: str, query: str) -> Answered:
        """One answer. A question that cannot be answered is an ``Answered`` with a ``problem``.

        Raises:
            Unavailable: the system will not answer any question.
        """
        ...

    def close(self) -> None: ...


class BuiltInSystem:
    """Golive's own: the retriever of one release and a reader.

    ``read_ms`` of a stored answer is what its model took when it was asked.
    """

    patience: int | None = None

    def __init__(self, retriever: Retriever, reader: Reader, decoding: Mapping[str, Any], workers: int) -> None:
        """``decoding``: what every answer's record holds of the deterministic settings."""
        self.name = reader.name
        self.identity: Mapping[str, Any] = {"kind": "built-in", "release_id": retriever.release_id}
        self.workers = workers
        self._retriever, self._reader, self._decoding = retriever, reader, decoding
        self._lock = threading.Lock()  # one connection and one embedder: only reading is done side by side

    def answer(self, query_id: str, query: str) -> Answered:
        with self._lock:
            retrieved = self._retriever.retrieve(query)
        began, problem, found = time.perf_counter(), "", Answer("")
        try:
            found = self._reader.read(query, [source_text(chunk) for chunk in retrieved.context])
        except ModelFailed as error:
            problem = f"reader: {error}"
        read_ms = (time.perf_counter() - began) * 1000 if found.latency_ms is None else found.latency_ms
        shown = sum(chunk.embedding_token_count for chunk in retrieved.context)
        return Answered(
            found.text,
            retrieved.context,
            retrieved.snapshot,
            problem,
            {**self._reader.record, **self._decoding, "tokens": {"context": shown, **found.tokens}},
            {"retrieval_ms": retrieved.latency_ms, "read_ms": read_ms},
        )

    def attribute(self, case: Case, seen: attribution.Seen) -> attribution.Loss | None:
        """Where a case was lost, with a look at the table."""
        with self._lock:
            return attribution.attribute(case, seen, ExactSearch(self._retriever))

    def close(self) -> None:
        pass


def parse_reply(reply: Any, query_id: str) -> Answered:
    """The answer that an external system's reply holds (``configs/schemas/system_reply.schema.json``).

    Whatever is wrong with it is the answer's ``problem``: a reply that cannot be understood is no answer.
    """
    if isinstance(reply, dict) and isinstance(reply.get("error"), str):
        return Answered("", problem=f"system: it reports an error: {redact(reply['error'])[:_SHOWN]}", by_text=True)
    try:
        schemas.check(reply, "system_reply", lambda dotted: f"the reply to {query_id}")
        if (answered := reply.get("query_id", query_id)) != query_id:
            raise ConfigInvalid(f"the reply to {query_id} is to {answered!r}")
        context = _passages(reply["contexts"])
        snapshot = _passages(reply["snapshot"]) if "snapshot" in reply else context
        text = "" if reply.get("abstained", False) or is_no_answer(reply["answer"]) else reply["answer"]
        _require_writable(reply)
    except ConfigInvalid as error:
        return Answered("", problem=f"system: {redact(error.message)[:_SHOWN]}", by_text=True)
    timings = {"system_ms": float(reply["latency_ms"])} if "latency_ms" in reply else {}
    return Answered(
        text, context, snapshot, "", reply.get("record", {}), timings, by_text=True, snapshot_given="snapshot" in reply
    )


def placed(answered: Answered, case: Case) -> Answered:
    """``answered`` with its passages placed in the case's gold documents, so that evidence can be looked for.

    A passage of an external system holds a quote if its text does, blanks aside; one that names the quote's document and
    its place there may also hold a part, which other passages complete.
    """
    if not answered.by_text:
        return answered
    snapshot = [_placed(chunk, case) for chunk in answered.snapshot]
    same = answered.context is answered.snapshot
    context = snapshot if same else [_placed(chunk, case) for chunk in answered.context]
    return replace(answered, snapshot=snapshot, context=context)


def _placed(chunk: Candidate, case: Case) -> Candidate:
    places = []
    for gold in case.gold:
        places.append({"doc_id": gold.doc_id, "start": gold.start, "end": gold.end, "doc_sha256": _ANOTHER_VERSION})
        # a case may name a document by its path below its source, and so may a system
        named = chunk.doc_id == gold.doc_id or gold.doc_id.endswith(f"/{chunk.doc_id}")
        if named and gold.doc_sha256:
            places += [{**place, "doc_id": gold.doc_id, "doc_sha256": gold.doc_sha256} for place in chunk.duplicates]
    return replace(chunk, duplicates=tuple(places))


def _passages(values: Sequence[Any]) -> list[Candidate]:
    return [_passage(value, rank) for rank, value in enumerate(values, 1)]


def _passage(value: Any, rank: int) -> Candidate:
    given: Mapping[str, Any] = {"text": value} if isinstance(value, str) else value
    text = given["text"]
    start, end = given.get("start"), given.get("end")
    if (start is None) != (end is None) or (start is not None and end < start):
        raise ConfigInvalid(f"passage {rank} has no whole place: start {start}, end {end}")
    place = {"doc_id": "", "start": start, "end": end, "doc_sha256": _ANOTHER_VERSION}
    return Candidate(
        chunk_id=given.get("id") or f"passage-{rank}",
        doc_id=given.get("doc_id") or "?",
        span_start=0,
        span_end=len(text),
        bm25_text=text,
        embedding_text=text,
        embedding_token_count=0,
        bm25_token_count=0,
        doc_sha256=_ANOTHER_VERSION,
        duplicates=(place,) if start is not None else (),
        vector_rank=None,
        bm25_rank=None,
        similarity=0.0,
        bm25_score=0.0,
        fused_score=float(given.get("score", 0.0)),
    )


def _require_writable(reply: Any) -> None:
    """Half of a surrogate pair, or a number that JSON has no word for, could not be written down."""
    try:
        canonical_json(reply)
    except ValueError as error:
        raise ConfigInvalid(f"the reply cannot be written down: {error}") from error
