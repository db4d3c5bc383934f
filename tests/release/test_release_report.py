"""The report: one page that stands alone, says first whether the release is live, and tells the same without its plots."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from lib.evaluation import cases as case_files
from lib.evaluation import results
from lib.platform.clock import timestamp
from lib.platform.errors import NotFound
from lib.platform.files import read_json, write_json
from lib.release import promotion, receipts, report
from tests.case_rows import write_evaluation
from tests.release import compared
from tests.release.page import Page
from tests.release.staged import Project, write_verdict

MARKUP = """<img src=x onerror="alert('1')">&amp;</td>"""
NO_VERDICT = "NOT LIVE not promoted; nothing is live yet"


def test_a_live_release_is_said_to_be_live_first(live):
    page = write(live)
    assert page.state == "LIVE answers queries since generation 1 of the pointer"
    assert f"LIVE: release {live.live_id()}" in page.prose


def test_a_release_that_failed_its_gate_says_so_with_the_reasons(ready):
    content = write_verdict(ready, "FAIL")
    change_verdict(ready, content, reasons=["recall: 0.100 is under the floor 0.45"], warnings=["few cases"])
    page = write(ready)
    assert page.state == "FAIL not promoted; nothing is live yet"
    assert "FAIL: recall: 0.100 is under the floor 0.45" in page.prose
    assert "warning: few cases" in page.prose


@pytest.mark.parametrize("verdict", ["INCONCLUSIVE", "ERROR"])
def test_no_other_verdict_reads_like_a_pass(ready, verdict):
    write_verdict(ready, verdict)
    assert write(ready).state == f"{verdict} not promoted; nothing is live yet"


def test_a_run_that_stopped_says_at_which_step(ready):
    write_run(ready, ["sync", "lock", "ingest"], stopped="backup")
    assert write(ready).state == "STOPPED at the step backup (exit 13); not promoted; nothing is live yet"


def test_a_step_that_stopped_the_last_run_is_told_before_an_older_verdict(ready):
    write_verdict(ready, "FAIL")
    write_run(ready, ["sync", "lock"], stopped="health")
    assert write(ready).state == "STOPPED at the step health (exit 13); not promoted; nothing is live yet"
    write_run(ready, ["sync", "lock", "health"], stopped="evaluate")
    assert write(ready).state.startswith("FAIL ")


def test_a_passed_verdict_alone_is_not_live(ready):
    assert write(ready).state == "NOT LIVE passed, not promoted; nothing is live yet"


def test_what_still_answers_is_named(second):
    write_verdict(second, "FAIL")
    assert write(second).state == f"FAIL not promoted; {second.live_id()} still answers queries"


def test_a_live_release_whose_newest_verdict_is_no_pass_says_both(live):
    write_verdict(live, "FAIL")
    page = write(live)
    assert page.state == "LIVE answers queries since generation 1 of the pointer; its newest verdict is FAIL"
    assert ("p", {"class": "state bad"}) in page.elements


def test_a_run_before_the_newest_verdict_is_history(ready):
    write_run(ready, ["sync", "lock"], stopped="evaluate", finished_at="2026-01-01T00:00:00Z")
    page = write(ready)
    assert page.state == "NOT LIVE passed, not promoted; nothing is live yet"
    assert "each step the last time it was done" in page.prose
    assert {row[0] for row in page.rows("step", "seconds")} >= {"manifest", "health", "evaluate"}
    junit = (ready.workspace.evidence(ready.release().release_id) / "junit.xml").read_text(encoding="utf-8")
    assert 'name="steps"' not in junit
    assert "<failure" not in junit


def test_a_release_that_another_one_replaced_is_no_longer_said_to_be_live(second):
    first = second.live_id()
    assert first is not None
    assert write(second, first).state.startswith("LIVE ")
    promotion.promote(second.workspace, second.connection)
    assert write(second, first).state == f"RETIRED was live; {second.live_id()} answers queries since"


def test_what_was_not_done_yet_is_said_and_no_number_is_made_up(sealed):
    receipts.path_of(sealed.workspace, sealed.release().release_id, "ingest").unlink()
    page = write(sealed)
    assert page.state == NO_VERDICT
    for said in ("Not evaluated yet.", "Not looked at yet.", "Not backed up yet.", "Not walked yet.", "No step was timed."):
        assert said in page.prose
    assert "Compared with" not in page.prose
    assert "svg" not in {tag for tag, _ in page.elements}


def test_a_release_that_is_not_sealed_can_be_reported(sealed):
    sealed.execute("UPDATE golive.releases SET content_digest = NULL, row_count = NULL, state = 'building'")
    assert re.search(r"no rows, content digest not sealed", write(sealed).prose)


def test_the_baselines_numbers_stand_beside_those_of_the_release(second):
    content = write_verdict(second, recall=0.625, hallucination=0.25)
    metrics = [
        {**item, "baseline": 0.5, "floor": 0.45, "difference": {"mean": 0.125, "low": -0.03125, "high": 0.25}}
        if item["metric"] == "recall"
        else {**item, "baseline": None, "floor": None, "ceiling": 0.3}
        for item in content["metrics"]
        if item["metric"] in ("recall", "hallucination")
    ]
    change_verdict(second, content, metrics=metrics)
    page = write(second)
    assert page.rows("metric", "status", "value", "baseline") == [
        ["recall", "PASS", "0.625", "0.500", "+0.125 [−0.031, +0.250]", "", "≥ 0.45"],
        ["hallucination", "PASS", "0.250", "–", "–", "", "≤ 0.3"],
    ]
    assert f"Compared with {second.live_id()} ." in page.prose


def test_a_missed_limit_is_told_in_words_and_a_warning_is_no_failure(ready):
    content = write_verdict(ready, "FAIL", recall=0.1, self_knowledge=0.9)
    for item in content["metrics"]:
        if item["metric"] == "recall":
            item |= {"status": "FAIL", "reason": "0.100 is under the floor 0.45"}
        if item["metric"] == "self_knowledge":
            item |= {"status": "FAIL", "reason": "over its ceiling", "critical": False}
    change_verdict(ready, content)
    said = {row[0]: row[1] for row in write(ready).rows("metric")}
    assert said["recall"] == "FAIL 0.100 is under the floor 0.45"
    assert said["self_knowledge"] == "warning over its ceiling"
    assert said["oracle_hit_rate"] == "PASS"


def test_everything_is_readable_without_the_plots(ready):
    write_run(ready, ["ingest", "evaluate"], seconds=12.3)
    page = write(ready)
    shown = {row[0]: row[2] for row in page.rows("metric")}
    assert shown == {
        "oracle_hit_rate": "0.900",
        "filter_hit_rate": "0.800",
        "reader_gold_usage": "0.700",
        "avg_snapshot_size": "45.000",
    }
    assert [row[:2] for row in page.rows("step", "seconds")] == [["ingest", "12.3"], ["evaluate", "12.3"]]
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(plots) == 3 + 2, "a rate a plot, and a step a bar"
    assert all(attributes["aria-hidden"] == "true" for attributes in plots)


def test_what_changed_is_told_apart_from_what_stayed(second):
    page = write(second)
    assert page.rows("setting", "this release", "before") == [["chunk_size", "20", "450"]]
    stayed = [row for table in page.tables for row in table if row[0] == "prefix_policy"]
    assert stayed == [["prefix_policy", "A", "A"]]


def test_the_evidence_of_every_step_stands_in_it(live):
    page = write(live)
    gates = page.rows("gate", "status", "evidence")
    assert [row[:2] for row in gates] == [
        [name, "PASS"]
        for name in (
            "environment",
            "database_connectivity",
            "index_presence",
            "token_budget",
            "prefix_leakage",
            "model_availability",
        )
    ]
    receipt = receipts.read(live.workspace, live.release().release_id, "backup")
    assert receipt is not None
    assert f"make rollback BACKUP={receipt.summary['backup_id']}" in page.prose
    checked = {row[1]: row[2] for row in page.rows("section", "item", "state")}
    assert checked["backup made and proven by a restore"] == "checked"
    assert checked["load testing completed"] == "missing (does not block)"


def test_lost_cases_are_listed_with_the_stage_that_lost_them(ready):
    page = write(ready)
    assert "1 of 1 answerable cases lost their evidence on the way" in page.prose
    assert "lost how long does going back take? rollback-1 · lost at filter" in page.prose


def test_who_read_and_who_judged_stand_beside_the_numbers(ready):
    assert "Produced by: judge lexical; reader extractive." in write(ready).prose


def test_the_page_fetches_nothing_and_runs_nothing(live):
    write_run(live, ["ingest", "evaluate"])
    page = write(live)
    page.assert_alone()


@pytest.mark.parametrize("place", ["reason", "question", "gate", "item", "config"])
def test_no_value_can_bring_markup_into_the_page(ready, place):
    release = ready.release()
    clean = [tag for tag, _ in write(ready).elements]
    if place == "reason":
        content = read_json(ready.workspace.evidence(release.release_id) / "verdict.json", "verdict")
        change_verdict(ready, content, reasons=[MARKUP])
    elif place == "question":
        folder = ready.workspace.evidence(release.release_id) / "evaluation"
        found = results.read(folder)
        marked = replace(found, rows=[{**row, "query": MARKUP} for row in found.rows])
        write_evaluation(folder, marked)
        content = read_json(ready.workspace.evidence(release.release_id) / "verdict.json", "verdict")
        change_verdict(ready, content, metrics_digest=marked.digest)
    elif place == "config":
        changed = replace(release.locked_config, sources=(MARKUP,), config_hash="")
        ready.execute("UPDATE golive.releases SET config = %s", (json.dumps(changed.to_dict()),))
    else:
        step, part = ("health", "checks") if place == "gate" else ("validate", "items")
        receipt = receipts.path_of(ready.workspace, release.release_id, step)
        content = read_json(receipt, "receipt")
        content["summary"][part][0]["evidence"] = MARKUP
        write_json(receipt, content)
    page = write(ready)
    assert " ".join(MARKUP.split()) in page.prose
    assert [tag for tag, _ in page.elements] == clean


def test_it_can_be_found_ones_way_in_with_a_screen_reader(live):
    write_run(live, ["ingest"])
    page = write(live)
    assert ("html", {"lang": "en"}) in page.elements
    headings = [tag for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.elements if tag == "th")
    ids = re.findall(r'\bid="([^"]+)"', page.text)
    assert len(ids) == len(set(ids)), "no two elements share an id"
    assert all(f'href="#{target}"' not in page.text or target in ids for target in ("cases",))
    labelled = [tag for tag, attributes in page.elements if tag in ("input", "select")]
    assert labelled
    assert page.text.count("<label>") == len(labelled), "every control stands in its label"
    assert ("output", {"id": "shown", "aria-live": "polite"}) in page.elements


def test_equal_evidence_gives_an_equal_page_but_for_the_hour(live):
    def timeless() -> str:
        return re.sub(r"Written \S+\.", "", write(live).text)

    assert timeless() == timeless()


@pytest.mark.parametrize("secret", ["hunter2secret", "hunter&2<secret>", "hunter\"2'secret"])
def test_a_secret_of_the_environment_is_not_written_into_the_page(ready, monkeypatch, secret):
    monkeypatch.setenv("SOME_API_TOKEN", secret)
    content = read_json(ready.workspace.evidence(ready.release().release_id) / "verdict.json", "verdict")
    change_verdict(ready, content, reasons=[f"asked with {secret}", "postgresql://me:pass-word@host/x"])
    page = write(ready)
    assert "asked with ***" in page.prose
    assert secret not in page.prose
    assert "pass-word" not in page.text


@pytest.mark.parametrize("content", [{"verdict": "PASS"}, {"baseline_release": 3}])
def test_a_verdict_of_another_shape_is_left_out(ready, content):
    write_json(ready.workspace.evidence(ready.release().release_id) / "verdict.json", content)
    assert write(ready).state == NO_VERDICT


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_evidence_that_cannot_be_read_is_left_out_and_said(ready, content):
    folder = ready.workspace.evidence(ready.release().release_id)
    for path in (folder / "verdict.json", folder / "run.json", *(folder / "receipts").iterdir()):
        path.write_text(content)
    page = write(ready)
    assert page.state == NO_VERDICT
    assert "Not evaluated yet." in page.prose
    assert "Not walked yet." in page.prose


def test_a_release_that_nobody_locked_has_no_report(sealed):
    with pytest.raises(NotFound, match="nobody-knows"):
        report.write(sealed.workspace, sealed.connection, "nobody-knows")
    assert not sealed.workspace.evidence("nobody-knows").exists()


WORDS = "the pointer names one table, and a rollback moves it back in milliseconds as the old table still stands. " * 12


@pytest.fixture
def two_hundred(second: Project) -> Project:
    """A release of 200 cases with long names, answers, quotes and passages, of which every second got worse."""
    release_id, before = second.release().release_id, second.live_id()
    assert before is not None
    ids = [f"a-rather-long-name-of-a-case-from-a-generated-collection-{number:04d}" for number in range(200)]
    gold = {query_id: [("pointer.md", f"{WORDS[:300]} {query_id}")] for query_id in ids}
    compared.write_cases(second.workspace.default_cases, gold)
    digest = case_files.load(second.workspace.default_cases).digest
    sides = []
    for release, is_new in ((before, False), (release_id, True)):
        rows = [
            compared.row(
                query_id,
                "filter" if is_new and number % 2 else None,
                query=f"{query_id}: {WORDS[:150]}?",
                response=WORDS,
                tags=["generated", f"group-{number % 7}"],
            )
            for number, query_id in enumerate(ids)
        ]
        labels = [
            compared.label(
                query_id,
                {f"{WORDS[:100]} {n}": not is_new for n in range(4)},
                {f"corpus/{n}.md#{int(is_new)}": f"{WORDS} {gold[query_id][0][1]} {WORDS}" for n in range(12)},
            )
            for query_id in ids
        ]
        sides.append(compared.side(release, rows, labels, cases_digest=digest))
    folder = second.workspace.evidence(release_id)
    compared.write_side(second.workspace.evidence(before) / "evaluation", sides[0])
    compared.write_side(folder / "evaluation", sides[1])
    content = read_json(folder / "verdict.json", "verdict")
    means = sides[0].evaluation.summary["metrics"]
    change_verdict(
        second,
        content,
        cases=sides[1].evaluation.summary["counts"],
        inputs={**content["inputs"], "cases_digest": digest},
        metrics_digest=sides[1].evaluation.digest,
        metrics=[{**item, "baseline": means[item["metric"]]} for item in content["metrics"]],
        reasons=[f"reason {number}: {WORDS[:600]}" for number in range(50)],
    )
    return second


def test_two_hundred_cases_stay_under_a_megabyte_and_a_comments_length(two_hundred):
    page = write(two_hundred)
    cases = [attributes for tag, attributes in page.elements if tag == "details" and attributes.get("class") == "case"]
    assert [attributes["data-move"] for attributes in cases] == ["worse"] * 100 + ["same"] * 100
    assert 500_000 < len(page.text.encode()) < 1_000_000
    assert sum(tag == "mark" for tag, _ in page.elements) >= 200, "the gold of every case is marked"
    assert "characters left out" in page.prose
    for said in ("Answer, was", "Answer, is", "− lost", "Gold evidence", "was: corpus/0.md#0", "is: corpus/0.md#1"):
        assert said in page.prose
    assert "Of 200 cases 100 got worse and 0 better" in page.prose
    folder = two_hundred.workspace.evidence(two_hundred.release().release_id)
    assert len((folder / "report.md").read_text(encoding="utf-8")) < 65_536


def test_a_baseline_that_was_since_measured_otherwise_is_not_shown_as_what_was(two_hundred):
    before = two_hundred.workspace.evidence(str(two_hundred.live_id())) / "evaluation"
    found = results.read(before)
    changed = replace(found, summary={**found.summary, "metrics": {**found.summary["metrics"], "oracle_hit_rate": 0.3}})
    write_evaluation(before, changed)
    page = write(two_hundred)
    assert "The baseline's evaluation is not at hand any more" in page.prose
    assert "Answer, was" not in page.prose


def test_markdown_and_junit_stand_beside_the_page(second):
    content = write_verdict(second, "FAIL", recall=0.1)
    change_verdict(second, content, reasons=["recall: <b>low</b> @everyone"])
    write(second)
    folder = second.workspace.evidence(second.release().release_id)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.startswith(f"## FAIL: release `{second.release().release_id}`\n")
    assert "- **FAIL**: recall: &#60;b&#62;low&#60;/b&#62; &#64;\u200beveryone" in text
    assert "| `recall` | PASS | 0.100 | 0.100 | – | ≥ 0.2  |" in text
    assert "`chunk_size`: 450 → 20" in text
    assert {path.name for path in folder.iterdir()} >= set(report.FILES)


def test_a_calibration_with_real_builds_is_told_or_asked_for(ready):
    release_id = ready.release().release_id
    page = write(ready)
    asked = f"planted regressions for this release: scripts/calibrate_gate.py --release {release_id}"
    assert asked in page.prose
    content = read_json(ready.workspace.evidence(release_id) / "verdict.json", "verdict")
    write_json(ready.workspace.calibration(release_id), calibration_of(content, settings_digest="other"))
    page = write(ready)
    assert page.rows("planted", "that is", "stopped?") == [
        ["drop_reranker", "no reranker", "NO, it would pass", "nothing"],
        ["chunk_60", "chunk_size is 60", "yes, FAIL", "recall"],
        ["leak_prefixes", "prefixes are indexed", "yes", "prefix_leakage"],
        ["halve_top_k", "not planted: too few"],
    ]
    assert "2 of 3 planted regressions were stopped" in page.prose
    assert "it was made with other evaluation settings than this verdict" in page.prose
    text = (ready.workspace.evidence(release_id) / "report.md").read_text(encoding="utf-8")
    assert "2 of 3 planted regressions were stopped; not stopped: `drop_reranker`." in text
    write_json(ready.workspace.calibration(release_id), calibration_of(content))
    assert "it was made with other" not in write(ready).prose


def calibration_of(verdict: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """As ``lib.release.calibration`` leaves it."""

    def planted(what: str, verdict: str, by: list[str], unhealthy: list[str]) -> dict[str, Any]:
        caught = verdict != "PASS" or bool(unhealthy)
        return {"what": what, "verdict": verdict, "caught": caught, "noticed_by": by, "unhealthy": unhealthy}

    return {
        "calibrated_at": "2026-01-02T03:04:05Z",
        "inputs": {**verdict["inputs"], **inputs},
        "gates_digest": verdict["gates_digest"],
        "unchanged": {"verdict": "PASS", "digests_equal": True},
        "regressions": {
            "leak_prefixes": planted("prefixes are indexed", "PASS", [], ["prefix_leakage"]),
            "chunk_60": planted("chunk_size is 60", "FAIL", ["recall"], []),
            "drop_reranker": planted("no reranker", "PASS", [], []),
        },
        "skipped": {"halve_top_k": "too few"},
        "caught": 2,
    }


def write(project: Project, release_id: str | None = None) -> Page:
    release_id = release_id or project.release().release_id
    path = report.write(project.workspace, project.connection, release_id)
    assert path == project.workspace.evidence(release_id) / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def change_verdict(project: Project, content: dict[str, Any], **changes: Any) -> None:
    path = project.workspace.evidence(project.release().release_id) / "verdict.json"
    write_json(path, {**content, "cases": {**content["cases"], "answers_without_claims": 0}, **changes})


def write_run(
    project: Project, done: list[str], *, stopped: str | None = None, seconds: float = 1.5, finished_at: str = ""
) -> None:
    """As ``lib.release.golive`` leaves it."""
    steps = [{"name": name, "state": "done", "exit_code": 0, "seconds": seconds} for name in done]
    if stopped:
        steps.append({"name": stopped, "state": "stopped here", "exit_code": 13, "seconds": 0.5})
    write_json(
        project.workspace.evidence(project.release().release_id) / "run.json",
        {"steps": steps, "finished_at": finished_at or timestamp()},
    )
