"""What an external system's reply is taken for, and where its passages hold the evidence."""

from __future__ import annotations

from typing import Any

import pytest

from lib.evaluation.cases import Case, GoldSpan, evidence_found
from lib.evaluation.systems import Answered, parse_reply, placed

_QUOTE = "A rollback moves the pointer\nback in milliseconds."
_GOLD = GoldSpan("corpus/pointer.md", "f" * 64, 100, 100 + len(_QUOTE), _QUOTE)


def test_a_whole_reply_is_an_answer_with_its_passages() -> None:
    found = parse_reply(
        {
            "query_id": "q1",
            "answer": "In milliseconds.",
            "contexts": [{"text": "one", "id": "c1", "score": 0.5}, "two"],
            "snapshot": ["one", "two", "three"],
            "record": {"model_id": "m", "seed": 42, "tokens": {"input": 7}},
            "latency_ms": 12.5,
            "another_key": [1],
        },
        "q1",
    )
    assert (found.text, found.problem, found.abstained, found.snapshot_given) == ("In milliseconds.", "", False, True)
    assert [(chunk.chunk_id, chunk.bm25_text, chunk.fused_score) for chunk in found.context] == [
        ("c1", "one", 0.5),
        ("passage-2", "two", 0.0),
    ]
    assert len(found.snapshot) == 3
    assert found.record == {"model_id": "m", "seed": 42, "tokens": {"input": 7}}
    assert found.timings == {"system_ms": 12.5}


def test_without_a_snapshot_the_contexts_are_taken_and_it_is_said() -> None:
    found = parse_reply({"answer": "a", "contexts": ["one"]}, "q1")
    assert found.snapshot is found.context
    assert not found.snapshot_given


@pytest.mark.parametrize(
    "reply",
    [
        {"answer": "", "contexts": []},
        {"answer": " I do not know. ", "contexts": ["x"]},
        {"answer": "Leider nein.", "abstained": True, "contexts": []},
    ],
)
def test_a_system_may_decline(reply: dict[str, Any]) -> None:
    assert parse_reply(reply, "q1").abstained


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ([], "the value must be of type object"),
        (None, "the value must be of type object"),
        ({"contexts": []}, "answer is missing"),
        ({"answer": "a"}, "contexts is missing"),
        ({"answer": 1, "contexts": []}, "answer must be of type string"),
        ({"answer": "a", "contexts": [1]}, "contexts.0"),
        ({"answer": "a", "contexts": [{"id": "x"}]}, "contexts.0"),
        ({"answer": "a", "contexts": ["x"] * 1001}, "contexts"),
        ({"answer": "a", "contexts": [{"text": "x", "start": 3}]}, "passage 1 has no whole place"),
        ({"answer": "a", "contexts": [{"text": "x", "start": 3, "end": 2}]}, "passage 1 has no whole place"),
        ({"answer": "a", "contexts": [], "query_id": "q2"}, "the reply to q1 is to 'q2'"),
        ({"answer": "a\ud800", "contexts": []}, "cannot be written down"),
        ({"answer": "a", "contexts": [{"text": "x", "score": float("nan")}]}, "cannot be written down"),
        ({"answer": "a", "contexts": [], "record": {"latency_ms": 3}}, "unknown key 'latency_ms'"),
        ({"error": "index is down"}, "it reports an error: index is down"),
    ],
)
def test_a_reply_that_cannot_be_understood_is_no_answer_and_says_why(reply: Any, problem: str) -> None:
    found = parse_reply(reply, "q1")
    assert problem in found.problem
    assert (found.text, list(found.context), found.abstained) == ("", [], False)


def test_secrets_in_what_a_system_says_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_API_KEY", "very-secret-value")
    assert "very-secret" not in parse_reply({"error": "bad key very-secret-value"}, "q1").problem


@pytest.mark.parametrize(
    ("passages", "found"),
    [
        (["Before. A rollback moves  the pointer back in milliseconds. After."], True),  # blanks aside
        (["A rollback moves the pointer"], False),
        (["A rollback moves the pointer", "back in milliseconds."], False),  # nobody says that they belong together
        ([{"text": _QUOTE, "doc_id": "elsewhere.md"}], True),  # the text says it, wherever it stands
        ([{"text": "The whole truth is another one.", "doc_id": "pointer.md", "start": 0, "end": 5000}], False),
    ],
)
def test_evidence_is_what_a_passages_text_holds(passages: list[Any], found: bool) -> None:
    assert _found(passages) is found


@pytest.mark.parametrize("doc_id", ["pointer.md", "corpus/pointer.md"])
def test_parts_that_name_their_places_complete_each_other(doc_id: str) -> None:
    first = {"text": _QUOTE[:28], "doc_id": doc_id, "start": 100, "end": 128}
    second = {"text": _QUOTE[28:], "doc_id": doc_id, "start": 128, "end": 100 + len(_QUOTE)}
    assert _found([first, second])
    assert not _found([first])
    assert not _found([first, {**second, "doc_id": "r.md"}])
    assert not _found([first, {**second, "text": " another text of that len "}])  # a place alone proves nothing


def test_a_quote_without_a_document_is_looked_for_in_the_text_alone() -> None:
    gold = GoldSpan("pointer.md", "", 0, len(_QUOTE), _QUOTE)
    assert _found([_QUOTE], gold)
    assert not _found([{"text": "x" * 80, "doc_id": "pointer.md", "start": 0, "end": 80}], gold)


def test_one_quote_or_all() -> None:
    other = GoldSpan("corpus/other.md", "e" * 64, 0, 5, "Other")
    answered = parse_reply({"answer": "a", "contexts": [_QUOTE]}, "q1")
    for require_all, wanted in ((True, False), (False, True)):
        case = Case("q1", "?", "!", True, require_all, (_GOLD, other), ())
        assert evidence_found(case, placed(answered, case).context) is wanted


def test_golives_own_answers_keep_their_places() -> None:
    answered = Answered("text")
    assert placed(answered, Case("q1", "?", "!", True, True, (_GOLD,), ())) is answered


def _found(passages: list[Any], gold: GoldSpan = _GOLD) -> bool:
    case = Case("q1", "?", "!", True, True, (gold,), ())
    answered = placed(parse_reply({"answer": "a", "contexts": passages}, "q1"), case)
    assert not answered.problem
    return evidence_found(case, answered.context)
