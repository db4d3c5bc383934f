"""Judging an evaluation's own answers again: out of the stored judgements to the byte, or afresh to see what moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.evaluation import judges, ragchecker_metrics, results
from lib.evaluation.judge_noise import measure_noise
from lib.evaluation.settings import EvaluationSettings
from lib.platform.errors import IntegrityMismatch
from lib.platform.files import read_text
from lib.platform.progress import Progress
from lib.platform.workspace import Workspace

RESULTS = "ragchecker.json"


@dataclass(frozen=True)
class Rejudged:
    """``differs``: the answers whose claims, labels or metrics are not as recorded; ``lost``: those without a judging.

    ``noise`` is that of the recorded judging and this one, over the answers that have both; None where none has.
    """

    judge: str
    cases: int
    differs: list[str]
    lost: dict[str, str]
    noise: dict[str, dict[str, Any]] | None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def to_text(self) -> str:
        lines = [
            f"{self.cases} answers judged again by {self.judge}:"
            f" {self.cases - len(self.differs) - len(self.lost)} as recorded, {len(self.differs)} otherwise,"
            f" {len(self.lost)} not judged"
        ]
        for name, found in (self.noise or {}).items():
            if found["disagreement"]:
                share, sd = found["disagreement"], max(found["sd"], found["sd_from_cases"])
                lines.append(f"  {name:<32} differs in {share:.1%} of the answers, sd of the mean {sd:.4f}")
        return "\n".join(lines + [f"  {query_id}: {problem}" for query_id, problem in self.lost.items()])


def plan(folder: Path) -> dict[str, Any]:
    """How many answers stand in an evaluation's folder, and who judged them; raises as ``rejudge``."""
    recorded = results.read(folder)
    judged = [row for row in recorded.rows if row["answerable"] and not row["unscored"]]
    return {"folder": str(folder), "cases": len(judged), "judge": recorded.summary["produced_by"]["judge"]}


def rejudge(
    workspace: Workspace,
    settings: EvaluationSettings,
    folder: Path,
    *,
    fresh: bool = False,
    audit_file: Path | None = None,
) -> Rejudged:
    """Judges the answers that stand in an evaluation's folder again; nothing in the folder is changed.

    Raises:
        NotFound, ConfigInvalid: there is no whole evaluation in it.
        IntegrityMismatch: it was judged by another judge than the settings name.
        Unavailable: a judgement is not stored, and the model that would make it cannot be reached.
    """
    recorded = results.read(folder)
    text = read_text(folder / RESULTS, "ragchecker results")
    before = {result.query_id: result for result in ragchecker_metrics.from_json(text)}
    clients = judges.model_clients(settings, audit_file, ["judge"])
    with judges.opened(workspace, settings, clients, folder=folder, fresh=fresh) as panel:
        _require_judge(panel.first.name, recorded.summary["produced_by"]["judge"])
        with Progress("judging again", len(before), "cases") as progress:
            again, lost = judges.label_again(panel.first, list(before.values()), progress.advance)
    metrics = ragchecker_metrics.compute(again)
    rows = {row["query_id"]: row["metrics"] for row in recorded.rows}
    judgings = [_both(result, rows[result.query_id], metrics[result.query_id]) for result in again]
    differs = [
        result.query_id
        for result, (then, now) in zip(again, judgings, strict=True)
        if ragchecker_metrics.labels_of(result) != ragchecker_metrics.labels_of(before[result.query_id]) or then != now
    ]
    noise = None
    if again:
        first, second = zip(*judgings, strict=True)
        names = [result.query_id for result in again]
        noise = measure_noise([dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))])
    return Rejudged(panel.first.name, len(before), differs, lost, noise)


def _require_judge(named: str, recorded: str) -> None:
    if named != recorded:
        raise IntegrityMismatch(
            f"the answers were judged by {recorded}",
            detail=f"the settings name {named}",
            hint="--use-bedrock, or judge in configs/evaluation.yaml",
        )


def _both(
    result: Any, then: Mapping[str, float | None], now: Mapping[str, float]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """An answer's metrics as they were recorded and as they are; None in both where one has no meaning."""
    defined = judges.defined_metrics(result, now)
    names = [name for name, value in defined.items() if value is not None and then[name] is not None]
    return {name: then[name] for name in names}, {name: defined[name] for name in names}
