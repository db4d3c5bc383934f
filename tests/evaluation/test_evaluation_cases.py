"""Cases: what a case file may hold, how quotes become spans, and when a span counts as retrieved."""

from __future__ import annotations

import gc
import hashlib
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation import cases
from lib.evaluation.cases import Case, GoldSpan
from lib.index.documents import Document, scan_folder
from lib.index.fusion import Candidate
from lib.platform.errors import ConfigInvalid, NotFound

PROJECT = Path(__file__).resolve().parents[2]
TEXT = "Alpha is first.  Beta is second.\n\nGamma is third. Alpha is not last."
SHA = hashlib.sha256(TEXT.encode()).hexdigest()


def test_a_good_file_is_read_and_its_digest_covers_every_field(tmp_path):
    first = cases.load(write(tmp_path, [case("q1"), case("q2")]))
    assert first.count == 2
    assert first.digest == cases.load(write(tmp_path, [case("q1"), case("q2")])).digest
    for field, value in [("query", "another?"), ("gt_answer", "other"), ("tags", ["x"]), ("require", "any")]:
        assert cases.load(write(tmp_path, [case("q1"), case("q2", **{field: value})])).digest != first.digest


def test_the_order_of_the_cases_is_in_no_digest(tmp_path):
    one = cases.load(write(tmp_path, [case("q1"), case("q2"), case("q3")])).digest
    assert cases.load(write(tmp_path, [case("q3"), case("q1"), case("q2")])).digest == one


def test_a_case_takes_few_bytes_whatever_their_number(tmp_path):
    """Its texts and some hundred bytes: not the file, nor the objects that JSON is read into."""
    many = [case(f"q{number:05}", query=f"what is number {number}?", tags=["single"]) for number in range(2000)]
    path = write(tmp_path, many)
    cases.load(path)
    tracemalloc.start()
    file = cases.load(path)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file.count == 2000
    assert held / 2000 < 800  # of which the texts and their headers are 350


def test_a_large_file_says_how_far_its_check_is_and_names_the_case_that_is_broken(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cases, "_CHECKED_AT_ONCE", 4)
    many = [case(f"q{number}") for number in range(10)]
    whole = cases.load(write(tmp_path, many))
    assert "case file: 8 of 10 cases checked" in capsys.readouterr().err
    monkeypatch.setattr(cases, "_CHECKED_AT_ONCE", 10)
    assert cases.load(write(tmp_path, many)) == whole
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cases, "_CHECKED_AT_ONCE", 4)
    nameless = "case number 10: cases.9.query_id is missing"
    for broken, named in (({"query": "?"}, nameless), (case("q9", query=7), "case q9: ")):
        with pytest.raises(ConfigInvalid, match=named):
            cases.load(write(tmp_path, [*many[:9], broken]))


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"no case file at .*nowhere\.json"):
        cases.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": " "}, "query"),
        ({"gt_answer": ""}, "gt_answer"),
        ({"answerable": "yes"}, "answerable"),
        ({"gold": []}, "gold"),
        ({"gold": [{"doc_id": "a.md"}]}, "quote is missing"),
        ({"gold": [{"doc_id": "a.md", "quote": "\n"}]}, "quote"),
        ({"answerable": False}, "gold"),
        ({"require": "some"}, "require"),
        ({"chunk_ids": ["c1"]}, "unknown key 'chunk_ids'"),
        ({"tags": "single"}, "tags"),
    ],
)
def test_a_case_that_breaks_the_schema_is_named(tmp_path, changes, said):
    path = write(tmp_path, [case("good-1"), case("bad-7", **changes)])
    with pytest.raises(ConfigInvalid) as caught:
        cases.load(path)
    assert f"{path}: case bad-7: " in caught.value.message
    assert said in caught.value.message


def test_every_broken_case_is_named_in_one_go(tmp_path):
    path = write(tmp_path, [case("bad-1", query=""), case("good"), case("bad-2", gold=[]), case("bad-3", tags=[1])])
    with pytest.raises(ConfigInvalid) as caught:
        cases.load(path)
    said = caught.value.message + caught.value.detail
    assert all(f"case {name}:" in said for name in ("bad-1", "bad-2", "bad-3"))
    assert "case good:" not in said


def test_a_case_without_an_id_is_named_by_its_number(tmp_path):
    nameless = case("x")
    del nameless["query_id"]
    with pytest.raises(ConfigInvalid, match="case number 2: "):
        cases.load(write(tmp_path, [case("q1"), nameless]))


def test_a_case_that_is_no_object_is_named_by_its_number(tmp_path):
    with pytest.raises(ConfigInvalid, match="case number 2: "):
        cases.load(write(tmp_path, [case("q1"), "not a case"]))


@pytest.mark.parametrize("content", ["[]", '{"schema_version": 2, "cases": []}', '{"schema_version": 1, "cases": []}', "{"])
def test_a_file_that_is_no_case_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "cases.json"
    path.write_text(content)
    with pytest.raises(ConfigInvalid, match=str(path)):
        cases.load(path)


def test_an_id_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(ConfigInvalid, match="query_id q2 is there twice"):
        cases.load(write(tmp_path, [case("q1"), case("q2"), case("q2", query="another?")]))


def test_a_quote_becomes_the_span_that_holds_it(tmp_path):
    file = cases.load(write(tmp_path, [case("q1", gold=[("a.md", "Beta is second."), ("a.md", "Gamma is third.")])]))
    (found,) = cases.resolve(file, [document("s", "a.md", TEXT)], ["s"])
    # "Alpha is first." is 15 long, two blanks follow: 17; "Beta is second." is 15 long: 32; two line ends: 34.
    assert [(gold.start, gold.end) for gold in found.gold] == [(17, 32), (34, 49)]
    assert all(gold.doc_id == "s/a.md" and gold.doc_sha256 == SHA for gold in found.gold)
    assert [TEXT[gold.start : gold.end] for gold in found.gold] == [gold.quote for gold in found.gold]


def test_cases_come_back_in_the_order_of_their_ids_whatever_the_files_order(tmp_path):
    file = cases.load(write(tmp_path, [case("b"), case("a"), case("c", answerable=False, gold=[])]))
    found = cases.resolve(file, [document("s", "a.md", TEXT)], ["s"])
    assert [item.query_id for item in found] == ["a", "b", "c"]
    assert found[2].gold == () and not found[2].answerable


def test_all_gold_is_required_unless_the_case_says_that_any_will_do(tmp_path):
    file = cases.load(write(tmp_path, [case("a"), case("b", require="any"), case("c", require="all")]))
    found = cases.resolve(file, [document("s", "a.md", TEXT)], ["s"])
    assert [item.require_all for item in found] == [True, False, True]


def test_a_document_is_named_by_its_path_or_by_its_whole_id(tmp_path):
    file = cases.load(
        write(tmp_path, [case("a", gold=[("a.md", "Beta")]), case("b", gold=[("s/a.md", "Beta")])]),
    )
    found = cases.resolve(file, [document("s", "a.md", TEXT)], ["s"])
    assert found[0].gold == found[1].gold


def test_quotes_that_are_missing_ambiguous_or_of_no_document_are_all_named_at_once(tmp_path):
    overlapping = document("s", "b.md", "aXaXa")
    file = cases.load(
        write(
            tmp_path,
            [
                case("absent", gold=[("a.md", "Delta is fourth.")]),
                case("fine"),
                case("no-doc", gold=[("other.md", "Beta")]),
                case("overlapping", gold=[("b.md", "aXa")]),
                case("twice", gold=[("a.md", "Beta"), ("a.md", "Alpha is")]),
            ],
        )
    )
    with pytest.raises(ConfigInvalid) as caught:
        cases.resolve(file, [document("s", "a.md", TEXT), overlapping], ["s"])
    assert "4 quotes" in caught.value.message
    assert "absent: quote not in a.md: 'Delta is fourth.'" in caught.value.detail
    assert "no-doc: no document other.md" in caught.value.detail
    assert "overlapping: quote more than once in b.md" in caught.value.detail
    assert "twice: quote more than once in a.md: 'Alpha is'" in caught.value.detail
    assert "fine" not in caught.value.detail


def test_a_long_list_of_unresolved_quotes_says_how_many_more_there_are(tmp_path):
    file = cases.load(write(tmp_path, [case(f"q{number:02}", gold=[("a.md", "absent")]) for number in range(23)]))
    with pytest.raises(ConfigInvalid, match="23 quotes") as caught:
        cases.resolve(file, [document("s", "a.md", TEXT)], ["s"])
    assert caught.value.detail.count("quote not in") == 20
    assert caught.value.detail.endswith("and 3 more")


def test_a_path_that_two_sources_hold_must_be_named_by_its_source(tmp_path):
    both = [document("s", "a.md", TEXT), document("t", "a.md", TEXT)]
    with pytest.raises(ConfigInvalid) as caught:
        cases.resolve(cases.load(write(tmp_path, [case("q1")])), both, ["s", "t"])
    assert "q1: a.md is in several sources: name one, as s/a.md" in caught.value.detail
    named = cases.load(write(tmp_path, [case("q1", gold=[("t/a.md", "Beta")])]))
    assert cases.resolve(named, both, ["s", "t"])[0].gold[0].doc_id == "t/a.md"


def test_the_name_that_the_message_offers_resolves(tmp_path):
    both = [document("s", "a.md", TEXT), document("t", "s/a.md", TEXT)]
    named = cases.load(write(tmp_path, [case("q1", gold=[("s/a.md", "Beta")])]))
    assert cases.resolve(named, both, ["s", "t"])[0].gold[0].doc_id == "s/a.md"


def test_a_document_of_a_source_that_is_not_asked_for_is_not_there(tmp_path):
    file = cases.load(write(tmp_path, [case("q1")]))
    with pytest.raises(ConfigInvalid, match="1 quotes"):
        cases.resolve(file, [document("s", "a.md", TEXT)], ["t"])


def test_the_shipped_cases_resolve_against_the_shipped_corpus():
    file = cases.load(PROJECT / "eval" / "test_cases.json")
    documents = scan_folder(PROJECT / "eval" / "corpus", "corpus").documents
    found = cases.resolve(file, documents, ["corpus"])
    contents = {item.doc_id: item.content for item in documents}
    assert len(found) >= 120
    assert sum(not item.answerable for item in found) >= 10
    assert sum(len({gold.doc_id for gold in item.gold}) > 1 for item in found) >= 10
    for item in found:
        for gold in item.gold:
            assert contents[gold.doc_id][gold.start : gold.end] == gold.quote


@pytest.mark.parametrize(
    ("spans", "held"),
    [
        ([(0, 68)], True),  # one chunk holds all of it
        ([(17, 32)], True),  # exactly the quote
        ([(17, 31)], False),  # one character short
        ([(18, 32)], False),
        ([(0, 24), (20, 68)], True),  # two overlapping chunks together
        ([(20, 68), (0, 24)], True),  # in any order
        ([(0, 24), (24, 68)], True),  # two that touch
        ([(0, 21), (22, 68)], True),  # what lies between, [21:22], is a blank
        ([(0, 21), (25, 68)], False),  # what lies between, " is ", is not
        ([(0, 10), (40, 68)], False),
        ([(0, 19), (17, 22), (21, 32)], True),  # three
        ([(0, 24), (1, 20), (24, 68)], True),  # one of them within another
        ([], False),
    ],
)
def test_a_span_is_covered_by_the_union_of_the_chunks(spans, held):
    assert cases.covered(gold(17, 32), [chunk(start, end) for start, end in spans]) is held


def test_blanks_before_a_quotes_first_word_do_not_count():
    assert cases.covered(gold(15, 32), [chunk(17, 32)])  # text[15:17] is two blanks


def test_blanks_after_a_quotes_last_word_do_not_count():
    assert cases.covered(gold(17, 34), [chunk(17, 32)])  # text[32:34] is two line ends


def test_a_chunk_of_another_document_does_not_cover_a_span():
    assert not cases.covered(gold(17, 32), [chunk(0, 68, doc_id="s/b.md")])


def test_a_near_duplicate_that_was_dropped_counts_by_its_place():
    kept = chunk(100, 168, doc_id="s/b.md", text=TEXT, duplicates=[("s/a.md", 0, 68, SHA)])
    assert cases.covered(gold(17, 32), [kept])
    assert not cases.covered(gold(17, 32, doc_id="s/c.md"), [kept])


def test_places_of_chunks_and_of_near_duplicates_are_joined():
    kept = chunk(100, 168, doc_id="s/b.md", text=TEXT, duplicates=[("s/a.md", 0, 24, SHA)])
    assert cases.covered(gold(17, 32), [kept, chunk(24, 40)])


def test_a_near_duplicate_whose_text_differs_in_the_quote_does_not_cover_it():
    kept = chunk(0, 68, doc_id="s/b.md", text=TEXT.replace("second", "fifth"), duplicates=[("s/a.md", 0, 68, SHA)])
    assert not cases.covered(gold(17, 32), [kept])


def test_a_near_duplicate_with_other_line_ends_covers_a_quote():
    kept = chunk(0, 68, doc_id="s/b.md", text=TEXT.replace("Beta is", "Beta\nis"), duplicates=[("s/a.md", 0, 68, SHA)])
    assert cases.covered(gold(17, 32), [kept])


def test_a_prefix_is_no_evidence():
    prefixed = Candidate(
        "x", "s/a.md", 0, 10, "Beta is second.\nAlpha is a", "", 9, 9, "0" * 64, (), 1, 1, 0.5, 1.0
    )  # of another version, so that its text is what counts
    assert cases.source_text(prefixed) == "Alpha is a"
    assert not cases.covered(gold(17, 32), [prefixed])


def test_a_chunk_of_another_version_covers_a_span_if_its_text_holds_the_quote():
    older = chunk(0, 15, sha="0" * 64, text="Beta is second.")
    assert cases.covered(gold(17, 32), [older])
    assert not cases.covered(gold(17, 32), [chunk(0, 68, sha="0" * 64, text="Beta was second.")])


@pytest.mark.parametrize(
    ("require_all", "chunks", "found"),
    [
        (True, [(17, 49)], True),
        (True, [(17, 32)], False),
        (False, [(17, 32)], True),
        (False, [(34, 49)], True),
        (False, [(0, 16)], False),
        (True, [], False),
        (False, [], False),
    ],
)
def test_all_quotes_or_any_quote_must_be_found(require_all, chunks, found):
    asked = Case("q", "?", "!", True, require_all, (gold(17, 32), gold(34, 49)), ())
    assert cases.evidence_found(asked, [chunk(start, end) for start, end in chunks]) is found


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    before=st.text(alphabet="ab \n", max_size=6),
    quote=st.text(alphabet="abc \n", min_size=1, max_size=12).filter(str.strip),
    after=st.text(alphabet="ab \n", max_size=6),
    spans=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=5),
)
def test_covered_is_what_marking_every_character_would_say(before, quote, after, spans):
    text = before + quote + after
    start, end = len(before), len(before + quote)
    chunks = [(min(pair), min(max(pair), len(text))) for pair in spans if min(pair) < min(max(pair), len(text))]
    marked = {place for left, right in chunks for place in range(left, right)}
    wanted = all(place in marked or text[place].isspace() for place in range(start, end))
    sha = hashlib.sha256(text.encode()).hexdigest()
    span = GoldSpan("s/a.md", sha, start, end, quote)
    found = cases.covered(span, [chunk(left, right, sha=sha, text=text[left:right]) for left, right in chunks])
    assert found is wanted


def case(query_id: str, **changes: Any) -> dict[str, Any]:
    gold = changes.pop("gold", [("a.md", "Beta is second.")])
    quotes = [{"doc_id": item[0], "quote": item[1]} if isinstance(item, tuple) else item for item in gold]
    made = {"query_id": query_id, "query": "what is second?", "gt_answer": "Beta is.", "answerable": True, "gold": quotes}
    return {**made, **changes}


def write(folder: Path, items: Sequence[Any]) -> Path:
    path = folder / "cases.json"
    path.write_text(json.dumps({"schema_version": 1, "cases": list(items)}), encoding="utf-8")
    return path


def document(source: str, path: str, content: str) -> Document:
    sha = hashlib.sha256(content.encode()).hexdigest()
    return Document(f"{source}/{path}", source, path, "A", [], content, sha, {"type": "text"})


def gold(start: int, end: int, doc_id: str = "s/a.md") -> GoldSpan:
    return GoldSpan(doc_id, SHA, start, end, TEXT[start:end])


def chunk(
    start: int,
    end: int,
    *,
    doc_id: str = "s/a.md",
    sha: str = SHA,
    text: str | None = None,
    duplicates: Sequence[tuple[str, int, int, str]] = (),
) -> Candidate:
    text = TEXT[start:end] if text is None else text
    repeats = tuple({"doc_id": d, "start": left, "end": right, "doc_sha256": s} for d, left, right, s in duplicates)
    identity = f"{doc_id}#{start}"
    return Candidate(identity, doc_id, start, end, text, text, 5, 5, sha, repeats, 1, 1, 0.5, 1.0)
