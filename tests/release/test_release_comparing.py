"""Two releases side by side: only what can be compared is, and the differences are those of the gate."""

from __future__ import annotations

import pytest

from lib.config import store
from lib.evaluation import cases as case_files
from lib.evaluation.significance import Sampling, paired_difference
from lib.platform.errors import NotFound, Refused
from lib.platform.files import read_json, write_json
from lib.release import comparing, report
from tests.release.compared import BEFORE, NOW, label, row, side, write_cases, write_side

GATES = {
    "confidence": 0.95,
    "power": 0.8,
    "resamples": 500,
    "metrics": {
        "recall": {"direction": "higher", "margin": 0.08},
        "hallucination": {"direction": "lower", "margin": 0.05},
        "avg_snapshot_size": {"direction": "higher", "floor": 30},
        "deduplication_rate": {"direction": "higher"},
    },
}


def by_name(found):
    return {item["metric"]: item for item in found}


def test_differences_are_paired_by_case_and_positive_where_it_got_better():
    recalls = [(0.1, 0.3), (0.5, 0.4), (0.2, 0.9), (0.0, 0.5)]
    before = side(BEFORE, [row(str(n), recall=was, hallucination=0.4) for n, (was, _) in enumerate(recalls)]).evaluation
    now = side(NOW, [row(str(n), recall=is_, hallucination=0.1) for n, (_, is_) in enumerate(recalls)]).evaluation
    found = by_name(comparing.compare_metrics(now, before, GATES, 42))
    sampling = Sampling(confidence=0.95, power=0.8, resamples=500, seed=42)
    expected = paired_difference([is_ for _, is_ in recalls], [was for was, _ in recalls], list("0123"), sampling)
    assert found["recall"]["difference"]["mean"] == pytest.approx((0.2 - 0.1 + 0.7 + 0.5) / 4)
    assert found["recall"]["difference"]["low"] == expected.low
    assert found["hallucination"]["difference"]["mean"] == pytest.approx(0.3)
    assert found["hallucination"]["status"] == "better"
    assert found["deduplication_rate"]["difference"] is None
    assert found["deduplication_rate"]["status"] == "-"


def test_a_case_that_one_side_could_not_score_is_not_paired():
    before = side(BEFORE, [row("a", recall=0.5), row("b", recall=0.5), row("c", recall=0.0, unscored="gone")]).evaluation
    now = side(NOW, [row("a", recall=0.5), row("b", recall=0.0, unscored="gone"), row("c", recall=1.0)]).evaluation
    difference = by_name(comparing.compare_metrics(now, before, GATES, 42))["recall"]["difference"]
    assert (difference["mean"], difference["pairs"]) == (0.0, 1)


@pytest.fixture
def project(workspace):
    """Two releases that were evaluated on the same cases; the second with the first as its baseline."""
    quote = "A rollback moves the pointer back in milliseconds"
    write_cases(workspace.default_cases, {"a": [("pointer.md", quote)], "b": [("pointer.md", quote)]})
    digest = case_files.load(workspace.default_cases).digest
    passages = {"c#1": f"{quote}, because the old table still stands."}
    before = side(BEFORE, [row("a"), row("b")], [label("a", {"It is fast.": True}, passages)], cases_digest=digest)
    now = side(NOW, [row("a", "reader"), row("b")], [label("a", {"It is fast.": False}, passages)], cases_digest=digest)
    write_side(workspace.evidence(BEFORE) / "evaluation", before)
    write_side(workspace.evidence(NOW) / "evaluation", now)
    write_json(workspace.evidence(NOW) / "verdict.json", {"cases_file": "eval/test_cases.json"})
    return workspace


def test_two_releases_are_compared_by_what_stands_in_their_evidence(project):
    found = comparing.compare(project, BEFORE, NOW)
    (worse, same) = found.cases
    assert (worse.query_id, worse.move, same.move) == ("a", "worse", "same")
    assert [claim.change for claim in worse.claims] == ["lost"]
    assert worse.passages[0].holds_gold
    assert by_name(found.metrics)["reader_gold_usage"]["difference"]["mean"] == -0.5
    text = comparing.to_text(found)
    assert "worse    a  used -> reader, 1 claim lost" in text
    assert "2 cases: 1 worse, 1 same" in text
    assert "the locked config of one of them is not here" in text


def test_a_part_of_a_name_will_do_and_one_that_fits_several_will_not(project):
    assert comparing.compare(project, "aaaaaaaa", "bbbbbbbb").now == NOW
    with pytest.raises(NotFound, match="2 releases"):
        comparing.compare(project, "2026", NOW)
    with pytest.raises(NotFound, match="0 releases"):
        comparing.compare(project, "nothing", NOW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cases_digest": "other"}, "cases_digest"),
        ({"settings_digest": "other"}, "settings_digest"),
        ({"judge": "bedrock"}, "reader or judge"),
    ],
)
def test_what_was_measured_otherwise_is_refused(project, change, said):
    digest = case_files.load(project.default_cases).digest
    write_side(
        project.evidence(BEFORE) / "evaluation", side(BEFORE, [row("a"), row("b")], **{"cases_digest": digest, **change})
    )
    with pytest.raises(Refused, match=said):
        comparing.compare(project, BEFORE, NOW)


def test_an_evaluation_made_as_a_baseline_serves_where_the_own_one_is_of_other_cases(project):
    digest = case_files.load(project.default_cases).digest
    write_side(project.evidence(BEFORE) / "evaluation", side(BEFORE, [row("z")], cases_digest="older"))
    write_side(project.evidence(NOW) / "baseline", side(BEFORE, [row("a"), row("b")], cases_digest=digest))
    assert comparing.compare(project, BEFORE, NOW).cases[0].move == "worse"


def test_a_release_without_an_evaluation_is_told(project):
    (project.evidence("2026-01-03-000000-v1-cccccccc") / "receipts").mkdir(parents=True)
    with pytest.raises(NotFound, match="never evaluated"):
        comparing.compare(project, BEFORE, "cccccccc")


def test_the_page_shows_every_case_and_says_that_it_is_no_verdict(project):
    page = report.comparison_page(comparing.compare(project, BEFORE, NOW))
    assert page.count('<details class="case"') == 2
    assert "<mark>A rollback moves the pointer back in milliseconds</mark>" in page
    assert "it is no verdict" in page


def test_changed_cases_leave_the_gold_unmarked_and_are_said(project):
    content = read_json(project.default_cases, "cases")
    content["cases"][0]["query"] = "changed since"
    write_json(project.default_cases, content)
    found = comparing.compare(project, BEFORE, NOW)
    assert any("gold is not marked" in note for note in found.notes)
    assert found.cases[0].gold == ()


def test_settings_that_differ_come_first(make_config):
    then = make_config()
    now = make_config(chunk_size=100)
    rows = comparing.settings_changes(now, then)
    assert [(item["name"], item["then"], item["now"]) for item in rows if item["changed"]] == [
        ("chunk_size", then.chunk_size, 100)
    ]
    assert rows[0]["changed"]
    assert not any(item["changed"] for item in comparing.settings_changes(now, None))


def test_configs_are_read_from_their_history(project, make_config):
    locked_config = make_config()
    store.write_history(project, locked_config)
    release_id = f"{locked_config.chunk_version}-{locked_config.config_hash[:8]}"
    found = comparing.read_config(project, release_id)
    assert found is not None
    assert found.chunk_size == locked_config.chunk_size
    assert comparing.read_config(project, NOW) is None


def test_the_script_prints_one_document_and_writes_the_page(project, run_script, tmp_path):
    page = tmp_path / "pages" / "compared.html"
    done = run_script("compare_releases", "aaaaaaaa", NOW, "--html", str(page), "--json")
    assert done.code == 0
    assert (done.json["before"], done.json["now"], done.json["html"]) == (BEFORE, NOW, str(page))
    assert done.json["moves"]["worse"] == 1
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert run_script("compare_releases", "nothing", NOW).code == 12
