"""What happened to each case between two evaluations: values, claims, evidence, and where it was lost. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lib.evaluation.attribution import STAGES, label_of, stage_of
from lib.evaluation.ragchecker_metrics import LOWER_IS_BETTER
from lib.evaluation.results import CASE_METRICS, Evaluation

MOVES = ("worse", "unscored", "better", "same", "new")
# The first of these that differs says whether a case got better or worse; the stage is looked at before them.
DECIDING = ("recall", "claim_recall", "precision", "faithfulness", "hallucination")
_EQUAL = 1e-9
ROOM = 160  # characters kept on each side of marked gold; of answers and of gold itself, eight times as many
_PASSAGES = 2  # a side
_LEAST_PART = 16  # characters of a quote that a passage must begin or end with to count as holding a part of it


@dataclass(frozen=True)
class Side:
    """One evaluation with RAGChecker's labels: ``query_id`` → the result as ``ragchecker.json`` has it."""

    evaluation: Evaluation
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def release_id(self) -> str:
        return str(self.evaluation.summary["inputs"]["release_id"])


@dataclass(frozen=True)
class Piece:
    """A part of a passage. ``kind``: ``text``, ``gold`` (to be marked), or ``gap`` (says how much was left out)."""

    kind: str
    text: str


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
    """An answerable case, was and is. ``move`` is one of ``MOVES``; without a baseline it is ``new``."""

    query_id: str
    query: str
    tags: tuple[str, ...]
    move: str
    decided_by: str
    lost_at: str | None
    lost_before: str | None
    values: tuple[Value, ...]
    answer: tuple[Piece, ...]
    answer_before: tuple[Piece, ...]
    claims: tuple[Claim, ...]
    gold: tuple[tuple[str, tuple[Piece, ...]], ...]
    passages: tuple[Passage, ...]
    notes: tuple[str, ...]

    def values_by(self, better: bool | None) -> list[Value]:
        """The values that got better, or worse, or (None) neither."""
        return [value for value in self.values if value.better is better]

    @property
    def changed(self) -> bool:
        return self.move not in ("same", "new") or any(value.better is not None for value in self.values)


@dataclass(frozen=True)
class Cut:
    """How texts are cut for showing. ``clean`` is done first: a secret that was cut in two would not be known again."""

    room: int = ROOM
    clean: Callable[[str], str] = str

    def text(self, text: str) -> tuple[Piece, ...]:
        """The beginning of an answer or a quote."""
        return _cut(self.clean(text), 8 * self.room)

    def passage(self, text: str, quotes: Sequence[str]) -> tuple[Piece, ...]:
        return pieces_of(self.clean(text), [self.clean(quote) for quote in quotes], self.room)


def changes_of(
    candidate: Side, baseline: Side | None, gold: Mapping[str, Sequence[tuple[str, str]]], cut: Cut | None = None
) -> list[CaseChange]:
    """Every answerable case of the candidate, the worst first.

    Args:
        baseline: an evaluation of the same cases; None where nothing is compared with.
        gold: ``query_id`` → (document, quote) of its evidence; empty where the cases are not at hand.
        cut: how much of answers and passages is kept.
    """
    cut = cut or Cut()
    before = {row["query_id"]: row for row in baseline.evaluation.rows} if baseline else {}
    found = [
        (_case(row, before.get(row["query_id"]), candidate, baseline, tuple(gold.get(row["query_id"], ())), cut), row)
        for row in candidate.evaluation.rows
        if row["answerable"]
    ]
    found.sort(key=lambda pair: (MOVES.index(pair[0].move), _loss(pair[1], before.get(pair[1]["query_id"]))))
    return [change for change, _ in found]


def count_moves(changes: Iterable[CaseChange]) -> dict[str, int]:
    """Move → number of cases, every move named."""
    counts = Counter(change.move for change in changes)
    return {move: counts[move] for move in MOVES}


def _loss(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Sorts the greatest loss first, then by ``query_id``."""
    if before is None:
        return (STAGES.index(stage_of(row)), 0.0, row["query_id"])
    fallen = STAGES.index(stage_of(row)) - STAGES.index(stage_of(before))
    recall = (row["metrics"]["recall"] or 0.0) - (before["metrics"]["recall"] or 0.0)
    return (fallen, recall, row["query_id"])


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
    notes += [f"lost at {label_of(row)}: {row['lost_detail']}"] if label_of(row) and row.get("lost_detail") else []
    notes += [f"unscored before: {before['unscored']}"] if before and before["unscored"] else []
    quotes = [quote for _, quote in gold]
    return CaseChange(
        query_id=query_id,
        query=row["query"],
        tags=tuple(row.get("tags", ())),
        move=move,
        decided_by=decided_by,
        lost_at=label_of(row),
        lost_before=label_of(before) if before else None,
        values=values,
        answer=cut.text(row.get("response", "")),
        answer_before=cut.text(before.get("response", "")) if before else (),
        claims=claims,
        gold=tuple((doc_id, cut.text(quote)) for doc_id, quote in gold),
        passages=_passages(label, label_before, quotes, cut),
        notes=tuple(notes),
    )


def _values(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[Value, ...]:
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
    now, was = STAGES.index(stage_of(row)), STAGES.index(stage_of(before))
    if now != was:
        return ("better" if now > was else "worse"), "where evidence is lost"
    by_name = {value.metric: value for value in values}
    for metric in DECIDING:
        if by_name[metric].better is not None:
            return ("better" if by_name[metric].better else "worse"), metric
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
    holding = (item for item in shown.items() if any(_spans(item[1], quote) for quote in quotes))
    return dict(islice(holding, _PASSAGES))


def _shown(label: Mapping[str, Any] | None) -> dict[str, str]:
    """Chunk id → text of what the reader was shown, in its order."""
    return {item["doc_id"]: item["text"] for item in (label or {}).get("retrieved_context") or []}


def pieces_of(text: str, quotes: Sequence[str], room: int = ROOM) -> tuple[Piece, ...]:
    """A passage with every quote, or the part of it that the passage holds, marked; what is far from it left out."""
    spans = _merged([span for quote in quotes for span in _spans(text, quote)])
    if not spans:
        return _cut(text, 2 * room)
    pieces: list[Piece] = []
    reached = 0
    for place, (start, end) in enumerate(spans):
        pieces += _between(text[reached:start], keep_head=room if place else 0, keep_tail=room)
        pieces += [
            Piece("gold", piece.text) if piece.kind == "text" else piece for piece in _cut(text[start:end], 8 * room)
        ]
        reached = end
    pieces += _between(text[reached:], keep_head=room, keep_tail=0)
    return tuple(pieces)


def _between(text: str, *, keep_head: int, keep_tail: int) -> list[Piece]:
    """A text with its middle left out, where that spares something."""
    left_out = len(text) - keep_head - keep_tail
    if left_out < 40:
        return [Piece("text", text)] if text else []
    head, tail = text[:keep_head], text[len(text) - keep_tail :]
    pieces = [Piece("text", head), Piece("gap", f"{left_out} characters"), Piece("text", tail)]
    return [piece for piece in pieces if piece.text]


def _cut(text: str, room: int) -> tuple[Piece, ...]:
    """The first ``room`` characters, and how many were left out."""
    return tuple(_between(text, keep_head=room, keep_tail=0))


def _spans(text: str, quote: str) -> list[tuple[int, int]]:
    """Where a quote stands in a text, blanks counting as equal; else the end or beginning of it that the text holds."""
    words = quote.split()
    if not words:
        return []
    pattern = r"\s+".join(re.escape(word) for word in words)
    if whole := [match.span() for match in re.finditer(pattern, text)]:
        return whole
    body = text.strip()
    offset = len(text) - len(text.lstrip())
    if len(body) >= _LEAST_PART and body in quote:
        return [(offset, offset + len(body))]
    length = _overlap(quote, body)
    if length >= _LEAST_PART:
        return [(offset, offset + length)]
    length = _overlap(body, quote)
    return [(offset + len(body) - length, offset + len(body))] if length >= _LEAST_PART else []


def _overlap(first: str, second: str) -> int:
    """The length of the longest end of ``first`` that ``second`` begins with; 0 where it is under ``_LEAST_PART``."""
    seed = second[:_LEAST_PART]
    place = first.find(seed) if len(seed) == _LEAST_PART else -1
    while place >= 0:
        if second.startswith(first[place:]):
            return len(first) - place
        place = first.find(seed, place + 1)
    return 0


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
