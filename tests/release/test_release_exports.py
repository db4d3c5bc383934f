"""What CI is told: red wherever a release may not go live, and nothing that a value could break out of."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from lib.platform.files import write_json
from lib.release import exports

RELEASE = "2026-01-02-000000-v1-bbbbbbbb"


def verdict(status, *metrics, reasons=("because",), warnings=()):
    return {
        "verdict": status,
        "reasons": list(reasons),
        "warnings": list(warnings),
        "metrics": [dict(zip(("metric", "status", "reason", "level"), item, strict=True)) for item in metrics],
        "cases": {},
        "produced_by": {},
        "baseline_release": None,
    }


def step(name, state="done", exit_code=0):
    return {"name": name, "state": state, "exit_code": exit_code, "seconds": 1.5}


def parse(text):
    root = ElementTree.fromstring(text)
    return root, {case.get("name"): case for case in root.iter("testcase")}


@pytest.mark.parametrize(("status", "tag"), [("FAIL", "failure"), ("INCONCLUSIVE", "failure"), ("ERROR", "error")])
def test_whatever_is_not_a_pass_is_red(status, tag):
    found = verdict(status, ("recall", status, "too low", "block"), ("f1", "PASS", "fine", "block"))
    root, cases = parse(exports.junit(RELEASE, found, []))
    for name in ("recall", "verdict"):
        assert [child.tag for child in cases[name]] == [tag]
        assert cases[name][0].get("type") == status
    assert list(cases["f1"]) == []
    assert int(root.get("failures")) + int(root.get("errors")) == 2
    assert root.get("tests") == "3"


def test_a_pass_is_green_and_a_warning_stays_one():
    found = verdict("PASS", ("recall", "PASS", "fine", "block"), ("f1", "FAIL", "worse", "warn"))
    root, cases = parse(exports.junit(RELEASE, found, [step("lock"), step("ingest", "held")]))
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    assert cases["f1"].findtext("system-out") == "warning: worse"


def test_a_metric_that_is_not_critical_is_a_warning_under_its_new_name_too():
    found = verdict("PASS")
    found["metrics"] = [{"metric": "f1", "status": "FAIL", "reason": "worse", "critical": False}]
    _, cases = parse(exports.junit(RELEASE, found, []))
    assert [child.tag for child in cases["f1"]] == ["system-out"]
    found["metrics"][0]["critical"] = True
    _, cases = parse(exports.junit(RELEASE, found, []))
    assert [child.tag for child in cases["f1"]] == ["failure"]


def test_no_verdict_is_an_error():
    _, cases = parse(exports.junit(RELEASE, None, []))
    assert [child.tag for child in cases["verdict"]] == ["error"]


def test_the_step_that_stopped_is_red_and_those_after_it_are_skipped():
    steps = [step("health"), step("backup", "stopped here", 13), step("promote", "not reached")]
    root, cases = parse(exports.junit(RELEASE, verdict("PASS"), steps))
    assert [child.tag for name in ("health", "backup", "promote") for child in cases[name]] == ["error", "skipped"]
    assert root.get("errors") == "1"
    assert cases["health"].get("time") == "1.500"


def test_the_counts_are_those_of_the_suites():
    steps = [step("evaluate", "stopped here", 3), step("promote", "not reached")]
    root, _ = parse(exports.junit(RELEASE, verdict("FAIL", ("recall", "FAIL", "low", "block")), steps))
    assert [suite.tag for suite in root] == ["testsuite", "testsuite"]
    for suite in root:
        assert set(suite.attrib) == {"name", "tests", "failures", "errors", "skipped"}
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
        assert all(case.get("classname", "").startswith("golive.") for case in suite)


def test_xml_holds_no_letter_that_it_cannot_and_no_secret(monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", "hunter2secret")
    found = verdict("FAIL", ("recall", "FAIL", "a\x00b </failure> ]]> & hunter2secret \ud800", "block"))
    text = exports.junit(RELEASE, found, [])
    _, cases = parse(text.encode())
    assert cases["recall"][0].text == "a\ufffdb </failure> ]]> & *** \ufffd"
    assert "hunter2secret" not in text


def test_annotations_say_each_reason_as_an_error_and_each_warning_as_one():
    found = verdict("FAIL", reasons=["recall: low", "f1: low"], warnings=["slow"])
    assert exports.github_annotations("r1", found, step("evaluate", "stopped here", 3)) == [
        "::error title=FAIL%3A r1::recall: low",
        "::error title=FAIL%3A r1::f1: low",
        "::warning title=warning%3A r1::slow",
    ]
    assert exports.github_annotations("r1", verdict("PASS"), None) == ["::notice title=PASS%3A r1::because"]


def test_a_run_that_stopped_elsewhere_or_was_not_judged_is_an_error():
    assert exports.github_annotations("r1", verdict("PASS"), step("backup", "stopped here", 13))[1:] == [
        "::error title=golive%3A r1::stopped at the step backup (exit 13)"
    ]
    assert exports.github_annotations("r1", None, None)[0].startswith("::error ")


def test_a_value_can_neither_end_an_annotation_nor_begin_another():
    (line,) = exports.github_annotations("r1", verdict("FAIL", reasons=["100%\r\n::set-env name=A::b"]), None)
    assert line == "::error title=FAIL%3A r1::100%25%0D%0A::set-env name=A::b"


@pytest.fixture
def told(workspace, monkeypatch, tmp_path):
    folder = workspace.evidence("r1")
    write_json(folder / "verdict.json", verdict("FAIL", reasons=["recall: low"]))
    (folder / "report.md").write_text("## FAIL", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return folder, tmp_path / "summary.md"


def test_outside_of_github_nothing_is_printed(told, capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    exports.tell_github(told[0], "r1")
    assert capsys.readouterr().out == ""
    assert not told[1].exists()


@pytest.mark.parametrize("quiet", [False, True])
def test_on_github_the_summary_is_added_to(told, capsys, monkeypatch, quiet):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    told[1].write_text("what an earlier step said\n", encoding="utf-8")
    exports.tell_github(told[0], "r1", quiet=quiet)
    said = capsys.readouterr()
    assert (said.err if quiet else said.out) == "::error title=FAIL%3A r1::recall: low\n"
    assert (said.out if quiet else said.err) == ""
    assert told[1].read_text(encoding="utf-8") == "what an earlier step said\n## FAIL\n"
