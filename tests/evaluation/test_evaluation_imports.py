"""Imports: public collections become documents and cases that resolve, or nothing at all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation import cases, imports
from lib.evaluation.cases import Case
from lib.index.documents import scan_folder
from lib.platform.errors import ConfigInvalid, GoliveError, NotFound, Refused, UsageError
from tests.conftest import SHARED_DATA

XQUAD = SHARED_DATA / "xquad" / "xquad.en.json"
RAGCHECKER = SHARED_DATA / "ragchecker" / "checking_outputs.json"
E, N = "Entailment", "Neutral"
TEXT = "Seven backups are kept. They stay for a week. Nothing is deleted on Sunday."


def test_a_squad_question_becomes_a_case_with_the_sentence_around_its_answer(tmp_path):
    found = imported("squad", squad(tmp_path, [("Backups", [(TEXT, [question("q1", "a week", 38)])])]), tmp_path)
    (case,) = found
    assert (case.query_id, case.query, case.answerable) == ("q1", "How long?", True)
    assert case.gt_answer == case.gold[0].quote == "They stay for a week."
    assert case.gold[0].doc_id == "corpus/Backups/001.txt"
    assert case.tags == ("squad",)


def test_an_answer_over_two_sentences_is_quoted_with_both(tmp_path):
    asked = question("q1", "kept. They stay", 18)
    (case,) = imported("squad", squad(tmp_path, [("B", [(TEXT, [asked])])]), tmp_path)
    assert case.gold[0].quote == "Seven backups are kept. They stay for a week."


def test_a_sentence_that_is_repeated_is_widened_until_it_stands_once(tmp_path):
    text = "It is kept. One is daily. It is kept. One is weekly. The end is near."
    asked = [question("first", "kept", 6), question("second", "kept", 32)]
    found = imported("squad", squad(tmp_path, [("B", [(text, asked)])]), tmp_path)
    assert [(case.gold[0].start <= at < case.gold[0].end) for case, at in zip(found, (6, 32), strict=True)] == [True, True]
    # "It is kept." stands twice; with one sentence more to each side it does not
    assert found[0].gold[0].quote == "It is kept. One is daily."
    assert found[1].gold[0].quote == "One is daily. It is kept. One is weekly."


def test_a_sentence_that_is_there_three_times_in_a_row_resolves(tmp_path):
    path = squad(tmp_path, [("B", [("Go on. Go on. Go on.", [question("q1", "Go", 0)])])])
    assert len(imported("squad", path, tmp_path)) == 1


def test_an_impossible_question_has_no_gold(tmp_path):
    asked = {"id": "q1", "question": "Why?", "is_impossible": True, "answers": []}
    (case,) = imported("squad", squad(tmp_path, [("B", [(TEXT, [asked])])]), tmp_path)
    assert not case.answerable and case.gold == ()
    assert case.gt_answer.strip()


def test_an_answer_at_a_wrong_offset_is_left_out_and_counted(tmp_path):
    asked = [
        question("q1", "a week", 38),
        question("q2", "a week", 39),
        question("q3", "a year", 38),
        question("q4", "a week", 900),
    ]
    found = imports.read("squad", squad(tmp_path, [("B", [(TEXT, asked)])]), split="test")
    assert [case["query_id"] for case in found.cases] == ["q1"]
    assert found.left_out == {"questions whose answer is not in their paragraph": 3}


def test_articles_without_titles_get_a_folder_each(tmp_path):
    path = squad(
        tmp_path, [(None, [(TEXT, [question("q1", "a week", 38)])]), (None, [("Other text.", [])]), ("", [(TEXT, [])])]
    )
    found = imports.read("squad", path, split="test")
    assert list(found.documents) == ["article-001/001.txt", "article-002/001.txt", "article-003/001.txt"]


def test_paragraphs_are_numbered_within_their_article(tmp_path):
    path = squad(tmp_path, [("A b/c", [(TEXT, [question("q1", "a week", 38)]), ("Second.", [])]), ("D", [("Third.", [])])])
    assert imports.read("squad", path, split="test").documents == {
        "A_b_c/001.txt": TEXT,
        "A_b_c/002.txt": "Second.",
        "D/001.txt": "Third.",
    }


@pytest.mark.parametrize("titles", [("A b", "A_b"), ("Same", "Same"), ("東京", "大阪")])
def test_articles_whose_titles_are_alike_keep_their_paragraphs(tmp_path, titles):
    path = squad(
        tmp_path,
        [
            (titles[0], [(TEXT, [question("q1", "a week", 38)])]),
            (titles[1], [("Four copies are kept.", [question("q2", "Four copies", 0)])]),
        ],
    )
    assert len(imports.read("squad", path, split="test").documents) == 2


def test_questions_whose_ids_are_alike_stay_apart(tmp_path):
    asked = [question("q/1", "a week", 38), question("q_1", "Seven", 0)]
    assert len(imported("squad", squad(tmp_path, [("B", [(TEXT, asked)])]), tmp_path)) == 2


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    words=st.lists(
        st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]), min_size=1, max_size=16
    ),
    joint=st.sampled_from([" ", "\n", "  ", "\n\n"]),
    choice=st.tuples(st.integers(0, 999), st.integers(1, 40)),
)
def test_every_imported_question_resolves_to_a_span_around_its_answer(tmp_path_factory, words, joint, choice):
    text = joint.join(f"{word.capitalize()} is {word}." for word in words)
    start = choice[0] % len(text)
    while text[start].isspace():
        start += 1
    answer = text[start : start + choice[1]].rstrip()
    folder = tmp_path_factory.mktemp("squad")
    (case,) = imported("squad", squad(folder, [("B", [(text, [question("q1", answer, start)])])]), folder)
    assert case.gold[0].start <= start
    assert case.gold[0].end >= start + len(answer)


def test_xquad_gives_its_240_documents_and_1190_cases(tmp_path):
    if not XQUAD.exists():
        pytest.skip(f"{XQUAD} is not on this machine")
    found = imports.read("squad", XQUAD, split="test")
    assert (len(found.documents), len(found.cases), found.left_out) == (240, 1190, {})
    resolved = {case.query_id: case for case in imported("squad", XQUAD, tmp_path)}
    assert len(resolved) == 1190
    for article in json.loads(XQUAD.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                start, answer = asked["answers"][0]["answer_start"], asked["answers"][0]["text"]
                (gold,) = resolved[asked["id"]].gold
                assert gold.start <= start and start + len(answer) <= gold.end


@pytest.mark.parametrize(
    "judgements",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t1\nq1\td3\t0\nq2\td3\t1\n",
        "q1 0 d1 2\nq1 0 d2 1\nq1 0 d3 0\nq2 0 d3 1\n",
        "q1\t0\td1\t2\nq1\t0\td2\t1\nq1\t0\td3\t0\n\nq2\t0\td3\t1\n",
    ],
)
def test_a_beir_folder_with_judgements_of_either_form(tmp_path, judgements):
    source = beir(tmp_path, {"d1": ("Backups", "Seven."), "d2": ("", "Four."), "d3": ("Pointer", "One row.")}, judgements)
    first, second = imported("beir", source, tmp_path)
    assert (first.query_id, first.query, first.require_all) == ("q1", "ask q1", False)
    assert [gold.quote for gold in first.gold] == ["Backups\n\nSeven.", "Four."]  # by grade, the irrelevant left out
    assert first.gt_answer == "Backups\n\nSeven."
    assert [gold.doc_id for gold in second.gold] == ["corpus/d3.txt"]
    assert second.tags == ("beir",)


def test_beir_ids_with_slashes_become_files_of_their_own(tmp_path):
    source = beir(tmp_path, {"a/b": ("", "One."), "a_b": ("", "Two."), "../x": ("", "Three.")}, "q1 0 a_b 1\nq2 0 ../x 1\n")
    found = imported("beir", source, tmp_path)
    assert [case.gold[0].quote for case in found] == ["Two.", "Three."]
    names = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.txt")]
    assert len(names) == 3 and all(name.startswith("corpus/") for name in names)


def test_beir_ids_that_differ_in_case_alone_become_files_of_their_own_on_any_file_system(tmp_path):
    source = beir(tmp_path, {"D1": ("", "One."), "d1": ("", "Two.")}, "q1 0 D1 1\nq2 0 d1 1\n")
    assert list(imports.read("beir", source, split="test").documents) == ["D1.txt", "d1-2.txt"]
    assert [case.gold[0].quote for case in imported("beir", source, tmp_path)] == ["One.", "Two."]


def test_beir_ids_that_are_numbers_meet_the_judgements(tmp_path):
    source = beir(tmp_path, {"1": ("", "One.")}, "7\t1\t1\n", queries=["7"])
    for name in ("corpus.jsonl", "queries.jsonl"):
        path = source / name
        path.write_text(re.sub(r'"_id": "(\d)"', r'"_id": \1', path.read_text()))
    assert [case.query_id for case in imported("beir", source, tmp_path)] == ["7"]


def test_beir_queries_without_a_known_relevant_document_are_counted(tmp_path):
    judgements = "q1 0 d1 1\nq2 0 gone 1\nq3 0 d1 0\nq9 0 d1 1\n"  # q9 has no text
    found = imports.read("beir", beir(tmp_path, {"d1": ("", "One."), "d2": ("", " ")}, judgements), split="test")
    assert [case["query_id"] for case in found.cases] == ["q1"]
    assert found.left_out == {
        "empty documents": 1,
        "judgements of unknown or empty documents": 1,
        "queries without a relevant document": 3,
    }
    assert list(found.documents) == ["d1.txt"]


def test_the_split_names_the_file_of_judgements(tmp_path):
    source = beir(tmp_path, {"d1": ("", "One.")}, "q1 0 d1 1\n")
    (source / "qrels" / "dev.tsv").write_text("q2 0 d1 1\n")
    assert imports.read("beir", source, split="dev").cases[0]["query_id"] == "q2"
    with pytest.raises(NotFound, match=r"no judgements at .*train\.tsv") as caught:
        imports.read("beir", source, split="train")
    assert "--split" in caught.value.hint


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_of_a_beir_folder_is_named(tmp_path, name):
    source = beir(tmp_path, {"d1": ("", "One.")}, "q1 0 d1 1\n")
    (source / name).unlink()
    with pytest.raises(NotFound, match=name):
        imports.read("beir", source, split="test")


def test_a_line_of_a_beir_file_that_is_no_json_is_named_with_its_number(tmp_path):
    source = beir(tmp_path, {"d1": ("", "One.")}, "q1 0 d1 1\n")
    with (source / "corpus.jsonl").open("a") as stream:
        stream.write('\n{"_id": "d2", \n')
    with pytest.raises(ConfigInvalid, match=r"corpus\.jsonl:3 is not JSON"):
        imports.read("beir", source, split="test")


@pytest.mark.parametrize("line", ["q2 0 d1 relevant", "q2\td1\t1.5", "q2\td1\tnan", "q2 d1"])
def test_a_judgement_that_cannot_be_read_is_named_or_counted(tmp_path, line):
    source = beir(tmp_path, {"d1": ("", "One.")}, f"q1 0 d1 1\n{line}\n")
    try:
        assert imports.read("beir", source, split="test").left_out
    except ConfigInvalid as error:
        assert "test.tsv" in error.message + error.detail


def test_grades_may_be_written_as_fractions_and_negative_ones_are_irrelevant(tmp_path):
    documents = {"d1": ("", "One."), "d2": ("", "Two."), "d3": ("", "Three.")}
    source = beir(tmp_path, documents, "query-id\tcorpus-id\tscore\nq1\td1\t1.0\nq1\td2\t3.0\nq1\td3\t-1\n")
    (case,) = imported("beir", source, tmp_path)
    assert [gold.quote for gold in case.gold] == ["Two.", "One."]


def test_a_collection_as_other_tools_write_it_is_read_by_its_own_ids(tmp_path):
    documents = {"ünï/代码 1": ("Titel", "Straße."), "empty": ("", "  "), "<d&2>": ("", "Two.")}
    judgements = "query-id\tcorpus-id\tscore\r\nq 1\tünï/代码 1\t2\r\nq 1\tempty\t1\r\nq 1\tgone\t1\r\nq2\t<d&2>\t0\r\n"
    source = beir(tmp_path, documents, judgements, queries=["q 1", "q2"])
    for path in (source / "corpus.jsonl", source / "qrels" / "test.tsv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = imports.read_beir(source, "test")
    assert found.documents == {"ünï/代码 1": "Titel\n\nStraße.", "<d&2>": "Two."}
    assert found.qrels == {"q 1": {"ünï/代码 1": 2, "empty": 1, "gone": 1}, "q2": {"<d&2>": 0}}
    (case,) = imported("beir", source, tmp_path)
    assert (case.query_id, [gold.quote for gold in case.gold]) == ("q_1", ["Titel\n\nStraße."])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "no id"}', "corpus.jsonl:2 has no _id"),
        ('{"_id": null, "text": "x"}', "corpus.jsonl:2 has no _id"),
        ('{"_id": "d2", "text": ["x"]}', "corpus.jsonl:2: text is not text"),
        ('["d2", "x"]', "corpus.jsonl:2 is not a JSON object"),
        ('{"_id": "d1", "text": "again"}', "corpus.jsonl:2 is a second document 'd1'"),
    ],
)
def test_a_document_that_cannot_be_read_is_named_with_its_line(tmp_path, line, problem):
    source = beir(tmp_path, {"d1": ("", "One.")}, "q1 0 d1 1\n")
    with (source / "corpus.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(ConfigInvalid, match=re.escape(problem)):
        imports.read("beir", source, split="test")


def test_where_a_split_is_missing_those_that_are_there_are_named(tmp_path):
    source = beir(tmp_path, {"d1": ("", "One.")}, "q1 0 d1 1\n")
    (source / "qrels" / "test.tsv").rename(source / "qrels" / "dev.tsv")
    with pytest.raises(NotFound) as caught:
        imports.read("beir", source, split="test")
    assert caught.value.hint.endswith(": dev")


def test_beir_queries_whose_ids_are_alike_stay_apart(tmp_path):
    source = beir(tmp_path, {"d1": ("", "One.")}, "q/1 0 d1 1\nq_1 0 d1 1\n", queries=["q/1", "q_1"])
    assert len(imported("beir", source, tmp_path)) == 2


def test_ragchecker_labels_say_which_passages_are_gold(tmp_path):
    row = result(["P one.", "P two.", "P three."], labels=[[N, E, E], [N, N, E], [E, N, N], [N, N, N]])
    (case,) = imported("ragchecker", ragchecker(tmp_path, [row]), tmp_path)
    # the first claim's first passage is two; the second's is three, and one is the third's
    assert [gold.quote for gold in case.gold] == ["P two.", "P three.", "P one."]
    assert case.require_all
    assert case.tags == ("ragchecker", "gold:labels")


def test_a_claim_that_a_chosen_passage_entails_adds_no_other(tmp_path):
    row = result(["P one.", "P two."], labels=[[N, E], [E, E]])
    (case,) = imported("ragchecker", ragchecker(tmp_path, [row]), tmp_path)
    assert [gold.quote for gold in case.gold] == ["P two."]


def test_without_labels_the_offline_judge_says_which_passages_are_gold(tmp_path):
    row = result(["Lunch begins at noon.", "Seven daily backups stay for a week."])
    (case,) = imported("ragchecker", ragchecker(tmp_path, [row]), tmp_path)
    assert [gold.quote for gold in case.gold] == ["Seven daily backups stay for a week."]
    assert case.tags == ("ragchecker", "gold:lexical")


def test_ragchecker_answers_that_no_passage_supports_are_counted(tmp_path):
    rows = [result(["Seven daily backups stay."]), result(["Lunch."], query_id="q2"), {**result([], query_id="q3")}]
    rows[2]["retrieved_context"] = None
    found = imports.read("ragchecker", ragchecker(tmp_path, rows), split="test")
    assert [case["query_id"] for case in found.cases] == ["q1"]
    assert found.left_out == {"questions whose answer no passage supports": 2}


def test_a_passage_that_several_questions_share_becomes_one_document(tmp_path):
    shared = "Seven daily backups stay."
    rows = [result([shared, "Other one."]), result(["Other two.", shared], query_id="q2")]
    first, second = imported("ragchecker", ragchecker(tmp_path, rows), tmp_path)
    assert first.gold == second.gold
    assert len(list((tmp_path / "out" / "corpus").rglob("*.txt"))) == 3  # "0.txt" thrice, told apart


def test_a_blank_passage_does_not_shift_the_labels(tmp_path):
    row = result(["", "Wrong one.", "Right one."], labels=[[N, N, E]])
    (case,) = imported("ragchecker", ragchecker(tmp_path, [row]), tmp_path)
    assert [gold.quote for gold in case.gold] == ["Right one."]


def test_labels_that_are_not_one_for_each_passage_are_refused(tmp_path):
    row = result(["One.", "Two."], labels=[[E]])
    with pytest.raises(ConfigInvalid, match="is not a ragchecker collection"):
        imports.read("ragchecker", ragchecker(tmp_path, [row]), split="test")


def test_passages_with_the_same_id_keep_short_names_of_their_own(tmp_path):
    rows = [result(["Seven daily backups stay.", f"Number {place}."], query_id=f"q{place}") for place in range(300)]
    found = imports.read("ragchecker", ragchecker(tmp_path, rows), split="test")
    assert len(found.documents) == 301
    assert max(map(len, found.documents)) <= len("1-300.txt")


def test_the_authors_own_example_can_be_imported(tmp_path):
    if not RAGCHECKER.exists():
        pytest.skip(f"{RAGCHECKER} is not on this machine")
    found = imported("ragchecker", RAGCHECKER, tmp_path)
    assert [case.query_id for case in found] == ["0", "1"]
    assert all("gold:labels" in case.tags for case in found)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("squad", "{"),
        ("squad", "[]"),
        ("squad", '{"data": [{"title": "A"}]}'),
        ("squad", '{"data": [{"paragraphs": [{"context": "A.", "qas": [{"id": "q", "question": "?", "answers": []}]}]}]}'),
        ("squad", '{"data": [{"paragraphs": [{"qas": []}]}]}'),
        ("squad", '{"data": []}'),
        ("squad", '{"data": 5}'),
        ("squad", "not json at all"),
        ("ragchecker", '{"results": [{"query": "?"}]}'),
        ("ragchecker", '{"results": "many"}'),
        ("ragchecker", '{"data": []}'),
        (
            "ragchecker",
            '{"results": [{"query_id": "q", "query": " ", "gt_answer": "A b.", "retrieved_context": [{"text": "A b."}]}]}',
        ),
    ],
)
def test_input_of_another_form_is_refused_by_name_and_nothing_is_written(tmp_path, kind, content):
    source = tmp_path / "input.json"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigInvalid) as caught:
        imported(kind, source, tmp_path)
    assert str(source) in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["input.json"]


@pytest.mark.parametrize("kind", ["squad", "beir", "ragchecker"])
def test_a_collection_that_is_not_there_is_not_found(tmp_path, kind):
    with pytest.raises(NotFound, match=f"no {kind} collection at"):
        imports.read(kind, tmp_path / "nowhere", split="test")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_existing_place_is_refused_and_left_alone(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        out.write_text("mine")
    with pytest.raises(Refused, match="is there already"):
        imports.write(collection(), out, "corpus")
    assert (out / "mine.txt" if kind == "folder" else out).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    imports.write(collection(), tmp_path / "out", "corpus")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cases.json", "corpus"]


def test_a_write_that_fails_leaves_nothing(tmp_path):
    broken = imports.Collection({"a.txt": "A.", "x" * 300 + ".txt": "too long a name"}, collection().cases, {})
    with pytest.raises(GoliveError, match="cannot write"):
        imports.write(broken, tmp_path / "out", "corpus")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_outside_of_the_chosen_place(tmp_path):
    with suppress(GoliveError):
        imports.write(collection(), tmp_path / "out", "../elsewhere")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x"])
def test_a_name_that_is_no_folders_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="is not the name of a folder") as caught:
        imports.write(collection(), tmp_path / "out", name)
    assert "--name" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_texts_are_written_byte_for_byte(tmp_path):
    text = "Zürich\r\n東京\n\n  end "
    imports.write(imports.Collection({"a/b.txt": text}, collection().cases, {}), tmp_path / "out", "corpus")
    assert (tmp_path / "out" / "corpus" / "a" / "b.txt").read_bytes() == text.encode()


def imported(kind: str, source: Path, folder: Path) -> list[Case]:
    """Reads and writes a collection, and resolves its cases against its documents as an evaluation would."""
    imports.write(imports.read(kind, source, split="test"), folder / "out", "corpus")
    documents = scan_folder(folder / "out" / "corpus", "corpus").documents
    return cases.resolve(cases.load(folder / "out" / "cases.json"), documents, ["corpus"])


def squad(folder: Path, articles: Sequence[tuple[str | None, Sequence[tuple[str, Sequence[dict[str, Any]]]]]]) -> Path:
    data = []
    for title, paragraphs in articles:
        article: dict[str, Any] = {"paragraphs": [{"context": text, "qas": list(asked)} for text, asked in paragraphs]}
        data.append(article if title is None else {**article, "title": title})
    path = folder / "squad.json"
    path.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return path


def question(query_id: str, answer: str, start: int) -> dict[str, Any]:
    return {"id": query_id, "question": " How long?", "answers": [{"text": answer, "answer_start": start}]}


def beir(
    folder: Path, documents: dict[str, tuple[str, str]], judgements: str, queries: Sequence[str] = ("q1", "q2", "q3")
) -> Path:
    source = folder / "beir"
    (source / "qrels").mkdir(parents=True)
    rows = [{"_id": name, "title": title, "text": text} for name, (title, text) in documents.items()]
    asked = [{"_id": name, "text": f"ask {name}"} for name in queries]
    (source / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (source / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    (source / "qrels" / "test.tsv").write_text(judgements, encoding="utf-8")
    return source


def ragchecker(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "ragchecker.json"
    path.write_text(json.dumps({"results": list(rows)}), encoding="utf-8")
    return path


def result(passages: Sequence[str], *, labels: Any = None, query_id: str = "q1") -> dict[str, Any]:
    contexts = [{"doc_id": str(place), "text": text} for place, text in enumerate(passages)]
    made = {
        "query_id": query_id,
        "query": "How many?",
        "gt_answer": "Seven daily backups stay.",
        "response": "",
        "retrieved_context": contexts,
    }
    return {**made, "retrieved2answer": labels} if labels else made


def collection() -> imports.Collection:
    case = {
        "query_id": "q1",
        "query": "?",
        "gt_answer": "A.",
        "answerable": True,
        "gold": [{"doc_id": "a.txt", "quote": "A."}],
        "tags": [],
    }
    return imports.Collection({"a.txt": "A."}, [case], {})
