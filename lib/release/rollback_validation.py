"""What a rollback must leave behind, proved by reading everything back: pointer, rows, answers, config files."""

from __future__ import annotations

from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.config.locked_config import LockedConfig
from lib.index.releases import Release, read_pointer
from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.errors import GoliveError
from lib.platform.workspace import Workspace
from lib.release.backup_files import Backup
from lib.release.health import count_vector_indexes


def validate(
    workspace: Workspace, connection: Connection, backup: Backup | None, release_id: str | None = None
) -> list[dict[str, Any]]:
    """Reads everything back: pointer, rows, index, answers, config files; ``{name, holds, found}`` for each.

    Args:
        backup: what the state must equal; without one, it must equal what was sealed.
        release_id: the release of the backup that must be live; the one that the backup restores unless another is named.

    Raises:
        NotFound: the backup does not hold that release.
    """
    with connection:
        release = read_pointer(connection).release
    if release is None:
        return [{"name": "pointer", "holds": False, "found": "no release is live"}]
    expected = release.content_digest
    checks = []
    if backup is not None:
        wanted = backup.table_of(release_id or backup.manifest["restores"]["release_id"])
        expected = wanted["digest"]
        holds = release.release_id == wanted["release_id"]
        found = f"live is {release.release_id}" + ("" if holds else f", not {wanted['release_id']}")
        checks.append({"name": "pointer", "holds": holds, "found": found})
    with connection:
        content = content_of(connection, release.table_schema, release.table_name)
    found = f"{content.row_count} rows, digest {content.digest[:12]}" if content else f"{release.table_name} is gone"
    checks.append({"name": "rows", "holds": content is not None and content.digest == expected, "found": found})
    if content is not None:
        checks.append(_answers(connection, release))
    checks.append(_files_agree(workspace, release.locked_config))
    return checks


def _answers(connection: Connection, release: Release) -> dict[str, Any]:
    """Both searches find a chunk by its own vector and its own words, and the vector search has its index."""
    with connection:
        found = postgres.one(connection, postgres.compose(__file__, "probe_search", table=release.table))
        indexes = count_vector_indexes(connection, release)
    assert found is not None
    holds = found["probes"] > 0 and found["by_vector"] == found["probes"] and found["by_words"] == found["probes"]
    evidence = (
        f"{found['probes']} chunks probed: {found['by_vector']} found by vector, {found['by_words']} by words;"
        f" {indexes} vector index"
    )
    return {"name": "answers", "holds": holds and indexes > 0, "found": evidence}


def _files_agree(workspace: Workspace, config: LockedConfig) -> dict[str, Any]:
    try:
        active = store.read_active(workspace)
    except GoliveError as error:
        return {"name": "config files", "holds": False, "found": error.message}
    return {
        "name": "config files",
        "holds": active == config.in_production(True),
        "found": f"active config is {active.chunk_version}",
    }
