"""Real backups in a workspace of their own, and targets to copy them to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lib.platform.clock import timestamp
from lib.platform.encryption import Cipher
from lib.platform.files import write_json
from lib.platform.s3 import Options, S3Store
from lib.platform.stores import FolderStore
from lib.platform.workspace import Workspace
from lib.release import backup_files
from lib.release.backup_copies import Target
from lib.release.backup_files import Backup
from tests.conftest import PROJECT

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def clone(
    made: Path, workspace: Workspace, backup_id: str = "", created_at: datetime | None = None, **manifest: Any
) -> Backup:
    """Puts a backup into the workspace, under another id and date where they are given."""
    backup_id = backup_id or made.name
    folder = workspace.backups / backup_id
    shutil.copytree(made, folder)
    content = json.loads((folder / backup_files.MANIFEST).read_text())
    content |= {"backup_id": backup_id, **({"created_at": timestamp(created_at)} if created_at else {}), **manifest}
    write_json(folder / backup_files.MANIFEST, content)
    return backup_files.read(workspace, backup_id)


def folder_target(root: Path, *, encrypted: bool = False, name: str = "disk") -> Target:
    root.mkdir(exist_ok=True)
    return Target(name, FolderStore(root), Cipher(bytes(range(32))) if encrypted else None)


def s3_target(url: str, bucket: str, *, encrypted: bool = False, **options: Any) -> Target:
    made = Options(endpoint=url, **{"part_bytes": 5 << 20, "attempts": 2, **options})
    store = S3Store(bucket, "golive/", made, sleep=lambda seconds: None)
    return Target("offsite", store, Cipher(bytes(range(32))) if encrypted else None)


def configure(workspace: Workspace, **targets: dict[str, Any]) -> None:
    values = {"targets": targets, "retention": {"keep": 7, "older_than": "30d"}}
    if not workspace.configs.exists():
        shutil.copytree(PROJECT / "configs", workspace.configs, ignore=shutil.ignore_patterns("locked_configs"))
    (workspace.configs / "backup.yaml").write_text(yaml.safe_dump(values))


def run_script(workspace: Workspace, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "scripts" / f"{name}.py"), *arguments]
    environ = {**os.environ, "GOLIVE_HOME": str(workspace.root), **environment}
    return subprocess.run(command, env=environ, capture_output=True, text=True)
