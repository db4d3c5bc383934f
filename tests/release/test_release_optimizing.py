"""Searching for a config on a real PostgreSQL: training cases alone, nothing left behind, resumed, judged on the rest."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from lib.evaluation import settings
from lib.index import documents, retrieval
from lib.platform import clock, postgres
from lib.platform.errors import ConfigInvalid, NotFound, Refused, Unavailable, UsageError
from lib.platform.files import read_json, write_json
from lib.platform.workspace import Workspace
from lib.release import locking, optimizing, optimizing_files, optimizing_study, scratch
from tests.conftest import PROJECT, write_corpus
from tests.release import killed_search
from tests.release.killed_search import FixedEmbedder
from tests.release.staged import STATE

GATES = """
min_cases: 4
max_unscored_share: 0.02
min_documents: 2
confidence: 0.95
alpha: 0.05
power: 0.8
resamples: 1000
metrics:
  filter_hit_rate: {direction: higher, margin: 0.08}
  recall:          {direction: higher, margin: 0.08}
"""
SEARCH = """
space:
  chunk_size: [40, 160]
  retrieval:
    vector_weight: [0.0, 0.5, 1.0]
split: {held_out_share: 0.5}
objectives: {quality: filter_hit_rate, latency_queries: 2, latency_rounds: 1}
limits: {latency_ratio: 100, index_ratio: 100}
budget: {trials: 5, timeout_s: 600, tables: 2}
"""
TABLES = "SELECT relname FROM pg_class WHERE relname LIKE 'search\\_%'"


@pytest.fixture
def project(workspace: Workspace, connection: Any, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Twelve documents, two cases each, a candidate that goes by vectors which mean nothing, and gates for as few cases."""
    (workspace.configs / "gates.yaml").write_text(GATES, encoding="utf-8")
    (workspace.configs / "search.yaml").write_text(SEARCH, encoding="utf-8")
    candidate = workspace.configs / "candidate.yaml"
    text = candidate.read_text(encoding="utf-8").replace("chunk_size: 450", "chunk_size: 40")
    text = text.replace("vector_weight: 0.15", "vector_weight: 1.0").replace("max_chunks: 12", "max_chunks: 2")
    candidate.write_text(text, encoding="utf-8")
    folder = workspace.root / "documents"
    write_corpus(folder, killed_search.texts())
    scanned = documents.scan_folder(folder, "corpus").documents
    documents.apply_sync(connection, "corpus", documents.plan_sync({}, scanned), scanned)
    write_json(workspace.default_cases, killed_search.cases())
    killed_search.replace_embedder(monkeypatch.setattr, FixedEmbedder())
    return workspace


def plan(project: Workspace, connection: Any, **changes: Any) -> optimizing.Plan:
    return optimizing.plan(project, connection, settings.load(project), **{"cases_path": project.default_cases, **changes})


def search(project: Workspace, connection: Any, planned: optimizing.Plan) -> list[optimizing_study.Trial]:
    """The search without the judgement."""
    with (
        optimizing_study.opened(planned.folder, planned.identity) as study,
        optimizing._bench(project, connection, planned) as bench,
    ):
        optimizing.search(study, bench, planned)
        return study.trials


def test_a_search_from_the_space_to_a_verdict(project, connection, monkeypatch):
    asked: dict[str, set[str]] = {"search": set(), "judge": set()}
    phase = ["search"]
    retrieve, judge = retrieval.Retriever.retrieve, optimizing._judge

    def spy(self: Any, query: str) -> Any:
        asked[phase[0]].add(query)
        return retrieve(self, query)

    def judging(*arguments: Any) -> Any:
        phase[0] = "judge"
        return judge(*arguments)

    monkeypatch.setattr(retrieval.Retriever, "retrieve", spy)
    monkeypatch.setattr(optimizing, "_judge", judging)
    before = ask(connection, STATE)
    planned = plan(project, connection)
    found = optimizing.optimize(project, connection, planned)
    content = optimizing_files.write(project, planned, found)

    training = {case.query for case in planned.split.training.cases}
    held_out = {case.query for case in planned.split.held_out.cases}
    assert asked["search"] == training and not training & held_out, "the search asks its own cases and no others"
    assert asked["judge"] == held_out

    assert [trial.number for trial in found.trials] == list(range(6)), "all six configs, each one once"
    assert len({trial.config_hash for trial in found.trials}) == 6
    assert sum(trial.built for trial in found.trials) == 2, "a table for each chunk size, shared by what asks it otherwise"
    base, winner = found.trials[0], found.winner
    assert winner is not None and winner.values["retrieval.vector_weight"] < 1.0
    assert winner.quality > base.quality, "words find more than vectors that mean nothing"
    assert found.verdict is not None and found.verdict["inputs"]["cases_digest"] == planned.split.held_out.file.digest
    assert found.word == found.verdict["verdict"] == "PASS"
    assert found.looks == 1

    assert read_json(planned.folder / "pareto.json", "front") == content
    assert content["optimism"]["training"]["gain"] == pytest.approx(winner.quality - base.quality)
    assert content["optimism"]["held_out"]["gain"] == pytest.approx(found.held_out[0] - found.held_out[1])
    assert (planned.folder / "pareto.svg").read_text(encoding="utf-8").startswith("<svg")
    text = optimizing_files.to_text(project, planned, found)
    assert f"next: cp {content['winner_file']} configs/candidate.yaml && make golive" in text
    ready = locking.read_candidate(project, file=content["winner_file"])
    assert locking.plan_lock(connection, ready, clock.now()).config.config_hash == winner.config_hash

    assert ask(connection, STATE) == before, "nothing is locked, released, judged or audited"
    assert {path.name for path in (project.root / "metrics").iterdir()} == {"optimize"}


def test_what_is_retrieved_counts_as_an_evaluation_counts_it(project, connection, tmp_path):
    planned = plan(project, connection)
    with optimizing._bench(project, connection, planned) as bench:
        release, _, _ = bench.tables.release(planned.space, planned.space.base_point, "base")
        evaluation = scratch.evaluate(
            project, connection, release, planned.split.training.file, planned.settings, tmp_path / "evaluation"
        )
        for metric, where in (("oracle_hit_rate", "snapshot"), ("filter_hit_rate", "context")):
            assert bench._evidence_rate(release, where) == evaluation.summary["metrics"][metric]
        judged = replace(bench, objectives={**bench.objectives, "quality": "f1"})
        assert judged.measure(0, planned.space.base_point).quality == evaluation.summary["metrics"]["f1"] > 0
    assert 0 < evaluation.summary["metrics"]["filter_hit_rate"] < 1


def test_killed_and_started_again_it_is_the_search_that_was_never_killed(project, connection, monkeypatch):
    command = [sys.executable, "-m", "tests.release.killed_search", str(project.root), "4", "3"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    planned = plan(project, connection, trials=4)
    assert planned.done == 2, "the trial that was measured when it died is not there"
    with (planned.folder / "trials.jsonl").open("ab") as stream:
        stream.write(b'{"number": 3, "val')  # a kill in the middle of a line

    resumed = search(project, connection, planned)
    undisturbed = search(project, connection, plan(project, connection, trials=4, study="undisturbed"))
    assert [what(trial) for trial in resumed] == [what(trial) for trial in undisturbed]
    assert len(resumed) == 5
    with_more = search(project, connection, plan(project, connection, trials=99))
    assert with_more[:5] == resumed and len(with_more) == 6, "it goes on until every config was tried, and no further"


def test_a_study_of_another_search_is_refused(project, connection):
    planned = plan(project, connection, study="mine", trials=1)
    search(project, connection, planned)
    content = killed_search.cases()
    content["cases"] = content["cases"][2:]
    write_json(project.default_cases, content)
    with pytest.raises(Refused, match="another search's") as told:
        plan(project, connection, study="mine", seed=7)
    assert told.value.detail == "different now: training cases, seed"


def test_a_trial_that_fails_is_shown_and_the_others_go_on(project, connection, monkeypatch):
    class Short(FixedEmbedder):
        def embed_documents(self, texts: Any) -> Any:
            if any(len(text) > 300 for text in texts):
                raise RuntimeError("too long for this model")
            return super().embed_documents(texts)

    killed_search.replace_embedder(monkeypatch.setattr, Short())
    monkeypatch.setattr(optimizing, "_judge", lambda *arguments: (None, (None, None)))
    planned = plan(project, connection)
    found = optimizing.optimize(project, connection, planned)
    failed = [trial for trial in found.trials if not trial.objectives]
    assert [trial.values["chunk_size"] for trial in failed] == [160, 160, 160]
    assert all("too long for this model" in trial.reason for trial in failed)
    assert all(trial.objectives for trial in found.front)
    assert len(found.trials) == 6
    text = optimizing_files.to_text(project, planned, found)
    assert text.count("failed: trial") == 3
    assert ask(connection, TABLES + " AND relname LIKE '%terms'") != [], "the session's tables, until it ends"

    (project.configs / "search.yaml").write_text(
        SEARCH.replace("[40, 160]", "[160]").replace("[0.0, 0.5, 1.0]", "[1.0]"), encoding="utf-8"
    )
    with pytest.raises(Unavailable, match="none of 1 trials could be measured"):
        search(project, connection, plan(project, connection))


def test_without_a_better_one_no_held_out_case_is_asked(project, connection, monkeypatch):
    monkeypatch.setattr(optimizing, "_judge", lambda *arguments: pytest.fail("nothing is to be judged"))
    monkeypatch.setattr(optimizing_study, "choose_winner", lambda *arguments, **limits: None)
    planned = plan(project, connection, trials=1)
    found = optimizing.optimize(project, connection, planned)
    assert (found.winner, found.word) == (None, "INCONCLUSIVE")
    assert optimizing_files.write(project, planned, found)["winner_file"] is None
    assert "no held-out case was asked" in optimizing_files.to_text(project, planned, found)


def test_time_for_the_candidate_alone_is_too_little(project, connection):
    with pytest.raises(Refused, match="the time was up before one trial began"):
        search(project, connection, plan(project, connection, timeout_s=1e-9))
    assert len(search(project, connection, plan(project, connection, trials=1))) == 2, "the same study goes on"


def test_bad_input(project, connection, tmp_path):
    for changes in ({"trials": 0}, {"timeout_s": 0.0}, {"timeout_s": float("nan")}, {"study": "../x"}):
        with pytest.raises(UsageError):
            plan(project, connection, **changes)
    with pytest.raises(NotFound):
        plan(project, connection, cases_path=tmp_path / "none.json")
    content = killed_search.cases()
    for name, kept in (("one.json", content["cases"][:2]), ("none.json", content["cases"][-1:])):
        write_json(tmp_path / name, {**content, "cases": kept})
        with pytest.raises(Refused, match="too few"):
            plan(project, connection, cases_path=tmp_path / name)
    content["cases"][0]["gold"][0]["quote"] = "No document says this."
    write_json(tmp_path / "wrong.json", content)
    with pytest.raises(ConfigInvalid, match="1 quotes do not stand"):
        plan(project, connection, cases_path=tmp_path / "wrong.json")


def test_a_dry_run_says_what_would_be_tried_and_writes_nothing(project, connection, run_script):
    before = {path for path in project.root.rglob("*") if path.is_file()}
    done = run_script("optimize_config", "--dry-run", "--json", "--trials", "3")
    assert done.code == 0, done.err
    assert (done.json["trials"], done.json["configs"], done.json["trials_done"]) == (3, 6, 0)
    assert done.json["training"]["documents"] + done.json["held_out"]["documents"] == 12
    assert {path for path in project.root.rglob("*") if path.is_file()} == before


def what(trial: optimizing_study.Trial) -> tuple[Any, ...]:
    """What is the same in each search: all but times."""
    return (trial.number, trial.values, trial.config_hash, trial.quality, trial.index_bytes, trial.rows)


def ask(connection: Any, query: str) -> list[dict[str, Any]]:
    with connection:
        return postgres.every(connection, query)
