"""Which external system ``configs/evaluation.yaml`` names, and how it may be used."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.config import schemas, strict_yaml
from lib.evaluation.settings import EvaluationSettings
from lib.evaluation.systems import System
from lib.evaluation.systems_command import CommandLimits, CommandSystem
from lib.evaluation.systems_http import HttpLimits, HttpSystem
from lib.platform.errors import ConfigInvalid
from lib.platform.workspace import Workspace


def chosen(
    settings: EvaluationSettings, *, url: str | None, command: str | None, name: str | None, file: str | None = None
) -> dict[str, Any]:
    """The ``system`` block, with what a file's block says over it, and over both what the command line says.

    Raises:
        ConfigInvalid: a value does not fit, or no external system is named. NotFound: there is no such file.
    """
    values = dict(settings.values["system"])
    if file is not None:
        values |= _block_of(Path(file))
    if url is not None:
        values |= {"kind": "http", "url": url, "allow_internal": True}  # named by hand, for this run
    if command is not None:
        try:
            values |= {"kind": "command", "command": shlex.split(command)}
        except ValueError as error:
            raise ConfigInvalid(f"--command cannot be read: {error}") from error
    if name is not None:
        values["name"] = name
    schemas.check({**settings.values, "system": values}, "evaluation", lambda dotted: dotted)
    if values["kind"] == "built-in":
        raise ConfigInvalid(
            "no system of your own is named: system.kind is built-in",
            hint="set system in configs/evaluation.yaml, or --url, or --command;"
            " scripts/production_evaluation.py evaluates releases",
        )
    if values["kind"] == "command" and not values["command"]:
        raise ConfigInvalid("system.command is empty", hint='command: ["program", "argument"]')
    return values


def _block_of(path: Path) -> dict[str, Any]:
    """The ``system:`` block of a YAML file, which may leave values out and holds nothing else."""
    found = strict_yaml.load(path, "system").values
    block = found.get("system")
    if set(found) != {"system"} or not isinstance(block, dict):
        raise ConfigInvalid(f"{path} must hold a system: block and nothing else", hint="as in configs/evaluation.yaml")
    return dict(block)


def make_system(workspace: Workspace, values: Mapping[str, Any]) -> System:
    """The system of a ``chosen`` block; nothing is asked or started yet."""
    max_reply_bytes = int(values["max_reply_mb"] * 1_000_000)
    if values["kind"] == "http":
        return HttpSystem(
            values["name"],
            values["url"],
            HttpLimits(values["timeout_s"], values["attempts"], values["max_in_flight"], max_reply_bytes),
            key_variable=values["key_variable"],
            key_header=values["key_header"],
            version=values["version"],
            allow_internal=values.get("allow_internal", False),
        )
    limits = CommandLimits(
        values["timeout_s"], values["start_timeout_s"], values["attempts"], values["max_in_flight"], max_reply_bytes
    )
    return CommandSystem(values["name"], values["command"], workspace.root, limits, values["version"])
