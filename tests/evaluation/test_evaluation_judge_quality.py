"""How well a judge agrees with people: figures by hand, files of other forms refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from lib.evaluation import judge_quality as quality
from lib.evaluation import judge_report
from lib.evaluation.judge_quality import RatedPair, SupportedClaim
from lib.evaluation.offline_judge import LexicalJudge
from lib.platform.errors import ConfigInvalid, ExitCode

FEW = {"resamples": 200, "seed": 42}


def pairs(labels: list[tuple[float, ...]]) -> list[RatedPair]:
    return [RatedPair(f"pair {n}", "?", "", ("", ""), own) for n, own in enumerate(labels)]


def row(number: int, label: int, first: str = "Lunch.", second: str = "Seven backups stay.") -> dict[str, Any]:
    models = {f"model{n}": {"model_name": f"m{n}", "response": text} for n, text in ((1, first), (2, second))}
    asked = {"dataset": "d", "query_id": str(number), "query": "?", "gt_answer": "Seven backups stay."}
    return {**asked, **models, "overall_label": label}


def test_each_difference_stands_against_every_label():
    rated = pairs([(n, n + 1) if n % 2 else (n,) for n in range(-5, 5)])
    found = quality.correlations(rated, list(range(10)), **FEW)
    x = [n + 5 for n in range(-5, 5) for _ in range(2 if n % 2 else 1)]
    y = [label for pair in rated for label in pair.labels]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    below = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    assert found["pearson"].value == pytest.approx(above / below)
    assert found["pearson"].low <= found["pearson"].value <= found["pearson"].high


def test_ranks_decide_spearman_alone_and_a_peer_is_subtracted():
    rated = pairs([(float(n),) for n in range(12)])
    curved = [math.exp(n) for n in range(12)]
    found = quality.correlations(rated, curved, **FEW)
    assert found["spearman"].value == pytest.approx(1.0)
    assert found["pearson"].value < 0.9
    assert quality.correlations(rated, curved, peer=curved, **FEW)["pearson"].to_dict() == {"value": 0, "low": 0, "high": 0}
    over = quality.correlations(rated, curved, peer=[-value for value in curved], **FEW)
    assert over["spearman"].value == pytest.approx(2.0)


def test_people_agree_with_themselves():
    assert quality.agreement(pairs([(n, n) for n in range(10)]), **FEW)["pearson"].value == pytest.approx(1.0)


def test_auc_by_hand_counts_a_tie_as_half():
    claims = [SupportedClaim(str(n), "", "", n < 4) for n in range(10)]
    scores = [0.9, 0.8, 0.5, 0.1, 0.5, 0.4, 0.3, 0.2, 0.0, 0.0]
    # Of the 24 comparisons 0.9 and 0.8 win 6 each, 0.5 wins 5 and ties one, 0.1 wins 2.
    assert quality.auc(claims, scores, **FEW).value == pytest.approx(19.5 / 24)
    assert quality.auc(claims, scores, peer=scores, **FEW).value == 0.0


@pytest.mark.parametrize("count", [9, 10])
def test_too_few_or_constant_items_give_no_figure(count):
    with pytest.raises(ConfigInvalid, match="too few" if count == 9 else "no figure"):
        quality.correlations(pairs([(1.0,)] * count), list(range(count)), **FEW)


@pytest.mark.parametrize(
    ("answer", "response", "score"), [("The cat, sat!", "a cat sat", 1.0), ("one two", "two three", 0.5), ("", "", 0.0)]
)
def test_token_f1_by_hand(answer, response, score):
    assert quality.token_f1(answer, response) == score


def test_lexical_overlap_by_hand():
    assert quality.lexical_overlap("Backups restore tables", "A restored backup.") == pytest.approx(2 / 3)
    assert quality.lexical_overlap("It is", "It is") == 0.0


def test_rows_of_one_pair_are_put_together_and_people_are_kept_apart():
    (first, second) = quality.parse_pairs([row(1, 2), row(2, 0), row(1, -1)], "f")
    assert (first.labels, second.labels) == ((2.0, -1.0), (0.0,))


@pytest.mark.parametrize("rows", [[], {}, [{}], [{**row(1, 1), "overall_label": 3}], [{**row(1, 1), "model1": "x"}]])
def test_what_is_no_rated_pair_is_refused(rows):
    with pytest.raises(ConfigInvalid, match="the-file"):
        quality.parse_pairs(rows, "the-file")


def test_a_claim_is_supported_only_in_full():
    rows = [{"label": label, "claim": "c", "evidence": ["a", "b"]} for label in ("supported", "partially_supported")]
    assert [(c.supported, c.evidence) for c in quality.parse_claims(rows, "f")] == [(True, "a\nb"), (False, "a\nb")]
    with pytest.raises(ConfigInvalid, match="row 0"):
        quality.parse_claims([{**rows[0], "label": "perhaps"}], "f")


def test_halves_and_folds_depend_on_the_key_alone():
    keys = [f"key {n}" for n in range(400)]
    assert 150 < sum(map(quality.is_held_out, keys)) < 250
    assert {quality.fold_of(key, 5) for key in keys} == set(range(5))


def test_limits_are_chosen_on_other_folds_than_those_they_score():
    rated = pairs([(float(n % 5 - 2),) for n in range(40)])
    right, wrong = [pair.labels[0] for pair in rated], [-pair.labels[0] for pair in rated]
    assert judge_report.cross_validated(rated, {(0.5, 0.5): wrong, (0.6, 0.6): right}) == right


def test_a_difference_is_the_second_answers_f1_less_the_firsts():
    assert judge_report.deltas_of(LexicalJudge(0.5), quality.parse_pairs([row(1, 1)], "f")) == [1.0]


def test_where_the_data_is_missing_the_script_says_so(run_script, tmp_path):
    done = run_script("judge_report", "--pairs", str(tmp_path / "none.json"))
    assert done.code == ExitCode.NOT_FOUND
    assert "no rated pairs at" in done.err
    (tmp_path / "pairs.json").write_text(json.dumps([row(1, 1)]))
    done = run_script("judge_report", "--pairs", str(tmp_path / "pairs.json"), "--claims", str(tmp_path / "none.jsonl"))
    assert done.code == ExitCode.NOT_FOUND
    assert "no claims at" in done.err
