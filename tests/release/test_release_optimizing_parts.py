"""The parts of a search that decide: the space, the split, the next point, the front, the winner, the candidate's text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config import strict_yaml
from lib.evaluation.cases import Case, CaseFile, GoldSpan
from lib.platform.errors import ConfigInvalid, LeaseHeld, Refused
from lib.release import optimizing_files, optimizing_space, optimizing_split, optimizing_study
from lib.release.optimizing_space import Parameter, Space
from lib.release.optimizing_study import Trial

# --- the split ---------------------------------------------------------------------------------------------------------

DOCUMENTS = [f"corpus/{number}.md" for number in range(12)]
GOLD = st.lists(st.sampled_from(DOCUMENTS), max_size=3, unique=True)
ALL_CASES = st.lists(GOLD, min_size=1, max_size=30)


def case(query_id: str, documents: list[str]) -> Case:
    gold = tuple(GoldSpan(doc_id, "", 0, 1, "x") for doc_id in documents)
    return Case(query_id, "?", "", bool(documents), True, gold, ())


def split(found: list[Case], share: float = 0.5) -> optimizing_split.Split:
    file = CaseFile(Path("cases.json"), "of the file", tuple(found))
    return optimizing_split.split(file, found, share)


@given(ALL_CASES, st.randoms(use_true_random=False), st.floats(0.1, 0.9))
def test_no_document_is_in_both_parts_whatever_the_order(golds, chance, share):
    cases = [case(str(number), gold) for number, gold in enumerate(golds)]
    found = split(cases, share)
    training, held_out = found.training.cases, found.held_out.cases
    assert sorted(c.query_id for c in training + held_out) == sorted(c.query_id for c in cases)
    documents = [{gold.doc_id for c in part for gold in c.gold} for part in (training, held_out)]
    assert not documents[0] & documents[1]
    assert (found.training.documents, found.held_out.documents) == (len(documents[0]), len(documents[1]))
    shuffled = list(cases)
    chance.shuffle(shuffled)
    again = split(shuffled, share)
    assert again.held_out.file.digest == found.held_out.file.digest
    assert again.training.file.digest == found.training.file.digest


@given(ALL_CASES, st.integers(0, 11))
def test_a_further_case_about_a_document_moves_no_other(golds, document):
    cases = [case(str(number), gold) for number, gold in enumerate(golds)]
    before, after = split(cases), split([*cases, case("new", [DOCUMENTS[document]])])
    assert {c.query_id for c in after.held_out.cases} - {"new"} == {c.query_id for c in before.held_out.cases}


def test_the_share_is_about_kept_and_a_larger_one_only_adds():
    cases = [case(str(number), [f"corpus/{number}.md"]) for number in range(2000)]
    small, large = (({c.query_id for c in split(cases, share).held_out.cases}) for share in (0.3, 0.6))
    assert 540 < len(small) < 660 and 1140 < len(large) < 1260, "within three standard deviations"
    assert small < large


def test_too_few_says_how_many_are_needed():
    found = split([case(str(number), [f"corpus/{number}.md"]) for number in range(10)])
    with pytest.raises(Refused, match="too few held-out cases") as told:
        optimizing_split.require_enough(found, 0.25, cases=30, documents=10)
    assert "in all about 120 answerable cases about 40 documents" in told.value.detail
    optimizing_split.require_enough(found, 0.5, cases=1, documents=1)
    only = split([case("a", ["corpus/a.md"]), case("b", ["corpus/a.md"])])
    with pytest.raises(Refused, match="0 answerable ones about 0 documents"):
        optimizing_split.require_enough(only, 0.5, cases=1, documents=1)


# --- the space ---------------------------------------------------------------------------------------------------------


def searching(workspace: Any, space: str) -> Space:
    text = (workspace.configs / "search.yaml").read_text(encoding="utf-8")
    rest = text[text.index("split:") :]
    (workspace.configs / "search.yaml").write_text(f"space:\n{space}\n{rest}", encoding="utf-8")
    return optimizing_space.read(workspace)[0]


def test_the_shipped_space_holds_the_candidate_and_values_in_order(workspace):
    space, search = optimizing_space.read(workspace)
    assert space.settled(space.base_point) == space.base_point
    assert optimizing_space.lock(space.candidate(space.base_point)) == optimizing_space.lock(space.base)
    assert search["budget"]["trials"] == 30
    assert space.size == 8 * 4 * 3 * 2 * 3 * 3 * 2 * 5 * 2


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("  chunk_sizes: [100]", r"configs/search.yaml:2: unknown key 'chunk_sizes' \(did you mean chunk_size\?\)"),
        ("  embedder: [a, b]", "search.yaml:2: unknown key 'embedder'"),
        ("  chunk_size: []", "search.yaml:2: space.chunk_size needs at least 1 entries"),
        ("  chunk_size: 100", "search.yaml:2: space.chunk_size must be of type array"),
        ("  chunk_size: [100, 100]", "search.yaml:2: space.chunk_size has an entry twice"),
        ("  chunk_size: [100, 480]", r"search.yaml:2: a chunk with its prefix .* the embedder reads \(searched: 480\)"),
        ("  chunk_size: [1.5]", r"search.yaml:2: chunk_size must be of type integer, not 1.5 \(searched"),
        ("  overlap_ratio: [0.1, 0.6]", "search.yaml:2: overlap_ratio must be 0 to 0.5"),
        ("  prefix_policy: [A, C]", "search.yaml:2: prefix_policy must be A or B"),
        ("  retrieval:\n    fusion: [mean]", "search.yaml:3: retrieval.fusion must be one of"),
        ("  retrieval:\n    vector_top_k: [40, 150]", "search.yaml:3: .*hnsw_ef_search must be at least vector_top_k"),
        ("  chunk_size: [450]", "search.yaml:1: space holds one config alone"),
    ],
)
def test_a_space_that_cannot_be_is_told_with_its_place(workspace, space, told):
    with pytest.raises(ConfigInvalid, match=told):
        searching(workspace, space)


def test_a_value_that_needs_another_one_beside_it_is_possible(workspace):
    space = searching(workspace, "  retrieval:\n    vector_top_k: [40, 150]\n    hnsw_ef_search: [100, 200]")
    point = {"retrieval.vector_top_k": 150, "retrieval.hnsw_ef_search": 100}
    assert not space.allows(point)
    assert space.allows({**point, "retrieval.hnsw_ef_search": 200})


def test_what_another_layer_decides_cannot_be_searched(workspace, monkeypatch):
    monkeypatch.setenv("CHUNK_SIZE", "300")
    with pytest.raises(ConfigInvalid, match="chunk_size is searched, but environment variable CHUNK_SIZE decides it"):
        optimizing_space.read(workspace)


def test_a_value_that_means_nothing_is_the_candidates(workspace):
    space = searching(
        workspace, "  retrieval: {fusion: [rrf], rrf_k: [10], vector_weight: [0.9]}\n  rerank: {model: [none]}"
    )
    point = {"retrieval.fusion": "rrf", "retrieval.rrf_k": 10, "retrieval.vector_weight": 0.9, "rerank.model": "none"}
    assert space.settled(point) == {**point, "retrieval.vector_weight": 0.15}
    assert space.settled({**point, "rerank.model": "score_combination"})["retrieval.vector_weight"] == 0.9
    convex = {**point, "retrieval.fusion": "convex"}
    assert space.settled(convex) == {**convex, "retrieval.rrf_k": 60}


def test_points_that_differ_in_the_query_alone_share_a_table():
    point = {"chunk_size": 100, "retrieval.fusion": "rrf", "retrieval.bm25_b": 0.5}
    key = optimizing_space.build_key(point)
    assert optimizing_space.build_key({**point, "retrieval.fusion": "convex", "rerank.model": "none"}) == key
    assert optimizing_space.build_key({**point, "chunk_size": 101}) != key
    assert optimizing_space.build_key({**point, "retrieval.bm25_b": 0.6}) != key


# --- the study ---------------------------------------------------------------------------------------------------------


class Plain(Space):
    """A space of two parameters over no config."""

    def __init__(self) -> None:
        parameters = (Parameter("a", (10, 20, 40, 80), ""), Parameter("b", ("x", "y"), ""))
        object.__setattr__(self, "parameters", parameters)

    def settled(self, point):
        return dict(point)

    def allows(self, point):
        return point != {"a": 80, "b": "y"}


def trial(number: int, objectives: tuple[float, float, int] | None, **values: Any) -> Trial:
    quality, latency, size = objectives or (None, None, None)
    point = {"a": 10, "b": "x", **values}
    return Trial(number, point, f"hash {number}", quality, latency, 5.0, size, reason="" if objectives else "it broke")


def test_every_config_is_tried_once_and_then_there_is_none():
    def run() -> list[Trial]:
        trials = [trial(0, (0.5, 1.0, 100))]
        while (point := optimizing_study.next_point(Plain(), trials, seed=3)) is not None:
            objectives = None if len(trials) == 2 else (point["a"] / 100, 1.0, 100 + point["a"])
            trials.append(trial(len(trials), objectives, **point))
        return trials

    found = run()
    assert len(found) == 7, "eight points, one of them no config"
    assert len({optimizing_space.key_of(item.values) for item in found}) == 7
    assert run() == found


OBJECTIVES = st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.9, 1.0, 1.1]), st.sampled_from([1, 2, 3]))


@given(st.lists(st.none() | OBJECTIVES, min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(measured):
    trials = [trial(number, objectives) for number, objectives in enumerate(measured)]
    found = optimizing_study.front(Plain(), trials)

    def beats(one: Any, two: Any) -> bool:
        no_worse = one[0] >= two[0] and one[1] <= two[1] and one[2] <= two[2]
        return no_worse and one != two

    done = [(number, objectives) for number, objectives in enumerate(measured) if objectives]
    expected = {number for number, mine in done if not any(beats(other, mine) for _, other in done)}
    assert {item.number for item in found} == expected
    assert [item.quality for item in found] == sorted((item.quality for item in found), reverse=True)


def test_the_winner_by_hand():
    base = trial(0, (0.5, 1.0, 100))
    slow, large = trial(1, (0.9, 1.5, 100)), trial(2, (0.8, 1.0, 300))
    good, as_good = trial(3, (0.7, 1.2, 110)), trial(4, (0.7, 1.1, 125))
    limits = {"latency_ratio": 1.25, "index_ratio": 1.25}
    assert optimizing_study.choose_winner([slow, large, good, as_good, base], base, **limits) == as_good
    assert optimizing_study.choose_winner([slow, large, base], base, **limits) is None
    assert optimizing_study.choose_winner([slow, large], base, latency_ratio=2, index_ratio=1.25) == slow


def test_a_study_keeps_its_trials_and_lets_one_process_in(tmp_path):
    folder, identity = tmp_path / "mine", {"space": "1", "seed": "42"}
    with optimizing_study.opened(folder, identity) as study:
        study.record(trial(0, (0.5, 1.0, 100)))
        study.record(trial(1, None))
        with (
            pytest.raises(LeaseHeld, match="another search works on the study mine"),
            optimizing_study.opened(folder, identity),
        ):
            pass
    whole = (folder / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(whole + b'{"number": 2, "quality"')
    assert len(optimizing_study.read(folder, identity).trials) == 2
    assert (folder / "trials.jsonl").read_bytes() != whole, "who only looks leaves the line to the process that writes it"
    with optimizing_study.opened(folder, identity) as study:
        assert study.trials == [trial(0, (0.5, 1.0, 100)), trial(1, None)]
        study.record(trial(2, (0.1, 1.0, 100)))
    assert optimizing_study.read(folder, identity).trials[2] == trial(2, (0.1, 1.0, 100))
    with pytest.raises(Refused, match="the study in mine is another search's") as told:
        optimizing_study.read(folder, {**identity, "seed": "43"})
    assert told.value.detail == "different now: seed"


# --- the files ---------------------------------------------------------------------------------------------------------

TEXT = """# a comment
chunk_size: 450            # tokens
embedder: all-MiniLM-L6-v2
retrieval:
  fusion: convex  # convex: scores scaled
  vector_weight: 0.15
"""


def written(tmp_path: Path, text: str, values: dict[str, Any]) -> str:
    path = tmp_path / "candidate.yaml"
    path.write_text(text, encoding="utf-8")
    return optimizing_files.candidate_text(text, strict_yaml.load(path, "config"), values)


def test_a_candidate_differs_from_its_base_in_the_values_alone(tmp_path):
    values = {"chunk_size": 100, "retrieval.fusion": "rrf", "retrieval.vector_weight": 0.5}
    assert written(tmp_path, TEXT, values) == (
        TEXT.replace("450", "100").replace("fusion: convex  #", "fusion: rrf     #").replace("0.15", "0.5")
    )
    assert written(tmp_path, TEXT, {"chunk_size": 450}) == TEXT


def test_a_candidate_of_another_form_is_written_anew(tmp_path):
    text = "{chunk_size: 450, retrieval: {fusion: convex}}\n"
    found = tmp_path / "found.yaml"
    found.write_text(written(tmp_path, text, {"chunk_size": 100, "retrieval.fusion": "rrf"}), encoding="utf-8")
    assert strict_yaml.load(found, "config").values == {"chunk_size": 100, "retrieval": {"fusion": "rrf"}}


def test_a_point_by_chance_is_found_among_many(workspace):
    space, _ = optimizing_space.read(workspace)
    points = [space.any_unseen(set(), random.Random(number)) for number in range(3)]
    assert all(points) and len({optimizing_space.key_of(point or {}) for point in points}) == 3
