"""Targets of backups and the rules of retention, as ``configs/backup.yaml`` has them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lib.config import layers
from lib.platform.errors import ConfigInvalid, NotFound, UsageError
from lib.platform.s3 import Options, S3Store
from lib.platform.stores import FolderStore, Store
from lib.platform.workspace import Workspace

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DURATION = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]*")
_FOR_S3 = ("endpoint", "region", "server_side_encryption", "kms_key_id", "object_lock", "write_once")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class TargetSettings:
    """One target; ``encrypted``: copies are encrypted before they leave."""

    name: str
    url: str
    required: bool
    encrypted: bool
    options: Options

    @property
    def is_s3(self) -> bool:
        return self.url.startswith("s3://")


@dataclass(frozen=True)
class BackupSettings:
    targets: dict[str, TargetSettings]
    keep: int
    older_than: timedelta

    def target(self, name: str) -> TargetSettings:
        """The target of that name; the only one where the name is empty. Raises UsageError, NotFound."""
        known = ", ".join(self.targets)
        if not self.targets:
            raise NotFound("no target is configured", hint="name one in configs/backup.yaml")
        if not name and len(self.targets) > 1:
            raise UsageError("which target?", detail=f"there are {known}", hint="--target NAME")
        if name and name not in self.targets:
            raise NotFound(f"no target {name!r}", detail=f"there are {known}", hint="configs/backup.yaml names them")
        return self.targets[name or next(iter(self.targets))]


def load(workspace: Workspace, environ: Mapping[str, str] | None = None) -> BackupSettings:
    """``configs/backup.yaml`` and the file of the environment over it.

    Raises:
        ConfigInvalid, NotFound: with file and line; what could hold a password is never repeated.
    """
    environment = layers.environment_name(workspace, os.environ if environ is None else environ)
    layered = layers.load(workspace, "backup", environment=environment, schema="backup_targets")
    targets = {
        name: _target(name, values, layered.where(f"targets.{name}")) for name, values in layered.values["targets"].items()
    }
    for target in targets.values():
        if not target.is_s3 and Path(target.url).resolve().is_relative_to(workspace.backups.resolve()):
            where = layered.where(f"targets.{target.name}")
            raise ConfigInvalid(f"{where}: target {target.name} lies in the folder of the backups themselves")
    retention = layered.values["retention"]
    return BackupSettings(targets, retention["keep"], duration(retention["older_than"]))


def duration(text: str) -> timedelta:
    """``12h``, ``30d``, ``4w``; raises UsageError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is not a duration", hint="30d, 12h or 4w")
    return int(found[1]) * _UNITS[found[2]]


def open_store(target: TargetSettings) -> Store:
    """Raises Unavailable where the AWS settings do not work; asks the store nothing yet."""
    if not target.is_s3:
        return FolderStore(Path(target.url))
    bucket, _, prefix = target.url.removeprefix("s3://").partition("/")
    return S3Store(bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else "", target.options)


def _target(name: str, values: dict[str, Any], where: str) -> TargetSettings:
    encrypted = values.get("encryption") == "client"
    _check_url(values, f"{where}: target {name}", encrypted)
    lock = values.get("object_lock")
    options = Options(
        endpoint=values.get("endpoint"),
        region=values.get("region"),
        server_side_encryption=values.get("server_side_encryption"),
        kms_key_id=values.get("kms_key_id"),
        lock=(lock["mode"], lock["days"]) if lock else None,
        write_once=values.get("write_once", "enforced") == "enforced",
    )
    return TargetSettings(name, values["url"], values.get("required", False), encrypted, options)


def _check_url(values: dict[str, Any], where: str, encrypted: bool) -> None:
    url, endpoint = values["url"], values.get("endpoint", "")
    if not _holds_no_secret(url) or not _holds_no_secret(endpoint):
        raise ConfigInvalid(f"{where} has credentials in an address", hint="they come from the environment: AWS_PROFILE")
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
            raise ConfigInvalid(f"{where}: {url!r} is not s3://bucket/prefix")
    elif "://" in url or not Path(url).is_absolute():
        raise ConfigInvalid(f"{where}: {url!r} is neither s3://bucket/prefix nor an absolute path")
    elif extra := [key for key in _FOR_S3 if key in values]:
        raise ConfigInvalid(f"{where}: {extra[0]} is for s3:// alone")
    if values.get("kms_key_id") and values.get("server_side_encryption") != "aws:kms":
        raise ConfigInvalid(f"{where}: kms_key_id goes with server_side_encryption: aws:kms")
    scheme, host = (urlsplit(endpoint).scheme, urlsplit(endpoint).hostname) if endpoint else ("https", "")
    if scheme not in ("http", "https") or (endpoint and not host):
        raise ConfigInvalid(f"{where}: {endpoint!r} is not an http address")
    if scheme == "http" and host not in _LOOPBACK and not encrypted:
        raise ConfigInvalid(
            f"{where} would send backups readable over {endpoint}", hint="https, or encryption: client for this target"
        )


def _holds_no_secret(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return "@" not in parts.netloc and not parts.query and not parts.fragment
    except ValueError:
        return "@" not in address
