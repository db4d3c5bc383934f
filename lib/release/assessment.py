"""Assessing a release: evaluate it and what is live on the same cases, gate it, and record the verdict."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.evaluation import calibration, gate, results, run
from lib.evaluation import cases as case_files
from lib.evaluation.settings import EvaluationSettings
from lib.index import changes
from lib.index.documents import corpus_digest
from lib.index.releases import Release, get_release, read_pointer
from lib.platform import audit, failpoints, postgres
from lib.platform.errors import GoliveError, Refused, Unavailable
from lib.platform.files import digest_of, read_json, write_json, write_text
from lib.platform.workspace import Workspace
from lib.release import attesting, catching_up, receipts
from lib.release.gates import load_gates
from lib.release.tables import interval, number, status_of, text_table

_TRIES = 3
_ROLES = ("reader", "judge", "metrics")


@dataclass(frozen=True)
class Assessment:
    """A verdict with the place of its evidence; ``content`` is what ``verdict.json`` holds."""

    release_id: str
    verdict: str
    content: dict[str, Any]
    folder: Path

    def to_text(self, workspace: Workspace) -> str:
        return f"{verdict_text(self.content)}\nevidence: {workspace.show(self.folder)}"


@dataclass(frozen=True)
class Plan:
    """The release to assess with its cases, what is live, and the gates."""

    request: run.Request
    live: Release | None
    gates: dict[str, Any]

    @property
    def baseline(self) -> Release | None:
        """What is live, unless that is the release itself."""
        return self.live if self.live and self.live.release_id != self.request.release.release_id else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "release_id": self.request.release.release_id,
            "table": self.request.release.table_name,
            "cases": self.request.cases.count,
            "baseline_release": self.baseline.release_id if self.baseline else None,
            "use_bedrock": self.request.settings.use_bedrock,
        }

    def to_text(self) -> str:
        found = self.to_dict()
        against = found["baseline_release"] or "nothing: no other release is live"
        return f"would evaluate {found['release_id']} on {found['cases']} cases, compared with {against}"


def plan(workspace: Workspace, connection: Connection, *, cases_path: Path, settings: EvaluationSettings) -> Plan:
    """What an assessment of the active config's release will look at.

    Raises:
        Refused: the release is not sealed, or too many documents have changed since.
        NotFound, ConfigInvalid: cases or gates.
    """
    gates = load_gates(workspace)
    cases = case_files.load(cases_path)
    config = store.read_active(workspace)
    with connection:
        release = get_release(connection, config.ingest_run_id)
        live = read_pointer(connection).release
    if release.content_digest is None:
        raise Refused(f"{release.release_id} is not built yet", hint="scripts/shadow_ingest.py")
    _require_few_changes(workspace, connection, release)
    audit_file = workspace.evidence(release.release_id) / "prompt_audit.jsonl"
    return Plan(run.Request(release, cases, config.sources, settings, audit_file=audit_file), live, gates)


def assess(
    workspace: Workspace,
    connection: Connection,
    *,
    cases_path: Path,
    settings: EvaluationSettings,
    fresh_judging: bool = False,
) -> Assessment:
    """Evaluates the active config's release against what is live and records the gate's verdict.

    Both are evaluated as they answer once they have caught up with the documents, on gold found in the documents as they
    stand; the inputs name which versions those were (``coverage_digest``), beside the digest of the sealed table. The
    baseline's evaluation is taken from its own evidence where nothing that decides it has changed, and else made anew.
    With ``fresh_judging`` both are made anew, and judged without the stored judgements.

    Raises:
        as ``plan``; IntegrityMismatch: a table is not what was sealed.
    """
    started = time.monotonic()
    signer = attesting.signer()  # a key that cannot be read stops this before the work, not after it
    planned = plan(workspace, connection, cases_path=cases_path, settings=settings)
    request = replace(planned.request, fresh_judging=fresh_judging)
    release, live, gates = request.release, planned.live, planned.gates
    folder = workspace.evidence(release.release_id)
    candidate, baseline = _evaluate(workspace, connection, request, planned.baseline, folder)
    decided = decide(candidate, baseline, gates, settings.determinism.seed, first=live is None)
    decided = replace(decided, warnings=[*settings.remarks(), *decided.warnings])
    content = {
        **content_of(workspace, candidate, cases_path, gates, decided),
        "use_bedrock": settings.use_bedrock,
        "manifest_digest": attesting.manifest_digest(workspace, release.release_id),
        "baseline_metrics_digest": baseline.digest if baseline else None,
        "signed_by": attesting.keyid(signer),
        "calibration": calibration.estimate(candidate, baseline, gates, settings.determinism.seed),
    }
    failpoints.reach("evaluate.verdict_files")
    write(folder, content)
    failpoints.reach("evaluate.record")
    record(connection, release, content)
    failpoints.reach("evaluate.sign")
    attesting.sign_verdict(connection, folder, content, signer)
    failpoints.reach("evaluate.receipt")
    receipts.write(
        workspace,
        release.release_id,
        "evaluate",
        outcome=decided.verdict,
        inputs=evaluate_inputs(release, live, content, content["manifest_digest"]),
        summary={"reasons": decided.reasons, "baseline": decided.baseline_release, **candidate.summary["metrics"]},
        seconds=time.monotonic() - started,
    )
    return Assessment(release.release_id, decided.verdict, content, folder)


def content_of(
    workspace: Workspace, evaluation: results.Evaluation, cases_path: Path, gates: dict[str, Any], decided: gate.Verdict
) -> dict[str, Any]:
    """What every verdict says, on a release or on another system."""
    return {
        "release_id": evaluation.summary["inputs"]["release_id"],
        "cases_file": workspace.show(cases_path.resolve()),
        "gates_digest": digest_of(gates),
        "inputs": evaluation.summary["inputs"],
        "produced_by": evaluation.summary["produced_by"],
        "metrics_digest": evaluation.digest,
        **decided.to_dict(),
    }


def write(folder: Path, content: dict[str, Any]) -> None:
    """Writes a verdict's two files."""
    write_json(folder / "verdict.json", content)
    write_text(folder / "verdict.txt", verdict_text(content) + "\n")


def decide(
    candidate: results.Evaluation, baseline: results.Evaluation | None, gates: dict[str, Any], seed: int, *, first: bool
) -> gate.Verdict:
    """The gate's verdict; ``first``: nothing is live, so that a pass without a baseline is a first release's."""
    decided = gate.judge_gate(candidate, baseline, gates, seed)
    if decided.verdict == "PASS" and baseline is None and not first:  # the gate takes it for a first release
        return replace(decided, reasons=["it is what is live: every absolute limit is met"])
    return decided


def _evaluate(
    workspace: Workspace, connection: Connection, request: run.Request, live: Release | None, folder: Path
) -> tuple[results.Evaluation, results.Evaluation | None]:
    """The candidate's evaluation and the baseline's, both caught up with the same documents.

    Raises:
        CaughtUpMeanwhile: documents were brought in during each of the tries.
    """
    for left in reversed(range(_TRIES)):
        failpoints.reach("evaluate.catch_up")
        outcome = catching_up.catch_up(workspace, connection)
        for release in filter(None, (request.release, live)):
            if release.release_id in outcome.failed:
                raise Unavailable(
                    f"{release.release_id} cannot be brought up to date with the documents",
                    detail=outcome.failed[release.release_id],
                )
        try:
            failpoints.reach("evaluate.candidate")
            candidate = run.evaluate(workspace, connection, request, folder / "evaluation")
            if live is None:
                return candidate, None
            failpoints.reach("evaluate.baseline")
            return candidate, _baseline(workspace, connection, replace(request, release=live), folder)
        except run.CaughtUpMeanwhile:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _inputs_now(connection: Connection, request: run.Request) -> dict[str, Any]:
    """The inputs of an evaluation once the release has caught up. The caller owns the transaction."""
    covered = changes.digest_of_standing(connection, request.release.locked_config.sources)
    return run.inputs_of(request, corpus_digest(connection, request.sources), covered)


def _require_few_changes(workspace: Workspace, connection: Connection, release: Release) -> None:
    """Raises Refused where more documents changed since the seal than a promotion would allow."""
    try:
        changes.ensure_coverage(connection, release)
        few, found = catching_up.judge_documents(workspace, connection, release, may_be_pending=True)
    finally:
        connection.rollback()
    if not few:
        raise Refused("the documents have changed since the table was sealed", detail=found, hint="make golive")


def evaluate_inputs(
    release: Release, live: Release | None, content: dict[str, Any], manifest_digest: str | None
) -> dict[str, Any]:
    """What a verdict depends on, and the manifest that it names, for the receipt."""
    return {
        **content["inputs"],
        "gates_digest": content["gates_digest"],
        "manifest_digest": manifest_digest,
        "baseline": [live.release_id, live.content_digest] if live and live.release_id != release.release_id else None,
    }


def expected_inputs(
    workspace: Workspace, connection: Connection, release: Release, *, cases_path: Path, settings: EvaluationSettings
) -> dict[str, Any]:
    """The inputs that an assessment would have now; compared with a receipt's to see whether it still holds."""
    request = run.Request(release, case_files.load(cases_path), release.locked_config.sources, settings)
    with connection:
        live = read_pointer(connection).release
        inputs = _inputs_now(connection, request)
    found = {"inputs": inputs, "gates_digest": digest_of(load_gates(workspace))}
    return evaluate_inputs(release, live, found, attesting.manifest_digest(workspace, release.release_id))


def stands(workspace: Workspace, connection: Connection, release: Release, cases_path: Path) -> bool:
    """Whether the evidence of the newest verdict is whole: its files as they were recorded, and the cases where it says."""
    folder = workspace.evidence(release.release_id)
    with connection:
        recorded = postgres.one(
            connection,
            "SELECT verdict_digest, metrics_digest FROM golive.verdicts WHERE release_id = %s"
            " ORDER BY verdict_id DESC LIMIT 1",
            (release.release_id,),
        )
    try:
        content = read_json(folder / "verdict.json", "verdict")
        evaluation = results.read(folder / "evaluation")
    except GoliveError:
        return False
    found = {"verdict_digest": digest_of(content), "metrics_digest": evaluation.digest}
    return recorded == found and content["cases_file"] == workspace.show(cases_path.resolve())


def _baseline(workspace: Workspace, connection: Connection, request: run.Request, folder: Path) -> results.Evaluation:
    with connection:
        wanted = _inputs_now(connection, request)
    places = (workspace.evidence(request.release.release_id) / "evaluation", folder / "baseline")
    for place in () if request.fresh_judging else places:
        try:
            found = results.read(place)
        except GoliveError:
            continue
        # one with unscored cases is measured anew: else a bad hour of a model service would decide for good
        if found.summary["inputs"] == wanted and not found.unscored:
            return found
    return run.evaluate(workspace, connection, request, folder / "baseline")


def record(connection: Connection, release: Release, content: dict[str, Any]) -> None:
    """Writes a verdict to ``golive.verdicts`` and to the audit log, in one transaction."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO golive.verdicts (release_id, verdict, config_hash, content_digest, cases_digest, gates_digest,"
            " metrics_digest, verdict_digest, baseline, metrics) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                release.release_id,
                content["verdict"],
                release.config_hash,
                release.content_digest,
                content["inputs"]["cases_digest"],
                content["gates_digest"],
                content["metrics_digest"],
                digest_of(content),
                content["baseline_release"],
                json.dumps({item["metric"]: item["value"] for item in content["metrics"]}),
            ),
        )
        reason = "; ".join(content["reasons"])
        audit.record(connection, "verdict", release.release_id, f"{content['verdict']}: {reason}", after=digest_of(content))
        failpoints.reach("evaluate.commit_record")


def verdict_text(content: dict[str, Any]) -> str:
    """The verdict as a table for a terminal."""
    rows = [["metric", "value", "baseline", "limits", "difference [interval]", "status"]]
    for item in content["metrics"]:
        limits = [f">= {item['floor']:g}"] if item["floor"] is not None else []
        limits += [f"<= {item['ceiling']:g}"] if item["ceiling"] is not None else []
        found = item["difference"]
        difference = interval(found) if found else ""
        values = (number(item["value"]), number(item["baseline"]))
        rows.append([item["metric"], *values, ", ".join(limits), difference, status_of(item)])
    counts = content["cases"]
    lines = [text_table(rows)]
    lines += [f"warning: {line}" for line in content["warnings"]]
    lines.append(
        f"{counts['answerable']} answerable and {counts['unanswerable']} unanswerable cases, {counts['unscored']} unscored,"
        f" {counts['answers_without_claims']} without an answer (whose hallucination, noise sensitivity and self-knowledge"
        " are undefined and left out; RAGChecker calls them 0, which is perfect)"
    )
    # a file's keys are sorted: the same verdict has to read the same before it was written and after
    roles = sorted(content["produced_by"], key=lambda role: (_ROLES.index(role) if role in _ROLES else len(_ROLES), role))
    lines.append("produced by: " + ", ".join(f"{role} {content['produced_by'][role]}" for role in roles))
    nothing = "no baseline was given" if "baseline_folder" in content else "no other release is live"
    lines.append(f"compared with: {content['baseline_release'] or f'nothing: {nothing}'}")
    lines.append(attesting.signed_line(content.get("signed_by")))
    if "calibration" in content:
        lines.append(calibration.to_text(content["calibration"]))
    lines += [f"{content['verdict']}: {reason}" for reason in content["reasons"]]
    return "\n".join(lines)
