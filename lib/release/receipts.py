"""Receipts: what each step of a release was done with and what came out, so that a later run knows what still holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.platform.clock import timestamp
from lib.platform.errors import GoliveError
from lib.platform.files import read_json, write_json
from lib.platform.workspace import Workspace


@dataclass(frozen=True)
class Receipt:
    """``inputs`` are digests of what the step depended on; ``outcome`` is DONE or a verdict."""

    step: str
    release_id: str
    outcome: str
    inputs: dict[str, Any]
    summary: dict[str, Any]
    seconds: float
    finished_at: str


def path_of(workspace: Workspace, release_id: str, step: str) -> Path:
    return workspace.evidence(release_id) / "receipts" / f"{step}.json"


def write(
    workspace: Workspace,
    release_id: str,
    step: str,
    *,
    outcome: str,
    inputs: dict[str, Any],
    summary: dict[str, Any],
    seconds: float,
) -> None:
    receipt = Receipt(step, release_id, outcome, inputs, summary, round(seconds, 3), timestamp())
    write_json(path_of(workspace, release_id, step), asdict(receipt))


def read(workspace: Workspace, release_id: str, step: str) -> Receipt | None:
    """The step's receipt; None where there is none that can be read."""
    try:
        found = Receipt(**read_json(path_of(workspace, release_id, step), "receipt"))
    except (GoliveError, TypeError):
        return None
    return found if isinstance(found.inputs, dict) and isinstance(found.summary, dict) else None


def holds(workspace: Workspace, release_id: str, step: str, inputs: dict[str, Any]) -> bool:
    """Whether the step was done, or passed, with exactly these inputs."""
    receipt = read(workspace, release_id, step)
    return receipt is not None and receipt.outcome in ("DONE", "PASS") and receipt.inputs == inputs
