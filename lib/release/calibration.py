"""Calibrating the gate for a release with real builds: the same config twice, and six planted regressions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.evaluation import calibration as simulation
from lib.evaluation import cases as case_files
from lib.evaluation import gate, results
from lib.evaluation.attribution import LABELS, label_of
from lib.evaluation.settings import EvaluationSettings
from lib.index import shadow
from lib.index.documents import Document
from lib.index.releases import Release, get_release, read_pointer
from lib.platform.clock import timestamp
from lib.platform.errors import UsageError
from lib.platform.files import digest_of, write_json
from lib.platform.progress import note
from lib.platform.workspace import Workspace
from lib.release import health, scratch
from lib.release.gates import load_gates
from lib.release.ingesting import Builder, builder
from lib.release.planted import REGRESSIONS, Regression
from lib.release.tables import text_table

_EFFORT = simulation.Effort(trials=200, resamples=499, cases=100_000, shares=(0.02, 0.05, 0.10))
_UNCHANGED = Regression("unchanged", "the same config and documents")
_AGAIN = Regression("again", "the same config and documents, built once more")


@dataclass(frozen=True)
class Plan:
    """The release whose gate is calibrated, and what is planted into it; ``skipped``: name → why it cannot be."""

    release: Release
    cases: case_files.CaseFile
    settings: EvaluationSettings
    gates: dict[str, Any]
    planted: list[Regression]
    skipped: dict[str, str]
    path: Path

    def to_dict(self) -> dict[str, Any]:
        return {
            "release_id": self.release.release_id,
            "cases": self.cases.count,
            "planted": {regression.name: regression.what for regression in self.planted},
            "skipped": self.skipped,
            "file": str(self.path),
        }

    def to_text(self) -> str:
        head = (
            f"would build and evaluate {self.release.release_id} twice, and with each of these, on {self.cases.count} cases"
        )
        lines = [f"  {regression.name}: {regression.what}" for regression in self.planted]
        return "\n".join([head, *lines, *(f"  not {name}: {why}" for name, why in self.skipped.items())])


@dataclass(frozen=True)
class Trial:
    """One scratch table, built, evaluated and looked at by the health gates."""

    release: Release
    evaluation: results.Evaluation
    health: list[health.Check]
    seconds: float


def plan(
    workspace: Workspace,
    connection: Connection,
    settings: EvaluationSettings,
    *,
    cases_path: Path,
    release_id: str | None = None,
    only: Sequence[str] = (),
) -> Plan:
    """What a calibration of a release (default: what is live, else the active config's) will build.

    Raises:
        UsageError: ``only`` names no regression. NotFound, ConfigInvalid: the release, the cases, the gates.
    """
    known = [regression.name for regression in REGRESSIONS]
    if unknown := [name for name in only if name not in known]:
        raise UsageError(f"no planted regression {unknown[0]!r}", hint=f"there are: {', '.join(known)}")
    with connection:
        live = read_pointer(connection).release
        named = release_id or (live.release_id if live else store.read_active(workspace).ingest_run_id)
        release = get_release(connection, named)
    asked = [regression for regression in REGRESSIONS if not only or regression.name in only]
    skipped = {item.name: why for item in asked if (why := item.cannot(release.locked_config))}
    return Plan(
        release=release,
        cases=case_files.load(cases_path),
        settings=settings,
        gates=load_gates(workspace),
        planted=[item for item in asked if item.name not in skipped],
        skipped=skipped,
        path=workspace.calibration(release.release_id),
    )


def calibrate(workspace: Workspace, connection: Connection, planned: Plan) -> dict[str, Any]:
    """Builds, evaluates and gates every trial, and writes what was found to ``metrics/calibration/<release_id>.json``.

    Args:
        connection: with a session of its own, which holds the temporary tables.

    Raises:
        Refused: the connection goes through a pooler. Unavailable: the documents changed meanwhile; as ``run.evaluate``.
    """
    scratch.require_own_session(connection, "a calibration")
    started, config = time.monotonic(), planned.release.locked_config
    documents, _ = shadow.read_corpus(connection, config)
    with builder(workspace, config, documents) as tools:
        bench = _Bench(workspace, connection, planned, documents, scratch.remembering(tools))
        unchanged, again = bench.run(_UNCHANGED), bench.run(_AGAIN)
        found = {
            **planned.to_dict(),
            "documents": len(documents),
            "calibrated_at": timestamp(),
            "gates_digest": digest_of(planned.gates),
            "inputs": unchanged.evaluation.summary["inputs"],
            "produced_by": unchanged.evaluation.summary["produced_by"],
            "unchanged": _judged_again(planned, unchanged, again),
            "regressions": {item.name: _judged(planned, item, bench.run(item), unchanged) for item in planned.planted},
        }
    seed = planned.settings.determinism.seed
    found["simulated"] = simulation.estimate(unchanged.evaluation, None, planned.gates, seed, _EFFORT)
    found["caught"] = sum(item["caught"] for item in found["regressions"].values())
    found["seconds"] = round(time.monotonic() - started, 1)
    found["file"] = workspace.show(planned.path)
    write_json(planned.path, found)
    return found


def passed(found: dict[str, Any]) -> bool:
    """Whether the unchanged release passed as it must, and every planted regression was stopped, of at least one."""
    planted = len(found["regressions"])
    return bool(found["unchanged"]["verdict"] == "PASS" and planted and found["caught"] == planted)


@dataclass(frozen=True)
class _Bench:
    """Where trials are built and evaluated, all on the same documents."""

    workspace: Workspace
    connection: Connection
    planned: Plan
    documents: Sequence[Document]
    tools: Builder

    def run(self, regression: Regression) -> Trial:
        """One trial; its table is gone when this returns.

        Raises:
            Unavailable: the documents that hold the gold changed since the first of them were read.
        """
        started = time.monotonic()
        note(f"calibration: {regression.name}: {regression.what}")
        config = regression.configure(self.planned.release.locked_config)
        blank = scratch.release_of(
            config,
            self.documents,
            release_id=f"calibration of {config.ingest_run_id}",
            table_name=f"calibration_{regression.name}",
        )
        try:
            chosen = regression.choose(self.documents)
            release = scratch.build(self.connection, blank, chosen, self.tools, regression.sql)
            evaluation = scratch.evaluate(
                self.workspace, self.connection, release, self.planned.cases, self.planned.settings
            )
            checks = health.check_rows(self.connection, release)
        finally:
            scratch.drop(self.connection, blank)
        return Trial(release, evaluation, checks, round(time.monotonic() - started, 1))


def _judged_again(planned: Plan, unchanged: Trial, again: Trial) -> dict[str, Any]:
    """The same release built twice: whether its tables and its cases are equal, and what the gate says."""
    decided = gate.judge_gate(again.evaluation, unchanged.evaluation, planned.gates, planned.settings.determinism.seed)
    return {
        "verdict": decided.verdict,
        "reasons": decided.reasons,
        "digests_equal": unchanged.release.content_digest == again.release.content_digest,
        "cases_equal": list(unchanged.evaluation.rows) == list(again.evaluation.rows),
        "health": health.overall(unchanged.health),
        "lost": _lost(unchanged.evaluation),
        "rows": unchanged.release.row_count,
        "seconds": [unchanged.seconds, again.seconds],
    }


def _judged(planned: Plan, regression: Regression, trial: Trial, unchanged: Trial) -> dict[str, Any]:
    """What the gates say of a planted regression, and by which label its cases were lost."""
    decided = gate.judge_gate(trial.evaluation, unchanged.evaluation, planned.gates, planned.settings.determinism.seed)
    noticed = [item.metric for item in decided.metrics if item.critical and item.status != "PASS"]
    unhealthy = [check.name for check in trial.health if check.status != "PASS"]
    return {
        "what": regression.what,
        "verdict": decided.verdict,
        "caught": decided.verdict != "PASS" or bool(unhealthy),
        "noticed_by": noticed,
        "health": {check.name: check.status for check in trial.health},
        "unhealthy": unhealthy,
        "reasons": decided.reasons,
        "lost": _lost(trial.evaluation),
        "rows": trial.release.row_count,
        "embedded": trial.release.ingest_stats["embedded_now"],
        "seconds": trial.seconds,
    }


def _lost(evaluation: results.Evaluation) -> dict[str, int]:
    counts = Counter(label for row in evaluation.rows if (label := label_of(row)))
    return {label: counts[label] for label in LABELS}


def to_text(found: dict[str, Any]) -> str:
    """The calibration for a terminal."""
    unchanged = found["unchanged"]
    same = "equal" if unchanged["digests_equal"] else "DIFFERENT"
    lines = [
        f"{found['release_id']} built twice from {found['documents']} documents, {same} digests: {unchanged['verdict']}",
        f"  lost without a fault: {_losses(unchanged['lost'], {})}",
    ]
    rows = [["planted", "evaluation", "noticed by", "cases lost, more than without"]]
    for name, item in found["regressions"].items():
        by = [*item["noticed_by"][:3], *([f"{len(item['noticed_by']) - 3} more"] if len(item["noticed_by"]) > 3 else [])]
        by += [f"health gate {check}" for check in item["unhealthy"]]
        rows.append([name, item["verdict"], ", ".join(by) or "NOTHING", _losses(item["lost"], unchanged["lost"])])
    lines += [text_table(rows)] if found["regressions"] else []
    lines += [f"not planted: {name}: {why}" for name, why in found["skipped"].items()]
    missed = [name for name, item in found["regressions"].items() if not item["caught"]]
    lines.append(f"caught: {found['caught']} of {len(found['regressions'])}")
    lines += [_missed(name, found["regressions"][name], unchanged["lost"]) for name in missed]
    lines += [simulation.to_text(found["simulated"]), f"written: {found['file']}"]
    return "\n".join(lines)


def _missed(name: str, item: dict[str, Any], without: dict[str, int]) -> str:
    more = sum(item["lost"].values()) - sum(without.values())
    harm = f"it loses {more} cases more" if more > 0 else "on these cases it loses no more than what is unchanged"
    return f"MISSED: {name}: {item['what']}; a release like this would pass: {harm}"


def _losses(lost: dict[str, int], without: dict[str, int]) -> str:
    changed = {label: count - without.get(label, 0) for label, count in lost.items()}
    form = "{label} {count:+d}" if without else "{label} {count}"
    return ", ".join(form.format(label=label, count=count) for label, count in changed.items() if count) or "none"
