"""Judging with a model: RAGChecker's own prompts, and what a reply may not get away with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.evaluation.judge import ModelJudge
from lib.evaluation.ragchecker_metrics import compute, new_result, to_json
from lib.platform.errors import IntegrityMismatch
from lib.platform.model_client import ModelFailed

E, N = "Entailment", "Neutral"


def test_bedrock_fills_every_label_through_ragcheckers_own_prompts(converse):
    converse.reply = judge_model(
        claims={"Seven stay. Four go.": ["seven", "four"], "Seven stay. Lunch is at noon.": ["seven", "lunch"]},
        holds={
            "Seven stay. Four go.": ["seven", "four"],
            "Seven stay. Lunch is at noon.": ["seven", "lunch"],
            "P7": ["seven"],
        },
    )
    result = new_result(
        "q", "How many?", "Seven stay. Four go.", "Seven stay. Lunch is at noon.", [("1", "P7"), ("2", "P0")]
    )
    judge = ModelJudge(converse.client("judge-1"))
    judge.label(result)
    assert judge.name == "ragchecker over bedrock(judge-1)"
    assert result.gt_answer_claims == [["seven", "is", "so"], ["four", "is", "so"]]
    assert result.answer2response == [E, N]
    assert result.response2answer == [E, N]
    assert result.retrieved2answer == [[E, N], [N, N]]
    assert result.retrieved2response == [[E, N], [N, N]]
    metrics = compute([result])["q"]
    assert (metrics["precision"], metrics["recall"], metrics["claim_recall"], metrics["hallucination"]) == (0.5,) * 4


def test_bedrock_is_not_asked_about_an_empty_answers_claims(converse):
    converse.reply = judge_model(claims={"Seven stay.": ["seven"]}, holds={"P7": ["seven"]})
    result = new_result("q", "How many?", "Seven stay.", "", [("1", "P7")])
    ModelJudge(converse.client()).label(result)
    assert (result.response_claims, result.answer2response, result.retrieved2response) == ([], [], [])
    assert (result.response2answer, result.retrieved2answer) == ([N], [[E]])


def test_a_judge_whose_model_fails_says_so(converse):
    converse.reply = lambda model_id, prompt: 500
    with pytest.raises(ModelFailed):
        ModelJudge(converse.client()).label(new_result("q", "?", "Seven stay.", "Seven.", [("1", "P7")]))


@pytest.mark.parametrize("reply", ["I cannot help with that.", "Yes."])
def test_a_judges_reply_that_cannot_be_read_leaves_the_case_without_labels(converse, reply):
    converse.reply = lambda model_id, prompt: reply
    with pytest.raises(ModelFailed):
        ModelJudge(converse.client()).label(new_result("q", "?", "Seven stay.", "Lunch is at noon.", [("1", "P7")]))


@pytest.mark.parametrize("labels", ["", E, f"{E}\n{E}\n{E}", f"Claim 1: {E}\nClaim 2: unsure"])
def test_labels_that_are_not_one_for_each_claim_are_not_made_up_or_cut_off(converse, labels):
    claims = '("seven", "is", "so")\n("four", "is", "so")'
    converse.reply = lambda model_id, prompt: claims if is_extraction(prompt) else labels or "None of them."
    with pytest.raises(ModelFailed, match="cannot be read"):
        ModelJudge(converse.client()).label(new_result("q", "?", "Seven stay. Four go.", "Seven.", [("1", "P7")]))


def test_more_claims_than_one_prompt_holds_get_a_label_each(converse):
    names = [f"n{number}" for number in range(7)]  # RAGChecker asks about five at a time
    converse.reply = judge_model(claims={"Many.": names, "Few.": ["n1"]}, holds={"P": ["n0", "n6"], "Few.": ["n1"]})
    result = new_result("q", "?", "Many.", "Few.", [("1", "P"), ("2", "None")])
    ModelJudge(converse.client()).label(result)
    assert result.response2answer == [N, E, N, N, N, N, N]
    assert result.retrieved2answer == [[E, N], [N, N], [N, N], [N, N], [N, N], [N, N], [E, N]]


def test_what_a_model_says_is_never_run_as_code(converse, tmp_path):
    mark = tmp_path / "was-run"
    code = f'("a", "b", "" + str(__import__("pathlib").Path("{mark}").touch()) + "")'
    converse.reply = lambda model_id, prompt: code if is_extraction(prompt) else "Neutral"
    ModelJudge(converse.client()).label(new_result("q", "?", "Seven stay.", "Seven.", [("1", "P7")]))
    assert not mark.exists()


def test_judging_draws_no_bars(converse, capfd):
    converse.reply = judge_model(claims={"Seven stay.": ["seven"], "Seven.": ["seven"]}, holds={"P7": ["seven"]})
    judge = ModelJudge(converse.client())
    capfd.readouterr()
    judge.label(new_result("q", "?", "Seven stay.", "Seven.", [("1", "P7")]))
    assert capfd.readouterr() == ("", "")


def test_a_chat_model_judges_by_the_same_prompts(converse, chat):
    claims = {"Seven stay.": ["seven"], "Lunch.": ["lunch"]}
    converse.reply = chat.reply = judge_model(claims=claims, holds={"P7": ["seven"]})
    by_chat, by_converse = (new_result("q", "?", "Seven stay.", "Lunch.", [("1", "P7")]) for _ in range(2))
    judge = ModelJudge(chat.client("judge-1"))
    judge.label(by_chat)
    ModelJudge(converse.client()).label(by_converse)
    assert judge.name == "ragchecker over openai(judge-1)"
    assert chat.prompts == converse.prompts
    assert to_json([by_chat]) == to_json([by_converse])


_HALF = {"choices": [{"message": {"content": '("seven", "is"'}, "finish_reason": "length"}]}


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param("I cannot help with that.", id="nonsense"),
        pytest.param((200, json.dumps(_HALF).encode(), {}), id="half an answer"),
        pytest.param((200, b"<html>Sign in</html>", {}), id="HTML"),
        pytest.param("<html>Sign in</html>", id="HTML as an answer"),
        pytest.param((200, b"", {}), id="nothing"),
        pytest.param("", id="nothing as an answer"),
        pytest.param(429, id="429 for ever"),
        pytest.param((0, b"", {}), id="no answer"),
    ],
)
def test_a_chat_model_that_answers_badly_leaves_the_case_without_labels_and_nothing_stored(chat, stored, reply):
    chat.reply = lambda model_id, prompt: reply
    result = new_result("q", "?", "Seven stay.", "Lunch is at noon.", [("1", "P7")])
    with pytest.raises(ModelFailed):
        ModelJudge(chat.client(), stored()).label(result)
    assert (result.answer2response, result.response2answer) == (None, None)
    chat.reply = judge_model(claims={"Seven stay.": ["seven"], "Lunch is at noon.": ["lunch"]}, holds={"P7": ["seven"]})
    ModelJudge(chat.client(), stored()).label(result)  # a bad hour is over
    assert result.retrieved2answer == [[E]]


def test_a_stored_judgement_is_not_asked_for_again_and_labels_the_same(chat, stored):
    chat.reply = judge_model(claims={"Seven stay.": ["seven"], "Lunch.": ["lunch"]}, holds={"P7": ["seven"]})
    first, again, other = (new_result("q", "?", "Seven stay.", "Lunch.", [("1", "P7")]) for _ in range(3))
    ModelJudge(chat.client(), stored()).label(first)
    asked = len(chat.prompts)
    chat.reply = lambda model_id, prompt: 500
    ModelJudge(chat.client(), stored()).label(again)
    assert len(chat.prompts) == asked
    assert to_json([again]) == to_json([first])
    for judge in (
        ModelJudge(chat.client("model-2"), stored()),
        ModelJudge(chat.client(seed=43), stored()),
        ModelJudge(chat.client(), stored(), repeat=1),
        ModelJudge(chat.client(), stored(fresh=True)),
    ):
        with pytest.raises(ModelFailed):
            judge.label(other)


def test_a_stored_judgement_that_is_read_otherwise_now_is_no_judgement(chat, stored, connection):
    chat.reply = judge_model(claims={"Seven stay.": ["seven"], "Lunch.": ["lunch"]}, holds={"P7": ["seven"]})
    ModelJudge(chat.client(), stored()).label(new_result("q", "?", "Seven stay.", "Lunch.", [("1", "P7")]))
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.judgements SET reply = 'Contradiction' WHERE reply = 'Entailment'")
        assert cursor.rowcount == 1
    with pytest.raises(IntegrityMismatch, match="is not read as it was") as caught:
        ModelJudge(chat.client(), stored()).label(new_result("q", "?", "Seven stay.", "Lunch.", [("1", "P7")]))
    assert caught.value.hint.startswith("--fresh-judging")


def is_extraction(prompt: str) -> bool:
    return "### KG:" in prompt


def judge_model(claims: dict[str, list[str]], holds: dict[str, list[str]]) -> Any:
    """A model that finds ``claims[text]`` in a text, and says Entailment where ``holds[reference]`` names the claim."""

    def reply(model_id: str, prompt: str) -> str:
        if is_extraction(prompt):
            text = prompt.rpartition("### Candidate Answer:\n")[2].partition("\n\n### KG:")[0]
            return "\n".join(f'("{claim}", "is", "so")' for claim in claims[text])
        reference = prompt.partition("### Reference:\n")[2].partition("\n\n### Claims:")[0]
        asked = prompt.partition("### Claims:\n")[2].partition("\n\n")[0].splitlines()
        known = holds.get(reference, [])
        return "\n".join(E if any(f'"{claim}"' in line for claim in known) else N for line in asked)

    return reply
