"""A verdict with what stands behind it, read from a folder of evidence: what every report shows, whatever was judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.evaluation import calibration as simulation
from lib.evaluation.attribution import LABELS
from lib.platform import signing
from lib.platform.workspace import Workspace
from lib.release import attesting, case_changes, evidence, plots, tables
from lib.release.case_changes import ABSTAINED, MEANINGS, UNREAD, CaseChange, Side
from lib.release.excerpts import Cut

_MEANS = {
    "FAIL": "A limit is missed, or harm is shown on the same cases.",
    "INCONCLUSIVE": "These cases can neither show harm nor rule it out; what nobody knows does not pass.",
    "ERROR": "Something could not be measured; what was not measured does not pass.",
    "PASS": "Every limit is met.",
}
_CALIBRATED_FIELDS = {"unchanged", "regressions", "skipped", "caught", "calibrated_at", "inputs"}
_OF_A_CALIBRATION = {
    "cases_digest": "cases",
    "settings_digest": "evaluation settings",
    "config_hash": "settings of the index",
    "gold_corpus_digest": "documents",
}


@dataclass(frozen=True)
class Judged:
    """What was judged, by its name; ``calibrated``: what ``make calibrate`` found for it, None where that was not run."""

    name: str
    folder: Path
    verdict: dict[str, Any] | None
    signature: signing.Signature
    candidate: Side | None
    baseline: Side | None
    gold: Mapping[str, Sequence[tuple[str, str]]]
    calibrated: dict[str, Any] | None = None

    def cases(self, room: int, clean: Callable[[str], str]) -> list[CaseChange]:
        """Every case, was and is; ``room`` says how much of texts is kept, ``clean`` takes secrets out of them."""
        if self.candidate is None:
            return []
        return case_changes.changes_of(self.candidate, self.baseline, self.gold, Cut(room, clean))


def read_release(workspace: Workspace, release_id: str) -> Judged:
    """The newest verdict on a release; what is missing is None."""
    folder = workspace.evidence(release_id)
    verdict = evidence.read_object(folder / "verdict.json", evidence.VERDICT_FIELDS)
    baseline = evidence.baseline_side(workspace, verdict) if verdict else None
    calibrated = evidence.read_object(workspace.calibration(release_id), _CALIBRATED_FIELDS)
    return _read(workspace, release_id, folder, verdict, baseline, calibrated)


def read_system(workspace: Workspace, folder: Path) -> Judged:
    """The verdict on a system of one's own, as ``scripts/evaluate_system.py`` left it in the folder."""
    verdict = evidence.read_object(folder / "verdict.json", evidence.VERDICT_FIELDS | {"baseline_folder"})
    baseline = None
    if verdict and verdict["baseline_folder"]:
        found = evidence.read_side(workspace.root / verdict["baseline_folder"])
        baseline = found if found and found.evaluation.digest == verdict["baseline_metrics_digest"] else None
    name = verdict["release_id"] if verdict else folder.name
    return _read(workspace, name, folder, verdict, baseline, None)


def _read(
    workspace: Workspace,
    name: str,
    folder: Path,
    verdict: dict[str, Any] | None,
    baseline: Side | None,
    calibrated: dict[str, Any] | None,
) -> Judged:
    signature = attesting.signature_of_verdict(workspace, folder)
    candidate = evidence.read_side(folder / "evaluation")
    if verdict is None or candidate is None or verdict.get("metrics_digest") != candidate.evaluation.digest:
        return Judged(name, folder, verdict, signature, candidate, None, {}, calibrated)
    gold = evidence.gold_of(workspace, verdict["cases_file"], candidate.evaluation.summary["inputs"]["cases_digest"])
    return Judged(name, folder, verdict, signature, candidate, baseline, gold, calibrated)


def values(judged: Judged, cases: Sequence[CaseChange]) -> dict[str, Any]:
    """What the templates that show a verdict are rendered from."""
    verdict = judged.verdict
    metrics = verdict["metrics"] if verdict else []
    simulated = verdict.get("calibration") if verdict else None
    return {
        "judged": judged,
        "verdict": verdict,
        "means": _MEANS.get(verdict["verdict"], "") if verdict else "",
        "settling": settling(metrics),
        "forest": plots.forest(metrics),
        "levels": plots.levels(metrics),
        "status_of": tables.status_of,
        "measures": tables.MEASURES,
        "signature": judged.signature,
        "signed_line": signature_line(judged.signature),
        "simulated": simulated,
        "simulated_line": simulation.to_text(simulated) if verdict and "calibration" in verdict else None,
        "calibration_notes": _calibration_notes(judged),
        "cases": cases,
        "compared": judged.candidate is not None and judged.baseline is not None,
        "moves": case_changes.count_moves(cases),
        "outcomes": outcomes(cases),
        "unanswerable": unanswerable(cases),
        "deciding": case_changes.DECIDING,
        "words_of": case_changes.words_of,
    }


def signature_line(signature: signing.Signature) -> str:
    """Who signed the verdict, or that nobody did, in words."""
    if signature.state == "unsigned":
        return attesting.signed_line(None)
    if signature.state == "bad":
        return f"SIGNATURE BAD: {signature.found}: do not trust this verdict"
    return attesting.state_line(signature)


def settling(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each metric that the cases leave open: what they would notice, and how many would settle it."""
    return [
        {
            "metric": item["metric"],
            "margin": item["margin"],
            "pairs": found["pairs"],
            "clusters": found["clusters"],
            "minimum_detectable": found["minimum_detectable"],
            "needed_cases": item.get("needed_cases"),
        }
        for item in metrics
        if item["status"] == "INCONCLUSIVE" and (found := item["difference"])
    ]


def outcomes(cases: Sequence[CaseChange]) -> list[dict[str, Any]]:
    """Where evidence was lost: a row for each label that some answerable case has, now or before, in the chain's order."""
    now, before = case_changes.count_outcomes(cases)
    rows = [(label, MEANINGS[label]) for label in LABELS]
    rows.append((case_changes.USED, "the answer uses the evidence"))
    return [
        {"outcome": label, "now": now[label], "before": before[label], "meaning": meaning}
        for label, meaning in rows
        if now[label] or before[label]
    ]


def unanswerable(cases: Sequence[CaseChange]) -> dict[str, int]:
    """Of the unanswerable cases: how many there are, were abstained from, and have no answer that is known."""
    listed = [case for case in cases if not case.answerable]
    now = [case.outcome for case in listed]
    before = sum(case.outcome_before == ABSTAINED for case in listed)
    found = {"cases": len(now), "abstained": now.count(ABSTAINED), "unread": now.count(UNREAD)}
    return {**found, "abstained_before": before}


def _calibration_notes(judged: Judged) -> list[str]:
    """What keeps a calibration with real builds from speaking of this very verdict."""
    if judged.calibrated is None or judged.verdict is None:
        return []
    then, now = judged.calibrated["inputs"], judged.verdict.get("inputs", {})
    other = [said for name, said in _OF_A_CALIBRATION.items() if then.get(name) != now.get(name)]
    gates = judged.calibrated.get("gates_digest")
    other += ["limits of the gate"] if gates != judged.verdict.get("gates_digest") else []
    return [f"it was made with other {' and other '.join(other)} than this verdict"] if other else []
