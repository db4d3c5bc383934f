"""Assessing a system of one's own (HTTP endpoint or command): the same evaluation, the same gate, the same files.

It is compared with an earlier evaluation of the same cases, in a folder: no release and no database is needed, and so none
is told of the verdict either. A signing key signs it as it does that on a release.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.evaluation import calibration, gate, results, run
from lib.evaluation import cases as case_files
from lib.evaluation.cases import Case
from lib.evaluation.settings import EvaluationSettings
from lib.evaluation.systems import System
from lib.index.documents import Document, digest_of_documents, read_documents, scan_folder
from lib.platform.errors import ConfigInvalid, Refused
from lib.platform.workspace import Workspace
from lib.release import assessment, attesting
from lib.release.assessment import Assessment
from lib.release.gates import load_gates

_OF_AN_INDEX = ("avg_snapshot_size", "deduplication_rate")  # they say how Golive's own index is, and of no other system
_SAME = ("cases_digest", "gold_corpus_digest", "settings_digest")


@dataclass(frozen=True)
class Plan:
    """A system, the cases it is asked, what it is compared with, the gates, and where the evidence will stand."""

    request: run.SystemRequest
    cases: list[Case]
    baseline: results.Evaluation | None
    baseline_folder: Path | None
    gates: dict[str, Any]
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        return {
            "cases": len(self.cases),
            "baseline_release": self.baseline.summary["inputs"]["release_id"] if self.baseline else None,
            "gold_in_documents": self.request.gold_corpus_digest is not None,
            "gates_left_out": [name for name in _OF_AN_INDEX if name not in self.gates["metrics"]],
            "folder": str(self.folder),
        }


def documents_of(corpus: Path | None, sources: tuple[str, ...], connection: Connection | None) -> list[Document]:
    """The documents that hold the gold: of a folder, or of the database's ``sources``; none where neither is named.

    Raises:
        NotFound, ConfigInvalid: there is no such folder, or it holds no document. ConfigInvalid: no such source has one.
    """
    if corpus is not None:
        return scan_folder(corpus, corpus.resolve().name).documents
    if connection is None:
        return []
    with connection:
        documents = read_documents(connection, sources)
    if not documents:
        raise ConfigInvalid(
            f"no documents of {', '.join(sources)} in the database", hint="scripts/sync_documents.py FOLDER"
        )
    return documents


def plan(
    workspace: Workspace,
    settings: EvaluationSettings,
    *,
    cases_path: Path,
    documents: list[Document],
    baseline: Path | None,
    folder: Path,
    fresh_judging: bool = False,
) -> Plan:
    """What an assessment will look at.

    Args:
        documents: those that hold the gold; empty: quotes are looked for in what the system shows alone.
        baseline: a folder of an earlier assessment, or of an evaluation.
        fresh_judging: pass over a model's stored judgements, and replace them.

    Raises:
        Refused: the baseline was measured on other cases, gold or settings, or would be written over.
        NotFound, ConfigInvalid: cases, gates, or the baseline's files; a quote that is not in the documents.
    """
    gates, cases_file = load_gates(workspace), case_files.load(cases_path)
    if documents:
        sources = sorted({document.source for document in documents})
        cases = case_files.resolve(cases_file, documents, sources)
    else:
        cases = case_files.without_documents(cases_file)
    request = run.SystemRequest(
        cases_file,
        settings,
        digest_of_documents(documents) if documents else None,
        audit_file=folder / "prompt_audit.jsonl",
        fresh_judging=fresh_judging,
    )
    metrics = {name: limits for name, limits in gates["metrics"].items() if name not in _OF_AN_INDEX}
    home = _home(baseline, folder) if baseline else None
    found = _baseline(request, home) if home else None
    return Plan(request, cases, found, home, {**gates, "metrics": metrics}, folder)


def assess(workspace: Workspace, system: System, planned: Plan) -> Assessment:
    """Evaluates the system, judges it, and writes ``evaluation/``, ``verdict.json`` and ``verdict.txt`` into the folder."""
    signer = attesting.signer()  # a key that cannot be read stops this before the work, not after it
    evaluation = run.evaluate_system(workspace, system, planned.request, planned.cases, planned.folder / "evaluation")
    decided = gate.judge_gate(evaluation, planned.baseline, planned.gates, planned.request.settings.determinism.seed)
    if decided.verdict == "PASS" and planned.baseline is None:
        decided = replace(decided, reasons=["no baseline was given to compare with; every absolute limit is met"])
    decided = replace(decided, warnings=[*_remarks(planned, evaluation), *decided.warnings])
    seed = planned.request.settings.determinism.seed
    content = {
        **assessment.content_of(workspace, evaluation, planned.request.cases.path, planned.gates, decided),
        "baseline_folder": workspace.show(planned.baseline_folder) if planned.baseline_folder else None,
        "baseline_metrics_digest": planned.baseline.digest if planned.baseline else None,
        "signed_by": attesting.keyid(signer),
        "calibration": calibration.estimate(evaluation, planned.baseline, planned.gates, seed),
    }
    assessment.write(planned.folder, content)
    attesting.sign_verdict(None, planned.folder, content, signer)
    return Assessment(system.name, decided.verdict, content, planned.folder)


def _home(place: Path, folder: Path) -> Path:
    """Where the baseline's evaluation stands, which is not where the new one will."""
    home = place / "evaluation" if (place / "evaluation").is_dir() else place
    if home.resolve() == (folder / "evaluation").resolve():
        raise Refused(
            "the baseline would be written over by the evaluation that is compared with it",
            detail=os.fspath(folder),
            hint="another --outdir, or another --name",
        )
    return home


def _baseline(request: run.SystemRequest, home: Path) -> results.Evaluation:
    found = results.read(home)
    wanted = {
        "cases_digest": request.cases.digest,
        "gold_corpus_digest": request.gold_corpus_digest,
        "settings_digest": request.settings.digest,
    }
    other = [name for name in _SAME if found.summary["inputs"].get(name) != wanted[name]]
    if other:
        raise Refused(
            f"the baseline in {home} was measured otherwise: another {' and another '.join(other)}",
            hint="evaluate the baseline's system on these cases first, with the same settings and corpus",
        )
    return found


def _remarks(planned: Plan, evaluation: results.Evaluation) -> list[str]:
    """What a reader of the verdict has to know of an external system."""
    found = [f"{', '.join(_OF_AN_INDEX)}: not gated, they describe an index of Golive's own"]
    if planned.request.gold_corpus_digest is None:
        found.append("no documents were given: a quote counts as found where a passage's text holds it")
    if not evaluation.summary["system"]["answers_with_a_snapshot"]:
        found.append("no answer came with a snapshot: oracle_hit_rate looks at the contexts, and is filter_hit_rate")
    return found + planned.request.settings.remarks("judge")


def try_out(system: System, planned: Plan) -> dict[str, Any]:
    """Asks the first case alone and says how its answer was understood; nothing is written."""
    case = planned.cases[0]
    answer = system.answer(case.query_id, case.query)
    return {
        **planned.to_dict(),
        "system": system.name,
        "asked": case.query_id,
        "problem": answer.problem,
        "answer": answer.text,
        "contexts": len(answer.context),
        "snapshot": len(answer.snapshot) if answer.snapshot_given else None,
    }


def tried_text(tried: dict[str, Any]) -> str:
    against = tried["baseline_release"] or "nothing: no --baseline"
    lines = [f"would ask {tried['system']} {tried['cases']} questions, compare with {against}, write {tried['folder']}"]
    if tried["problem"]:
        lines.append(f"asked {tried['asked']}: no answer: {tried['problem']}")
    else:
        shown = "no snapshot" if tried["snapshot"] is None else f"a snapshot of {tried['snapshot']}"
        lines.append(f"asked {tried['asked']}: {tried['contexts']} contexts, {shown}: {tried['answer'] or 'it declines'}")
    return "\n".join(lines)
