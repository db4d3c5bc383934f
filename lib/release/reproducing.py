"""Running an evaluation again from its manifest, and comparing it with the recorded one to the byte.

Nothing that a promotion looks at is touched: the new evaluation goes into a folder of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.evaluation import cases as case_files
from lib.evaluation import results, run
from lib.evaluation import settings as evaluation_settings
from lib.index import changes
from lib.index.documents import corpus_digest
from lib.index.releases import Release, get_release
from lib.platform import postgres, signing
from lib.platform.clock import timestamp
from lib.platform.errors import ExitCode, GoliveError, IntegrityMismatch
from lib.platform.files import sha256_file, write_json
from lib.platform.workspace import Workspace
from lib.release import attesting, manifest

FILES = ("metrics.json", "case_results.jsonl")


@dataclass(frozen=True)
class Plan:
    """A manifest held against how things stand. ``refusals`` say why numbers made now could not be compared."""

    then: dict[str, Any]
    request: run.Request
    folder: Path
    signature: signing.Signature
    changed: list[dict[str, Any]]
    recorded: results.Evaluation | None
    recorded_digest: str | None
    refusals: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "release_id": self.then["release_id"],
            "manifest_digest": manifest.evaluated_digest(self.then),
            "signature": {"state": self.signature.state, "found": self.signature.found},
            "changed": [{**item, "group": manifest.group_of(item["field"])} for item in self.changed],
            "refusals": self.refusals,
            "recorded_metrics_digest": self.recorded_digest,
        }

    def to_text(self) -> str:
        lines = [f"manifest of {self.then['release_id']}, made {self.then['generated_at']}"]
        lines.append(attesting.state_line(self.signature))
        lines += [f"  differs: {line}" for line in manifest.differences_text(self.changed)]
        return "\n".join(lines if self.changed else [*lines, "nothing that it names has changed since"])


@dataclass(frozen=True)
class Outcome:
    """``outcome``: ``identical`` to the byte, ``same numbers`` (of other code), ``differs`` or ``nothing recorded``."""

    outcome: str
    metrics_digest: str
    folder: Path
    metrics: list[str] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        codes = {"differs": ExitCode.INTEGRITY, "nothing recorded": ExitCode.INCONCLUSIVE}
        return codes.get(self.outcome, ExitCode.DONE)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}

    def to_text(self, workspace: Workspace) -> str:
        said = {
            "identical": f"identical to the byte: {', '.join(FILES)}",
            "same numbers": f"the same numbers for every case; recorded with another {', '.join(self.inputs)}",
            "nothing recorded": "nothing recorded to compare with: no evaluation of this release, and no verdict",
            "differs": "; ".join(
                f"{what} differ: {', '.join(names[:10])}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")
                for what, names in (("inputs", self.inputs), ("metrics", self.metrics), ("cases", self.cases))
                if names
            )
            or f"it differs: the recorded evaluation's digest is another than {self.metrics_digest[:12]}",
        }[self.outcome]
        return f"{said}\nwritten: {workspace.show(self.folder)}"


def plan(
    workspace: Workspace, connection: Connection, path: Path, *, cases_path: Path | None = None, outdir: Path | None = None
) -> Plan:
    """Holds a manifest against how things stand now.

    Args:
        cases_path: the cases, where they are not where the manifest says.

    Raises:
        NotFound, ConfigInvalid: the manifest, its release or the cases. IntegrityMismatch: a signature that is bad.
    """
    then = manifest.read(path)
    signature = attesting.check_manifest(workspace, path, then)
    with connection:
        release = get_release(connection, then["release_id"])
    settings = evaluation_settings.load(workspace, use_bedrock=bool(then["evaluation"].get("use_bedrock", False)))
    cases_path = cases_path or workspace.root / str(then["cases"].get("file", "eval/test_cases.json"))
    now = manifest.build(workspace, connection, release, cases_path=cases_path, settings=settings)
    changed = manifest.differences(then, now)
    moment = timestamp().replace(":", "")
    folder = outdir or workspace.evidence(release.release_id) / "reproduced" / moment
    request = run.Request(
        release,
        case_files.load(cases_path),
        release.locked_config.sources,
        settings,
        audit_file=folder / "prompt_audit.jsonl",
        recorded=workspace.evidence(release.release_id) / "evaluation",
    )
    recorded, digest = _recorded(workspace, connection, release)
    refusals = [f"{item['field']} has changed" for item in changed if manifest.is_decisive(item["field"])]
    if recorded is not None:
        refusals += _untied(then, recorded) + _documents(connection, request, recorded)
    return Plan(then, request, folder, signature, changed, recorded, digest, refusals)


def reproduce(workspace: Workspace, connection: Connection, planned: Plan) -> Outcome:
    """Evaluates again and compares; leaves ``reproduction.json`` beside the new evaluation.

    Raises:
        IntegrityMismatch: numbers made now could not be compared; nothing is evaluated.
    """
    if planned.refusals:
        raise IntegrityMismatch(
            f"the evaluation of {planned.then['release_id']} cannot be run again as things stand",
            detail="; ".join(planned.refusals[:8]),
            hint="bring back what the manifest names, or evaluate anew: scripts/production_evaluation.py --skip-ingest",
        )
    found = run.evaluate(workspace, connection, planned.request, planned.folder)
    recorded_folder = workspace.evidence(planned.then["release_id"]) / "evaluation"
    outcome = compare(planned, found, recorded_folder)
    files = {name: sha256_file(planned.folder / name) for name in FILES}
    record = {**planned.to_dict(), **outcome.to_dict(), "folder": workspace.show(planned.folder), "files": files}
    write_json(planned.folder / "reproduction.json", {"finished_at": timestamp(), **record})
    return outcome


def compare(planned: Plan, found: results.Evaluation, recorded_folder: Path) -> Outcome:
    """How the new evaluation relates to the recorded one."""
    recorded = planned.recorded
    if planned.recorded_digest is None:
        return Outcome("nothing recorded", found.digest, planned.folder)
    if recorded is None:
        outcome = "identical" if found.digest == planned.recorded_digest else "differs"
        return Outcome(outcome, found.digest, planned.folder)
    inputs = _differing(recorded.summary["inputs"], found.summary["inputs"])
    metrics = _differing(recorded.summary["metrics"], found.summary["metrics"])
    others = _differing(
        {name: value for name, value in recorded.summary.items() if name not in ("inputs", "metrics")},
        {name: value for name, value in found.summary.items() if name not in ("inputs", "metrics")},
    )
    cases = _differing({row["query_id"]: row for row in recorded.rows}, {row["query_id"]: row for row in found.rows})
    same_bytes = all((recorded_folder / name).read_bytes() == (planned.folder / name).read_bytes() for name in FILES)
    other_numbers = metrics or cases or others or not inputs
    outcome = "identical" if same_bytes else "differs" if other_numbers else "same numbers"
    return Outcome(outcome, found.digest, planned.folder, metrics + others, cases, inputs)


def _recorded(
    workspace: Workspace, connection: Connection, release: Release
) -> tuple[results.Evaluation | None, str | None]:
    """The recorded evaluation, and its digest as the newest verdict names it.

    Raises:
        IntegrityMismatch: the files are not those that the verdict was given for.
    """
    with connection:
        row = postgres.one(
            connection,
            "SELECT metrics_digest FROM golive.verdicts WHERE release_id = %s ORDER BY verdict_id DESC LIMIT 1",
            (release.release_id,),
        )
    judged = row["metrics_digest"] if row else None
    try:
        found = results.read(workspace.evidence(release.release_id) / "evaluation")
    except GoliveError:
        return None, judged
    if judged is not None and found.digest != judged:
        raise IntegrityMismatch(
            f"the recorded evaluation of {release.release_id} is not the one that its verdict was given for",
            hint=f"scripts/verify_release.py {release.release_id}",
        )
    return found, found.digest


def _untied(then: dict[str, Any], recorded: results.Evaluation) -> list[str]:
    """Where the recorded evaluation was made from something else than the manifest names."""
    found = []
    for name in manifest.INPUTS:
        if recorded.summary["inputs"].get(name) != manifest.input_of(then, name):
            found.append(f"the recorded evaluation has another {name} than the manifest")
    return found


def _documents(connection: Connection, request: run.Request, recorded: results.Evaluation) -> list[str]:
    """Whether the release answers from the very versions of documents that it was evaluated with."""
    with connection:
        covered = changes.coverage_of(connection, request.release)
        gold = corpus_digest(connection, request.sources)
    now = {"coverage_digest": covered.digest if covered else None, "gold_corpus_digest": gold}
    return [
        f"{name} is not that of the recorded evaluation: the release answers from other versions of documents"
        for name, value in now.items()
        if recorded.summary["inputs"].get(name) != value
    ]


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
