"""Layered configs: a base file, an environment's file over it, variables, flags; each value keeps its origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.config import schemas, strict_yaml
from lib.platform.errors import ConfigInvalid, NotFound
from lib.platform.workspace import ENVIRONMENT_VARIABLE, Workspace

CANDIDATE_VARIABLES = {
    "CHUNK_SIZE": "chunk_size",
    "OVERLAP_RATIO": "overlap_ratio",
    "JACCARD_THRESHOLD": "jaccard_threshold",
    "PREFIX_POLICY": "prefix_policy",
}
_ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Layered:
    """Merged values, and for each dotted key the place that decided it."""

    values: dict[str, Any]
    origins: dict[str, str]

    def where(self, dotted: str) -> str:
        """The place of ``dotted``, or of the nearest thing around it."""
        while dotted and dotted not in self.origins:
            dotted = dotted.rpartition(".")[0]
        return self.origins.get(dotted) or next(iter(self.origins.values()), "config")


def load(
    workspace: Workspace,
    name: str,
    *,
    environment: str | None = None,
    file: str | None = None,
    over: Mapping[str, tuple[str, Any]] | None = None,
) -> Layered:
    """``configs/<name>.yaml`` with its layers, checked against ``configs/schemas/<name>.schema.json``.

    Args:
        environment: lays ``configs/<name>.<environment>.yaml`` over the base, where that file is.
        file: the base file, where it is not the usual one.
        over: dotted key → (origin, value), laid over the files.

    Raises:
        ConfigInvalid, NotFound: with file and line, or the variable or flag.
    """
    base = workspace.root / file if file else workspace.configs / f"{name}.yaml"
    layered = Layered({}, {})
    _lay(layered, strict_yaml.load(base, "config"), workspace)
    if environment:
        overlay = workspace.configs / f"{name}.{environment}.yaml"
        if overlay.exists():
            _lay(layered, strict_yaml.load(overlay, "config"), workspace)
    for dotted, (origin, value) in (over or {}).items():
        _set(layered.values, dotted, value)
        layered.origins[dotted] = origin
    schemas.check(layered.values, name, lambda dotted: layered.where(dotted))
    return layered


def environment_name(workspace: Workspace, environ: Mapping[str, str]) -> str | None:
    """The name in ``GOLIVE_ENV``, or None.

    Raises:
        ConfigInvalid: it cannot be a name. NotFound: no config file belongs to it.
    """
    name = environ.get(ENVIRONMENT_VARIABLE, "")
    if not name:
        return None
    if not _ENVIRONMENT_NAME.fullmatch(name):
        raise ConfigInvalid(f"{name!r} cannot be the name of an environment", hint="ENV=staging")
    if not list(workspace.configs.glob(f"*.{name}.yaml")):
        raise NotFound(f"no configs/*.{name}.yaml", hint=f"create configs/candidate.{name}.yaml, or leave ENV out")
    return name


def from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """The candidate's values that stand in environment variables; an empty variable counts as unset."""
    return {
        key: _read(f"environment variable {variable}", environ[variable])
        for variable, key in CANDIDATE_VARIABLES.items()
        if environ.get(variable)
    }


def from_flags(flags: Mapping[str, str | None]) -> dict[str, tuple[str, Any]]:
    """Values given on the command line (``--chunk-size 450`` is ``{"chunk_size": "450"}``)."""
    return {key: _read(f"flag --{key.replace('_', '-')}", text) for key, text in flags.items() if text is not None}


def _read(origin: str, text: str) -> tuple[str, Any]:
    return origin, strict_yaml.scalar(text, origin)


def _lay(layered: Layered, file: strict_yaml.YamlFile, workspace: Workspace) -> None:
    shown = workspace.show(file.path)
    _merge(layered.values, file.values)
    layered.origins.update({dotted: f"{shown}:{line}" for dotted, line in file.lines.items()})
    layered.origins.setdefault("", shown)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    head, _, rest = dotted.partition(".")
    if rest:
        _set(values.setdefault(head, {}), rest, value)
    else:
        values[head] = value
