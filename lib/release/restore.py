"""Restore: a backup's release brought back into new tables, proved, and only then named by the pointer.

Nothing that stands is overwritten. Where the release's table still stands with the right digest, only the pointer moves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.config.locked_config import shadow_table_name
from lib.index import changes
from lib.index.bm25 import terms_of
from lib.index.chunk_table import relations_of
from lib.index.releases import Release, find_release, get_release, hold_table, read_pointer
from lib.index.seal import Content, content_of
from lib.platform import failpoints, postgres
from lib.platform.commit import committing
from lib.platform.errors import IntegrityMismatch, Refused
from lib.platform.workspace import Workspace
from lib.release import backup_chain, backup_files, restore_loading
from lib.release.backup_files import Backup
from lib.release.catching_up import COMMAND
from lib.release.health import count_vector_indexes
from lib.release.promotion import move_pointer
from lib.release.table_copies import documents_content

_WAS_LIVE = {"live", "retired", "rolled_back"}


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do.

    ``action`` is ``nothing``, ``move pointer`` or ``load table``; ``loads`` names what is read out of the backup's files:
    ``release record``, ``documents``, ``table``. ``behind`` is how many documents the release does not answer from as they
    stand; None where that shows only once it is restored.
    """

    backup_id: str
    release_id: str
    action: str
    loads: list[str]
    table: str
    rows: int
    digest: str
    live_now: str | None
    documents: str
    behind: int | None

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def to_text(self) -> str:
        step = {
            "nothing": f"{self.table} stands, and the pointer names it: nothing to do",
            "move pointer": f"{self.table} stands with the right digest: only the pointer moves",
            "load table": f"load {self.rows} rows into the new table {self.table}, prove them, move the pointer",
        }[self.action]
        head = f"backup {self.backup_id} -> release {self.release_id}: {step}"
        lines = [head, f"  live now: {self.live_now}", f"  documents: {self.documents}"]
        if self.behind != 0:
            count = "an unknown number" if self.behind is None else str(self.behind)
            lines.append(f"  changed since the release caught up: {count} of documents; {COMMAND} brings them in")
        return "\n".join(lines)


def plan_restore(connection: Connection, backup: Backup, release_id: str | None = None) -> RestorePlan:
    """Decides what is needed to bring back a release of a backup (the one it restores, unless another is named).

    Raises:
        NotFound: the backup does not hold that release.
        IntegrityMismatch: the backup holds other rows for it than were sealed here.
        Refused: it was never live, and did not pass.
    """
    wanted = backup.table_of(release_id or backup.manifest["restores"]["release_id"])
    with connection:
        live = read_pointer(connection).release
        standing = find_release(connection, wanted["release_id"])
        _require_passed(connection, backup, wanted["release_id"])
        sound = standing is not None and _is_sound(connection, _as_recorded(standing, wanted))
        names_it = live is not None and live.release_id == wanted["release_id"]
        table = standing.table_name if sound and standing else _free_name(connection, wanted["release_id"])
        there = documents_content(connection, postgres.current_schema(connection))
    needed = {
        "release record": standing is None,
        "documents": there.row_count == 0 and backup.manifest["documents"]["rows"] > 0,
        "table": not sound,
    }
    return RestorePlan(
        backup_id=backup.backup_id,
        release_id=wanted["release_id"],
        action=("nothing" if names_it else "move pointer") if sound else "load table",
        loads=[name for name, is_needed in needed.items() if is_needed],
        table=table,
        rows=wanted["rows"],
        digest=wanted["digest"],
        live_now=live.release_id if live else None,
        documents=_compare_documents(there, backup.manifest["documents"]),
        behind=_behind(connection, standing, sound),
    )


def require_own(connection: Connection, backup: Backup, *, another_allowed: bool) -> None:
    """Whether a backup is one of this database's, as it was made; one of another database's may be asked for.

    Raises:
        IntegrityMismatch: this database has another manifest of it on record.
        Refused: it was made of another database, and that was not asked for.
    """
    with connection:
        here = backup_chain.identity_of(connection)
        recorded = [row for row in backup_chain.registered(connection) if row["backup_id"] == backup.backup_id]
        known = find_release(connection, backup.manifest["restores"]["release_id"]) is not None
    for row in recorded:
        backup_files.require_manifest(backup, row["manifest_digest"])
    identity = backup.manifest["identity"]
    own = known if identity is None else identity == here  # a backup of an earlier format does not say
    if not own and not another_allowed:
        server = backup.manifest["server"]
        raise Refused(
            f"backup {backup.backup_id} was made of another database",
            detail=f"of {server['database']} on PostgreSQL {server['postgresql']}, system {identity or 'unknown'};"
            f" this one is {here}",
            hint="if that is what you want, on a new machine for one: add --from-another-system",
        )


def check_files(backup: Backup, plan: RestorePlan) -> None:
    """Checks the backup's files where the plan reads any; a pointer that only moves back needs none of them.

    Raises:
        IntegrityMismatch: as ``backup_files.verify_files``.
    """
    if plan.loads:
        backup_files.verify_files(backup)


def apply_restore(workspace: Workspace, connection: Connection, backup: Backup, plan: RestorePlan) -> dict[str, Any]:
    """Carries out a plan: what is loaded is named by nothing until one transaction takes it over and moves the pointer.

    The caller holds the lease.

    Returns:
        ``{release_id, table, rows, digest, generation, seconds, pointer_ms}``, read back from the database.

    Raises:
        IntegrityMismatch: a file of the backup, or what was loaded from it, is not what was backed up.
    """
    started = time.monotonic()
    failpoints.reach("restore.begin")
    check_files(backup, plan)
    loading = restore_loading.Loading(workspace, connection, backup, plan.release_id, plan.table)
    if "table" in plan.loads:
        loading.build_table()
    failpoints.reach("restore.take_over")
    try:
        with committing(connection) as transaction:
            loading.take_over(plan.loads)
            release = _prove(connection, backup, plan)
            changes.ensure_coverage(connection, release)
            failpoints.reach("restore.move")
            moving = time.monotonic()
            pointer = read_pointer(connection, lock=True)
            if plan.action != "nothing":
                move_pointer(connection, pointer, release, f"restore of backup {backup.backup_id}", "rolled_back")
    except Exception:  # whatever was wrong with it, what was loaded is of no use
        if "table" in plan.loads and not connection.closed:
            loading.clear_away()
        raise
    pointer_ms = (time.monotonic() - moving) * 1000
    failpoints.reach("restore.moved")
    with transaction.reading_back() as alive:
        pointer = read_pointer(alive)
    if pointer.release is None or (pointer.release.release_id, pointer.release.table_name) != (plan.release_id, plan.table):
        raise IntegrityMismatch("the restored state does not read back as planned", hint="scripts/validate_rollback.py")
    store.write_active(workspace, release.locked_config.in_production(True))
    store.write_history(workspace, release.locked_config)
    failpoints.reach("restore.done")
    return {
        "release_id": release.release_id,
        "table": plan.table,
        "rows": plan.rows,
        "digest": plan.digest,
        "generation": pointer.generation,
        "pointer_ms": round(pointer_ms, 3),
        "seconds": round(time.monotonic() - started, 3),
    }


def _behind(connection: Connection, release: Release | None, sound: bool) -> int | None:
    """How many documents the release has to catch up with; None where neither its record nor its table tells."""
    if release is None:
        return None
    try:
        if sound:
            changes.ensure_coverage(connection, release)
        return changes.lag_of(connection, release).pending if changes.coverage_of(connection, release) else None
    finally:
        connection.rollback()


def _require_passed(connection: Connection, backup: Backup, release_id: str) -> None:
    """Only what passed goes live, by a restore too: a backup also holds the candidate of its day, whatever came of it.

    What was live once has passed. Of what was not, the newest verdict counts: of this database, or else of the backup.

    Raises:
        Refused: it was never live, and its newest verdict is not PASS.
    """
    then = backup_files.state_of(backup)
    records = [row for row in then["releases"] if row["release_id"] == release_id]
    here = find_release(connection, release_id)
    states = {row["state"] for row in records} | ({here.state} if here else set())
    query = "SELECT verdict FROM golive.verdicts WHERE release_id = %s ORDER BY verdict_id"
    verdicts = postgres.every(connection, query, (release_id,)) or sorted(
        (row for row in then["verdicts"] if row["release_id"] == release_id), key=lambda row: row["verdict_id"]
    )
    newest = verdicts[-1]["verdict"] if verdicts else "none"
    if records and not states & _WAS_LIVE and newest != "PASS":
        raise Refused(
            f"{release_id} was never live and has not passed: it is not restored",
            detail=f"its newest verdict is {newest}",
            hint="make golive evaluates and promotes it; make backups lists what else can be restored",
        )


def _as_recorded(release: Release, wanted: dict[str, Any]) -> Release:
    """The release, where its config is the one that was locked and the backup holds the very rows that were sealed."""
    recorded = (release.locked_config.ingest_run_id, release.row_count, release.content_digest)
    if recorded != (wanted["release_id"], wanted["rows"], wanted["digest"]):
        raise IntegrityMismatch(
            f"the backup holds something else as {release.release_id} than the database has on record",
            detail=f"digest {wanted['digest'][:12]} in the backup, {(release.content_digest or 'none')[:12]} in the record",
            hint="take another backup: make backups",
        )
    return release


def _is_sound(connection: Connection, release: Release) -> bool:
    """Whether the release's table holds what was sealed, under a vector index and with its postings."""
    content = content_of(connection, release.table_schema, release.table_name)
    return (
        content is not None
        and content.digest == release.content_digest
        and count_vector_indexes(connection, release) > 0
        and postgres.table_exists(connection, *terms_of(release.table).strings)
    )


def _free_name(connection: Connection, release_id: str) -> str:
    """The first table name of the release that is free with all that is built over it: its own, then with _r1, _r2, …"""
    base = shadow_table_name(release_id.rpartition("-")[0])
    schema = postgres.current_schema(connection)
    name, number = base, 0
    # a table that was renamed keeps its indexes, and with them the names that the new table's indexes would need
    while any(postgres.table_exists(connection, schema, taken) for taken in relations_of(name)):
        number += 1
        name = f"{base}_r{number}"
    return name


def _compare_documents(there: Content, backed_up: dict[str, Any]) -> str:
    if there.digest == backed_up["digest"]:
        return "the same as in the backup"
    if not there.row_count:
        return f"none are there: {backed_up['rows']} will be loaded"
    return f"{there.row_count} are there and differ from the backup's {backed_up['rows']}: left as they are"


def _prove(connection: Connection, backup: Backup, plan: RestorePlan) -> Release:
    """The release, after its table was read in the transaction that moves the pointer, whether it stood or was loaded."""
    release = _as_recorded(get_release(connection, plan.release_id), backup.table_of(plan.release_id))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'")
    hold_table(connection, release.release_id)
    if not _is_sound(connection, release):
        raise IntegrityMismatch(
            f"table {release.table_name} is not what backup {backup.backup_id} says",
            detail=f"{plan.rows} rows with digest {plan.digest[:12]}, under a vector index, should be there",
            hint="take another backup: make backups",
        )
    return release
