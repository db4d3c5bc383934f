"""How well a judge agrees with people: correlation on rated pairs of answers, AUC on the support of claims. Pure."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lib.evaluation.words import stems
from lib.platform.errors import ConfigInvalid

LEAST = 10  # fewer pairs or claims than this give no figure
_SUPPORT = ("supported", "partially_supported", "not_supported")
_ARTICLE = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class RatedPair:
    """Two answers to a question; ``labels``: -2..2, how far each person prefers the second, overall."""

    key: str
    query: str
    gt_answer: str
    responses: tuple[str, str]
    labels: tuple[float, ...]


@dataclass(frozen=True)
class SupportedClaim:
    """A claim with its evidence, and whether people found all of it supported (else a part, or nothing)."""

    key: str
    claim: str
    evidence: str
    supported: bool


@dataclass(frozen=True)
class Estimate:
    """A figure with its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def parse_pairs(rows: Any, where: str) -> list[RatedPair]:
    """Rated pairs in RAGChecker's file form: a row for each person and pair; rows of the same pair are put together.

    Raises:
        ConfigInvalid: a row is not of that form; it is named.
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(_rows(rows, where)):
        try:
            names = [row[side]["model_name"] for side in ("model1", "model2")]
            key = " ".join([str(row["dataset"]), str(row["query_id"]), *map(str, names)])
            texts = [row["query"], row["gt_answer"], row["model1"]["response"], row["model2"]["response"]]
            if not all(isinstance(text, str) for text in texts) or not -2 <= row["overall_label"] <= 2:
                raise TypeError("a text or a label is of another kind")
        except (KeyError, TypeError) as error:
            raise ConfigInvalid(
                f"{where}: row {number} is no rated pair", detail=f"{type(error).__name__}: {error}"
            ) from error
        grouped.setdefault(key, []).append(row)
    return [
        RatedPair(
            key,
            same[0]["query"],
            same[0]["gt_answer"],
            (same[0]["model1"]["response"], same[0]["model2"]["response"]),
            tuple(float(row["overall_label"]) for row in same),
        )
        for key, same in grouped.items()
    ]


def parse_reference(rows: Any, where: str) -> dict[str, float]:
    """Another judge's scores of the same pairs: key → its F1 of the second answer less that of the first."""
    try:
        return {
            " ".join([row["dataset"], str(row["query_id"]), row["model1"]["model_name"], row["model2"]["model_name"]]): (
                row["model2"]["ragchecker"]["overall_label"] - row["model1"]["ragchecker"]["overall_label"]
            )
            for row in _rows(rows, where)
        }
    except (KeyError, TypeError) as error:
        raise ConfigInvalid(f"{where} holds no scores of rated pairs", detail=f"{type(error).__name__}: {error}") from error


def parse_claims(rows: Any, where: str) -> list[SupportedClaim]:
    """Claims in WiCE's file form; raises ConfigInvalid with the row that is of another one."""
    found = []
    for number, row in enumerate(_rows(rows, where)):
        try:
            if row["label"] not in _SUPPORT:
                raise ValueError(f"label {row['label']!r}")
            key = str(row.get("meta", {}).get("id", row["claim"]))
            found.append(SupportedClaim(key, row["claim"], "\n".join(row["evidence"]), row["label"] == _SUPPORT[0]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigInvalid(f"{where}: row {number} is no claim", detail=f"{type(error).__name__}: {error}") from error
    return found


def is_held_out(key: str) -> bool:
    """Which half an item belongs to: decided by its key's SHA-256 alone, not by luck and not by the file's order."""
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 1


def fold_of(key: str, folds: int) -> int:
    """Which fold of a cross-validation an item belongs to; independent of ``is_held_out``."""
    return hashlib.sha256(f"fold {key}".encode()).digest()[0] % folds


def correlations(
    pairs: Sequence[RatedPair], deltas: Sequence[float], *, resamples: int, seed: int, peer: Sequence[float] | None = None
) -> dict[str, Estimate]:
    """Pearson's and Spearman's correlation of score differences with people's labels, each delta against every label.

    The interval resamples pairs, so that two ratings of one pair stay together. With ``peer`` it is of the difference
    to the peer's correlation on the same pairs.
    """
    import numpy as np
    from scipy.stats import pearsonr, spearmanr

    def by(measure: Callable[..., Any]) -> Callable[[Sequence[int]], float]:
        def statistic(chosen: Sequence[int]) -> float:
            labels = [label for place in chosen for label in pairs[place].labels]
            repeated = [place for place in chosen for _ in pairs[place].labels]
            found = [
                float(measure(np.asarray(scores)[repeated], labels).statistic)
                for scores in ([deltas] if peer is None else [deltas, peer])
            ]
            return found[0] - (found[1] if peer is not None else 0.0)

        return statistic

    return {
        name: _estimate(by(measure), len(pairs), resamples, seed)
        for name, measure in (("pearson", pearsonr), ("spearman", spearmanr))
    }


def agreement(pairs: Sequence[RatedPair], *, resamples: int, seed: int) -> dict[str, Estimate]:
    """The correlation of the first person's labels with the second's, over the pairs that two rated."""
    twice = [pair for pair in pairs if len(pair.labels) >= 2]
    first = [RatedPair(pair.key, "", "", ("", ""), pair.labels[:1]) for pair in twice]
    return correlations(first, [pair.labels[1] for pair in twice], resamples=resamples, seed=seed)


def auc(
    claims: Sequence[SupportedClaim],
    scores: Sequence[float],
    *,
    resamples: int,
    seed: int,
    peer: Sequence[float] | None = None,
) -> Estimate:
    """How often a supported claim scores above one that is not (or only in part): Mann and Whitney's U over its maximum.

    The interval resamples claims; with ``peer`` it is of the difference to the peer's AUC on the same claims.
    """
    import numpy as np
    from scipy.stats import mannwhitneyu

    supported = np.array([claim.supported for claim in claims])

    def one(values: Sequence[float], chosen: Any) -> float:
        held, mask = np.asarray(values, dtype=float)[chosen], supported[chosen]
        if mask.all() or not mask.any():
            return float("nan")
        high, low = held[mask], held[~mask]
        return float(mannwhitneyu(high, low, method="asymptotic").statistic / (len(high) * len(low)))

    def statistic(chosen: Any) -> float:
        return one(scores, chosen) - (one(peer, chosen) if peer is not None else 0.0)

    return _estimate(statistic, len(claims), resamples, seed)


def token_f1(answer: str, response: str) -> float:
    """SQuAD's token F1 (Rajpurkar et al., 2016): lower case, without punctuation and articles."""
    first, second = _tokens(answer), _tokens(response)
    common = sum((first & second).values())
    return 2 * common / (sum(first.values()) + sum(second.values())) if common else 0.0


def lexical_overlap(claim: str, evidence: str) -> float:
    """The share of a claim's content words whose stems stand anywhere in its evidence."""
    words = set(stems(claim))
    return len(words & set(stems(evidence))) / len(words) if words else 0.0


def _tokens(text: str) -> Counter[str]:
    return Counter(_ARTICLE.sub(" ", re.sub(r"[^\w\s]", "", text.lower())).split())


def _rows(rows: Any, where: str) -> list[Any]:
    if not isinstance(rows, list) or not rows:
        raise ConfigInvalid(f"{where} holds no rows")
    return rows


def _estimate(statistic: Callable[[Any], float], count: int, resamples: int, seed: int) -> Estimate:
    import warnings

    import numpy as np

    if count < LEAST:
        raise ConfigInvalid(f"{count} items are too few for a figure", detail=f"at least {LEAST} are needed")
    random = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns where a resample is constant; it then has no correlation
        value = statistic(np.arange(count))
        if not np.isfinite(value):
            raise ConfigInvalid("no figure can be had", detail="all labels, or all scores, are the same")
        drawn = [statistic(random.integers(0, count, count)) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
