"""What is told about a case: better or worse, claims lost and gained, passages with the gold marked."""

from __future__ import annotations

import pytest

from lib.release.case_changes import changes_of, count_moves, count_outcomes, words_of
from lib.release.excerpts import Cut, Piece
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


def unanswerable(query_id, *, abstained=True, unscored=""):
    return {**row(query_id, abstained=abstained, unscored=unscored), "answerable": False, "metrics": None}


def test_the_worst_come_first():
    before = [row("a"), row("b"), row("c"), row("d", "reader"), unanswerable("e"), unanswerable("f")]
    now = [
        row("a", "reader"),
        row("b", "retrieval"),
        row("c"),
        row("d"),
        unanswerable("e"),
        unanswerable("f", abstained=False),
    ]
    found = changes_of(side(NOW, now), side(BEFORE, before), {})
    assert [(case.query_id, case.move) for case in found] == [
        ("b", "worse"),
        ("a", "worse"),
        ("f", "worse"),
        ("d", "better"),
        ("c", "same"),
        ("e", "same"),
    ]
    assert count_moves(found) == {"worse": 3, "unscored": 0, "better": 1, "same": 2, "new": 0}


@pytest.mark.parametrize(
    ("now", "before", "move", "outcomes"),
    [
        (unanswerable("a"), unanswerable("a", abstained=False), "better", ("answered", "abstained")),
        (unanswerable("a", abstained=False), unanswerable("a"), "worse", ("abstained", "answered")),
        (unanswerable("a"), unanswerable("a"), "same", ("abstained", "abstained")),
        (
            unanswerable("a", abstained=False, unscored="reader: no reply"),
            unanswerable("a"),
            "unscored",
            ("abstained", "no answer known"),
        ),
        (unanswerable("a", abstained=False), None, "new", (None, "answered")),
    ],
)
def test_an_unanswerable_case_is_told_by_whether_it_was_abstained_from(now, before, move, outcomes):
    found = one(now, before)
    assert (found.move, (found.outcome_before, found.outcome)) == (move, outcomes)
    assert found.decided_by == ("whether it abstains" if move in ("better", "worse") else found.decided_by)
    assert found.groups[:2] == ("unanswerable", found.outcome)
    assert found.good is (found.outcome == "abstained")
    assert found.changed is (move in ("better", "worse", "unscored"))


def test_what_is_compared_with_nothing_stands_in_the_order_of_the_chain():
    rows = [
        row("used", lost_at=None),
        row("late", "reader", lost_at="reader", lost_detail="not used"),
        row("early", "retrieval", lost_at="missing document", lost_detail="no chunk"),
        row("nobody", "retrieval", lost_at="unknown", lost_detail="no reply", unscored="no reply"),
        unanswerable("good"),
        unanswerable("bad", abstained=False),
    ]
    found = changes_of(side(NOW, rows), None, {})
    assert [case.query_id for case in found] == ["nobody", "early", "late", "bad", "used", "good"]
    assert [case.groups for case in found[:3]] == [
        ("answerable", "unknown", "lost", "unscored"),
        ("answerable", "missing document", "lost"),
        ("answerable", "reader", "lost"),
    ]
    assert [case.detail for case in found[:3]] == ["no reply", "no chunk", "not used"]


def test_where_cases_were_lost_is_counted_on_both_sides():
    now = [row("a", "filter", lost_at="filter"), row("b", lost_at=None), unanswerable("c")]
    before = [row("a", lost_at=None), row("b", lost_at=None), unanswerable("c", abstained=False)]
    counted, counted_before = count_outcomes(changes_of(side(NOW, now), side(BEFORE, before), {}))
    assert counted == {"filter": 1, "used": 1, "abstained": 1}
    assert counted_before == {"used": 2, "answered": 1}


def test_every_outcome_is_said_in_words():
    assert words_of("filter") == "lost at filter"
    assert words_of("abstained") != words_of("answered") != words_of("used")


def test_many_claims_are_listed_up_to_a_number_and_those_that_changed_all():
    names = [f"claim {number:02d}" for number in range(30)]
    was = label("a", {name: number < 12 for number, name in enumerate(names)}, {})
    now = label("a", dict.fromkeys(names, False), {})
    (found,) = changes_of(side(NOW, [row("a")], [now]), side(BEFORE, [row("a")], [was]), {}, Cut(room=20))
    assert [claim.change for claim in found.claims] == ["lost"] * 12
    assert found.claims_left_out == 18


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
