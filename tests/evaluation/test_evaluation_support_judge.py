"""The offline judge that an evaluation uses: claims and labels by hand, with word vectors made up for the purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lib.evaluation.offline_judge import ENTAILMENT, NEUTRAL, SupportJudge
from lib.evaluation.ragchecker_metrics import compute, new_result

E, N = ENTAILMENT, NEUTRAL
LIKE = {"automobile": "car", "swift": "quick"}  # the same vector; all other words are at right angles
WORDS = st.sampled_from(["Backups", "restore", "tables.", "of", "35", "seconds,", "1,000", "rows;", "which", "swift", "\n"])
TEXTS = st.lists(WORDS, max_size=25).map(" ".join)


class Vectors:
    """Says which words were embedded, and how many at a time."""

    name, dimension, identity, batch_independent = "made-up", 512, "", False

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.batches: list[int] = []

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(len(texts))
        found = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            found[row, self.places.setdefault(LIKE.get(text, text), len(self.places))] = 1.0
        return found

    def embed_query(self, text: str) -> NDArray[np.float32]:
        raise AssertionError("a judge embeds no question")


def labelled(query: str, answer: str, response: str, *passages: str, context: float = 0.5) -> Any:
    result = new_result("q", query, answer, response, [(str(rank), text) for rank, text in enumerate(passages)])
    SupportJudge(Vectors(), 0.6, 0.6, context).label(result)
    return result


@pytest.mark.parametrize(
    ("query", "text", "claims"),
    [
        ("?", "", []),
        ("?", "Seven are kept.", ["Seven are kept."]),
        (
            "?",
            "The pointer moves in milliseconds because tables stay.",
            ["The pointer moves", "in milliseconds", "because tables stay."],
        ),
        ("How does the pointer move?", "The pointer moves in milliseconds.", ["in milliseconds."]),
        ("Does the pointer move?", "The pointer moves.", ["The pointer moves."]),  # nothing else is said: all of it counts
        ("?", "It is what it is.", []),
        ("?", "Seven, of the tables", ["Seven", "of the tables"]),
    ],
)
def test_a_claim_is_a_phrase_that_the_question_does_not_say(query, text, claims):
    assert labelled(query, text, "Else.").gt_answer_claims == [[claim] for claim in claims]
    assert labelled(query, "Else.", text).response_claims == [[claim] for claim in claims]


@pytest.mark.parametrize(
    ("claim", "text", "label"),
    [
        ("Proven backups restore tables", "Proven restored backup.", E),  # 3 of 4 words
        ("Proven backups restore tables", "Restored backup.", N),  # 2 of 4, less than 0.6
        ("swift automobile", "The car is quick.", E),  # by meaning alone
        ("swift automobile", "The car is red.", N),
        ("35 long seconds", "35 seconds.", E),
        ("35 long seconds", "25 long seconds.", N),  # another number
        ("1,000 rows", "Rows: 1000.", E),
        ("alpha beta", "Alpha. One. Two. Three. Beta.", E),  # five sentences together
        ("alpha beta", "Alpha. One. Two. Three. Four. Beta.", N),
        ("alpha", "", N),
    ],
)
def test_a_label_between_answer_and_response_by_hand(claim, text, label):
    assert labelled("?", claim, text).response2answer == [label]
    assert labelled("?", text, claim).answer2response == [label]


def test_a_passage_must_hold_the_sentence_too_and_its_own_words():
    answer = "The pointer moves in milliseconds."
    result = labelled("?", answer, answer, "Milliseconds pass.", "The pointer takes milliseconds.", "A pointer moves.")
    # Of pointer, move, millisecond the passages hold 1, 2 and 2; of the claim "The pointer moves" 0, 1 and 2 of 2 words.
    assert result.retrieved2answer == [[N, N, E], [N, E, N]]
    assert labelled("?", answer, answer, "Milliseconds pass.", context=0.0).retrieved2answer == [[N], [E]]
    assert labelled("?", "swift automobile", "", "quick car").retrieved2answer == [[N]]  # no word by meaning in passages


def test_each_word_is_embedded_by_itself_and_once():
    vectors = Vectors()
    judge = SupportJudge(vectors, 0.6, 0.6, 0.5)
    for _ in range(2):
        judge.label(new_result("q", "?", "Backups restore tables.", "Tables stay.", []))
    assert vectors.batches == [1] * 4  # backups, restore, tables, stay


@pytest.mark.parametrize(
    ("claim", "text", "support"),
    [
        ("Backups restore tables", "Backups restore.", 2 / 3),
        ("35 tables", "35 tables", 1.0),
        ("35 tables", "Tables", 0.25),  # half of the words, halved for the number
        ("35 of 40 tables", "35 tables", 2 / 3 * 0.75),  # one of two numbers
        ("It is", "It is", 0.0),
        ("Tables", "", 0.0),
    ],
)
def test_how_far_a_text_supports_a_claim_by_hand(claim, text, support):
    assert SupportJudge(Vectors(), 0.6, 0.6, 0.5).support(claim, text) == pytest.approx(support)


def test_a_judge_is_named_by_what_decides_it():
    judge = SupportJudge(Vectors(), 0.6, 0.65, 0.5)
    assert judge.name == "support(made-up, 0.6, 0.65, 0.5)"
    assert judge.variant(0.5, 0.7).name == "support(made-up, 0.5, 0.7, 0.5)"


@settings(deadline=None, derandomize=True, max_examples=50)
@given(TEXTS, TEXTS, TEXTS, st.lists(TEXTS, max_size=3))
def test_any_texts_are_labelled_in_full_whatever_was_judged_before(query, answer, response, passages):
    documents = [(str(rank), text) for rank, text in enumerate(passages)]
    result = labelled(query, answer, response, *passages)
    judge = SupportJudge(Vectors(), 0.6, 0.6, 0.5)
    judge.label(new_result("other", query, response, answer, documents))
    again = new_result("q", query, answer, response, documents)
    judge.label(again)
    assert again == result
    assert len(result.response2answer) == len(result.retrieved2answer) == len(result.gt_answer_claims)
    assert len(result.answer2response) == len(result.retrieved2response) == len(result.response_claims)
    assert all(len(labels) == len(passages) for labels in [*result.retrieved2answer, *result.retrieved2response])
    assert all(0.0 <= value <= 1.0 for value in compute([result])["q"].values())


@settings(deadline=None, derandomize=True, max_examples=50)
@given(TEXTS)
def test_an_answer_agrees_with_itself(text):
    result = labelled("?", text, text)
    assert set(result.response2answer) <= {E}
    assert result.response2answer == result.answer2response
