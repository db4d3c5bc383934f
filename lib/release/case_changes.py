"""What happened to each case between two evaluations: values, claims, evidence, and where it was lost. Pure.

An unanswerable case has no evidence to lose: it is told whether the system abstained, as it should, or answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from lib.evaluation.attribution import LABELS, STAGES, label_of, stage_of
from lib.evaluation.ragchecker_metrics import LOWER_IS_BETTER
from lib.evaluation.results import CASE_METRICS, Evaluation
from lib.release.excerpts import Cut, Piece, spans_of

MOVES = ("worse", "unscored", "better", "same", "new")
# The first of these that differs says whether a case got better or worse; the stage is looked at before them.
DECIDING = ("recall", "claim_recall", "precision", "faithfulness", "hallucination")
_EQUAL = 1e-9
_PASSAGES = 2  # a side
# What became of a case: a label of ``attribution.LABELS`` where it was lost, else one of these; the last three are of
# unanswerable cases.
USED, ABSTAINED, ANSWERED, UNREAD = "used", "abstained", "answered", "no answer known"
MEANINGS = {
    "unknown": "nobody can tell: no answer came, or the system's index cannot be looked into",
    "missing document": "the document that holds it is not in the index, or another version is",
    "deduplication": "its chunk was dropped as a near-duplicate of one that does not say it",
    "chunk boundary": "the quote is cut over several chunks, and not all of them got through",
    "approximate index": "exact search finds it, the vector index does not",
    "ranking": "the index holds it, and ranks other chunks before it",
    "filter": "it was retrieved, and reranking and the filter kept it from the reader",
    "reader": "the reader was shown it, and the answer does not use it",
}
_IN_ORDER = (*LABELS, UNREAD, ANSWERED, USED, ABSTAINED)  # of those compared with nothing, the worst first


@dataclass(frozen=True)
class Side:
    """One evaluation with RAGChecker's labels: ``query_id`` → the result as ``ragchecker.json`` has it."""

    evaluation: Evaluation
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def release_id(self) -> str:
        return str(self.evaluation.summary["inputs"]["release_id"])


@dataclass(frozen=True)
class Passage:
    """A passage that the reader was shown; ``side`` is ``is``, ``was`` or ``both``."""

    chunk_id: str
    side: str
    pieces: tuple[Piece, ...]

    @property
    def holds_gold(self) -> bool:
        return any(piece.kind == "gold" for piece in self.pieces)


@dataclass(frozen=True)
class Claim:
    """A claim of the gold answer; ``change`` is ``lost``, ``gained``, ``kept`` or ``missing``."""

    text: str
    change: str
    in_context: bool


@dataclass(frozen=True)
class Value:
    """A metric of one case; ``better`` is None where it did not change or one side has no value."""

    metric: str
    was: float | None
    now: float | None
    better: bool | None


@dataclass(frozen=True)
class CaseChange:
    """A case, was and is. ``move`` is one of ``MOVES``; without a baseline it is ``new``.

    ``outcome``: where it was lost, or one of ``USED``, ``ABSTAINED``, ``ANSWERED``, ``UNREAD``; ``detail`` says why.
    ``claims_left_out`` counts those that did not change and are not listed.
    """

    query_id: str
    query: str
    tags: tuple[str, ...]
    answerable: bool
    unscored: bool
    move: str
    decided_by: str
    outcome: str
    outcome_before: str | None
    detail: str
    detail_before: str
    values: tuple[Value, ...]
    answer: tuple[Piece, ...]
    answer_before: tuple[Piece, ...]
    claims: tuple[Claim, ...]
    claims_left_out: int
    gold: tuple[tuple[str, tuple[Piece, ...]], ...]
    passages: tuple[Passage, ...]
    notes: tuple[str, ...]

    def values_by(self, better: bool | None) -> list[Value]:
        """The values that got better, or worse, or (None) neither."""
        return [value for value in self.values if value.better is better]

    @property
    def lost(self) -> bool:
        return self.outcome in LABELS

    @property
    def good(self) -> bool:
        """Whether it came out as it should."""
        return self.outcome in (USED, ABSTAINED) and not self.unscored

    @property
    def groups(self) -> tuple[str, ...]:
        """What it can be filtered by."""
        kind = "answerable" if self.answerable else "unanswerable"
        return (kind, self.outcome, *(["lost"] if self.lost else []), *(["unscored"] if self.unscored else []))

    @property
    def changed(self) -> bool:
        return self.move not in ("same", "new") or any(value.better is not None for value in self.values)


def changes_of(
    candidate: Side, baseline: Side | None, gold: Mapping[str, Sequence[tuple[str, str]]], cut: Cut | None = None
) -> list[CaseChange]:
    """Every case of the candidate, the worst first.

    Args:
        baseline: an evaluation of the same cases; None where nothing is compared with.
        gold: ``query_id`` → (document, quote) of its evidence; empty where the cases are not at hand.
        cut: how much of texts is kept.
    """
    cut = cut or Cut()
    before = {row["query_id"]: row for row in baseline.evaluation.rows} if baseline else {}
    found = [
        (_case(row, before.get(row["query_id"]), candidate, baseline, tuple(gold.get(row["query_id"], ())), cut), row)
        for row in candidate.evaluation.rows
    ]
    found.sort(key=lambda pair: (MOVES.index(pair[0].move), _loss(pair[1], before.get(pair[1]["query_id"]))))
    return [change for change, _ in found]


def count_moves(changes: Iterable[CaseChange]) -> dict[str, int]:
    """Move → number of cases, every move named."""
    counts = Counter(change.move for change in changes)
    return {move: counts[move] for move in MOVES}


def count_outcomes(changes: Iterable[CaseChange]) -> tuple[Counter[str], Counter[str]]:
    """How many cases came to each outcome: now, and before."""
    listed = list(changes)
    before = (change.outcome_before for change in listed if change.outcome_before is not None)
    return Counter(change.outcome for change in listed), Counter(before)


def words_of(outcome: str | None) -> str:
    """An outcome in words."""
    said = {
        None: "not evaluated",
        USED: "answer used its evidence",
        ABSTAINED: "abstained, as it should",
        ANSWERED: "answered, though nothing says so",
        UNREAD: "no answer known",
        "unknown": "lost, nobody knows where",
    }
    return said.get(outcome, f"lost at {outcome}")


def outcome_of(row: Mapping[str, Any]) -> str:
    """What became of a case, out of its row."""
    if row["answerable"]:
        return label_of(row) or USED
    if row["unscored"]:
        return UNREAD
    return ABSTAINED if row["abstained"] else ANSWERED


def _loss(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Sorts the greatest loss first, then by ``query_id``."""
    if before is None:
        return (not row["unscored"], _IN_ORDER.index(outcome_of(row)), row["query_id"])
    fallen = _reached(row) - _reached(before)
    recall = ((row["metrics"] or {}).get("recall") or 0.0) - ((before["metrics"] or {}).get("recall") or 0.0)
    return (fallen, recall, row["query_id"])


def _reached(row: Mapping[str, Any]) -> int:
    """How far a case came; an unanswerable one that was answered went as wrong as one that the reader lost."""
    wrong = not row["answerable"] and not row["abstained"]
    return STAGES.index("reader" if wrong else stage_of(row))


def _case(
    row: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    candidate: Side,
    baseline: Side | None,
    gold: tuple[tuple[str, str], ...],
    cut: Cut,
) -> CaseChange:
    query_id = row["query_id"]
    label = candidate.labels.get(query_id)
    label_before = baseline.labels.get(query_id) if baseline else None
    values = _values(row, before)
    move, decided_by = _move(row, before, values)
    claims, notes = _claims(label, label_before if before else None)
    notes += [f"unscored: {row['unscored']}"] if row["unscored"] else []
    notes += [f"unscored before: {before['unscored']}"] if before and before["unscored"] else []
    quotes = [quote for _, quote in gold]
    listed = [claim for place, claim in enumerate(claims) if place < cut.listed or claim.change in ("lost", "gained")]
    return CaseChange(
        query_id=query_id,
        query=cut.line(row["query"]),
        tags=tuple(row.get("tags", ())),
        answerable=row["answerable"],
        unscored=bool(row["unscored"]),
        move=move,
        decided_by=decided_by,
        outcome=outcome_of(row),
        outcome_before=outcome_of(before) if before else None,
        detail=cut.line(row.get("lost_detail") or ""),
        detail_before=cut.line(before.get("lost_detail") or "") if before else "",
        values=values,
        answer=cut.text(row.get("response", "")),
        answer_before=cut.text(before.get("response", "")) if before else (),
        claims=tuple(replace(claim, text=cut.line(claim.text)) for claim in listed),
        claims_left_out=len(claims) - len(listed),
        gold=tuple((doc_id, cut.text(quote)) for doc_id, quote in gold[: cut.listed]),
        passages=_passages(label, label_before, quotes, cut),
        notes=tuple(cut.line(note) for note in notes),
    )


def _values(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[Value, ...]:
    if not row["answerable"]:
        sides = [None if side is None or side["unscored"] else float(side["abstained"]) for side in (before, row)]
        changed = None not in sides and sides[0] != sides[1]
        return (Value("abstained", sides[0], sides[1], bool(sides[1]) if changed else None),)
    found = []
    for metric in CASE_METRICS:
        now = row["metrics"].get(metric)
        was = before["metrics"].get(metric) if before else None
        better = None
        if now is not None and was is not None and abs(now - was) > _EQUAL:
            better = (now < was) if metric in LOWER_IS_BETTER else (now > was)
        found.append(Value(metric, was, now, better))
    return tuple(found)


def _move(row: Mapping[str, Any], before: Mapping[str, Any] | None, values: Sequence[Value]) -> tuple[str, str]:
    """``(move, what decided it)``."""
    if before is None:
        return "new", ""
    if row["unscored"] or before["unscored"]:  # a stand-in value shows nothing, in either direction
        return "unscored", "no score on one side"
    now, was = _reached(row), _reached(before)
    if now != was and not row["answerable"]:
        return ("better" if now > was else "worse"), "whether it abstains"
    if now != was:
        return ("better" if now > was else "worse"), "where evidence is lost"
    better = {value.metric: value.better for value in values}
    for metric in DECIDING:
        if better.get(metric) is not None:
            return ("better" if better[metric] else "worse"), metric
    return "same", ""


def _claims(label: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> tuple[tuple[Claim, ...], list[str]]:
    """The gold answer's claims with what became of each, and what has to be said about them."""
    now = _claims_found(label)
    was = _claims_found(before)
    if before is not None and label is not None and now.keys() != was.keys():
        note = "the judge split the gold answer into other claims than before: claims lost and gained cannot be told"
        return tuple(Claim(text, "kept" if found else "missing", seen) for text, (found, seen) in now.items()), [note]
    claims = []
    for text, (found, seen) in now.items():
        found_before = was[text][0] if text in was else found
        change = ("kept" if found_before else "gained") if found else ("lost" if found_before else "missing")
        claims.append(Claim(text, change, seen))
    order = ("lost", "gained", "missing", "kept")
    return tuple(sorted(claims, key=lambda claim: order.index(claim.change))), []


def _claims_found(label: Mapping[str, Any] | None) -> dict[str, tuple[bool, bool]]:
    """Claim of the gold answer → whether the answer holds it, whether the passages do."""
    if not label:
        return {}
    claims = [claim if isinstance(claim, str) else " ".join(claim) for claim in label.get("gt_answer_claims") or []]
    answered = label.get("response2answer") or ["" for _ in claims]
    shown = label.get("retrieved2answer") or [[] for _ in claims]
    return {
        claim: (answer == "Entailment", "Entailment" in passages)
        for claim, answer, passages in zip(claims, answered, shown, strict=False)
    }


def _passages(
    now: Mapping[str, Any] | None, before: Mapping[str, Any] | None, quotes: Sequence[str], cut: Cut
) -> tuple[Passage, ...]:
    """The passages that hold gold, of both sides; where the candidate's hold none, the one it was shown first."""
    is_shown, was_shown = _shown(now), _shown(before)
    holding, held_before = _holding(is_shown, quotes), _holding(was_shown, quotes)
    found = [
        Passage(chunk_id, "both" if was_shown.get(chunk_id) == is_shown[chunk_id] else "is", cut.passage(text, quotes))
        for chunk_id, text in holding.items()
    ]
    if not found and is_shown:
        chunk_id, text = next(iter(is_shown.items()))
        found.append(Passage(chunk_id, "is", cut.passage(text, ())))
    found += [
        Passage(chunk_id, "was", cut.passage(text, quotes))
        for chunk_id, text in held_before.items()
        if holding.get(chunk_id) != text
    ]
    return tuple(found)


def _holding(shown: Mapping[str, str], quotes: Sequence[str]) -> dict[str, str]:
    """The first passages that hold a quote or a part of one."""
    holding = (item for item in shown.items() if any(spans_of(item[1], quote) for quote in quotes))
    return dict(islice(holding, _PASSAGES))


def _shown(label: Mapping[str, Any] | None) -> dict[str, str]:
    """Chunk id → text of what the reader was shown, in its order."""
    return {item["doc_id"]: item["text"] for item in (label or {}).get("retrieved_context") or []}
