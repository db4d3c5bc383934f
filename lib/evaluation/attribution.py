"""Where a case's evidence was lost: the first link of the chain from the documents to the answer that broke.

Each link is held against what would have been there without its fault: the table's own rows against the quote, exact search
against the index, the snapshot against what the reader was shown. What cannot be told is ``unknown``, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lib.evaluation.cases import Case, GoldSpan, covered, evidence_found, held_spans, whole
from lib.index.exact_search import ExactResult
from lib.index.fusion import Candidate

# In the order of the chain; "unknown" stands first, because nothing after it is known either.
LABELS = (
    "unknown",
    "missing document",
    "deduplication",
    "chunk boundary",
    "approximate index",
    "ranking",
    "filter",
    "reader",
)
STAGES = ("retrieval", "filter", "reader", None)  # None: the answer used its evidence
_HITS = ("oracle_hit", "filter_hit", "reader_gold_usage")


@dataclass(frozen=True)
class Loss:
    """One of ``LABELS``, and the facts behind it in words."""

    label: str
    detail: str


@dataclass(frozen=True)
class Seen:
    """What a query got and what became of it.

    ``used``: whether the answer used gold that it was shown; None where there is no answer to look at.
    ``problem``: why nothing is known of the query at all, else "".
    """

    snapshot: Sequence[Candidate]
    context: Sequence[Candidate]
    used: bool | None
    problem: str = ""


class Table(Protocol):
    """The table that was searched, as ``ExactSearch`` reads it."""

    def chunks_of(self, doc_ids: Sequence[str]) -> list[Candidate]: ...
    def search(self, query: str, chunk_ids: Sequence[str]) -> ExactResult: ...


def attribute(case: Case, seen: Seen, table: Table | None = None) -> Loss | None:
    """The loss of an answerable case; None where the answer used its evidence. Reads the table only for lost cases.

    Of a case that needs all its quotes, the earliest loss counts; of one that needs any, the one that got furthest.

    Args:
        table: None for a system whose index cannot be looked into: what was lost before its snapshot is ``unknown``.
    """
    if not case.answerable:
        return None
    if seen.problem:
        return Loss("unknown", seen.problem)
    if evidence_found(case, seen.snapshot) and evidence_found(case, seen.context):
        if seen.used is None:
            return Loss("unknown", "the evidence was shown, and there is no answer")
        return None if seen.used else Loss("reader", "the evidence was shown, and the answer does not use it")
    rows = table.chunks_of(sorted({gold.doc_id for gold in case.gold})) if table else None
    losses = [loss for gold in case.gold if (loss := _loss_of(gold, case.query, seen, rows, table))]
    first_or_last = min if case.require_all else max
    return first_or_last(losses, key=lambda loss: LABELS.index(loss.label))


def _loss_of(gold: GoldSpan, query: str, seen: Seen, rows: list[Candidate] | None, table: Table | None) -> Loss | None:
    """Where one quote was lost on the way to the reader; None where it was shown."""
    if covered(gold, seen.snapshot):
        if covered(gold, seen.context):
            return None
        return _cut(gold, seen.context, rows or seen.snapshot) or Loss("filter", _filtered(gold, seen))
    if table is None or rows is None:
        return Loss("unknown", "not in the snapshot, and the system's index cannot be looked into")
    if lost := _lost_in_table(gold, rows):
        return lost
    holding = [row for row in rows if held_spans(gold, row)]
    exact = table.search(query, [row.chunk_id for row in holding])
    if covered(gold, exact.snapshot):
        missed = _names(_holding(gold, exact.snapshot), seen.snapshot)
        return Loss("approximate index", f"exact search finds {missed}, the index does not")
    whole_quote = [row for row in holding if covered(gold, [row])]  # a part that ranks well is not what was needed
    return _cut(gold, seen.snapshot, rows) or Loss("ranking", _ranked(whole_quote or holding, exact))


def _lost_in_table(gold: GoldSpan, rows: Sequence[Candidate]) -> Loss | None:
    """What the table itself lacks of a quote; ``rows`` are those with a place in its document, or more."""
    places = [(row, place) for row in rows for place in row.places if place.doc_id == gold.doc_id]
    if not places:
        return Loss("missing document", f"no chunk of {gold.doc_id} is in the table")
    if covered(gold, rows):
        return None
    if not any(place.doc_sha256 == gold.doc_sha256 for _, place in places):
        return Loss("missing document", f"the table holds another version of {gold.doc_id}, without the quote")
    dropped = [
        (row, (place.start, place.end))
        for row in rows
        for place in row.places[1:]
        if (place.doc_id, place.doc_sha256) == (gold.doc_id, gold.doc_sha256)
    ]
    held = [span for row in rows for span in held_spans(gold, row)]
    if whole(gold, held + [span for _, span in dropped]):
        kept = sorted({row.chunk_id for row, (start, end) in dropped if start < gold.end and end > gold.start})
        return Loss("deduplication", f"its chunk was dropped in favour of {', '.join(kept)}, which does not say it")
    return Loss("chunk boundary", f"chunks of {gold.doc_id} hold parts of the quote, and no chunk the rest")


def _cut(gold: GoldSpan, found: Sequence[Candidate], rows: Sequence[Candidate]) -> Loss | None:
    """The loss of a quote that no chunk holds whole, and of which a part was found."""
    parts = _holding(gold, found)
    if not parts or any(covered(gold, [row]) for row in rows):
        return None
    pieces = len(_holding(gold, rows))
    return Loss("chunk boundary", f"the quote is cut over {pieces} chunks, of which {len(parts)} got through")


def _holding(gold: GoldSpan, chunks: Sequence[Candidate]) -> list[Candidate]:
    return [chunk for chunk in chunks if held_spans(gold, chunk)]


def _names(chunks: Sequence[Candidate], without: Sequence[Candidate]) -> str:
    there = {chunk.chunk_id for chunk in without}
    return ", ".join(sorted(chunk.chunk_id for chunk in chunks if chunk.chunk_id not in there))


def _filtered(gold: GoldSpan, seen: Seen) -> str:
    place = next(rank for rank, chunk in enumerate(seen.snapshot, 1) if held_spans(gold, chunk))
    return f"reranked to place {place} of {len(seen.snapshot)}, the reader was shown {len(seen.context)}"


def _ranked(holding: Sequence[Candidate], exact: ExactResult) -> str:
    ranks = [(exact.ranks[row.chunk_id], row.chunk_id) for row in holding if row.chunk_id in exact.ranks]
    found, chunk_id = min(ranks, key=lambda item: (min(item[0].vector, item[0].bm25 or item[0].vector), item[1]))
    words = f"{found.bm25} by words" if found.bm25 else "holds no word of the question"
    return f"{chunk_id} ranks {found.vector} by vector, {words}; {len(exact.snapshot)} make the snapshot"


def label_of(row: Mapping[str, Any]) -> str | None:
    """The label of a case's row; None where it is not lost. Of a row without one only the stage is known."""
    if "lost_at" in row:
        return None if row["lost_at"] is None else str(row["lost_at"])
    stage = stage_of(row)
    return "unknown" if stage == "retrieval" else stage


def stage_of(row: Mapping[str, Any]) -> str | None:
    """The first stage at which the hits of a case's row say that its evidence was lost; None where the answer used it."""
    if not row["answerable"]:
        return None
    return next((stage for stage, hit in zip(STAGES, _HITS, strict=False) if not row["metrics"][hit]), None)


Attribute = Callable[[Case, Seen], Loss | None]
