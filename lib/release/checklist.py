"""The go-live checklist: for each item, checked (with evidence), attested by a person, failed, or missing.

What cannot be checked yet is missing, never passed. ``configs/checklist.yaml`` says which items block.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import layers, schemas, strict_yaml
from lib.evaluation import settings as evaluation_settings
from lib.index.releases import Release, read_pointer
from lib.platform import postgres
from lib.platform.errors import ConfigInvalid, GoliveError
from lib.platform.files import sha256_file
from lib.platform.workspace import Workspace
from lib.release import attesting, audit_heads, backup, health, manifest, receipts
from lib.release.tables import text_table

STATES = ("checked", "attested", "failed", "missing")


@dataclass(frozen=True)
class Item:
    """One line of the checklist as it stands now."""

    id: str
    section: str
    title: str
    state: str
    evidence: str
    blocking: bool


@dataclass(frozen=True)
class Context:
    """What the checks look at."""

    workspace: Workspace
    connection: Connection
    release: Release
    cases_path: Path
    now: datetime


def walk(context: Context) -> list[Item]:
    """Every item of ``configs/checklist.yaml``, in its order.

    Raises:
        ConfigInvalid: the checklist or an attestation is invalid.
    """
    environment = layers.environment_name(context.workspace, os.environ)
    values = layers.load(context.workspace, "checklist", environment=environment).values
    attested = _attestations(context, {item["id"] for item in values["items"]})
    return [_look(context, raw, attested) for raw in values["items"]]


def requires_signature(workspace: Workspace) -> bool:
    """Whether a verdict must be signed by a trusted key to go live; raises as ``walk``."""
    environment = layers.environment_name(workspace, os.environ)
    return bool(layers.load(workspace, "checklist", environment=environment).values.get("require_signature", False))


def blocking_items(summary: dict[str, Any]) -> list[str]:
    """The ids of what blocks, out of a receipt's summary; a summary without items blocks by itself."""
    items = summary.get("items")
    if not items:
        return ["no checklist was walked"]
    return [item["id"] for item in items if item["blocking"] and item["state"] not in ("checked", "attested")]


def to_text(items: list[Item]) -> str:
    rows = [["section", "item", "state", "blocks", "evidence"]]
    rows += [[item.section, item.title, item.state, "yes" if item.blocking else "", item.evidence] for item in items]
    counts = ", ".join(f"{sum(item.state == state for item in items)} {state}" for state in STATES)
    return f"{text_table(rows)}\n{counts}"


def as_summary(items: list[Item]) -> dict[str, Any]:
    return {"items": [asdict(item) for item in items]}


def _look(context: Context, raw: dict[str, Any], attested: dict[str, dict[str, Any]]) -> Item:
    state, evidence = "missing", "nothing checks this yet, and nobody attested it"
    if check := raw.get("check"):
        try:
            state, evidence = CHECKS[check](context)
        except GoliveError as error:
            state, evidence = "failed", error.message
    elif raw["id"] in attested:
        entry = attested[raw["id"]]
        state, evidence = "attested", f"{entry['by']} on {entry['at']}, until {entry['until']}: {entry['note']}"
    return Item(raw["id"], raw["section"], raw["title"], state, evidence, raw["blocking"])


def _attestations(context: Context, known: set[str]) -> dict[str, dict[str, Any]]:
    """``configs/attestations.yaml``, where there is one: what persons vouch for and still do today."""
    path = context.workspace.configs / "attestations.yaml"
    if not path.exists():
        return {}
    file = strict_yaml.load(path, "attestations")
    shown = context.workspace.show(path)
    schemas.check(file.values, "attestations", lambda dotted: f"{shown}:{file.lines.get(dotted, 1)}")
    today = context.now.date()
    found = {}
    for entry in file.values["attestations"]:
        if entry["item"] not in known:
            raise ConfigInvalid(f"{shown}: no checklist item {entry['item']!r}")
        try:
            first, last = date.fromisoformat(entry["at"]), date.fromisoformat(entry["until"])
        except ValueError as error:
            raise ConfigInvalid(f"{shown}: at and until of {entry['item']} must be days", detail=str(error)) from error
        if first <= today <= last:
            found[entry["item"]] = entry
    return found


def _manifest(context: Context) -> tuple[str, str]:
    path = manifest.find(context.workspace, context.release.release_id)
    if path is None:
        return "missing", "scripts/eval_manifest_generator.py has not run for this release"
    then = manifest.read(path)
    settings = evaluation_settings.load(context.workspace, use_bedrock=_used_bedrock(context))
    now = manifest.build(
        context.workspace, context.connection, context.release, cases_path=context.cases_path, settings=settings
    )
    changed = [item["field"] for item in manifest.differences(then, now) if item["field"] != "code.git_dirty"]
    if changed:
        return "failed", f"changed since: {', '.join(changed[:5])}"
    return "checked", f"{context.workspace.show(path)}, sha256 {sha256_file(path)[:12]}"


def _used_bedrock(context: Context) -> bool:
    receipt = receipts.read(context.workspace, context.release.release_id, "manifest")
    return bool(receipt and receipt.inputs.get("use_bedrock"))


def _determinism(context: Context) -> tuple[str, str]:
    check = health.check_environment(context.workspace, evaluation_settings.load(context.workspace))
    return ("checked" if check.status == "PASS" else "failed"), check.evidence


def _health_gate(name: str) -> Callable[[Context], tuple[str, str]]:
    def look(context: Context) -> tuple[str, str]:
        receipt = receipts.read(context.workspace, context.release.release_id, "health")
        if receipt is None or receipt.inputs.get("content_digest") != context.release.content_digest:
            return "missing", "scripts/health_gated_evaluation.py has not run for this table"
        for check in receipt.summary.get("checks", []):
            if check["name"] == name:
                return ("checked" if check["status"] == "PASS" else "failed"), f"{receipt.finished_at}: {check['evidence']}"
        return "missing", f"the health gates did not look at {name}"

    return look


def _concurrency(context: Context) -> tuple[str, str]:
    found = evaluation_settings.load(context.workspace).determinism
    problems = [problem for problem in found.problems() if problem.startswith(("MAX_WORKERS", "BEDROCK"))]
    evidence = (
        f"{found.max_workers} workers, {found.bedrock_max_in_flight} in flight,"
        f" {found.bedrock_requests_per_second:g} requests/s,"
        f" {found.bedrock_call_timeout_s:g} s a call, {found.bedrock_text_timeout_s:g} s for text"
    )
    return ("failed", "; ".join(problems)) if problems else ("checked", evidence)


def _evaluation(context: Context) -> tuple[str, str]:
    with context.connection:
        found = postgres.one(
            context.connection,
            "SELECT verdict, content_digest, decided_at FROM golive.verdicts WHERE release_id = %s"
            " ORDER BY verdict_id DESC LIMIT 1",
            (context.release.release_id,),
        )
    if found is None or found["content_digest"] != context.release.content_digest:
        return "missing", "scripts/production_evaluation.py has not judged this table"
    return ("checked" if found["verdict"] == "PASS" else "failed"), f"verdict {found['verdict']}"


def _backup(context: Context) -> tuple[str, str]:
    with context.connection:
        live = read_pointer(context.connection).release
        found = backup.standing(context.workspace, context.connection, [context.release, *([live] if live else [])])
    if isinstance(found, str):
        return "missing", found
    seconds = found.manifest["proven"]["seconds"]
    return "checked", f"{found.backup_id}, proven by a restore in {seconds:.1f} s, files unchanged since"


def _baselines(context: Context) -> tuple[str, str]:
    path = context.workspace.evidence(context.release.release_id) / "evaluation" / "metrics.json"
    return ("checked", context.workspace.show(path)) if path.exists() else ("missing", "no evaluation of this release yet")


def _audit(context: Context) -> tuple[str, str]:
    heads = audit_heads.collect(context.workspace, [context.workspace.evidence(context.release.release_id).parent])
    trusted = bool(attesting.trusted(context.workspace))
    found = audit_heads.verify(context.connection, heads, keys_trusted=trusted)
    if found.faults or not found.entries:
        return "failed", found.faults[0] if found.faults else "it is empty"
    until = f"the first {found.covered} as exported" if found.covered else "no head of it was exported yet"
    return "checked", f"{found.entries} entries, the chain of hashes is whole, {until}"


CHECKS: dict[str, Callable[[Context], tuple[str, str]]] = {
    "manifest": _manifest,
    "determinism": _determinism,
    "environment": _health_gate("environment"),
    "index_presence": _health_gate("index_presence"),
    "token_budget": _health_gate("token_budget"),
    "prefix_leakage": _health_gate("prefix_leakage"),
    "database_connectivity": _health_gate("database_connectivity"),
    "model_availability": _health_gate("model_availability"),
    "concurrency": _concurrency,
    "evaluation": _evaluation,
    "backup": _backup,
    "baselines": _baselines,
    "audit_log": _audit,
}
