"""Cases through a system, a judge and RAGChecker's metrics, block by block: memory does not grow with their number."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from lib.evaluation import attribution, ragchecker_metrics, results
from lib.evaluation.case_rows import make_row
from lib.evaluation.cases import Case, source_text
from lib.evaluation.evaluation_files import EvaluationFiles
from lib.evaluation.judges import Judges
from lib.evaluation.systems import Answered, System, placed
from lib.platform.errors import Unavailable
from lib.platform.model_client import ModelFailed
from lib.platform.progress import Progress

_BLOCK = 64
_BLOCK_BY_CLI = 2000  # ragchecker's command line takes seconds to start
_AHEAD = 4  # questions asked ahead of the one waited for, a worker

Pair = tuple[Case, Answered]


@dataclass(frozen=True)
class Subject:
    """A system, and the cases it is asked in ``query_id`` order; ``inputs`` are all that decides the outcome.

    ``attribute`` says where a case was lost: with a look at the table, where the system has one here.
    """

    system: System
    cases: Sequence[Case]
    inputs: Mapping[str, Any]
    deduplication_rate: float | None = None
    bypass_cli: bool = True
    attribute: attribution.Attribute = field(default=attribution.attribute)


@dataclass
class _Block:
    """Some cases with their answers; ``labelled`` as the first judge left them, ``unscored``: why others are not."""

    pairs: list[Pair] = field(default_factory=list)
    labelled: dict[str, Any] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)


@dataclass
class _Seconds:
    answer_s: float = 0.0
    judge_s: float = 0.0
    metrics_s: float = 0.0
    attribute_s: float = 0.0


def measure(subject: Subject, judges: Judges, folder: Path, check: Callable[[], None] = lambda: None) -> results.Evaluation:
    """Asks, judges and measures every case and leaves the evaluation's files in ``folder``.

    Neither the number of workers nor the order of the cases changes a row.

    Args:
        check: called after each block of cases; what it raises ends the evaluation, and nothing is written.

    Raises:
        Unavailable: the system or the judge's model serves nobody; or ``system.patience`` questions in a row failed.
    """
    seconds, snapshots_given = _Seconds(), 0
    size = _BLOCK if subject.bypass_cli else _BLOCK_BY_CLI
    steps = Progress("evaluating", len(subject.cases), "cases", steps=judges.per_answer)
    with EvaluationFiles(folder) as files, steps as progress:
        answers = ask_all(subject.system, subject.cases)
        while (block := _judge_block(islice(answers, size), judges, seconds, progress)).pairs:
            metrics = _measure_block(block, judges, subject.bypass_cli, seconds, progress)
            for case, answer in block.pairs:
                began, key = time.monotonic(), case.query_id
                labelled = block.labelled.get(key)
                row = make_row(case, answer, labelled, metrics.get(key), block.unscored.get(key, ""))
                files.add({**row, **_loss(subject, case, answer, row)}, labelled, answer.timings)
                seconds.attribute_s += time.monotonic() - began
                snapshots_given += answer.snapshot_given and not answer.problem
            check()
        judges.write(folder)
        summary = results.summarise(
            files.rows,
            inputs=subject.inputs,
            produced_by={
                "reader": subject.system.name,
                "judge": judges.first.name,
                "metrics": f"ragchecker {version('ragchecker')}",
            },
            deduplication_rate=subject.deduplication_rate,
        )
        system = {**subject.system.identity, "answers_with_a_snapshot": snapshots_given}
        summary = {**summary, "judge_noise": judges.noise(), "system": system}
        return files.finish(summary, {name: round(value, 3) for name, value in vars(seconds).items()})


def ask_all(system: System, cases: Iterable[Case]) -> Iterator[Pair]:
    """The answers in the order of the cases, on ``system.workers`` threads; few are held at a time."""
    failed = 0
    for case, answer in _ask_in_order(system, cases):
        failed = failed + 1 if answer.problem else 0
        if system.patience and failed >= system.patience:
            raise Unavailable(
                f"{system.name} failed {failed} questions in a row",
                detail=answer.problem,
                hint="is it up? scripts/evaluate_system.py --dry-run asks it one question",
            )
        yield case, answer


def _ask_in_order(system: System, cases: Iterable[Case]) -> Iterator[Pair]:
    if system.workers == 1:
        yield from ((case, system.answer(case.query_id, case.query)) for case in cases)
        return
    waiting: deque[tuple[Case, Future[Answered]]] = deque()
    with ThreadPoolExecutor(system.workers) as pool:
        try:
            for case in cases:
                waiting.append((case, pool.submit(system.answer, case.query_id, case.query)))
                if len(waiting) > system.workers * _AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _judge_block(answers: Iterator[Pair], judges: Judges, seconds: _Seconds, progress: Progress) -> _Block:
    """Judges each answerable case as its answer comes; a case that is not judged again is done with that."""
    block = _Block()
    waited = time.monotonic()
    for case, given in answers:
        began = time.monotonic()
        seconds.answer_s += began - waited
        answer, key = placed(given, case), case.query_id
        block.pairs.append((case, answer))
        if answer.problem:
            block.unscored[key] = answer.problem
        elif case.answerable:
            passages = [(chunk.chunk_id, source_text(chunk)) for chunk in answer.context]
            result = ragchecker_metrics.new_result(key, case.query, case.gt_answer, answer.text, passages)
            try:
                judges.first.label(result)
                block.labelled[key] = result
            except ModelFailed as error:
                block.unscored[key] = f"judge: {error}"
        progress.advance(1 if key in block.labelled else judges.per_answer)
        waited = time.monotonic()
        seconds.judge_s += waited - began
    return block


def _measure_block(
    block: _Block, judges: Judges, bypass_cli: bool, seconds: _Seconds, progress: Progress
) -> dict[str, dict[str, float]]:
    """RAGChecker's metrics by ``query_id``, after which the answers are judged again where the settings say so."""
    labelled = list(block.labelled.values())
    began = time.monotonic()
    metrics = _compute(labelled, bypass_cli)
    measured = time.monotonic()
    judges.judge_again(labelled, metrics, progress.advance)
    seconds.metrics_s += measured - began
    seconds.judge_s += time.monotonic() - measured
    return metrics


def _loss(subject: Subject, case: Case, answer: Answered, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says of where its case was lost."""
    unmeasured, metrics = row["unmeasured"], row["metrics"] or {}
    used = None if "reader_gold_usage" in unmeasured else bool(metrics.get("reader_gold_usage"))
    problem = answer.problem if "oracle_hit" in unmeasured else ""
    found = subject.attribute(case, attribution.Seen(answer.snapshot, answer.context, used, problem))
    return {"lost_at": found.label if found else None, "lost_detail": found.detail if found else ""}


def _compute(labelled: list[Any], bypass_cli: bool) -> dict[str, dict[str, float]]:
    if bypass_cli or not labelled:
        return ragchecker_metrics.compute(labelled)
    with tempfile.TemporaryDirectory(prefix="golive-ragchecker-") as folder:
        return ragchecker_metrics.compute_by_cli(labelled, Path(folder))
