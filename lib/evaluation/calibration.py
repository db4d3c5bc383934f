"""The gate's own error rates for one release, by simulation: how often it blocks without a reason, and what it misses.

Unchanged: document by document, a coin decides which side is called the candidate, over documents drawn anew; the two then
differ by chance alone. Harmed: such a pair, of whose candidate some documents' evidence is then lost. Each is judged by the
gate itself. Absolute limits are left out: on the same cases an unchanged release has the values that it has. Pure, seeded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from lib.evaluation.gate import judge_gate
from lib.evaluation.results import Evaluation, summarise, worst

if TYPE_CHECKING:
    import numpy as np

_CONFIDENCE = 0.95
_LEAST_TRIALS = 20
_MOST_CASES = 4_000  # that are simulated; of a larger evaluation, documents with so many
# What is lost with the document that holds the evidence; an answer without it may still be faithful to what it was shown.
_OF_EVIDENCE = ("oracle_hit", "filter_hit", "reader_gold_usage", "precision", "recall", "f1", "claim_recall")
_READ_BY_THE_GATE = (
    "query_id",
    "answerable",
    "abstained",
    "unscored",
    "unmeasured",
    "undefined",
    "documents",
    "snapshot_size",
    "claims",
    "metrics",
)

Pair = tuple[Evaluation, Evaluation]
_Cases = list[tuple[dict[str, Any], dict[str, Any]]]


@dataclass(frozen=True)
class Rate:
    """A share of trials with its Wilson interval (JASA 1927) at 95 %."""

    rate: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Effort:
    """How much is simulated. ``shares``: of the documents that are lost, each for a power of its own.

    ``cases``: over all trials of a rate. A larger evaluation is tried less often, and its rates are less exact.
    """

    trials: int = 60
    resamples: int = 299
    cases: int = 20_000
    shares: tuple[float, ...] = (0.05, 0.10)


def estimate(
    candidate: Evaluation, baseline: Evaluation | None, gates: Mapping[str, Any], seed: int, effort: Effort | None = None
) -> dict[str, Any] | None:
    """The error rates of the gate for a release; None where nothing can be compared: no two documents, or other cases.

    ``false_block``: verdicts other than PASS of a release that differs by chance alone; ``false_fail``: FAIL among them.
    ``power``: verdicts other than PASS where ``lost`` of the documents are. Without a baseline the release is compared
    with itself, as if it came again. ``documents`` of ``of_documents`` were simulated: all, but in a very large evaluation,
    whose own rates are better than these.
    """
    import numpy as np

    effort = effort or Effort()
    other = baseline or candidate
    if candidate.query_ids != other.query_ids:
        return None
    documents, all_documents = _documents(candidate, other, np.random.default_rng(seed))
    if len(documents) < 2:
        return None
    trials = max(_LEAST_TRIALS, min(effort.trials, effort.cases // sum(map(len, documents))))
    comparing = _comparing(gates, effort.resamples)
    summaries = candidate.summary, other.summary

    def rates(lost: float, stream: int) -> tuple[Rate, Rate]:
        pairs = _pairs(documents, summaries, lost, trials, np.random.default_rng([seed, stream]))
        return block_rates(pairs, comparing, seed)

    false_block, false_fail = rates(0.0, 0)
    return {
        "compared_with": baseline.summary["inputs"]["release_id"] if baseline else "itself",
        "documents": sum(cases[0][0]["answerable"] for cases in documents),
        "of_documents": all_documents,
        "resamples": effort.resamples,
        "false_block": asdict(false_block),
        "false_fail": asdict(false_fail),
        "power": [{"lost": share, **asdict(rates(share, place)[0])} for place, share in enumerate(effort.shares, 1)],
    }


def block_rates(pairs: Iterable[Pair], gates: Mapping[str, Any], seed: int) -> tuple[Rate, Rate]:
    """How often the gate lets candidates not pass, and how often it fails them."""
    verdicts = Counter(judge_gate(*pair, gates, seed + number).verdict for number, pair in enumerate(pairs))
    trials = verdicts.total()
    return rate_of(trials - verdicts["PASS"], trials), rate_of(verdicts["FAIL"], trials)


def rate_of(count: int, trials: int) -> Rate:
    from scipy.stats import binomtest

    found = binomtest(count, trials).proportion_ci(_CONFIDENCE, method="wilson")
    return Rate(count / trials, round(float(found.low), 6), round(float(found.high), 6), trials)


def to_text(found: Mapping[str, Any] | None) -> str:
    """One line to stand beside a verdict."""
    if found is None:
        return "error rates of the gate: not known, there is nothing to compare"
    if found["compared_with"] == "itself":
        whose = "an unchanged release"
    else:
        whose = f"a release that differs from {found['compared_with']} as much as this one, but by chance alone,"
    noticed = ", ".join(f"of {item['lost']:.0%} of the documents in {_share(item)}" for item in found["power"])
    some, every = found["documents"], found.get("of_documents", found["documents"])
    part = f" (simulated on {some} of its {every} documents)" if some < every else ""
    block = _share(found["false_block"])
    return f"error rates of the gate{part}: it would block {whose} in {block}, and notice a loss {noticed}"


def _share(rate: Mapping[str, Any]) -> str:
    return f"{rate['rate']:.1%} [{rate['low']:.0%}, {rate['high']:.0%}]"


def _comparing(gates: Mapping[str, Any], resamples: int) -> dict[str, Any]:
    """The gates that decide by a difference, with fewer resamples."""
    metrics = {
        name: {key: value for key, value in limits.items() if key not in ("floor", "ceiling")}
        for name, limits in gates["metrics"].items()
        if "margin" in limits and limits.get("critical", True)
    }
    return {**gates, "metrics": metrics, "resamples": min(resamples, gates["resamples"])}


def _documents(candidate: Evaluation, baseline: Evaluation, generator: np.random.Generator) -> tuple[list[_Cases], int]:
    """The cases of each document, with their rows on both sides, in the order of the documents' names; of many documents
    some that the generator draws, and how many there are with evidence.

    A case without gold stands for itself; there is no document to lose.
    """
    documents = candidate.documents
    answerable = {documents[row["query_id"]] for row in candidate.rows if row["answerable"]}
    chosen = _drawn(Counter(documents.values()), generator)
    theirs = {row["query_id"]: _light(row) for row in baseline.rows if documents[row["query_id"]] in chosen}
    found: defaultdict[str, _Cases] = defaultdict(list)
    for row in candidate.rows:
        if (name := documents[row["query_id"]]) in chosen:
            found[name].append((_light(row), theirs[row["query_id"]]))
    return [found[name] for name in sorted(found)], len(answerable)


def _drawn(cases: Mapping[str, int], generator: np.random.Generator) -> set[str]:
    """All documents, or at least two of them that have about ``_MOST_CASES`` cases together."""
    names, drawn, held = sorted(cases), set[str](), 0
    if sum(cases.values()) <= _MOST_CASES:
        return set(names)
    for place in generator.permutation(len(names)):
        if len(drawn) >= 2 and held >= _MOST_CASES:
            break
        drawn.add(names[place])
        held += cases[names[place]]
    return drawn


def _light(row: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: row[key] for key in _READ_BY_THE_GATE}
    return {**values, "metrics": None if row["metrics"] is None else dict(row["metrics"])}


def _pairs(
    documents: Sequence[_Cases],
    summaries: tuple[Mapping[str, Any], Mapping[str, Any]],
    lost: float,
    trials: int,
    generator: np.random.Generator,
) -> Iterator[Pair]:
    """Pairs of evaluations that differ by chance alone, but for the documents whose evidence the first one lost."""
    count = len(documents)
    for _ in range(trials):
        drawn, swapped = generator.integers(count, size=count), generator.random(count) < 0.5
        evident = [place for place in range(count) if documents[drawn[place]][0][0]["answerable"]]
        gone = set(generator.permutation(evident)[: ceil(lost * len(evident))].tolist())
        ours: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for place in range(count):
            for one, two in documents[drawn[place]]:
                first, second = (two, one) if swapped[place] else (one, two)
                name = {"query_id": f"{place}:{one['query_id']}", "documents": [f"{place}"]}
                ours.append({**(_without_evidence(first) if place in gone else first), **name})
                theirs.append({**second, **name})
        yield _evaluation(ours, summaries[0]), _evaluation(theirs, summaries[1])


def _without_evidence(row: dict[str, Any]) -> dict[str, Any]:
    if row["metrics"] is None:
        return row
    fallen = {name: worst(name) for name in _OF_EVIDENCE if row["metrics"][name] is not None}
    return {**row, "metrics": {**row["metrics"], **fallen}}


def _evaluation(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> Evaluation:
    made = summarise(rows, inputs=summary["inputs"], produced_by={}, deduplication_rate=None)
    return Evaluation({**summary, **made}, rows)
