"""One evaluation: every case retrieved, read, judged and measured, over the table of one release."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import embedder_files
from lib.evaluation import cases as case_files
from lib.evaluation import flow, results
from lib.evaluation.cases import Case
from lib.evaluation.judge import BedrockJudge, Judge
from lib.evaluation.offline_judge import LexicalJudge
from lib.evaluation.reader import BedrockReader, ExtractiveReader, Reader
from lib.evaluation.settings import EvaluationSettings
from lib.evaluation.systems import BuiltInSystem, System
from lib.index import changes
from lib.index.documents import digest_of_documents, read_documents
from lib.index.embedder import load_embedder, sentence_transformer
from lib.index.releases import Release
from lib.index.rerank import load_reranker
from lib.index.retrieval import Retriever
from lib.index.seal import content_of
from lib.platform.bedrock import ConverseClient, Limits, RateLimiter
from lib.platform.errors import IntegrityMismatch, Unavailable
from lib.platform.files import digest_of
from lib.platform.workspace import Workspace

_PACKAGES = ("ragchecker", "refchecker", "sentence-transformers", "torch", "tokenizers", "snowballstemmer")


@dataclass(frozen=True)
class Request:
    """What is evaluated and how. ``sources`` hold the gold documents: the candidate's, for its baseline too."""

    release: Release
    cases: case_files.CaseFile
    sources: tuple[str, ...]
    settings: EvaluationSettings
    bypass_cli: bool = True
    audit_file: Path | None = None


@dataclass(frozen=True)
class SystemRequest:
    """What an external system is evaluated on. ``gold_corpus_digest``: of the documents that hold the gold; None where the
    quotes are looked for in what the system shows alone.
    """

    cases: case_files.CaseFile
    settings: EvaluationSettings
    gold_corpus_digest: str | None
    bypass_cli: bool = True


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
        "cases_digest": request.cases.digest,
        "gold_corpus_digest": gold_corpus_digest,
        "settings_digest": request.settings.digest,
        "code_digest": code_digest(),
        "packages": package_versions(),
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
    retriever = Retriever(
        connection, release.release_id, release.table, config, embedder, load_reranker(config.rerank.model)
    )
    reader, judge = _models(workspace, request)
    workers = request.settings.determinism.max_workers if request.settings.use_bedrock else 1
    subject = flow.Subject(
        system=BuiltInSystem(retriever, reader, decoding_of(request.settings), workers),
        cases=cases,
        judge=judge,
        inputs=inputs_of(request, digest_of_documents(documents), covered.digest if covered else None),
        deduplication_rate=release.ingest_stats.get("deduplication_rate"),
        bypass_cli=request.bypass_cli,
    )

    def check() -> None:
        with connection:
            if changes.coverage_of(connection, release) != covered:
                raise CaughtUpMeanwhile(
                    f"{release.release_id} caught up with documents while it was evaluated", hint="try again"
                )

    return flow.measure(subject, folder, check)


def evaluate_system(
    system: System, request: SystemRequest, judge: Judge, cases: list[Case], folder: Path
) -> results.Evaluation:
    """Evaluates an external system on ``cases`` and writes the files into ``folder``.

    Raises:
        Unavailable: the system or the judge's model answers nobody. A single failed reply leaves its case unscored instead.
    """
    inputs = system_inputs_of(system, request)
    try:
        return flow.measure(flow.Subject(system, cases, judge, inputs, bypass_cli=request.bypass_cli), folder)
    finally:
        system.close()


def system_inputs_of(system: System, request: SystemRequest) -> dict[str, Any]:
    """Digests of everything that decides the outcome, as far as it can be known of a system that is somewhere else."""
    return {
        "release_id": system.name,
        "system_digest": digest_of(dict(system.identity)),
        "cases_digest": request.cases.digest,
        "gold_corpus_digest": request.gold_corpus_digest,
        "settings_digest": request.settings.digest,
        "code_digest": code_digest(),
        "packages": package_versions(),
    }


def decoding_of(settings: EvaluationSettings) -> dict[str, Any]:
    """What every answer's record holds of the deterministic settings."""
    values = settings.determinism
    return {
        "few_shot_ids": list(values.few_shot_ids),
        "chain_of_thought": values.chain_of_thought,
        "temperature": values.temperature,
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


def _models(workspace: Workspace, request: Request) -> tuple[Reader, Judge]:
    values = request.settings.values
    if not request.settings.use_bedrock:
        files = embedder_files.find(workspace, values["reader"]["embedder"])
        reader = ExtractiveReader(
            sentence_transformer(files), values["reader"]["max_sentences"], values["reader"]["least_score"]
        )
        return reader, LexicalJudge(values["judge"]["least_coverage"])
    reader_client, judge_client = bedrock_clients(request.settings, request.audit_file)
    return BedrockReader(reader_client, values["prompts"]["reader"]), BedrockJudge(judge_client)


def bedrock_clients(settings: EvaluationSettings, audit_file: Path | None) -> tuple[ConverseClient, ConverseClient]:
    """The reader's and the judge's client, sharing one rate limit."""
    values, limits = settings.values["bedrock"], settings.determinism
    shared = RateLimiter(limits.bedrock_requests_per_second)
    made = [
        ConverseClient(
            values[role],
            values["region"],
            Limits(
                requests_per_second=limits.bedrock_requests_per_second,
                max_in_flight=limits.bedrock_max_in_flight,
                call_timeout_s=limits.bedrock_call_timeout_s,
                text_timeout_s=limits.bedrock_text_timeout_s,
                attempts=values["attempts"],
                max_tokens=values["max_tokens"],
                temperature=limits.temperature,
            ),
            endpoint_url=values.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME"),
            audit_file=audit_file if limits.prompt_audit else None,
            limiter=shared,
        )
        for role in ("reader_model", "judge_model")
    ]
    return made[0], made[1]
