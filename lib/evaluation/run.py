"""One evaluation: every case retrieved, read, judged and measured, over the table of one release."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import embedder_files
from lib.evaluation import cases as case_files
from lib.evaluation import flow, judges, results
from lib.evaluation.cases import Case
from lib.evaluation.judgements import Judgements
from lib.evaluation.reader import ExtractiveReader, ModelReader, Reader
from lib.evaluation.settings import EvaluationSettings
from lib.evaluation.systems import BuiltInSystem, System
from lib.index import changes
from lib.index.documents import digest_of_documents, read_documents
from lib.index.embedder import load_embedder, sentence_transformer
from lib.index.releases import Release
from lib.index.retrieval import Retriever
from lib.index.seal import content_of
from lib.platform.errors import IntegrityMismatch, Unavailable
from lib.platform.files import digest_of
from lib.platform.model_client import ModelClient
from lib.platform.workspace import Workspace

_PACKAGES = ("ragchecker", "refchecker", "sentence-transformers", "torch", "openvino", "tokenizers", "snowballstemmer")


@dataclass(frozen=True)
class Request:
    """What is evaluated and how. ``sources`` hold the gold documents: the candidate's, for its baseline too.

    ``recorded``: the folder of an evaluation that is to be recomputed out of the replies that it stored.
    """

    release: Release
    cases: case_files.CaseFile
    sources: tuple[str, ...]
    settings: EvaluationSettings
    bypass_cli: bool = True
    audit_file: Path | None = None
    fresh_judging: bool = False
    recorded: Path | None = None


@dataclass(frozen=True)
class SystemRequest:
    """What an external system is evaluated on. ``gold_corpus_digest``: of the documents that hold the gold; None where the
    quotes are looked for in what the system shows alone.
    """

    cases: case_files.CaseFile
    settings: EvaluationSettings
    gold_corpus_digest: str | None
    bypass_cli: bool = True
    audit_file: Path | None = None
    fresh_judging: bool = False


class CaughtUpMeanwhile(Unavailable):
    """Documents were brought into the release while its questions were asked: not all were answered by one state."""


def inputs_of(request: Request, gold_corpus_digest: str, coverage_digest: str | None) -> dict[str, Any]:
    """Digests of everything that decides the outcome; equal inputs give equal bytes on the embedded default.

    Args:
        coverage_digest: of the versions of documents that the release answers from; None where that is not recorded.
    """
    return {
        "release_id": request.release.release_id,
        "config_hash": request.release.config_hash,
        "content_digest": request.release.content_digest,
        "coverage_digest": coverage_digest,
        **_inputs_of_any(request, gold_corpus_digest),
    }


def evaluate(workspace: Workspace, connection: Connection, request: Request, folder: Path) -> results.Evaluation:
    """Evaluates a sealed release as it answers now, changed documents included, and writes the files into ``folder``.

    Raises:
        ConfigInvalid: a quote is not in the corpus. IntegrityMismatch: the table is not what was sealed.
        CaughtUpMeanwhile: what it answers from changed while the questions were asked.
        Unavailable: a model cannot be reached at all. A single failed reply leaves its case unscored instead.
    """
    release, config = request.release, request.release.locked_config
    with connection:
        content = content_of(connection, release.table_schema, release.table_name)
        documents = read_documents(connection, request.sources)
        covered = changes.coverage_of(connection, release)
    if content is None or content.digest != release.content_digest:
        raise IntegrityMismatch(
            f"table {release.table_name} is not what was sealed",
            hint="scripts/restore_production_state.py --list shows what can be brought back",
        )
    cases = case_files.resolve(request.cases, documents, request.sources)
    embedder = load_embedder(workspace, config)
    retriever = Retriever.of(connection, release.release_id, release.table, config, embedder)
    clients = judges.model_clients(request.settings, request.audit_file)

    def check() -> None:
        with connection:
            if changes.coverage_of(connection, release) != covered:
                raise CaughtUpMeanwhile(
                    f"{release.release_id} caught up with documents while it was evaluated", hint="try again"
                )

    opened = judges.opened(
        workspace, request.settings, clients, folder=folder, recorded=request.recorded, fresh=request.fresh_judging
    )
    with opened as panel:
        reader = _reader(workspace, request.settings, clients.get("reader"), panel.stored)
        workers = request.settings.determinism.max_workers if "reader" in clients else 1
        system = BuiltInSystem(retriever, reader, decoding_of(request.settings), workers)
        subject = flow.Subject(
            system=system,
            cases=cases,
            inputs=inputs_of(request, digest_of_documents(documents), covered.digest if covered else None),
            deduplication_rate=release.ingest_stats.get("deduplication_rate"),
            bypass_cli=request.bypass_cli,
            attribute=system.attribute,
        )
        return flow.measure(subject, panel, folder, check)


def evaluate_system(
    workspace: Workspace, system: System, request: SystemRequest, cases: list[Case], folder: Path
) -> results.Evaluation:
    """Evaluates an external system on ``cases`` and writes the files into ``folder``.

    Raises:
        Unavailable: the system or the judge's model answers nobody. A single failed reply leaves its case unscored instead.
    """
    subject = flow.Subject(system, cases, system_inputs_of(system, request), bypass_cli=request.bypass_cli)
    clients = judges.model_clients(request.settings, request.audit_file, ["judge"])
    with judges.opened(workspace, request.settings, clients, folder=folder, fresh=request.fresh_judging) as panel:
        return flow.measure(subject, panel, folder)


def system_inputs_of(system: System, request: SystemRequest) -> dict[str, Any]:
    """Digests of everything that decides the outcome, as far as it can be known of a system that is somewhere else."""
    return {
        "release_id": system.name,
        "system_digest": digest_of(dict(system.identity)),
        **_inputs_of_any(request, request.gold_corpus_digest),
    }


def _inputs_of_any(request: Request | SystemRequest, gold_corpus_digest: str | None) -> dict[str, Any]:
    """What decides an evaluation, whoever answers."""
    return {
        "cases_digest": request.cases.digest,
        "gold_corpus_digest": gold_corpus_digest,
        "settings_digest": request.settings.digest,
        "code_digest": code_digest(),
        "packages": package_versions(),
    }


def decoding_of(settings: EvaluationSettings) -> dict[str, Any]:
    """What every answer's record holds of the deterministic settings; no temperature where none is sent."""
    values = settings.determinism
    return {
        "few_shot_ids": list(values.few_shot_ids),
        "chain_of_thought": values.chain_of_thought,
        "temperature": settings.temperature("reader"),
        "seed": values.seed,
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a number; "missing" where one is not installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def code_digest() -> str:
    """SHA-256 over Golive's own library: Python, SQL and prompts."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".sql", ".txt"))
    return digest_of({str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})


def _reader(
    workspace: Workspace, settings: EvaluationSettings, client: ModelClient | None, stored: Judgements | None
) -> Reader:
    if client is not None:
        return ModelReader(client, settings.values["prompts"]["reader"], stored)
    values = settings.values["reader"]
    files = embedder_files.find(workspace, values["embedder"])
    return ExtractiveReader(sentence_transformer(files), values["max_sentences"], values["least_score"])
