"""The files of a backup, all from one snapshot: tables in parallel parts, Golive's state, configs, the emergency script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index.bm25 import terms_of
from lib.index.releases import Release
from lib.platform import failpoints, postgres
from lib.platform.clock import timestamp
from lib.platform.errors import IntegrityMismatch
from lib.platform.files import pretty_json, sha256_file, write_text
from lib.platform.lease import who
from lib.platform.workspace import Workspace
from lib.release import backup_chain, backup_files, probes, restore_script, row_blocks, snapshot
from lib.release.table_copies import Part, columns_of, copy_out, documents_content, parts_of, rows_content

# Small, read by people and by a restore: as JSON.
STATE = ("pointer", "traffic", "releases", "verdicts", "backups")
# Left out: leases, which are of runs; query_logs; document_changes, whose transaction numbers are this server's alone; the
# cache of vectors, which is made anew.
STATE_TABLES = ("audit_log", "coverage", "release_documents", "superseded", "changed_chunks", "judgements")
_CONFIG_FILES = (
    "candidate.yaml",
    "gates.yaml",
    "evaluation.yaml",
    "checklist.yaml",
    "embedders.yaml",
    "index.yaml",
    "monitoring.yaml",
    "backup.yaml",
)
WORKERS = 2

Job = Callable[[Connection], Any]


@dataclass
class Writing:
    """A backup that is being written into ``folder``."""

    workspace: Workspace
    connection: Connection
    held: Sequence[tuple[str, Release]]
    backup_id: str
    folder: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self) -> dict[str, Any]:
        """Writes every file but the manifest; returns what the manifest says of them.

        Raises:
            IntegrityMismatch: a table is not what was sealed. Unavailable: one is being changed all the time.
        """
        with snapshot.exported(self.connection, self._locked, WORKERS) as crew:
            failpoints.reach("backup.copy")
            tables = [self._chunks(role, release) for role, release in self.held]
            documents = self._documents()
            state_tables = {name: self._state_table(name) for name in STATE_TABLES}
            entries = [*tables, *(table["postings"] for table in tables), documents, *state_tables.values()]
            parts = [(entry, part) for entry in entries for part in entry.pop("parts")]
            jobs = [*(self._job(entry, part) for entry, part in parts), *map(self._probe, (held for _, held in self.held))]
            done = crew.run(jobs, meanwhile=lambda: self._digest(entries))
            for (entry, _), (name, written) in zip(parts, done[: len(parts)], strict=True):
                self.files[name] = {"sha256": written["sha256"], "bytes": written["bytes"]}
                entry["copied"] = entry.get("copied", 0) + written["rows"]
            for entry in entries:
                _count(entry)
            state = {name: self._state_rows(name) for name in STATE}
            facts = self._facts()
        self._write_texts(state)
        self._text(probes.FILE, pretty_json(dict(done[len(parts) :])))
        return {"tables": tables, "documents": documents, "state_tables": state_tables, **facts}

    def _locked(self) -> list[sql.Identifier]:
        self.schema = self._schema_of_documents()
        names = [sql.Identifier("golive", name) for name in (*STATE, *STATE_TABLES, "identity")]
        tables = [release.table for _, release in self.held]
        return [*tables, *map(terms_of, tables), sql.Identifier(self.schema, "documents"), *names]

    def _schema_of_documents(self) -> str:
        found = postgres.one(
            self.connection,
            "SELECT n.nspname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = 'documents'::regclass",
        )
        self.connection.rollback()
        assert found is not None
        return str(found["name"])

    def _chunks(self, role: str, release: Release) -> dict[str, Any]:
        dimension = release.locked_config.embedder_dimension
        columns = columns_of(self.connection, release.table_schema, release.table_name, "embedding")
        return {
            "release_id": release.release_id,
            "role": role,
            "schema": release.table_schema,
            "table": release.table_name,
            "dimension": dimension,
            "definitions": self._definitions(release.table),
            **self._entry(release.table, columns, dimension),
            "postings": self._postings(release),
            "digest": release.content_digest,  # the proof holds the restored rows against it: no need to read them twice
        }

    def _postings(self, release: Release) -> dict[str, Any]:
        """They follow from the table, but to make them anew takes as long as its vector index. Digested by the proof."""
        terms = terms_of(release.table)
        return self._entry(terms, columns_of(self.connection, *terms.strings), 0)

    def _documents(self) -> dict[str, Any]:
        table = sql.Identifier(self.schema, "documents")
        return {
            "schema": self.schema,
            "definitions": self._definitions(table),
            **self._entry(table, columns_of(self.connection, self.schema, "documents"), 0),
            "content": partial(documents_content, self.connection, self.schema),
        }

    def _state_table(self, name: str) -> dict[str, Any]:
        table = sql.Identifier("golive", name)
        columns = columns_of(self.connection, "golive", name)
        return {
            **self._entry(table, columns, 0),
            "content": partial(rows_content, self.connection, table, columns),
        }

    def _entry(self, table: sql.Identifier, columns: list[str], dimension: int) -> dict[str, Any]:
        parts = parts_of(self.connection, table, columns, dimension, WORKERS)
        name = ".".join(table.strings if table.strings[0] == "golive" else table.strings[-1:])
        files = [f"tables/{name}.{number}.rows.zst" for number in range(len(parts))]
        return {"columns": columns, "files": files, "parts": list(zip(files, parts, strict=True))}

    def _definitions(self, table: sql.Identifier) -> dict[str, Any] | None:
        name = table.as_string(self.connection)
        return postgres.one(self.connection, postgres.read_sql(__file__, "table_definitions"), {"table": name})

    def _job(self, entry: dict[str, Any], part: tuple[str, Part]) -> Job:
        name, pages = part
        return lambda connection: (name, copy_out(connection, pages, self.folder / name))

    def _probe(self, release: Release) -> Job:
        return lambda connection: (release.release_id, probes.take(connection, release))

    def _digest(self, entries: Sequence[dict[str, Any]]) -> None:
        """Counts and digests what is being copied and was never sealed, out of the same snapshot, in the database."""
        for entry in entries:
            if content := entry.pop("content", None):
                found = content()
                entry["rows"], entry["digest"] = found.row_count, found.digest

    def _state_rows(self, name: str) -> list[Any]:
        query = sql.SQL("SELECT to_jsonb(t) AS row FROM {} t ORDER BY to_jsonb(t)::text")
        rows = postgres.every(self.connection, query.format(sql.Identifier("golive", name)))
        return [row["row"] for row in rows]

    def _facts(self) -> dict[str, Any]:
        server = postgres.one(self.connection, postgres.read_sql(__file__, "server_facts"))
        return {"server": server, "identity": backup_chain.identity_of(self.connection)}

    def _write_texts(self, state: dict[str, Any]) -> None:
        failpoints.reach("backup.texts")
        self._text("state.json", pretty_json(state))
        for _, release in self.held:
            self._text(f"configs/history/{release.chunk_version}.json", pretty_json(release.config))
        for path in (store.active_path(self.workspace), *(self.workspace.configs / name for name in _CONFIG_FILES)):
            if path.exists():
                self._text(f"configs/{path.name}", path.read_text(encoding="utf-8"))
        self._text("row_blocks.py", Path(row_blocks.__file__).read_text(encoding="utf-8"))

    def finish(self, found: dict[str, Any]) -> dict[str, Any]:
        """The manifest, whose last file is the script that is rendered from it."""
        manifest = {
            "manifest_version": backup_files.MANIFEST_VERSION,
            "backup_id": self.backup_id,
            "created_at": timestamp(),
            "created_by": who(),
            "files": self.files,
            **found,
        }
        self._text("restore.sh", restore_script.render(manifest))
        return manifest

    def _text(self, name: str, text: str) -> None:
        write_text(self.folder / name, text)
        self.files[name] = {"sha256": sha256_file(self.folder / name), "bytes": (self.folder / name).stat().st_size}


def _count(entry: dict[str, Any]) -> None:
    """Raises IntegrityMismatch where the parts do not hold as many rows as were counted: then one was cut wrongly."""
    copied = entry.pop("copied")
    if entry.setdefault("rows", copied) != copied:
        raise IntegrityMismatch(
            f"{copied} rows were copied to {entry['files'][0]}, {entry['rows']} are there", hint="make backup"
        )
