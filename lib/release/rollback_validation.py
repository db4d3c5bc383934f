"""What a rollback must leave behind, proved by reading everything back and holding it against the backup.

Pointer, record, rows, indexes, answers to probes and config files must be the backup's. What may rightly be newer than the
backup (documents, the settings of the next candidate) is told, and decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index import changes
from lib.index import settings as index_settings
from lib.index.releases import Pointer, Release, read_pointer
from lib.index.seal import Content, content_of
from lib.platform import postgres
from lib.platform.errors import GoliveError, IntegrityMismatch
from lib.platform.files import pretty_json
from lib.platform.workspace import Workspace
from lib.release import backup_files, probes
from lib.release.backup_files import Backup
from lib.release.table_copies import documents_content

_PLACE = {"table_schema", "table_name", "state"}  # of a record: where it was restored to, and what became of it
_HISTORY = "configs/history/"
_ACTIVE = "configs/active_config.json"


@dataclass(frozen=True)
class Check:
    """One thing that was read back; ``told`` ones decide nothing."""

    name: str
    holds: bool
    found: str
    told: bool = False

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class _Live:
    """What is looked at: the live release, and the backup that it must equal, where one was named."""

    workspace: Workspace
    connection: Connection
    pointer: Pointer
    release: Release
    backup: Backup | None

    def listed(self, name: str) -> Any:
        """The JSON of a file of the backup, which must be the one that was written there."""
        assert self.backup is not None
        return json.loads(_listed(self.backup, name))


def validate(
    workspace: Workspace, connection: Connection, backup: Backup | None, release_id: str | None = None
) -> list[dict[str, Any]]:
    """Reads everything back; ``{name, holds, found, told}`` for each.

    Args:
        backup: what the state must equal; without one, it must equal what was sealed.
        release_id: the release of the backup that must be live; the one that the backup restores unless another is named.

    Raises:
        NotFound: the backup does not hold that release.
    """
    with connection:
        pointer = read_pointer(connection)
    if pointer.release is None:
        return [Check("pointer", False, "no release is live").to_dict()]
    live = _Live(workspace, connection, pointer, pointer.release, backup)
    wanted = None if backup is None else backup.table_of(release_id or backup.manifest["restores"]["release_id"])
    checks = [_pointer(live, wanted["release_id"])] if wanted else []
    is_another = wanted is not None and wanted["release_id"] != pointer.release.release_id
    if backup is not None and not is_another:
        checks.append(_attempt("record", lambda: _record(live)))
    with connection:
        content = content_of(connection, pointer.release.table_schema, pointer.release.table_name)
    checks.append(_rows(content, wanted["digest"] if wanted else pointer.release.content_digest))
    if content is not None:
        checks += _tables(live, compare=not is_another)
    checks.append(_attempt("config files", lambda: _config_files(live)))
    if backup is not None:
        checks += [_documents(live, backup), _attempt("settings", lambda: _settings(live), told=True)]
    return [check.to_dict() for check in checks]


def _attempt(name: str, look: Callable[[], Check], *, told: bool = False) -> Check:
    """A check that could not be made doesn't hold."""
    try:
        return look()
    except GoliveError as error:
        return Check(name, False, " ".join(filter(None, (error.message, error.detail))), told)


def _pointer(live: _Live, wanted: str) -> Check:
    """The release that is live, and that the pointer's generation never went back where this database made the backup."""
    found, now = f"live is {live.release.release_id}", live.pointer.generation
    if live.release.release_id != wanted:
        return Check("pointer", False, f"{found}, not {wanted}")
    try:
        then = live.listed("state.json")["pointer"][0]["generation"]
    except GoliveError as error:
        return Check("pointer", False, f"{found}; {error.message}")
    assert live.backup is not None
    with live.connection:
        here = postgres.one(
            live.connection,
            "SELECT FROM golive.backups b, golive.identity i WHERE b.backup_id = %s AND coalesce(%s, i.system_id::text)"
            " = i.system_id::text",
            (live.backup.backup_id, live.backup.manifest["identity"]),
        )
    if here is None:
        return Check("pointer", True, f"{found}, generation {now} of a database that this backup was not made from")
    return Check("pointer", now >= then, f"{found}, generation {now}; {then} when it was backed up")


def _record(live: _Live) -> Check:
    """The release's row, but for where its table is and what state it is in."""
    with live.connection:
        rows = postgres.every(
            live.connection,
            "SELECT to_jsonb(r) AS row FROM golive.releases r WHERE release_id = %s",
            (live.release.release_id,),
        )
    now = rows[0]["row"]
    then = [row for row in live.listed("state.json")["releases"] if row["release_id"] == live.release.release_id]
    if not then:
        return Check("record", False, f"the backup has no record of {live.release.release_id}")
    fields = sorted((now.keys() | then[0].keys()) - _PLACE)
    changed = [name for name in fields if now.get(name) != then[0].get(name)]
    if now["state"] != "live":
        changed.append(f"state ({now['state']})")
    found = (
        f"differs in {', '.join(changed)}" if changed else f"{len(fields)} fields are the backup's, and its state is live"
    )
    return Check("record", not changed, found)


def _rows(content: Content | None, expected: str | None) -> Check:
    if content is None:
        return Check("rows", False, "the table is gone")
    holds = content.digest == expected
    found = f"{content.row_count} rows, digest {content.digest[:12]}"
    return Check("rows", holds, found if holds else f"{found}, not {(expected or 'none')[:12]}")


def _tables(live: _Live, *, compare: bool) -> list[Check]:
    """Indexes and answers, held against what the backup recorded; where it recorded nothing, against the table itself."""
    recorded, against = None, "the table itself"
    if live.backup is not None and compare:
        try:
            recorded = _recorded(live)
        except GoliveError as error:
            return [Check(name, False, error.message) for name in ("indexes", "answers", "search")]
        against = against if recorded is None else "the backup"
    with live.connection:
        expected = recorded or probes.take(live.connection, live.release)
        indexes = _indexes(probes.structure_of(live.connection, live.release), recorded and recorded["structure"])
    return [indexes, *_answers(live, recorded), _search(live, expected, against)]


def _answers(live: _Live, recorded: dict[str, Any] | None) -> list[Check]:
    """By looking at every row; without recorded answers there is nothing to hold them against, which is told."""
    if live.backup is None:
        return []
    if recorded is None:
        found = "no probe answers in this backup: what live queries get is compared with the table itself"
        return [Check("answers", True, found, told=True)]
    with live.connection:
        problems = probes.compare_rows(live.connection, live.release, recorded)
    count = len(recorded["probes"])
    same = f"{count} probes have the very rows as answers that they had in the backup, by vector and by words"
    return [Check("answers", not problems and count > 0, "; ".join(problems[:3]) or same)]


def _recorded(live: _Live) -> dict[str, Any] | None:
    """The probes of the live release in the backup; None where a backup was made before there were any."""
    assert live.backup is not None
    if probes.FILE not in live.backup.manifest["files"]:
        return None
    found = live.listed(probes.FILE).get(live.release.release_id)
    if found is None:
        raise IntegrityMismatch(f"{probes.FILE} of the backup holds no probes of {live.release.release_id}")
    return dict(found)


def _indexes(now: dict[str, Any], then: dict[str, Any] | None) -> Check:
    vectors = sum(definition.startswith("hnsw ") for definition in now["indexes"])
    found = f"{vectors} vector index; {'; '.join(now['indexes'])}"
    problems = [] if vectors else ["no valid vector index"]
    problems += [f"the {name} can be written" for name, sealed in sorted(now["sealed"].items()) if not sealed]
    if then is not None:
        problems += [f"lacks {item}" for item in then["indexes"] if item not in now["indexes"]]
        problems += [f"has {item}, which was not there" for item in now["indexes"] if item not in then["indexes"]]
    return Check("indexes", not problems, "; ".join(problems) or found)


def _search(live: _Live, expected: dict[str, Any], against: str) -> Check:
    """Through the lists that live queries get."""
    floors = index_settings.load(live.workspace).recall
    with live.connection:
        problems, found = probes.compare_search(live.connection, live.release, expected, floors)
    told = f"{len(expected['probes'])} probes as live queries are answered, held against {against}"
    by_words = "; ".join(problems[:3]) or "by words the same"
    by_vector = f"; by vector {found}" if found else ""
    return Check("search", not problems, f"{told}: {by_words}{by_vector}")


def _config_files(live: _Live) -> Check:
    """The active config is the live release's; its locked file, and all others of the backup, are unchanged."""
    config, problems, missing = live.release.locked_config, [], []
    active = store.read_active(live.workspace)
    if active != config.in_production(True):
        problems.append(f"the active config is {active.chunk_version}, and not the live one in production")
    expected = {
        store.history_path(live.workspace, config.chunk_version): pretty_json(config.in_production(False).to_dict())
    }
    if live.backup is not None:
        for name in sorted(live.backup.manifest["files"]):
            if name.startswith(_HISTORY):
                path = live.workspace.locked_configs / "history" / name.removeprefix(_HISTORY)
                if expected.setdefault(path, text := _listed(live.backup, name)) != text:
                    problems.append(f"{path.name} of the backup is not the locked config of {live.release.release_id}")
    for path, text in expected.items():
        if not path.exists():
            missing.append(path)
        elif path.read_bytes() != text.encode():
            problems.append(f"{live.workspace.show(path)} was changed")
    own = store.history_path(live.workspace, config.chunk_version)
    problems += [f"{live.workspace.show(own)} is missing"] if own in missing else []
    others = f"; of other releases {len(missing)} are not here" if missing else ""
    found = f"active config is {config.chunk_version}; {len(expected) - len(missing)} locked configs unchanged{others}"
    return Check("config files", not problems, "; ".join(problems) or found)


def _documents(live: _Live, backup: Backup) -> Check:
    """Whether the documents are the backup's: newer ones are left as they are by a rollback."""
    then = backup.manifest["documents"]
    with live.connection:
        now = documents_content(live.connection, postgres.current_schema(live.connection))
        coverage = changes.coverage_of(live.connection, live.release)
    told = (
        "the backup's" if now.digest == then["digest"] else f"{now.row_count} that differ from the backup's {then['rows']}"
    )
    if coverage and coverage.changed:
        told += f"; {coverage.changed} changed since the seal are answered beside the sealed table, which alone was probed"
    return Check("documents", True, told, told=True)


def _settings(live: _Live) -> Check:
    """Which of the other config files are not as they were: a rollback brings none of them back."""
    assert live.backup is not None
    changed = []
    for name in sorted(live.backup.manifest["files"]):
        if name.startswith("configs/") and not name.startswith(_HISTORY) and name != _ACTIVE:
            path = live.workspace.configs / Path(name).name
            if not path.exists() or path.read_bytes() != _listed(live.backup, name).encode():
                changed.append(path.name)
    return Check(
        "settings", True, f"changed since the backup: {', '.join(changed)}" if changed else "the backup's", told=True
    )


def _listed(backup: Backup, name: str) -> str:
    """The text of a file of a backup; raises as ``backup_files.listed``."""
    return backup_files.listed(backup, name).read_text(encoding="utf-8")
