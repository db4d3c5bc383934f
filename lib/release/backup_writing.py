"""The files of a backup, all from one snapshot: tables in parallel parts, Golive's state, configs, the emergency script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index.bm25 import terms_of
from lib.index.releases import Release
from lib.index.seal import content
from lib.platform import failpoints, postgres
from lib.platform.clock import timestamp
from lib.platform.errors import IntegrityMismatch
from lib.platform.files import pretty_json, sha256_file, write_text
from lib.platform.lease import who
from lib.platform.workspace import Workspace
from lib.release import backup_chain, backup_files, backup_proof, probes, restore_script, row_blocks, snapshot
from lib.release.snapshot import Job
from lib.release.table_copies import Part, columns_of, copy_out, documents_content, parts_of, row_hashes

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
# Of a chunk table: the vectors, which are set apart, and the text whose end the other one is, with a prefix or without.
_FIRST = ("embedding", "embedding_text", "bm25_text")
WORKERS = 2


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
        """Writes every file but the last ones; returns what the manifest says of them.

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
            done = crew.run([self._job(*part) for _, part in parts], meanwhile=lambda: self._digest(entries))
            for (entry, (name, _)), written in zip(parts, done, strict=True):
                self.files[name] = {"sha256": written["sha256"], "bytes": written["bytes"]}
                entry["copied"] = entry.get("copied", 0) + written["rows"]
            for entry in entries:
                _count(entry)
            state = {name: self._state_rows(name) for name in STATE}
            facts = self._facts()
        self._write_texts(state)
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
        columns = columns_of(self.connection, release.table_schema, release.table_name, _FIRST)
        return {
            "release_id": release.release_id,
            "role": role,
            "schema": release.table_schema,
            "table": release.table_name,
            "dimension": dimension,
            "definitions": self._definitions(release.table),
            **self._entry(Part(release.table, columns, dimension, repeats=True)),
            "postings": self._postings(release),
            "digest": release.content_digest,  # the proof holds the restored rows against it: no need to read them twice
        }

    def _postings(self, release: Release) -> dict[str, Any]:
        """They follow from the table, but to make them anew takes as long as its vector index. Digested by the proof."""
        terms = terms_of(release.table)
        return self._entry(Part(terms, columns_of(self.connection, *terms.strings)))

    def _documents(self) -> dict[str, Any]:
        table = sql.Identifier(self.schema, "documents")
        return {
            "schema": self.schema,
            "definitions": self._definitions(table),
            **self._entry(Part(table, columns_of(self.connection, self.schema, "documents"))),
            "content": partial(documents_content, self.connection, self.schema),
        }

    def _state_table(self, name: str) -> dict[str, Any]:
        table = sql.Identifier("golive", name)
        columns = columns_of(self.connection, "golive", name)
        return {
            **self._entry(Part(table, columns)),
            "content": partial(content, self.connection, row_hashes(table, columns)),
        }

    def _entry(self, whole: Part) -> dict[str, Any]:
        parts = parts_of(self.connection, whole, WORKERS)
        name = ".".join(whole.table.strings if whole.table.strings[0] == "golive" else whole.table.strings[-1:])
        files = [f"tables/{name}.{number}.rows.zst" for number in range(len(parts))]
        return {"columns": whole.columns, "files": files, "parts": list(zip(files, parts, strict=True))}

    def _definitions(self, table: sql.Identifier) -> dict[str, Any] | None:
        name = table.as_string(self.connection)
        return postgres.one(self.connection, postgres.read_sql(__file__, "table_definitions"), {"table": name})

    def _job(self, name: str, part: Part) -> Job:
        return lambda connection: copy_out(connection, part, self.folder / name)

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

    def prove(self, found: dict[str, Any]) -> dict[str, Any]:
        """Proves what was written, and asks the sealed tables their probes meanwhile; returns ``{at, seconds}``.

        Raises:
            IntegrityMismatch: what was restored is not what was written.
        """
        asking: list[Job] = [partial(probes.take, release=release) for _, release in self.held]
        proven, taken = backup_proof.prove(self.connection, found, self.folder, WORKERS, asking)
        answers = zip((release.release_id for _, release in self.held), taken, strict=True)
        self._text(probes.FILE, pretty_json(dict(answers)))
        return proven

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
