"""The judge's report: the offline judge and its peers on rated pairs and on claims, held out and cross-validated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from lib.config import embedder_files
from lib.evaluation import judge_quality, ragchecker_metrics
from lib.evaluation.judge import Judge
from lib.evaluation.judge_quality import RatedPair, SupportedClaim
from lib.evaluation.offline_judge import LexicalJudge, SupportJudge, offline_judge
from lib.evaluation.settings import EvaluationSettings
from lib.index.embedder import local_embedder
from lib.platform.errors import ConfigInvalid
from lib.platform.files import read_json, read_text
from lib.platform.workspace import Workspace

_FOLDS = 5
_GRID = tuple(product((0.5, 0.6, 0.75), (0.55, 0.6, 0.65, 0.7)))  # least_held x least_similarity
_LEXICAL = 0.5  # the limit of the earlier judge, a peer
Deltas = list[float]


def measured_judge(workspace: Workspace, settings: EvaluationSettings) -> SupportJudge:
    """The offline judge that an evaluation under these settings uses; raises as ``local_embedder``."""
    files = embedder_files.find(workspace, settings.values["reader"]["embedder"])
    limits = settings.values["judge"]
    return offline_judge(local_embedder(workspace, files, limits["embedder_runtime"]), limits)


def read_pairs(path: Path) -> tuple[list[RatedPair], dict[str, float]]:
    """Rated pairs, and the scores of Llama3-70B where they lie beside them; raises NotFound, ConfigInvalid."""
    pairs = judge_quality.parse_pairs(read_json(path, "rated pairs"), str(path))
    beside = path.parent / "ragchecker_llama3_scores.json"
    reference = judge_quality.parse_reference(read_json(beside, "scores"), str(beside)) if beside.exists() else {}
    return pairs, reference


def read_claims(path: Path) -> list[SupportedClaim]:
    """Claims in WiCE's form, a JSON object a line; raises NotFound, ConfigInvalid."""
    rows = []
    for number, line in enumerate(read_text(path, "claims").split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ConfigInvalid(f"{path}:{number} is not JSON", detail=str(error)) from error
    return judge_quality.parse_claims(rows, str(path))


def measure_pairs(
    judge: SupportJudge, pairs: Sequence[RatedPair], reference: dict[str, float], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Every judge's correlation with people, by part: all pairs, the half that limits were chosen on, the half held out."""
    grid = {limits: deltas_of(judge.variant(*limits), pairs) for limits in _GRID}
    scores: dict[str, Deltas] = {
        judge.name: deltas_of(judge, pairs),
        "the same, limits refitted": cross_validated(pairs, grid),
        LexicalJudge(_LEXICAL).name: deltas_of(LexicalJudge(_LEXICAL), pairs),
        "token F1": [_difference(pair, judge_quality.token_f1) for pair in pairs],
    }
    if all(pair.key in reference for pair in pairs):
        scores["RAGChecker with Llama3-70B"] = [reference[pair.key] for pair in pairs]
    found: dict[str, Any] = {}
    for part, places in _parts([pair.key for pair in pairs]).items():
        chosen = [pairs[place] for place in places]
        taken = {name: [values[place] for place in places] for name, values in scores.items()}
        rows = {
            name: _row(judge_quality.correlations(chosen, values, resamples=resamples, seed=seed))
            for name, values in taken.items()
        }
        rows["people with each other"] = _row(judge_quality.agreement(chosen, resamples=resamples, seed=seed))
        peer = taken["token F1"]
        over = judge_quality.correlations(chosen, taken[judge.name], resamples=resamples, seed=seed, peer=peer)
        found[part] = {"pairs": len(chosen), "judges": rows, "judge_over_token_f1": _row(over)}
        held, similarity = best_limits(pairs, grid, places)
        found[part]["best_limits"] = {"least_held": held, "least_similarity": similarity}
    return found


def measure_claims(judge: SupportJudge, claims: Sequence[SupportedClaim], *, resamples: int, seed: int) -> dict[str, Any]:
    """The AUC of supported claims against all others, for the judge and for lexical overlap, by part."""
    scores = {
        judge.name: [judge.support(claim.claim, claim.evidence) for claim in claims],
        "lexical overlap": [judge_quality.lexical_overlap(claim.claim, claim.evidence) for claim in claims],
    }
    found: dict[str, Any] = {}
    for part, places in _parts([claim.key for claim in claims]).items():
        chosen = [claims[place] for place in places]
        taken = {name: [values[place] for place in places] for name, values in scores.items()}
        rows = {
            name: {"auc": judge_quality.auc(chosen, values, resamples=resamples, seed=seed).to_dict()}
            for name, values in taken.items()
        }
        over = judge_quality.auc(
            chosen, taken[judge.name], resamples=resamples, seed=seed, peer=taken["lexical overlap"]
        ).to_dict()
        found[part] = {"claims": len(chosen), "judges": rows, "judge_over_lexical_overlap": {"auc": over}}
    return found


def deltas_of(judge: Judge, pairs: Sequence[RatedPair]) -> Deltas:
    """RAGChecker's F1 of each second answer less that of the first, from the labels of a judge."""
    results = []
    for number, pair in enumerate(pairs):
        for side, response in enumerate(pair.responses):
            result = ragchecker_metrics.new_result(f"{number}-{side}", pair.query, pair.gt_answer, response, [])
            judge.label(result)
            results.append(result)
    metrics = ragchecker_metrics.compute(results)
    return [metrics[f"{number}-1"]["f1"] - metrics[f"{number}-0"]["f1"] for number in range(len(pairs))]


def cross_validated(pairs: Sequence[RatedPair], grid: dict[tuple[float, float], Deltas]) -> Deltas:
    """The differences that a judge gives whose limits were chosen, for each fold of pairs, on the other folds alone."""
    folds = [judge_quality.fold_of(pair.key, _FOLDS) for pair in pairs]
    found = [0.0] * len(pairs)
    for fold in range(_FOLDS):
        best = grid[best_limits(pairs, grid, [place for place, own in enumerate(folds) if own != fold])]
        for place, own in enumerate(folds):
            if own == fold:
                found[place] = best[place]
    return found


def best_limits(
    pairs: Sequence[RatedPair], grid: dict[tuple[float, float], Deltas], places: Sequence[int]
) -> tuple[float, float]:
    """The limits of the grid whose two correlations have the highest sum over the pairs at these places."""

    def fit(limits: tuple[float, float]) -> float:
        values = [grid[limits][place] for place in places]
        measured = judge_quality.correlations([pairs[place] for place in places], values, resamples=1, seed=0)
        return sum(estimate.value for estimate in measured.values())

    return max(grid, key=fit)


def to_text(report: dict[str, Any]) -> str:
    """The report as a table: value and 95 % interval."""
    lines = []
    for part, found in report.get("pairs", {}).items():
        lines += [f"rated pairs, {part}: {found['pairs']} pairs", *_table(found["judges"])]
        lines += _table({"judge minus token F1": found["judge_over_token_f1"]})
        lines += [f"  {'best limits of the grid':<44} {', '.join(f'{k} {v:g}' for k, v in found['best_limits'].items())}"]
    for part, found in report.get("claims", {}).items():
        lines += [f"claims, {part}: {found['claims']} claims", *_table(found["judges"])]
        lines += _table({"judge minus overlap": found["judge_over_lexical_overlap"]})
    return "\n".join(lines)


def _table(rows: dict[str, dict[str, dict[str, float]]]) -> Iterable[str]:
    for name, measures in rows.items():
        cells = [f"{measure} {at['value']:.3f} [{at['low']:.3f}, {at['high']:.3f}]" for measure, at in measures.items()]
        yield f"  {name:<44} {'   '.join(cells)}"


def _parts(keys: Sequence[str]) -> dict[str, list[int]]:
    parts = {
        "all": list(range(len(keys))),
        "tuning half": [place for place, key in enumerate(keys) if not judge_quality.is_held_out(key)],
        "held-out half": [place for place, key in enumerate(keys) if judge_quality.is_held_out(key)],
    }
    return {name: places for name, places in parts.items() if name == "all" or len(places) >= judge_quality.LEAST}


def _row(measured: dict[str, judge_quality.Estimate]) -> dict[str, dict[str, float]]:
    return {name: estimate.to_dict() for name, estimate in measured.items()}


def _difference(pair: RatedPair, score: Callable[[str, str], float]) -> float:
    first, second = pair.responses
    return score(pair.gt_answer, second) - score(pair.gt_answer, first)
