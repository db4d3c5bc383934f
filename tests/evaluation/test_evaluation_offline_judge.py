"""The offline judge: its claims and labels worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation.offline_judge import ENTAILMENT, NEUTRAL, LexicalJudge, supports
from lib.evaluation.ragchecker_metrics import compute, new_result

E, N = ENTAILMENT, NEUTRAL
WORDS = st.sampled_from(
    ["Backups", "restore", "tables.", "and", "35", "seconds,", "1,000", "rows;", "which", "the", "pointer", "moves.", "\n"]
)
TEXTS = st.lists(WORDS, max_size=30).map(" ".join)


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("", []),
        ("Seven are kept.", ["Seven are kept."]),
        ("Keep seven. Keep four!\nDrop the rest", ["Keep seven.", "Keep four!", "Drop the rest"]),
        (  # 7 words before the comma, 8 after "and"
            "Stop the traffic before the restore begins, and open it again once the pointer has moved.",
            ["Stop the traffic before the restore begins", "open it again once the pointer has moved."],
        ),
        (  # 2 words before
            "Stop it, and open it again once the pointer has moved.",
            ["Stop it, and open it again once the pointer has moved."],
        ),
        (  # 3 words after
            "Stop the traffic before the restore begins, and check it later.",
            ["Stop the traffic before the restore begins, and check it later."],
        ),
        (
            "One row names the table now; another row names the config hash; a third one names the embedder.",
            ["One row names the table now", "another row names the config hash", "a third one names the embedder."],
        ),
        (
            "The restore fails on the sealed table because nothing may ever write to it.",
            ["The restore fails on the sealed table", "nothing may ever write to it."],
        ),
        (
            "A copy of the table stays – nobody ever writes to it.",
            ["A copy of the table stays", "nobody ever writes to it."],
        ),
        ("It keeps 1,000,000 rows in every one of the tables.", ["It keeps 1,000,000 rows in every one of the tables."]),
    ],
)
def test_a_claim_is_a_clause(text, claims):
    assert labelled(text, "Something else.").gt_answer_claims == [[claim] for claim in claims]
    assert labelled("Something else.", text).response_claims == [[claim] for claim in claims]


@pytest.mark.parametrize(
    ("least", "claim", "passage", "label"),
    [
        (0.5, "Proven backups restore tables.", "Backups are restored.", E),  # 2 of 4 words: exactly enough
        (0.51, "Proven backups restore tables.", "Backups are restored.", N),
        (0.5, "Proven backups restore tables.", "Backups are late.", N),  # 1 of 4
        (1.0, "Proven backups restore tables.", "Restoring a table is how a backup is proven.", E),
        (0.5, "The timeout is 35 seconds.", "The timeout is 35 seconds.", E),
        (0.5, "The timeout is 35 seconds.", "The timeout is 25 seconds.", N),  # 2 of 3 words, but another number
        (0.5, "The timeout is 35 seconds.", "The timeout is in seconds.", N),
        (0.5, "The timeout is in seconds.", "The timeout is 35 seconds.", E),  # the passage may say more
        (0.5, "It keeps 1,000 rows.", "Rows kept: 1000.", E),
        (0.5, "It keeps 1,000 rows.", "Rows kept: 1.", N),
        (0.5, "It is what it is.", "It is what it is.", N),  # no content word to compare
        (0.5, "Proven backups restore tables.", "", N),
        (1.0, "Alpha beta gamma", "Alpha one. Beta two. Gamma three.", E),  # three sentences together
        (1.0, "Alpha beta gamma", "Alpha one. Two. Three. Beta gamma.", N),  # never in three neighbours
        (1.0, "Alpha beta gamma", "Zero. One. Two. Three. Alpha. Beta gamma.", E),  # any three
    ],
)
def test_a_label_by_hand(least, claim, passage, label):
    assert LexicalJudge(least).passage_labels(claim, [passage]) == [[label]]


def test_every_claim_gets_a_label_for_every_passage():
    labels = LexicalJudge(0.5).passage_labels(
        "Seven daily backups stay. Rollbacks take milliseconds.",
        ["Rollbacks take milliseconds only.", "Nothing here.", "Seven daily backups stay. Rollbacks take milliseconds."],
    )
    assert labels == [[N, N, E], [E, N, E]]


def test_a_whole_result_by_hand():
    result = labelled(
        "Seven daily backups stay. Four weekly backups stay.",
        "Seven daily backups stay. Rollbacks take 20 milliseconds. Lunch begins at noon.",
        "Keep seven daily backups; they stay.",
        "Rollbacks take 20 milliseconds.",
    )
    # The response's claims: the first is the answer's own; of the second's and third's words the answer has none.
    assert result.answer2response == [E, N, N]
    # Of "Four weekly backups stay" the response holds backups and stay, two words of four, which is half.
    assert result.response2answer == [E, E]
    assert result.retrieved2answer == [[E, N], [E, N]]
    assert result.retrieved2response == [[E, N], [N, E], [N, N]]
    metrics = compute([result])["q"]
    assert metrics["precision"] == pytest.approx(1 / 3)
    assert (metrics["recall"], metrics["claim_recall"], metrics["context_precision"]) == (1.0, 1.0, 0.5)
    assert metrics["hallucination"] == pytest.approx(1 / 3)  # the lunch
    assert metrics["noise_sensitivity_in_irrelevant"] == pytest.approx(1 / 3)  # the rollback, out of the second passage
    assert metrics["faithfulness"] == pytest.approx(2 / 3)


def test_an_empty_answer_makes_no_claim():
    result = labelled("Seven daily backups stay.", "", "Seven daily backups stay.")
    assert (result.response_claims, result.answer2response, result.retrieved2response) == ([], [], [])
    assert result.response2answer == [N]
    metrics = compute([result])["q"]
    assert (metrics["precision"], metrics["recall"], metrics["faithfulness"]) == (0.0, 0.0, 0.0)
    assert metrics["claim_recall"] == 1.0


def test_without_passages_nothing_is_supported():
    result = labelled("Seven daily backups stay.", "Seven daily backups stay.")
    assert (result.retrieved2answer, result.retrieved2response) == ([[]], [[]])
    metrics = compute([result])["q"]
    assert (metrics["precision"], metrics["claim_recall"], metrics["faithfulness"]) == (1.0, 0.0, 0.0)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=3))
def test_any_texts_are_labelled_in_full_and_always_alike(answer, response, passages):
    result = labelled(answer, response, *passages)
    assert labelled(answer, response, *passages) == result
    assert len(result.response2answer) == len(result.retrieved2answer) == len(result.gt_answer_claims)
    assert len(result.answer2response) == len(result.retrieved2response) == len(result.response_claims)
    assert all(len(labels) == len(passages) for labels in [*result.retrieved2answer, *result.retrieved2response])
    assert all(0.0 <= value <= 1.0 for value in compute([result])["q"].values())


@settings(deadline=None, derandomize=True, max_examples=60)
@given(TEXTS)
def test_a_text_entails_each_of_its_own_claims_that_says_something(text):
    said = {"backup", "restor", "tabl", "35", "second", "1000", "row", "pointer", "move"}
    judge = LexicalJudge(1.0)
    result = labelled(text, "")
    for (claim,), (label,) in zip(result.gt_answer_claims, judge.passage_labels(text, [text]), strict=True):
        words = {word.strip(".,;").casefold().replace(",", "") for word in claim.split()}
        assert (label == E) is any(word.startswith(stem) for word in words for stem in said)


def test_a_lexical_judge_is_named_with_its_limit():
    assert LexicalJudge(0.5).name == "lexical(0.5)"


@pytest.mark.parametrize(
    ("passage", "quote", "least", "held"),
    [
        ("Backups are restored.", "Proven backups restore tables.", 0.5, True),  # 2 of 4
        ("Backups are late.", "Proven backups restore tables.", 0.5, False),  # 1 of 4
        ("", "Proven backups restore tables.", 0.5, False),
        ("It is.", "It is.", 0.5, False),  # no content word
    ],
)
def test_an_answer_uses_a_quote_if_it_holds_enough_of_its_words(passage, quote, least, held):
    assert supports(passage, quote, least) is held


def labelled(answer: str, response: str, *passages: str) -> Any:
    result = new_result("q", "?", answer, response, [(str(rank), text) for rank, text in enumerate(passages)])
    LexicalJudge(0.5).label(result)
    return result
