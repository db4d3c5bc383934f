"""Test cases: questions with gold evidence as exact quotes, which are resolved to spans of the documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.config import schemas
from lib.index.documents import Document
from lib.index.fusion import Candidate
from lib.platform.errors import ConfigInvalid
from lib.platform.files import digest_of, read_json

_NAMED = 20


@dataclass(frozen=True)
class GoldSpan:
    """A quote's place: ``content[start:end]`` of that version of a document is the quote."""

    doc_id: str
    doc_sha256: str
    start: int
    end: int
    quote: str


@dataclass(frozen=True)
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
    """A checked file of cases, still as written; ``digest`` covers all of it."""

    path: Path
    values: dict[str, Any]

    @property
    def digest(self) -> str:
        return digest_of(self.values)

    @property
    def count(self) -> int:
        return len(self.values["cases"])


def load(path: Path) -> CaseFile:
    """Reads and checks a case file.

    Raises:
        NotFound, ConfigInvalid: missing, not JSON, not of the schema (each case by its query_id), or an id twice.
    """
    values = read_json(path, "case file")

    def where(dotted: str) -> str:
        parts = dotted.split(".")
        if len(parts) > 1 and parts[0] == "cases":
            case = values["cases"][int(parts[1])]
            name = case.get("query_id", f"number {int(parts[1]) + 1}") if isinstance(case, dict) else f"number {parts[1]}"
            return f"{path}: case {name}"
        return str(path)

    schemas.check(values, "cases", where)
    twice = [name for name, count in Counter(case["query_id"] for case in values["cases"]).items() if count > 1]
    if twice:
        raise ConfigInvalid(f"{path}: query_id {twice[0]} is there twice", detail=f"{len(twice)} such ids")
    return CaseFile(path, values)


def resolve(file: CaseFile, documents: Sequence[Document], sources: Sequence[str]) -> list[Case]:
    """Finds every quote in its document; cases come back in ``query_id`` order.

    Args:
        documents: those of ``sources``. A case names a document by its path below its source, or by its whole id.

    Raises:
        ConfigInvalid: a quote is not in its document, or is there more than once; every such case is named.
    """
    by_id = {document.doc_id: document for document in documents}
    problems: list[str] = []
    cases = []
    for raw in file.values["cases"]:
        gold = []
        for item in raw["gold"]:
            found = _resolve_quote(item["doc_id"], item["quote"], by_id, sources)
            if isinstance(found, GoldSpan):
                gold.append(found)
            else:
                problems.append(f"{raw['query_id']}: {found}")
        cases.append(
            Case(
                query_id=raw["query_id"],
                query=raw["query"],
                gt_answer=raw["gt_answer"],
                answerable=raw["answerable"],
                require_all=raw.get("require", "all") == "all",
                gold=tuple(gold),
                tags=tuple(raw.get("tags", ())),
            )
        )
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ConfigInvalid(
            f"{file.path}: {len(problems)} quotes do not stand in the corpus exactly once",
            detail="; ".join(problems[:_NAMED]) + more,
            hint="correct the quotes, or sync the corpus that these cases belong to",
        )
    return sorted(cases, key=lambda case: case.query_id)


def _resolve_quote(path: str, quote: str, by_id: Mapping[str, Document], sources: Sequence[str]) -> GoldSpan | str:
    """The quote's span, or what is wrong with it."""
    doc_ids = [doc_id for doc_id in (path, *(f"{source}/{path}" for source in sources)) if doc_id in by_id]
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


def covered(gold: GoldSpan, chunks: Sequence[Candidate]) -> bool:
    """Whether the chunks' texts together hold all of a gold span; blanks between chunks do not count.

    A chunk cut from another version of the document holds the span if its text holds the quote.
    """
    spans = []
    for chunk in chunks:
        for place in chunk.places:
            if place.doc_id == gold.doc_id:
                if place.doc_sha256 == gold.doc_sha256:
                    spans.append((place.start, place.end))
                elif gold.quote in chunk.bm25_text:
                    return True
    reached = gold.start
    for start, end in sorted(spans):
        if start > reached and gold.quote[reached - gold.start : start - gold.start].strip():
            break
        reached = max(reached, end)
        if reached >= gold.end:
            return True
    return False


def evidence_found(case: Case, chunks: Sequence[Candidate]) -> bool:
    """Whether a case's gold evidence is in the chunks: all quotes, or one where the case says that one will do."""
    found = [covered(gold, chunks) for gold in case.gold]
    return all(found) if case.require_all else any(found)
