"""What a restore reads out of a backup: a table built where nothing names it, records, documents and their changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index import settings as index_settings
from lib.index.bm25 import build_postings, create_postings, finish_postings, terms_of
from lib.index.chunk_table import build_index, create_chunk_table
from lib.index.releases import adopt, find_release
from lib.index.seal import content, seal
from lib.platform import audit, failpoints, postgres
from lib.platform.errors import IntegrityMismatch
from lib.platform.workspace import Workspace
from lib.release import backup_files
from lib.release.backup_files import Backup
from lib.release.backup_writing import WORKERS
from lib.release.snapshot import Crew, pin
from lib.release.table_copies import copy_in, documents_content, posting_hashes, row_hashes

# What is being loaded stands here until it is taken over. Who holds the lease may take away all that an earlier run left.
SCHEMA = "golive_restoring"
# What says which documents a release answers from; the order is that in which they are loaded.
_OF_A_RELEASE = ("coverage", "release_documents", "superseded", "changed_chunks")


@dataclass(frozen=True)
class Loading:
    """One release of a backup, on its way to become the table ``table_name``."""

    workspace: Workspace
    connection: Connection
    backup: Backup
    release_id: str
    table_name: str

    def build_table(self) -> None:
        """Loads and indexes the table, in several sessions, where nothing names it yet.

        Raises:
            IntegrityMismatch: a file is damaged. Unavailable: the disk of the server is full.
        """
        try:
            self.load_rows()
            failpoints.reach("restore.index")
            self._index(self._waiting, self._config())
        except BaseException:
            if not self.connection.closed:
                self.clear_away()
            raise

    def load_rows(self) -> None:
        """Loads the table without its indexes; raises IntegrityMismatch where a file is damaged."""
        entry, table, config = self.backup.table_of(self.release_id), self._waiting, self._config()
        self.clear_away()
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            create_chunk_table(self.connection, table, config.embedder_dimension)
        failpoints.reach("restore.load")
        jobs: list[Callable[[Connection], None]] = [
            partial(_load_part, table=table, columns=entry["columns"], path=self.backup.folder / name)
            for name in entry["files"]
        ]
        Crew(partial(postgres.beside, self.connection, "restore worker"), WORKERS).run(jobs)

    def take_over(self, loads: list[str]) -> None:
        """Makes what was lost part of the state, in the caller's transaction; what is there stays as it is."""
        if "release record" in loads:
            self._load_audit_log()  # first: what is done here is recorded after what the backup's log says
            self._load_record()
        if "documents" in loads:
            self._load_documents()
        if "table" in loads:
            self._take_table()
        if "release record" in loads:
            self._load_changes()
            self._load_judgements()

    def clear_away(self) -> None:
        """Removes what was loaded and not taken over, by this run or one that was killed."""
        self.connection.rollback()
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))

    @property
    def _waiting(self) -> sql.Identifier:
        return postgres.table_identifier(SCHEMA, self.table_name)

    def _config(self) -> LockedConfig:
        with self.connection:
            release = find_release(self.connection, self.release_id)
        return release.locked_config if release else LockedConfig.from_dict(self._record()["config"])

    def _record(self) -> dict[str, Any]:
        for row in backup_files.state_of(self.backup)["releases"]:
            if row["release_id"] == self.release_id:
                return dict(row)
        raise IntegrityMismatch(
            f"backup {self.backup.backup_id} brings back no record of release {self.release_id}",
            hint="take another one: make backups",
        )

    def _index(self, table: sql.Identifier, config: LockedConfig) -> None:
        settings = index_settings.load(self.workspace).build
        with self.connection:
            build_index(
                self.connection,
                table,
                self.table_name,
                config,
                maintenance_work_mem_mb=settings.maintenance_work_mem_mb,
                parallel_workers=min(settings.parallel_workers, os.cpu_count() or 1),
                postings=self._make_postings,
            )

    def _make_postings(self, connection: Connection, table: sql.Identifier) -> None:
        """Loads them out of the backup, where it has them: that takes a fraction of what making them anew takes."""
        entry = self.backup.table_of(self.release_id).get("postings")
        if entry is None:
            build_postings(connection, table)
            return
        terms = terms_of(table)
        create_postings(connection, terms)
        for name in entry["files"]:
            copy_in(connection, terms, entry["columns"], self.backup.folder / name)
        if content(connection, self._hashes_of_postings(terms, entry["columns"])).digest != entry["digest"]:
            raise IntegrityMismatch(
                f"the postings of backup {self.backup.backup_id} are damaged", hint="take another one: make backups"
            )
        finish_postings(connection, terms)

    def _hashes_of_postings(self, terms: sql.Identifier, columns: list[str]) -> sql.Composed:
        if self.backup.manifest["manifest_version"] >= backup_files.POSTINGS_BY_BYTES:
            return posting_hashes(terms)
        pin(self.connection)
        return row_hashes(terms, columns)

    def _load_record(self) -> None:
        place = {"table_schema": postgres.current_schema(self.connection), "table_name": self.table_name, "state": "sealed"}
        with self.connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO golive.releases SELECT * FROM jsonb_populate_record(NULL::golive.releases, %s)"
                " ON CONFLICT DO NOTHING",
                (json.dumps({**self._record(), **place}),),
            )
        if find_release(self.connection, self.release_id) is None:
            raise IntegrityMismatch(
                f"backup {self.backup.backup_id} brings back no record of release {self.release_id}",
                detail="another release here has its chunk version",
            )

    def _load_documents(self) -> None:
        entry = self.backup.manifest["documents"]
        for name in entry["files"]:
            copy_in(self.connection, sql.Identifier("documents"), entry["columns"], self.backup.folder / name)
        if documents_content(self.connection, postgres.current_schema(self.connection)).digest != entry["digest"]:
            raise IntegrityMismatch("the documents of the backup are damaged", hint="take another one: make backups")
        audit.record(self.connection, "restore documents", "documents", self._reason, after=entry["digest"])

    def _take_table(self) -> None:
        """Moves the table to its place, seals it and makes it the release's."""
        schema = postgres.current_schema(self.connection)
        with self.connection.cursor() as cursor:
            orphan = terms_of(postgres.table_identifier(schema, self.table_name))  # of a table that is gone: made anew
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(orphan))
            for table in (self._waiting, terms_of(self._waiting)):
                cursor.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(table, sql.Identifier(schema)))
            seal(self.connection, postgres.table_identifier(schema, self.table_name))
            cursor.execute(
                "UPDATE golive.releases SET table_schema = %s, table_name = %s WHERE release_id = %s",
                (schema, self.table_name, self.release_id),
            )
            cursor.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(SCHEMA)))
        adopt(self.connection, self.release_id)
        digest = self.backup.table_of(self.release_id)["digest"]
        audit.record(self.connection, "restore table", self.table_name, self._reason, after=digest)

    def _load_changes(self) -> None:
        """Brings back the documents that changed since the seal, as the release answered from them.

        The snapshot up to which it had caught up is of another server: the next catch-up looks at every document.
        """
        for name in _OF_A_RELEASE:
            if (columns := self._open(name)) is None:
                return
            source = sql.SQL(", ").join(sql.SQL("NULL") if c == "seen" else sql.Identifier(c) for c in columns)
            self._insert(name, columns, source, sql.SQL("WHERE release_id = {}").format(sql.Literal(self.release_id)))

    def _load_judgements(self) -> None:
        """What models replied: each cost a call, and a verdict is computed again out of them."""
        if columns := self._open("judgements"):
            self._insert("judgements", columns, _names(columns), sql.SQL(""))

    def _load_audit_log(self) -> None:
        """Goes on with the backup's log where there is none yet."""
        there = postgres.one(self.connection, "SELECT FROM golive.audit_log LIMIT 1")
        if there is None and (columns := self._open("audit_log")):
            self._insert("audit_log", columns, _names(columns), sql.SQL(""))

    def _open(self, name: str) -> list[str] | None:
        """Loads a state table into a temporary one of its name, and proves it; its columns, None where there is none."""
        entry = self.backup.manifest["state_tables"].get(name)
        if entry is None:
            return None
        pin(self.connection)
        loaded = sql.Identifier("pg_temp", name)
        with self.connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(
                    sql.Identifier(name), sql.Identifier("golive", name)
                )
            )
        for file in entry["files"]:
            copy_in(self.connection, loaded, entry["columns"], self.backup.folder / file)
        if content(self.connection, row_hashes(loaded, entry["columns"])).digest != entry["digest"]:
            raise IntegrityMismatch(
                f"golive.{name} of backup {self.backup.backup_id} is damaged", hint="take another one: make backups"
            )
        return list(entry["columns"])

    def _insert(self, name: str, columns: list[str], source: sql.Composable, where: sql.Composable) -> None:
        command = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} {} ON CONFLICT DO NOTHING")
        target, loaded = sql.Identifier("golive", name), sql.Identifier("pg_temp", name)
        with self.connection.cursor() as cursor:
            cursor.execute(command.format(target, _names(columns), source, loaded, where))

    @property
    def _reason(self) -> str:
        return f"backup {self.backup.backup_id}"


def _load_part(connection: Connection, *, table: sql.Identifier, columns: list[str], path: Path) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")  # the transaction that takes the table over waits for the disk
        copy_in(connection, table, columns, path)
        failpoints.reach("restore.loaded")


def _names(columns: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
