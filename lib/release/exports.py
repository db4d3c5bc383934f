"""A verdict for machines: JUnit XML for CI, and GitHub's annotations and job summary where it runs there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # nosec B405  # writes XML, reads none

from lib.platform.errors import VERDICT_CODES, ExitCode, redact
from lib.platform.files import writing
from lib.release import evidence
from lib.release.tables import status_of

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0, even as an entity


def junit(release_id: str, verdict: Mapping[str, Any] | None, steps: Sequence[Mapping[str, Any]]) -> str:
    """A suite for the gate (a case a metric, one for the verdict) and one for the steps of the run.

    FAIL is a ``failure``, ERROR an ``error``. INCONCLUSIVE is a ``failure`` of that type: to most CI systems a skipped test
    is a good one, and nothing unknown passes. A metric that does not decide never fails; its warning is its output.
    """
    root = ElementTree.Element("testsuites", name=_clean(f"golive {release_id}"))
    gate = _suite(root, "gate")
    for item in verdict["metrics"] if verdict else []:
        case = _case(gate, "gate", item["metric"])
        _told(case, status_of(item), item["reason"])
    if verdict:
        _told(_case(gate, "gate", "verdict"), verdict["verdict"], "\n".join(verdict["reasons"]))
    else:
        _told(_case(gate, "gate", "verdict"), "ERROR", "there is no verdict: the release was not evaluated")
    if steps:
        suite = _suite(root, "steps")
        for step in steps:
            _step(_case(suite, "steps", step["name"], step["seconds"]), step)
    for suite in root:
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(name, str(sum(1 for _ in suite.iter(tag))))
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(root, "testsuite", name=name)


def _case(suite: ElementTree.Element, group: str, name: str, seconds: float | None = None) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase", classname=f"golive.{group}", name=_clean(name))
    if seconds is not None:
        case.set("time", f"{seconds:.3f}")
    return case


def _told(case: ElementTree.Element, status: str, reason: str) -> None:
    if status == "PASS":
        return
    if status == "warning":
        ElementTree.SubElement(case, "system-out").text = _clean(f"warning: {reason}")
        return
    kind = "error" if status == "ERROR" else "failure"
    told = ElementTree.SubElement(case, kind, type=status, message=_clean(reason.split("\n")[0]))
    told.text = _clean(reason)


def _step(case: ElementTree.Element, step: Mapping[str, Any]) -> None:
    if step["state"] in ("done", "held"):
        return
    if step["state"] != "stopped here":
        ElementTree.SubElement(case, "skipped", message=_clean(step["state"]))
        return
    by_code = {int(code): status for status, code in VERDICT_CODES.items()}
    status = by_code.get(step["exit_code"], "ERROR")
    _told(case, status, f"stopped with exit code {step['exit_code']}")


def _clean(text: str) -> str:
    """Text that XML can hold, without secrets."""
    return _ILLEGAL.sub("\ufffd", redact(text))


def github_annotations(release_id: str, verdict: Mapping[str, Any] | None, stopped: Mapping[str, Any] | None) -> list[str]:
    """GitHub's workflow commands: an error a reason, a warning a warning, a notice where all is well."""
    lines = []
    if verdict:
        kind = "notice" if verdict["verdict"] == "PASS" else "error"
        lines += [_command(kind, f"{verdict['verdict']}: {release_id}", reason) for reason in verdict["reasons"]]
        lines += [_command("warning", f"warning: {release_id}", warning) for warning in verdict["warnings"]]
    if stopped and stopped["exit_code"] not in (int(ExitCode.FAIL), int(ExitCode.INCONCLUSIVE)):
        said = f"stopped at the step {stopped['name']} (exit {stopped['exit_code']})"
        lines.append(_command("error", f"golive: {release_id}", said))
    elif not verdict:
        lines.append(_command("error", f"golive: {release_id}", "there is no verdict: the release was not evaluated"))
    return lines


def _command(kind: str, title: str, message: str) -> str:
    """One workflow command; escaped as GitHub's own toolkit does, so that no value can end it or begin another."""
    return f"::{kind} title={_escaped(title, (':', ','))}::{_escaped(message)}"


def _escaped(text: str, more: Sequence[str] = ()) -> str:
    text = redact(text)
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def tell_github(folder: Path, name: str, *, quiet: bool = False) -> None:
    """Under GitHub Actions: prints the annotations and appends ``report.md`` to the job's summary; else does nothing.

    Args:
        folder: the evidence of the release or system of that name.
        quiet: stdout belongs to a JSON document; GitHub reads the annotations from stderr just as well.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    run = evidence.run_of(folder) or {"steps": []}
    stopped = next((step for step in run["steps"] if step["state"] == "stopped here"), None)
    verdict = evidence.read_object(folder / "verdict.json", evidence.VERDICT_FIELDS)
    for line in github_annotations(name, verdict, stopped):
        print(line, file=sys.stderr if quiet else sys.stdout)
    summary, written = os.environ.get("GITHUB_STEP_SUMMARY"), folder / "report.md"
    if summary and written.exists():
        with writing(Path(summary)), Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(written.read_text(encoding="utf-8") + "\n")
