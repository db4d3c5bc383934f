"""Training and held-out cases: by document, by hash, so that neither the order nor the number of cases moves one. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lib.evaluation.cases import Case, CaseFile
from lib.platform.errors import Refused
from lib.platform.files import digest_of

_SPACE = 2.0**64


@dataclass(frozen=True)
class Part:
    """Some cases of a file; ``documents``: how many their gold is in."""

    cases: tuple[Case, ...]
    file: CaseFile
    documents: int

    @property
    def answerable(self) -> int:
        return sum(case.answerable for case in self.cases)

    def to_dict(self) -> dict[str, object]:
        return {
            "cases": len(self.cases),
            "answerable": self.answerable,
            "documents": self.documents,
            "digest": self.file.digest,
        }


@dataclass(frozen=True)
class Split:
    training: Part
    held_out: Part


def split(file: CaseFile, cases: Sequence[Case], held_out_share: float) -> Split:
    """Each case's part. Documents that a case has gold in go together, with all of their cases; a case without gold alone.

    Args:
        cases: those of ``file``, resolved.
    """
    groups = _groups(cases)
    held = {case.query_id for case in cases if _place(groups[case.query_id]) < held_out_share}
    return Split(
        _part(file, cases, {case.query_id for case in cases} - held),
        _part(file, cases, held),
    )


def require_enough(found: Split, held_out_share: float, *, cases: int, documents: int) -> None:
    """Raises Refused where a part has fewer answerable cases, or cases about fewer documents, than the gate asks for."""
    for name, part, share in (
        ("held-out", found.held_out, held_out_share),
        ("training", found.training, 1 - held_out_share),
    ):
        if part.answerable >= cases and part.documents >= documents:
            continue
        raise Refused(
            f"too few {name} cases: {part.answerable} answerable ones about {part.documents} documents",
            detail=f"the gate needs {cases} about {documents} documents: in all about {math.ceil(cases / share)} answerable"
            f" cases about {math.ceil(documents / share)} documents, {share:.0%} of which are {name}",
            hint="write more cases, or change split.held_out_share in configs/search.yaml",
        )


def _groups(cases: Sequence[Case]) -> dict[str, str]:
    """``query_id`` → the name of the group it belongs to: the first of all documents that cases join to its own."""
    leader: dict[str, str] = {}

    def find(document: str) -> str:
        while leader.setdefault(document, document) != document:
            document = leader[document]
        return document

    for case in cases:
        joined = sorted({find(gold.doc_id) for gold in case.gold})
        leader.update(dict.fromkeys(joined, joined[0] if joined else ""))
    return {case.query_id: find(case.gold[0].doc_id) if case.gold else f"case {case.query_id}" for case in cases}


def _place(name: str) -> float:
    """Where a name falls in 0..1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / _SPACE


def _part(file: CaseFile, cases: Sequence[Case], chosen: set[str]) -> Part:
    mine = tuple(case for case in cases if case.query_id in chosen)
    digest = digest_of({"of": file.digest, "query_ids": sorted(chosen)})
    written = tuple(case for case in file.cases if case.query_id in chosen)
    documents = {gold.doc_id for case in mine for gold in case.gold}
    return Part(mine, CaseFile(file.path, digest, written), len(documents))
