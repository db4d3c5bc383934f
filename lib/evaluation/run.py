"""One evaluation: every case retrieved, read, judged and measured, over the table of one release."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import embedder_files
from lib.evaluation import cases as case_files
from lib.evaluation import ragchecker_metrics, results
from lib.evaluation.cases import Case, evidence_found, source_text
from lib.evaluation.judge import BedrockJudge, Judge
from lib.evaluation.offline_judge import offline_judge, supports
from lib.evaluation.reader import Answer, BedrockReader, ExtractiveReader, Reader
from lib.evaluation.settings import EvaluationSettings
from lib.index import changes
from lib.index.documents import digest_of_documents, read_documents
from lib.index.embedder import load_embedder, local_embedder, sentence_transformer
from lib.index.releases import Release
from lib.index.rerank import load_reranker
from lib.index.retrieval import Retrieved, Retriever
from lib.index.seal import content_of
from lib.platform.bedrock import ConverseClient, Limits, ModelFailed, RateLimiter
from lib.platform.errors import IntegrityMismatch, Unavailable
from lib.platform.files import digest_of
from lib.platform.progress import Progress
from lib.platform.workspace import Workspace

_GOLD_USED = 0.5  # share of a gold quote's words that an answer holds to count as using it
_PACKAGES = ("ragchecker", "refchecker", "sentence-transformers", "torch", "openvino", "tokenizers", "snowballstemmer")


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
class _Run:
    case: Case
    retrieved: Retrieved
    answer: Answer
    unscored: str
    read_ms: float


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
    started = time.monotonic()
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
    retrieved = [retriever.retrieve(case.query) for case in cases]
    with connection:
        if changes.coverage_of(connection, release) != covered:
            raise CaughtUpMeanwhile(
                f"{release.release_id} caught up with documents while it was evaluated", hint="try again"
            )
    workers = request.settings.determinism.max_workers if request.settings.use_bedrock else 1
    runs = _read_all(reader, list(zip(cases, retrieved, strict=True)), workers)
    answered = time.monotonic()
    labelled, unscored = _judge_all(judge, runs)
    judged = time.monotonic()
    metrics = _compute(list(labelled.values()), request.bypass_cli)
    rows = [_row(run, labelled.get(run.case.query_id), metrics.get(run.case.query_id), unscored) for run in runs]
    summary = results.summarise(
        rows,
        inputs=inputs_of(request, digest_of_documents(documents), covered.digest if covered else None),
        produced_by={"reader": reader.name, "judge": judge.name, "metrics": f"ragchecker {version('ragchecker')}"},
        deduplication_rate=release.ingest_stats.get("deduplication_rate"),
    )
    evaluation = results.Evaluation(summary, rows)
    timings = {
        "answer_s": round(answered - started, 3),
        "judge_s": round(judged - answered, 3),
        "metrics_s": round(time.monotonic() - judged, 3),
        "retrieval_ms": {run.case.query_id: round(run.retrieved.latency_ms, 3) for run in runs},
        "read_ms": {run.case.query_id: round(run.read_ms, 3) for run in runs},
    }
    results.write(folder, evaluation, ragchecker_metrics.to_json(list(labelled.values())), timings)
    return evaluation


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
        embedder = sentence_transformer(files)
        reader = ExtractiveReader(embedder, values["reader"]["max_sentences"], values["reader"]["least_score"])
        words = local_embedder(workspace, files, values["judge"]["embedder_runtime"])
        return reader, offline_judge(words, values["judge"])
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


def _read_all(reader: Reader, cases: Sequence[tuple[Case, Retrieved]], workers: int) -> list[_Run]:
    """Reads on ``workers`` threads; the outcome does not depend on how many."""
    with Progress("answering", len(cases), "cases") as progress, ThreadPoolExecutor(workers) as pool:

        def read(pair: tuple[Case, Retrieved]) -> _Run:
            case, retrieved = pair
            began = time.perf_counter()
            try:
                answer, problem = reader.read(case.query, [source_text(chunk) for chunk in retrieved.context]), ""
            except ModelFailed as error:
                answer, problem = Answer(""), f"reader: {error}"
            progress.advance()
            return _Run(case, retrieved, answer, problem, (time.perf_counter() - began) * 1000)

        return [read(pair) for pair in cases] if workers == 1 else list(pool.map(read, cases))


def _judge_all(judge: Judge, runs: Sequence[_Run]) -> tuple[dict[str, Any], dict[str, str]]:
    """Labels every answerable case; returns the labelled results and, for the rest, why a case is unscored."""
    labelled: dict[str, Any] = {}
    unscored = {run.case.query_id: run.unscored for run in runs if run.unscored}
    todo = [run for run in runs if run.case.answerable and not run.unscored]
    with Progress("judging", len(todo), "cases") as progress:
        for run in todo:
            passages = [(chunk.chunk_id, source_text(chunk)) for chunk in run.retrieved.context]
            result = ragchecker_metrics.new_result(
                run.case.query_id, run.case.query, run.case.gt_answer, run.answer.text, passages
            )
            try:
                judge.label(result)
                labelled[run.case.query_id] = result
            except ModelFailed as error:
                unscored[run.case.query_id] = f"judge: {error}"
            progress.advance()
    return labelled, unscored


def _compute(labelled: list[Any], bypass_cli: bool) -> dict[str, dict[str, float]]:
    if bypass_cli or not labelled:
        return ragchecker_metrics.compute(labelled) if labelled else {}
    with tempfile.TemporaryDirectory(prefix="golive-ragchecker-") as folder:
        return ragchecker_metrics.compute_by_cli(labelled, Path(folder))


def _row(run: _Run, labelled: Any, metrics: dict[str, float] | None, unscored: dict[str, str]) -> dict[str, Any]:
    case, snapshot, context = run.case, run.retrieved.snapshot, run.retrieved.context
    reason = unscored.get(case.query_id, "")
    row: dict[str, Any] = {
        "query_id": case.query_id,
        "query": case.query,
        "answerable": case.answerable,
        "tags": list(case.tags),
        "response": run.answer.text,
        "abstained": run.answer.abstained and not reason,
        "unscored": reason,
        "snapshot_size": len(snapshot),
        "snapshot": [[chunk.chunk_id, chunk.fused_score, chunk.rerank_score] for chunk in snapshot],
        "context": [chunk.chunk_id for chunk in context],
        "claims": {
            "response": len(labelled.response_claims) if labelled else 0,
            "gt_answer": len(labelled.gt_answer_claims) if labelled else 0,
        },
        "metrics": None,
    }
    if case.answerable:
        shown = [gold for gold in case.gold if case_files.covered(gold, context)]
        values = metrics or {name: results.worst(name) for name in ragchecker_metrics.METRICS}
        row["metrics"] = {
            "oracle_hit": float(evidence_found(case, snapshot)),
            "filter_hit": float(evidence_found(case, context)),
            "reader_gold_usage": float(any(supports(run.answer.text, gold.quote, _GOLD_USED) for gold in shown)),
            **values,
        }
    return row
