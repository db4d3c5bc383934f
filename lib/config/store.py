"""Locked configs as files: ``history/<chunk_version>.json``, written once, and ``active_config.json``, the one at work."""

from __future__ import annotations

from pathlib import Path

from lib.config.locked_config import LockedConfig
from lib.platform.errors import NotFound, Refused
from lib.platform.files import pretty_json, read_json, write_json
from lib.platform.workspace import Workspace


def active_path(workspace: Workspace) -> Path:
    return workspace.locked_configs / "active_config.json"


def history_path(workspace: Workspace, chunk_version: str) -> Path:
    return workspace.locked_configs / "history" / f"{chunk_version}.json"


def write_history(workspace: Workspace, config: LockedConfig) -> None:
    """Writes the config's history file once; the same content again is fine.

    Raises:
        Refused: another content stands under that version.
    """
    if not in_history(workspace, config):
        write_json(history_path(workspace, config.chunk_version), config.in_production(False).to_dict())


def in_history(workspace: Workspace, config: LockedConfig) -> bool:
    """Whether the config's history file stands; raises as ``write_history``."""
    path = history_path(workspace, config.chunk_version)
    if path.exists() and not _holds(path, config.in_production(False)):
        raise Refused(f"{workspace.show(path)} holds another config", hint="a history file is never changed")
    return path.exists()


def write_active(workspace: Workspace, config: LockedConfig) -> None:
    path = active_path(workspace)
    if not path.exists() or not _holds(path, config):
        write_json(path, config.to_dict())


def _holds(path: Path, config: LockedConfig) -> bool:
    return path.read_bytes() == pretty_json(config.to_dict()).encode()


def read_active(workspace: Workspace) -> LockedConfig:
    """The config that the scripts work on: the candidate last locked, or the one that is live.

    Raises:
        NotFound: nothing was locked yet.
        ConfigInvalid, IntegrityMismatch: the file was changed by hand.
    """
    path = active_path(workspace)
    if not path.exists():
        raise NotFound("no config is locked yet", hint="scripts/lock_production_config.py, or make golive")
    return LockedConfig.from_dict(read_json(path, "active config"))
