"""RAGChecker's eleven metrics, computed by the ragchecker package from claims and labels.

The package takes over ten seconds to import and is imported inside functions alone.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lib.platform.errors import ConfigInvalid, Unavailable
from lib.platform.files import read_json

METRICS = (
    "precision",
    "recall",
    "f1",
    "claim_recall",
    "context_precision",
    "context_utilization",
    "noise_sensitivity_in_relevant",
    "noise_sensitivity_in_irrelevant",
    "hallucination",
    "self_knowledge",
    "faithfulness",
)
LABELS = (
    "gt_answer_claims",
    "response_claims",
    "answer2response",
    "response2answer",
    "retrieved2answer",
    "retrieved2response",
)
LOWER_IS_BETTER = frozenset(
    {"noise_sensitivity_in_relevant", "noise_sensitivity_in_irrelevant", "hallucination", "self_knowledge"}
)
_CLI_TIMEOUT_S = 600


def checker(ask: Callable[[list[str]], list[str]]) -> Any:
    """A ``RAGChecker`` whose model calls all go to ``ask``."""
    _prepare()
    from ragchecker import RAGChecker

    # refchecker evaluates every triplet that a model writes as Python. A triplet can only be a literal; on anything else
    # the parser goes on as it does after a syntax error, and splits at commas.
    vars(import_module("refchecker.extractor.extractor_base"))["eval"] = ast.literal_eval
    for name in ("refchecker.extractor.llm_extractor", "refchecker.checker.llm_checker"):
        vars(import_module(name))["tqdm"] = iter  # it draws a bar for every call, on a terminal or not
    return RAGChecker(extractor_name="golive", checker_name="golive", custom_llm_api_func=ask)


def read_reply(ragchecker: Any, prompt: str, reply: str) -> list[Any] | None:
    """What a reply says to a ``RAGChecker`` that asked for it: claims, or a label for each claim that it listed.

    None where it cannot be read so. RAGChecker itself would go on with no claims, fill up labels with Neutral, and cut off
    those that are too many.
    """
    template = str(import_module("refchecker.checker.checker_prompts").JOINT_CHECKING_PROMPT_Q)
    head, _, tail = template.partition("[CLAIMS]")
    if not prompt.endswith(tail):
        return [claim.content for claim in ragchecker.extractor.parse_claims(reply, "###")] or None
    claims = prompt.removesuffix(tail).rpartition(head.splitlines()[-1])[2]
    asked = sum(line.startswith('("') for line in claims.splitlines())
    labels = list(ragchecker.checker._parse_joint_checking_labels(reply))
    return labels if len(labels) == asked else None


def new_result(query_id: str, query: str, gt_answer: str, response: str, passages: Sequence[tuple[str, str]]) -> Any:
    """A ``RAGResult`` without labels; ``passages`` are (chunk id, text) in the reader's order."""
    _prepare()
    from ragchecker import RAGResult
    from ragchecker.container import RetrievedDoc

    documents = [RetrievedDoc(doc_id=chunk_id, text=text) for chunk_id, text in passages]
    return RAGResult(query_id=query_id, query=query, gt_answer=gt_answer, response=response, retrieved_context=documents)


def compute(results: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Computes every metric of labelled results in-process.

    Returns:
        ``query_id`` → metric → value in 0..1.
    """
    if not results:
        return {}
    _prepare()
    from ragchecker import RAGResults
    from ragchecker.metrics import all_metrics

    held = RAGResults(list(results))
    checker(_no_model).evaluate(held, all_metrics)
    for result in held.results:  # the package leaves them in the order of a set, which differs from process to process
        result.metrics = {name: float(result.metrics[name]) for name in METRICS}
    return {result.query_id: dict(result.metrics) for result in held.results}


def compute_by_cli(results: Sequence[Any], folder: Path) -> dict[str, dict[str, float]]:
    """The same by ragchecker's own command line, on files in ``folder``.

    Raises:
        Unavailable: the command failed, and the end of what it said is shown; or it took too long.
    """
    source, target = folder / "ragchecker_input.json", folder / "ragchecker_output.json"
    source.write_text(to_json(results), encoding="utf-8")
    command = [sys.executable, "-m", "ragchecker.cli", f"--input_path={source}", f"--output_path={target}"]
    names = ["--extractor_name=golive", "--checker_name=golive", "--metrics", "all_metrics"]
    environment = {**os.environ, **_ENVIRONMENT}
    try:
        done = subprocess.run([*command, *names], capture_output=True, text=True, timeout=_CLI_TIMEOUT_S, env=environment)
        failed, said = done.returncode != 0, done.stderr
    except subprocess.TimeoutExpired:
        failed, said = True, f"no result after {_CLI_TIMEOUT_S} s"
    if failed:
        raise Unavailable(
            "ragchecker's command line failed",
            detail=" | ".join(said.strip().splitlines()[-2:]),
            hint="--bypass-cli computes the same metrics in this process",
        )
    found = read_json(target, "ragchecker output")["results"]
    return {row["query_id"]: {name: float(row["metrics"][name]) for name in METRICS} for row in found}


def undefined_metrics(*, response_claims: int, passages: int) -> list[str]:
    """Metrics that say nothing about such an answer, though RAGChecker gives each the perfect 0.

    An answer without claims has none that could be wrong or unfounded; without passages, no noise can come out of them.
    ``answer_rate``, precision and recall count what is missing.
    """
    if not response_claims:
        return sorted(LOWER_IS_BETTER)
    return [] if passages else sorted(LOWER_IS_BETTER)


def to_json(results: Sequence[Any]) -> str:
    """The results with claims and labels in RAGChecker's own file form; equal results give equal bytes."""
    _prepare()
    from ragchecker import RAGResults

    return str(RAGResults(list(results)).to_json(indent=1)) + "\n"


def from_json(text: str) -> list[Any]:
    """The results of ``to_json``, with their claims, labels and metrics.

    Raises:
        ConfigInvalid: it is no such text.
    """
    _prepare()
    from ragchecker import RAGResults

    try:
        return list(RAGResults.from_json(text).results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigInvalid(f"these are no results of RAGChecker: {type(error).__name__} {error}") from error


def labels_of(result: Any) -> list[Any]:
    """A result's claims and labels: all that a judge decides."""
    return [getattr(result, name) for name in LABELS]


_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def _prepare() -> None:
    """litellm would ask the network for prices when it is imported; ragchecker logs every step."""
    os.environ.update(_ENVIRONMENT)
    from loguru import logger

    logger.disable("ragchecker")


def _no_model(prompts: list[str]) -> list[str]:
    raise AssertionError("a label is missing: the metrics were asked for before the judge was done")
