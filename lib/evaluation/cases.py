"""Test cases: questions with gold evidence as exact quotes, which are resolved to spans of the documents."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.config import schemas
from lib.index.documents import Document
from lib.index.fusion import Candidate
from lib.platform.errors import ConfigInvalid
from lib.platform.files import digest_of, read_json
from lib.platform.progress import Progress

_NAMED = 20
_CHECKED_AT_ONCE = 5000  # a larger file takes seconds, and says how far it is


@dataclass(frozen=True, slots=True)
class GoldSpan:
    """A quote's place: ``content[start:end]`` of that version of a document is the quote."""

    doc_id: str
    doc_sha256: str
    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class Case:
    """One question. ``gold`` is empty where the corpus holds no answer; ``require_all``: one quote or all must be found."""

    query_id: str
    query: str
    gt_answer: str
    answerable: bool
    require_all: bool
    gold: tuple[GoldSpan, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class CaseFile:
    """A checked file of cases; ``digest`` covers all of it but the order of the cases.

    ``cases`` are in ``query_id`` order, and their gold as it is written: each span names its document as the file does, has
    no version and starts at 0. About 900 bytes a case stay in memory, texts of 200 characters among them.
    """

    path: Path
    digest: str
    cases: tuple[Case, ...]

    @property
    def count(self) -> int:
        return len(self.cases)


def load(path: Path) -> CaseFile:
    """Reads and checks a case file.

    Raises:
        NotFound, ConfigInvalid: missing, not JSON, not of the schema (each case by its query_id), or an id twice.
    """
    values = read_json(path, "case file")
    _check_schema(path, values)
    twice = [name for name, count in Counter(case["query_id"] for case in values["cases"]).items() if count > 1]
    if twice:
        raise ConfigInvalid(f"{path}: query_id {twice[0]} is there twice", detail=f"{len(twice)} such ids")
    ordered = sorted(values["cases"], key=lambda case: str(case["query_id"]))
    tags: dict[tuple[str, ...], tuple[str, ...]] = {}
    return CaseFile(path, digest_of({**values, "cases": ordered}), tuple(_case(raw, tags) for raw in ordered))


def _check_schema(path: Path, values: Any) -> None:
    """Raises ConfigInvalid. A large file is checked piece by piece, so that it can be said how far that is."""
    found = values.get("cases") if isinstance(values, dict) else None
    written = found if isinstance(found, list) else []

    def where(dotted: str) -> str:
        parts = dotted.split(".")
        if len(parts) > 1 and parts[0] == "cases":
            case, number = values["cases"][int(parts[1])], f"number {int(parts[1]) + 1}"
            return f"{path}: case {case.get('query_id', number) if isinstance(case, dict) else number}"
        return str(path)

    if len(written) > _CHECKED_AT_ONCE:
        with Progress("case file", len(written), "cases checked") as progress, suppress(ConfigInvalid):
            for start in range(0, len(written), _CHECKED_AT_ONCE):
                piece = written[start : start + _CHECKED_AT_ONCE]
                schemas.check({**values, "cases": piece}, "cases", lambda dotted: dotted)
                progress.advance(len(piece))
            return
    schemas.check(values, "cases", where)  # of the whole, so that every case that is broken is named by its place


def resolve(file: CaseFile, documents: Sequence[Document], sources: Sequence[str]) -> list[Case]:
    """Finds every quote in its document; cases come back in ``query_id`` order.

    Args:
        documents: those of ``sources``. A case names a document by its whole id, or by its path below its source.

    Raises:
        ConfigInvalid: a quote is not in its document, or is there more than once; every such case is named.
    """
    by_id = {document.doc_id: document for document in documents}
    problems: list[str] = []
    cases = []
    for case in file.cases:
        gold = []
        for written in case.gold:
            found = _resolve_quote(written.doc_id, written.quote, by_id, sources)
            if isinstance(found, GoldSpan):
                gold.append(found)
            else:
                problems.append(f"{case.query_id}: {found}")
        cases.append(replace(case, gold=tuple(gold)))
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ConfigInvalid(
            f"{file.path}: {len(problems)} quotes do not stand in the corpus exactly once",
            detail="; ".join(problems[:_NAMED]) + more,
            hint="correct the quotes, or sync the corpus that these cases belong to",
        )
    return cases


def without_documents(file: CaseFile) -> list[Case]:
    """The cases where there are no documents to find the quotes in: each gold span has no version and starts at 0.

    What a system shows can then hold a quote only by its text.
    """
    return list(file.cases)


def _case(raw: Mapping[str, Any], known_tags: dict[tuple[str, ...], tuple[str, ...]]) -> Case:
    """A case as it is written; what takes few values over many cases is held once."""
    tags = tuple(raw.get("tags", ()))
    return Case(
        query_id=raw["query_id"],
        query=raw["query"],
        gt_answer=raw["gt_answer"],
        answerable=raw["answerable"],
        require_all=raw.get("require", "all") == "all",
        gold=tuple(GoldSpan(sys.intern(item["doc_id"]), "", 0, len(item["quote"]), item["quote"]) for item in raw["gold"]),
        tags=known_tags.setdefault(tags, tags),
    )


def _resolve_quote(path: str, quote: str, by_id: Mapping[str, Document], sources: Sequence[str]) -> GoldSpan | str:
    """The quote's span, or what is wrong with it."""
    # a whole id goes first: the way out of an ambiguous path has to be a name that is never ambiguous
    doc_ids = [path] if path in by_id else [doc_id for s in sources if (doc_id := f"{s}/{path}") in by_id]
    if not doc_ids:
        return f"no document {path}"
    if len(doc_ids) > 1:
        return f"{path} is in several sources: name one, as {doc_ids[0]}"
    document = by_id[doc_ids[0]]
    content = document.content
    start = content.find(quote)
    if start < 0:
        return f"quote not in {path}: {quote[:60]!r}"
    if content.find(quote, start + 1) >= 0:
        return f"quote more than once in {path}: {quote[:60]!r}"
    return GoldSpan(document.doc_id, document.sha256, start, start + len(quote), quote)


def source_text(chunk: Candidate) -> str:
    """A chunk's text as it stands in its document: under prefix policy B, ``bm25_text`` begins with the prefix."""
    return chunk.bm25_text[max(0, len(chunk.bm25_text) - (chunk.span_end - chunk.span_start)) :]


def covered(gold: GoldSpan, chunks: Sequence[Candidate]) -> bool:
    """Whether the chunks' texts together hold all of a gold span; blanks between chunks and at its ends do not count.

    A place counts if the chunk's text holds what the quote says there: a near-duplicate may differ in that very fact.
    A chunk cut from another version of the document holds the span if its text holds the quote.
    """
    return whole(gold, [span for chunk in chunks for span in held_spans(gold, chunk)])


def held_spans(gold: GoldSpan, chunk: Candidate) -> list[tuple[int, int]]:
    """The spans of the gold's document that a chunk's text holds, of those that touch the gold; see ``covered``."""
    spans = []
    for place in chunk.places:
        if place.doc_id != gold.doc_id:
            continue
        same_version = place.doc_sha256 == gold.doc_sha256
        start, end = (place.start, place.end) if same_version else (gold.start, gold.end)
        said = gold.quote[max(0, start - gold.start) : max(0, end - gold.start)]
        if said.strip() and _one_blank(said) in _one_blank(source_text(chunk)):
            spans.append((start, end))
    return spans


def whole(gold: GoldSpan, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether spans of the gold's document together hold all of it, blanks left aside."""
    reached = gold.start
    for start, end in sorted(spans):
        if gold.quote[reached - gold.start : max(reached, start) - gold.start].strip():
            break
        reached = max(reached, end)
    return not gold.quote[reached - gold.start :].strip()


def _one_blank(text: str) -> str:
    return " ".join(text.split())


def evidence_found(case: Case, chunks: Sequence[Candidate]) -> bool:
    """Whether a case's gold evidence is in the chunks: all quotes, or one where the case says that one will do."""
    found = [covered(gold, chunks) for gold in case.gold]
    return all(found) if case.require_all else any(found)
