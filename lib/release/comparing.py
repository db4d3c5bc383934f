"""Two releases side by side, on the same cases and by the same judge: settings, metrics with paired differences, cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lib.config import store
from lib.config.locked_config import LockedConfig
from lib.evaluation import settings as evaluation_settings
from lib.evaluation.ragchecker_metrics import LOWER_IS_BETTER
from lib.evaluation.results import Evaluation
from lib.evaluation.significance import Sampling, difference_by_case
from lib.platform.errors import GoliveError, NotFound, Refused, redactor
from lib.platform.files import read_json
from lib.platform.workspace import Workspace
from lib.release import case_changes, evidence
from lib.release.case_changes import CaseChange, Side
from lib.release.excerpts import Cut
from lib.release.gates import load_gates
from lib.release.tables import interval, number, text_table

_SHOWN = 15
_COMPARED = (
    "chunk_size",
    "overlap_ratio",
    "jaccard_threshold",
    "prefix_policy",
    "embedder_name",
    "sources",
    "retrieval",
    "rerank",
    "filter",
)


@dataclass(frozen=True)
class Comparison:
    """``now`` compared with ``before``. ``metrics`` have the fields of a verdict's metrics that a table shows."""

    before: str
    now: str
    inputs: dict[str, Any]
    produced_by: dict[str, str]
    settings: list[dict[str, Any]] | None
    metrics: list[dict[str, Any]]
    cases: list[CaseChange]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "moves": case_changes.count_moves(self.cases)}


def compare(workspace: Workspace, before: str, now: str) -> Comparison:
    """Compares two releases by the evaluations that stand below ``metrics/golive/``.

    Raises:
        NotFound: a release has no evaluation there, or its name is that of several.
        Refused: no two of their evaluations are of the same cases, by the same judge.
    """
    before, now = find_release_id(workspace, before), find_release_id(workspace, now)
    base, candidate = _comparable(evidence.sides_of(workspace, before), evidence.sides_of(workspace, now), before, now)
    inputs = candidate.evaluation.summary["inputs"]
    notes = []
    for name, said in (
        ("gold_corpus_digest", "the documents that hold the gold changed between the two evaluations"),
        ("code_digest", "the two were evaluated by different versions of Golive"),
    ):
        if inputs.get(name) != base.evaluation.summary["inputs"].get(name):
            notes.append(said)
    gold: Mapping[str, Sequence[tuple[str, str]]] = {}
    verdict = evidence.read_object(workspace.evidence(now) / "verdict.json", {"cases_file"})
    if verdict:
        gold = evidence.gold_of(workspace, verdict["cases_file"], inputs["cases_digest"])
    if not gold:
        notes.append("the cases as they were evaluated are not at hand: gold is not marked")
    configs = [read_config(workspace, release_id) for release_id in (now, before)]
    return Comparison(
        before=before,
        now=now,
        inputs=inputs,
        produced_by=candidate.evaluation.summary["produced_by"],
        settings=None if configs[0] is None or configs[1] is None else settings_changes(configs[0], configs[1]),
        metrics=compare_metrics(
            candidate.evaluation,
            base.evaluation,
            load_gates(workspace),
            evaluation_settings.load(workspace).determinism.seed,
        ),
        cases=case_changes.changes_of(candidate, base, gold, Cut(clean=redactor())),
        notes=notes,
    )


def find_release_id(workspace: Workspace, name: str) -> str:
    """The release that a name or a part of one means, among those that have evidence.

    Raises:
        NotFound: none, or several.
    """
    root = workspace.evidence("any").parent
    known = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = [name] if name in known else [release_id for release_id in known if name and name in release_id]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(found or known[-5:]) or "none"
    raise NotFound(
        f"{len(found)} releases with evidence are named {name!r}",
        detail=f"{'those' if found else 'the newest'}: {listed}",
        hint="make history lists them",
    )


def compare_metrics(
    candidate: Evaluation, baseline: Evaluation, gates: Mapping[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Every metric of either evaluation with its paired difference (positive: the candidate is better). Pure.

    ``status``: ``better`` or ``worse`` where the whole interval lies on that side of zero, else ``same``; ``-`` where there
    is nothing to pair. A case without a value on one side is left out, and so are those that nobody could score.
    """
    rows = []
    limits, documents = gates["metrics"], candidate.documents
    scored = candidate.query_ids - candidate.unscored - baseline.unscored
    sampling = Sampling(gates["confidence"], gates["power"], gates["resamples"], seed)
    names = [*limits, *(name for name in candidate.summary["metrics"] if name not in limits)]
    for name in names:
        value, was = candidate.summary["metrics"].get(name), baseline.summary["metrics"].get(name)
        if value is None and was is None:
            continue
        direction = limits.get(name, {}).get("direction", "lower" if name in LOWER_IS_BETTER else "higher")
        ours = {key: at for key, at in candidate.values(name).items() if key in scored}
        theirs, difference, status = baseline.values(name), None, "-"
        if ours.keys() & theirs.keys():
            difference = asdict(difference_by_case(ours, theirs, direction, documents, sampling))
            status = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "same"
        rows.append(
            {
                "metric": name,
                "value": value,
                "baseline": was,
                "margin": limits.get(name, {}).get("margin"),
                "difference": difference,
                "status": status,
            }
        )
    return rows


def read_config(workspace: Workspace, release_id: str) -> LockedConfig | None:
    """The locked config of a release, from its history file; None where that is not here."""
    chunk_version = release_id.rpartition("-")[0]
    try:
        return LockedConfig.from_dict(read_json(store.history_path(workspace, chunk_version), "locked config"))
    except GoliveError:
        return None


def settings_changes(now: LockedConfig, then: LockedConfig | None) -> list[dict[str, Any]]:
    """Every setting, with what the other config has; the changed ones first."""
    settings_now = _settings(now)
    settings_then = _settings(then) if then else {}
    rows = [
        {
            "name": name,
            "now": value,
            "then": settings_then.get(name),
            "changed": then is not None and settings_then.get(name) != value,
        }
        for name, value in settings_now.items()
    ]
    return sorted(rows, key=lambda row: not row["changed"])


def _settings(config: LockedConfig) -> dict[str, Any]:
    """The compared settings under dotted names, in the order of the config."""
    values = asdict(config)
    found: dict[str, Any] = {}
    for name in _COMPARED:
        value = values[name]
        if isinstance(value, dict):
            found.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            found[name] = ", ".join(value) if isinstance(value, tuple) else value
    return found


def _comparable(before: Sequence[Side], now: Sequence[Side], *names: str) -> tuple[Side, Side]:
    """The first two evaluations that were made of the same cases with the same settings."""
    for release_id, sides in zip(names, (before, now), strict=True):
        if not sides:
            raise NotFound(f"{release_id} was never evaluated here", hint="make history lists what was")
    for candidate in now:
        for base in before:
            if not _differing(base, candidate):
                return base, candidate
    differing = _differing(before[0], now[0])
    raise Refused(
        f"{names[0]} and {names[1]} cannot be compared: evaluated with another {' and '.join(differing)}",
        detail="; ".join(f"{name}: {_input(before[0], name)[:12]} and {_input(now[0], name)[:12]}" for name in differing),
        hint="evaluate one of them again, on the cases of the other",
    )


def _differing(first: Side, second: Side) -> list[str]:
    """What would make the numbers of two evaluations incomparable."""
    names = [name for name in ("cases_digest", "settings_digest") if _input(first, name) != _input(second, name)]
    made = [side.evaluation.summary["produced_by"] for side in (first, second)]
    return names if names or made[0] == made[1] else ["reader or judge"]


def _input(side: Side, name: str) -> str:
    return str(side.evaluation.summary["inputs"].get(name))


def to_text(found: Comparison) -> str:
    """The comparison for a terminal."""
    lines = [f"{found.before} -> {found.now}"]
    if found.settings is None:
        lines.append("settings: the locked config of one of them is not here")
    else:
        changed = [row for row in found.settings if row["changed"]]
        lines += [f"  {row['name']}: {row['then']} -> {row['now']}" for row in changed] or ["  no setting changed"]
    rows = [["metric", "before", "now", "difference [interval], + is better", ""]]
    for item in found.metrics:
        gap = item["difference"]
        shown = interval(gap) if gap else "-"
        rows.append([item["metric"], number(item["baseline"]), number(item["value"]), shown, item["status"]])
    lines.append(text_table(rows))
    moves = case_changes.count_moves(found.cases)
    lines.append(f"{len(found.cases)} cases: " + ", ".join(f"{count} {move}" for move, count in moves.items() if count))
    moved = [case for case in found.cases if case.move in ("worse", "unscored", "better")]
    lines += [
        f"  {case.move:<8} {case.query_id}  {_stages(case)}{_claim_words(case)}  {case.query[:60]}"
        for case in moved[:_SHOWN]
    ]
    if len(moved) > _SHOWN:
        lines.append(f"  and {len(moved) - _SHOWN} more: --html FILE shows every case")
    lines += [f"note: {note}" for note in found.notes]
    lines.append("produced by: " + ", ".join(f"{role} {name}" for role, name in found.produced_by.items()))
    return "\n".join(lines)


def _stages(case: CaseChange) -> str:
    before = case.outcome_before or case.outcome
    return case.outcome if case.outcome == before else f"{before} -> {case.outcome}"


def _claim_words(case: CaseChange) -> str:
    counts = [(sum(1 for claim in case.claims if claim.change == change), change) for change in ("lost", "gained")]
    return "".join(f", {count} claim{'s' if count > 1 else ''} {change}" for count, change in counts if count)
