"""Who reads and judges an evaluation, as its settings say: clients within one set of limits, stored judgements, repeats."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.config import embedder_files
from lib.evaluation import judgements, ragchecker_metrics
from lib.evaluation.judge import Judge, ModelJudge
from lib.evaluation.judge_noise import measure_noise
from lib.evaluation.judgements import Judgements
from lib.evaluation.offline_judge import SupportJudge, offline_judge
from lib.evaluation.results import worst
from lib.evaluation.settings import ROLES, EvaluationSettings, Role
from lib.index.embedder import local_embedder
from lib.platform.bedrock import ConverseClient
from lib.platform.model_client import Limits, ModelClient, ModelFailed, RateLimiter
from lib.platform.openai import ChatClient
from lib.platform.workspace import Workspace


@dataclass(frozen=True)
class Judges:
    """``first`` judges what counts; ``repeated`` judge the same answers again, so that the noise can be told.

    ``stored``: the replies of models by content, a reader's among them; None where no model is asked.
    """

    first: Judge
    repeated: tuple[Judge, ...]
    stored: Judgements | None
    judgings: list[dict[str, Mapping[str, float | None]]] = field(default_factory=list)

    @property
    def per_answer(self) -> int:
        """How often an answer is judged."""
        return 1 + len(self.repeated)

    def judge_again(
        self,
        labelled: Sequence[Any],
        metrics: Mapping[str, Mapping[str, float]],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Judges the answers of some cases again, by every judge that repeats, for the ``noise``.

        An answer that cannot be judged again has the worst values in that judging, as an unscored case has.

        Args:
            labelled: the results as the first judge left them. metrics: theirs, by ``query_id``.
            advance: called after each judging.
        """
        if not self.repeated or not labelled:
            return
        first: dict[str, Mapping[str, float | None]] = {
            result.query_id: defined_metrics(result, metrics[result.query_id]) for result in labelled
        }
        made = [first, *(_judge_again(judge, labelled, advance) for judge in self.repeated)]
        self.judgings.extend({} for _ in range(len(made) - len(self.judgings)))
        for kept, judging in zip(self.judgings, made, strict=True):
            kept.update(judging)

    def noise(self) -> dict[str, dict[str, Any]] | None:
        """How far the metrics moved over all cases that were judged again; None without repeats."""
        return measure_noise(self.judgings) if self.judgings else None

    def write(self, folder: Path) -> None:
        """Leaves the replies that were used beside an evaluation's results."""
        if self.stored:
            self.stored.write(folder)
        else:
            judgements.forget(folder)


@contextmanager
def opened(
    workspace: Workspace,
    settings: EvaluationSettings,
    clients: Mapping[Role, ModelClient],
    *,
    folder: Path,
    recorded: Path | None = None,
    fresh: bool = False,
) -> Iterator[Judges]:
    """The judges that the settings name, with the stored replies where a model judges or reads.

    Args:
        clients: of ``model_clients``, those that the evaluation asks.
        folder: where the evaluation's results will stand; what an earlier one was told there is used again.
        recorded: another evaluation's, which is to be recomputed; what it was told comes first.
        fresh: ask anew whatever is stored.
    """
    with ExitStack() as stack:
        stored = None
        if clients:
            days = settings.values["stored_replies"]["unused_days"]
            folders = [place for place in (folder, recorded) if place]
            stored = stack.enter_context(judgements.opened(workspace, folders, fresh=fresh, unused_days=days))
        repeats = settings.values["judge"]["repeats"]
        if client := clients.get("judge"):
            made: list[Judge] = [ModelJudge(client, stored, repeat) for repeat in range(repeats)]
        else:
            made = list(local_judges(workspace, settings, repeats))
        yield Judges(made[0], tuple(made[1:]), stored)


def local_judges(workspace: Workspace, settings: EvaluationSettings, count: int = 1) -> list[SupportJudge]:
    """Offline judges as the settings describe them, each with a memory of its own over one embedder, the reader's.

    Raises:
        as ``local_embedder``.
    """
    limits = settings.values["judge"]
    files = embedder_files.find(workspace, settings.values["reader"]["embedder"])
    words = local_embedder(workspace, files, limits["embedder_runtime"])
    return [offline_judge(words, limits) for _ in range(count)]


def model_clients(
    settings: EvaluationSettings, audit_file: Path | None, roles: Sequence[Role] = ROLES
) -> dict[Role, ModelClient]:
    """The clients of the ``roles`` that a model serves. Those of one service share its rate and its requests in flight."""
    limits = settings.determinism
    shared: dict[str, tuple[RateLimiter, threading.Semaphore]] = {}
    found: dict[Role, ModelClient] = {}
    for role in roles:
        service = settings.service(role)
        if service != "offline":
            throttle = shared.setdefault(
                service,
                (RateLimiter(limits.bedrock_requests_per_second), threading.Semaphore(limits.bedrock_max_in_flight)),
            )
            found[role] = _client(settings, role, audit_file if limits.prompt_audit else None, *throttle)
    return found


def _client(
    settings: EvaluationSettings,
    role: Role,
    audit_file: Path | None,
    limiter: RateLimiter,
    slots: threading.Semaphore,
) -> ModelClient:
    service = settings.service(role)
    values, environment = settings.values[service], settings.determinism
    model = str(settings.model(role))
    limits = Limits(
        requests_per_second=environment.bedrock_requests_per_second,
        max_in_flight=environment.bedrock_max_in_flight,
        call_timeout_s=environment.bedrock_call_timeout_s,
        text_timeout_s=environment.bedrock_text_timeout_s,
        attempts=values["attempts"],
        max_tokens=values["max_tokens"],
        temperature=settings.temperature(role),
        deadline_s=values["deadline_s"],
    )
    if service == "openai":
        return ChatClient(
            model,
            values["base_url"],
            limits,
            seed=environment.seed,
            max_tokens_name=values["max_tokens_name"],
            api_key_variable=values["api_key_variable"],
            allow_internal=values.get("allow_internal", False),
            audit_file=audit_file,
            limiter=limiter,
            slots=slots,
        )
    return ConverseClient(
        model,
        values["region"],
        limits,
        endpoint_url=values.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME"),
        audit_file=audit_file,
        limiter=limiter,
        slots=slots,
    )


def label_again(
    judge: Judge, labelled: Sequence[Any], advance: Callable[[], None] = lambda: None
) -> tuple[list[Any], dict[str, str]]:
    """Fresh copies of ``labelled`` as the judge labels them, and why each of the rest could not be judged.

    ``advance`` is called after each.
    """
    again: list[Any] = []
    lost: dict[str, str] = {}
    for result in labelled:
        copy = _unlabelled(result)
        try:
            judge.label(copy)
            again.append(copy)
        except ModelFailed as error:
            lost[result.query_id] = str(error)
        advance()
    return again, lost


def _judge_again(
    judge: Judge, labelled: Sequence[Any], advance: Callable[[], None]
) -> dict[str, Mapping[str, float | None]]:
    again, _ = label_again(judge, labelled, advance)
    metrics = ragchecker_metrics.compute(again)
    worst_values = {name: worst(name) for name in ragchecker_metrics.METRICS}
    by_id = {result.query_id: result for result in again}
    return {
        result.query_id: defined_metrics(by_id.get(result.query_id, result), metrics.get(result.query_id, worst_values))
        for result in labelled
    }


def _unlabelled(result: Any) -> Any:
    passages = [(document.doc_id, document.text) for document in result.retrieved_context]
    return ragchecker_metrics.new_result(result.query_id, result.query, result.gt_answer, result.response, passages)


def defined_metrics(result: Any, metrics: Mapping[str, float]) -> dict[str, float | None]:
    """An answer's metrics; None for those that have no meaning for it."""
    undefined = ragchecker_metrics.undefined_metrics(
        response_claims=len(result.response_claims), passages=len(result.retrieved_context)
    )
    return {name: None if name in undefined else value for name, value in metrics.items()}
