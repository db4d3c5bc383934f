"""What is told about a case: better or worse, claims lost and gained, passages with the gold marked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.release.case_changes import Piece, changes_of, count_moves, pieces_of
from tests.release.compared import BEFORE, NOW, label, row, side


def one(now, before, labels_now=None, labels_before=None, gold=None):
    baseline = side(BEFORE, [before], labels_before) if before else None
    (found,) = changes_of(side(NOW, [now], labels_now), baseline, gold or {})
    return found


@pytest.mark.parametrize(
    ("now", "before", "move", "decided_by"),
    [
        (row("a", "retrieval"), row("a", "filter"), "worse", "where evidence is lost"),
        (row("a", None), row("a", "reader"), "better", "where evidence is lost"),
        (row("a", "reader", recall=0.2), row("a", "reader", recall=0.4), "worse", "recall"),
        (row("a", hallucination=0.2), row("a", hallucination=0.4), "better", "hallucination"),
        (row("a", recall=0.4, precision=0.9), row("a", recall=0.5, precision=0.1), "worse", "recall"),
        (row("a", f1=0.1), row("a", f1=0.9), "same", ""),
        (row("a"), None, "new", ""),
    ],
)
def test_the_first_that_differs_decides(now, before, move, decided_by):
    found = one(now, before)
    assert (found.move, found.decided_by) == (move, decided_by)


@pytest.mark.parametrize("whose", ["now", "before"])
def test_a_case_that_nobody_could_score_is_neither_better_nor_worse(whose):
    unscored = row("a", "retrieval", unscored="judge: no reply")
    found = one(unscored, row("a")) if whose == "now" else one(row("a"), unscored)
    assert found.move == "unscored"
    assert any("judge: no reply" in note for note in found.notes)


def test_a_metric_without_a_value_is_no_change():
    found = one(row("a", hallucination=None), row("a", hallucination=0.4))
    assert found.move == "same"
    assert not found.changed
    assert {value.metric: value.better for value in found.values}["hallucination"] is None


def test_a_change_that_does_not_decide_is_still_a_change():
    assert one(row("a", f1=0.1), row("a", f1=0.9)).changed


def test_the_worst_come_first_and_unanswerable_cases_are_not_told():
    before = [row("a"), row("b"), row("c"), row("d", "reader"), {**row("e"), "answerable": False, "metrics": None}]
    now = [
        row("a", "reader"),
        row("b", "retrieval"),
        row("c"),
        row("d"),
        {**row("e"), "answerable": False, "metrics": None},
    ]
    found = changes_of(side(NOW, now), side(BEFORE, before), {})
    assert [(case.query_id, case.move) for case in found] == [
        ("b", "worse"),
        ("a", "worse"),
        ("d", "better"),
        ("c", "same"),
    ]
    assert count_moves(found) == {"worse": 2, "unscored": 0, "better": 1, "same": 1, "new": 0}


def test_claims_lost_and_gained_are_those_of_the_gold_answer():
    was = label("a", {"kept": True, "lost": True, "gained": False, "missing": False}, {"c#1": "text"})
    now = label("a", {"kept": True, "lost": False, "gained": True, "missing": False}, {"c#1": "text"})
    now["retrieved2answer"][1] = ["Entailment"]
    found = one(row("a"), row("a"), [now], [was])
    assert [(claim.text, claim.change) for claim in found.claims] == [
        (name, name) for name in ("lost", "gained", "missing", "kept")
    ]
    assert [claim.in_context for claim in found.claims] == [True, False, False, False]


def test_claims_that_were_split_another_way_are_not_compared():
    found = one(row("a"), row("a"), [label("a", {"one": True}, {})], [label("a", {"another": True}, {})])
    assert [claim.change for claim in found.claims] == ["kept"]
    assert "cannot be told" in found.notes[0]


def test_without_labels_nothing_is_made_up():
    found = one(row("a"), row("a"))
    assert found.claims == found.passages == found.notes == ()


def test_passages_with_the_gold_are_shown_of_both_sides():
    quote = "moves the pointer back"
    was = label("a", {}, {"c#1": f"It {quote} at once.", "c#2": "nothing"})
    now = label("a", {}, {"c#2": "nothing", "c#3": f"One {quote}."})
    found = one(row("a"), row("a"), [now], [was], {"a": [("d.md", quote)]})
    assert [(passage.chunk_id, passage.side, passage.holds_gold) for passage in found.passages] == [
        ("c#3", "is", True),
        ("c#1", "was", True),
    ]
    assert found.gold == (("d.md", (Piece("text", quote),)),)


def test_where_the_gold_is_gone_the_passage_shown_first_stands_for_what_was_shown():
    quote = "moves the pointer back"
    was = label("a", {}, {"c#1": f"It {quote} at once."})
    now = label("a", {}, {"c#8": "other words", "c#9": "more"})
    found = one(row("a", "retrieval"), row("a"), [now], [was], {"a": [("d.md", quote)]})
    assert [(passage.chunk_id, passage.side) for passage in found.passages] == [("c#8", "is"), ("c#1", "was")]


@pytest.mark.parametrize(
    ("text", "quote", "marked"),
    [
        ("before the gold itself after", "the gold itself", ["the gold itself"]),
        ("before the\n gold itself after", "the gold itself", ["the\n gold itself"]),
        ("gold itself stands here. And more", "this is where the gold itself stands here.", ["gold itself stands here."]),
        ("a lead, then the gold begins with this", "the gold begins with this and goes on", ["the gold begins with this"]),
        ("begins with this and", "the gold begins with this and goes on", ["begins with this and"]),
        ("only a few words", "words of a quote that is elsewhere", []),
        ("x (a+b)* y", "(a+b)*", ["(a+b)*"]),
        ("twice gold, twice gold", "twice gold", ["twice gold", "twice gold"]),
    ],
)
def test_a_quote_or_the_part_that_a_passage_holds_is_marked(text, quote, marked):
    pieces = pieces_of(text, [quote])
    assert [piece.text for piece in pieces if piece.kind == "gold"] == marked
    assert "".join(piece.text for piece in pieces) == text


def test_what_is_far_from_the_gold_is_left_out_and_counted():
    pieces = pieces_of("a" * 500 + "GOLD IS HERE" + "b" * 300, ["GOLD IS HERE"], room=100)
    assert pieces == (
        Piece("gap", "400 characters"),
        Piece("text", "a" * 100),
        Piece("gold", "GOLD IS HERE"),
        Piece("text", "b" * 100),
        Piece("gap", "200 characters"),
    )


@given(st.text("ab \n", max_size=300), st.lists(st.text("ab \n", max_size=30), max_size=3), st.integers(1, 40))
def test_every_letter_is_shown_or_counted(text, quotes, room):
    pieces = pieces_of(text, quotes, room)
    shown = sum(len(piece.text) for piece in pieces if piece.kind != "gap")
    left_out = sum(int(piece.text.split()[0]) for piece in pieces if piece.kind == "gap")
    assert shown + left_out == len(text)
    for piece in pieces:
        assert piece.kind == "gap" or piece.text in text
