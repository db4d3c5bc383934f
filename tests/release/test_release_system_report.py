"""The report of a system of one's own: the same page and files, from a folder alone; and what no text can do to a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lib.evaluation import calibration, gate
from lib.evaluation import cases as case_files
from lib.platform import signing
from lib.platform.errors import NotFound
from lib.platform.files import read_json, write_json
from lib.platform.workspace import Workspace
from lib.release import assessment, attesting, report
from lib.release.gates import load_gates
from tests.release.compared import label, row, side, write_cases, write_side
from tests.release.page import Page

SCRIPT = "<script>alert(1)</script>"
LONG = "שלום עולם " * 300 + "x" * 7_000
GOLD = {f"q{number:02d}": [("pointer.md", f"a quote that only case {number} has")] for number in range(40)}


@pytest.fixture
def judge(workspace: Workspace) -> Any:
    """Judges made-up rows as the gate does and leaves what ``scripts/evaluate_system.py`` leaves."""

    def make(
        rows: list[dict[str, Any]],
        labels: list[dict[str, Any]] | None = None,
        *,
        before: list[dict[str, Any]] | None = None,
        labels_before: list[dict[str, Any]] | None = None,
        gold: dict[str, list[tuple[str, str]]] | None = None,
        key: Path | None = None,
    ) -> Path:
        write_cases(workspace.default_cases, gold or GOLD)
        digest = case_files.load(workspace.default_cases).digest
        folder, home = workspace.root / "metrics" / "systems" / "v2", workspace.root / "metrics" / "systems" / "v1"
        now = side("v2", rows, labels, cases_digest=digest)
        write_side(folder / "evaluation", now)
        base = side("v1", before, labels_before, cases_digest=digest) if before else None
        if base:
            write_side(home, base)
        gates = load_gates(workspace)
        gates = {**gates, "resamples": 999}
        decided = gate.judge_gate(now.evaluation, base.evaluation if base else None, gates, 42)
        signer = signing.load_signer({signing.SIGNING_KEY_FILE: str(key)}) if key else None
        content = {
            **assessment.content_of(workspace, now.evaluation, workspace.default_cases, gates, decided),
            "baseline_folder": workspace.show(home) if base else None,
            "baseline_metrics_digest": base.evaluation.digest if base else None,
            "signed_by": attesting.keyid(signer),
            "calibration": None,
        }
        assessment.write(folder, content)
        attesting.sign_verdict(None, folder, content, signer)
        return folder

    return make


def rows_of(**changed: Any) -> list[dict[str, Any]]:
    metrics = {"faithfulness": 0.9, "hallucination": 0.1}
    return [row(query_id, **{"snapshot_size": 45, **metrics, **changed}) for query_id in GOLD]


def write(workspace: Workspace, folder: Path) -> Page:
    path = report.write_system(workspace, folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    page.assert_alone()
    return page


def verdict_of(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "verdict.json", "verdict"))


def test_a_system_is_compared_and_told_like_a_release(workspace, judge):
    good = dict.fromkeys(("recall", "precision", "f1", "claim_recall", "faithfulness"), 0.9)
    bad = dict.fromkeys(good, 0.1)
    folder = judge(rows_of(stage="filter", hallucination=0.0, **bad), before=rows_of(hallucination=0.0, **good))
    page = write(workspace, folder)
    assert page.state == "FAIL compared with v1 on the same cases"
    assert "Of 40 cases 40 got worse and 0 better" in page.prose
    assert "q00 · answer used its evidence → lost at filter" in page.prose
    assert page.rows("answerable cases", "now", "before")[0][:3] == ["lost at filter", "40", "0"]
    assert "make rollback" not in page.text
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.startswith("## FAIL: system `v2`\n")
    assert "lost at filter: 40 (before 0)" in text
    suite = ElementTree.parse(folder / "junit.xml").getroot()
    assert int(suite.get("failures", "0")) >= 6


def test_an_open_verdict_says_what_would_settle_it(workspace, judge):
    rows = [{**item, "metrics": {**item["metrics"], "recall": float(place % 2)}} for place, item in enumerate(rows_of())]
    before = [{**item, "metrics": {**item["metrics"], "recall": 1.0 - place % 2}} for place, item in enumerate(rows_of())]
    folder = judge(rows, before=before)
    found = verdict_of(folder)
    (recall,) = [item for item in found["metrics"] if item["metric"] == "recall"]
    assert (found["verdict"], recall["status"]) == ("INCONCLUSIVE", "INCONCLUSIVE")
    page = write(workspace, folder)
    assert page.state.startswith("INCONCLUSIVE ")
    assert "neither show harm nor rule it out" in page.prose
    (told,) = page.rows("metric", "cases", "documents")
    least = f"{recall['difference']['minimum_detectable']:.3f}"
    assert told == ["recall", "40", "40", least, "0.080", f"about {recall['needed_cases']} cases"]
    assert f"| `recall` | 40 | 40 | {least} | 0.080 | about" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_first_evaluation_in_which_nothing_could_be_scored(workspace, judge):
    unscored = {
        "unscored": "system: no answer",
        "unmeasured": ["recall", "precision"],
        "lost_at": "unknown",
        "lost_detail": "system: no answer",
    }
    metrics = dict.fromkeys(("recall", "precision", "f1", "claim_recall", "faithfulness"), 0.0)
    rows = [{**item, "metrics": {**item["metrics"], **metrics}} for item in rows_of(stage="retrieval", **unscored)]
    folder = judge(rows)
    page = write(workspace, folder)
    verdict = verdict_of(folder)["verdict"]
    assert verdict in ("ERROR", "FAIL")
    assert page.state == f"{verdict} compared with nothing: no baseline was given"
    assert "40 of 40 answerable cases lost their evidence on the way, and 40 of all could not be scored" in page.prose
    assert "lost, nobody knows where: system: no answer" in page.prose
    assert ("option", {"value": "unscored"}) in page.elements
    assert "<failure" in (folder / "junit.xml").read_text() or "<error" in (folder / "junit.xml").read_text()


def test_an_error_is_no_pass_and_says_so(workspace, judge):
    folder = judge(rows_of())
    write_json(folder / "verdict.json", {**verdict_of(folder), "verdict": "ERROR", "reasons": ["recall: no value"]})
    page = write(workspace, folder)
    assert page.state == "ERROR compared with nothing: no baseline was given"
    assert ("p", {"class": "state bad"}) in page.elements
    assert "what was not measured does not pass" in page.prose
    assert "ERROR: recall: no value" in page.prose


def test_every_case_scored_and_nothing_to_compare_with(workspace, judge):
    page = write(workspace, judge(rows_of()))
    assert page.state == "PASS compared with nothing: no baseline was given"
    assert "0 unscored" in page.prose
    assert "0 of 40 answerable cases lost their evidence" in page.prose
    assert ("option", {"value": "unscored"}) not in page.elements
    assert "Regressions cannot be planted into a system of your own" in page.prose


def test_unanswerable_cases_are_listed_counted_and_can_be_filtered(workspace, judge):
    ignorant = [
        {
            **row(name, abstained=name == "u1"),
            "answerable": False,
            "metrics": None,
            "response": "" if name == "u1" else "42",
        }
        for name in ("u1", "u2", "u3")
    ]
    page = write(workspace, judge(rows_of() + ignorant))
    assert "Of 3 unanswerable cases it abstained from 1 , as it should, and answered 2 ." in page.prose
    assert "answered what about u2? u2 · unanswerable · answered, though nothing says so" in page.prose
    groups = [attributes["data-groups"] for tag, attributes in page.elements if attributes.get("class") == "case"]
    assert groups[:2] == ["unanswerable\nanswered"] * 2
    assert groups[-1] == "unanswerable\nabstained"
    offered = [attributes["value"] for tag, attributes in page.elements if tag == "option" and attributes.get("value")]
    assert offered == ["answerable", "used", "unanswerable", "abstained", "answered"]
    assert ("a", {"href": "#cases", "data-show": "answered"}) in page.elements


def test_no_text_of_a_case_becomes_markup(workspace, judge):
    gold = {query_id: [("pointer.md", f"{SCRIPT} is the gold of {query_id}")] for query_id in GOLD}
    rows = rows_of(query=SCRIPT, response=SCRIPT, stage="filter", lost_at="filter", lost_detail=SCRIPT, tags=[SCRIPT])
    labels = [label(query_id, {SCRIPT: True}, {f"c#{SCRIPT}": f"so {quotes[0][1]}."}) for query_id, quotes in gold.items()]
    folder = judge(rows, labels, gold=gold)
    page = write(workspace, folder)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert page.prose.count(SCRIPT) > 6 * len(GOLD)
    assert "<script" not in (folder / "report.md").read_text(encoding="utf-8").lower()


def test_long_and_right_to_left_texts_stay_within_their_place_and_the_page_under_a_megabyte(workspace, judge):
    text = LONG
    gold = {f"q{number:03d}": [("pointer.md", f"{text[:2000]} {number}")] for number in range(200)}
    rows = [row(query_id, "filter", query=text, response=text, lost_at="filter", lost_detail=text) for query_id in gold]
    before = [row(query_id, query=text, response=text, lost_at=None) for query_id in gold]
    claims = {f"{text[:400]} {number}": False for number in range(40)}
    labels = [label(query_id, claims, {"c#1": f"{text[:3000]} {quotes[0][1]}"}) for query_id, quotes in gold.items()]
    folder = judge(rows, labels, before=before, labels_before=labels, gold=gold)
    page = write(workspace, folder)
    assert len(page.text.encode()) < 1_000_000
    assert len((folder / "report.md").read_text(encoding="utf-8")) < 65_536
    cases = [attributes for _, attributes in page.elements if attributes.get("class") == "case"]
    assert len(cases) == 200
    texts = [attributes for tag, attributes in page.elements if tag == "div" and "dir" in attributes]
    assert len(texts) == 4 * 200, "two answers, the gold and a passage"
    assert all(attributes["dir"] == "auto" for attributes in texts)
    assert sum(tag == "bdi" for tag, _ in page.elements) >= 200


def test_a_signature_is_checked_before_it_is_told(workspace, judge, tmp_path):
    key, public = tmp_path / "release.pem", workspace.configs / "signing" / "release.pub"
    keyid = signing.write_pair(key, public, "")
    folder = judge(rows_of(), key=key)
    assert f"signed by key {keyid[:12]}" in write(workspace, folder).prose
    content = verdict_of(folder)
    write_json(folder / "verdict.json", {**content, "warnings": ["changed later"]})
    assert (
        "SIGNATURE BAD: verdict.json is not as it was signed: do not trust this verdict" in write(workspace, folder).prose
    )
    write_json(folder / "verdict.json", content)
    attesting.envelope_of(folder / "verdict.json").unlink()
    page = write(workspace, folder)
    assert f"SIGNATURE BAD: the verdict says that key {keyid[:12]} signed it" in page.prose
    assert ("p", {"class": "loud"}) in page.elements


def test_unsigned_is_said_loudly(workspace, judge):
    folder = judge(rows_of())
    page = write(workspace, folder)
    assert "UNSIGNED: no signing key" in page.prose
    assert ("p", {"class": "loud"}) in page.elements
    assert "**UNSIGNED: no signing key" in (folder / "report.md").read_text(encoding="utf-8")


def test_the_gates_error_rates_stand_beside_the_verdict(workspace, judge):
    folder = judge(rows_of())
    write_json(folder / "verdict.json", {**verdict_of(folder), "calibration": SIMULATED})
    page = write(workspace, folder)
    assert page.rows("the gate would", "how often") == [
        ["not let pass an unchanged release", "1.7 %", "0 to 9 %"],
        ["and call that FAIL", "0.0 %", "0 to 6 %"],
        ["notice that the evidence of 5 % of the documents is lost", "95.0 %", "86 to 98 %"],
    ]
    said = calibration.to_text(SIMULATED).split(" [")[0]
    assert said in (folder / "report.md").read_text(encoding="utf-8")


SIMULATED = {
    "compared_with": "itself",
    "documents": 75,
    "resamples": 299,
    "false_block": {"rate": 1 / 60, "low": 0.003, "high": 0.089, "trials": 60},
    "false_fail": {"rate": 0.0, "low": 0.0, "high": 0.06, "trials": 60},
    "power": [{"lost": 0.05, "rate": 0.95, "low": 0.86, "high": 0.98, "trials": 60}],
}


def test_a_baseline_that_was_measured_again_since_is_not_shown_as_what_was(workspace, judge):
    folder = judge(rows_of(), before=rows_of())
    write_side(workspace.root / "metrics" / "systems" / "v1", side("v1", rows_of(recall=0.2)))
    page = write(workspace, folder)
    assert "The baseline's evaluation is not at hand any more" in page.prose
    assert "Answer, was" not in page.prose


def test_github_is_told_of_a_system_too(workspace, judge, monkeypatch, capsys, tmp_path):
    folder = judge(rows_of())
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert report.publish_system(workspace, folder) == "metrics/systems/v2/report.html"
    assert capsys.readouterr().out.startswith("::notice title=PASS%3A v2::")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("## PASS: system `v2`")


def test_a_folder_without_a_verdict_on_a_system_is_refused(workspace, tmp_path):
    with pytest.raises(NotFound, match="no verdict on a system"):
        report.require_system(tmp_path)


def test_the_script_writes_it_anew_without_a_database(workspace, judge, run_script):
    folder = judge(rows_of())
    (folder / "report.html").unlink(missing_ok=True)
    done = run_script("release_report", "--system", str(folder), "--json", DATABASE_URL="postgresql://nobody@127.0.0.1:1/x")
    assert (done.code, json.loads(done.out)["applied"]) == (0, True)
    assert (folder / "report.html").exists()
