"""Backups that cannot be used, and places that cannot be restored into: one clear line each, and nothing is touched."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch
from lib.platform.files import read_json, sha256_file, write_json
from lib.platform.workspace import Workspace
from lib.release import backup_files, ingesting, row_blocks
from lib.release.table_copies import decompressing
from tests.conftest import Finished, administer
from tests.release import forked, staged, synthetic
from tests.release.staged import Project, files_below

TABLE = "document_chunks_2026_01_02_030405_v1"
UNKNOWN = "20200101-000000-abcdef"
RESTORE = ("restore_production_state", "restore_production_state --check", "restore_production_state --dry-run")
EVERYBODY = (*RESTORE, "validate_rollback")
# a lease that was taken leaves the holder's name in its row
_RELATIONS = """SELECT n.nspname, c.relname, c.relkind, c.relfilenode
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relname <> 'leases' ORDER BY 1, 2"""


@dataclass
class Place:
    """A workspace with one backup, and a database."""

    workspace: Workspace
    url: str
    backup_id: str
    asks_for_another: bool = True  # system's backup, as who restores on a new machine does

    @property
    def folder(self) -> Path:
        return self.workspace.backups / self.backup_id

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "manifest.json", "manifest"))

    def write_manifest(self, **changes: Any) -> None:
        write_json(self.folder / "manifest.json", {**self.manifest, **changes})

    def fit_manifest(self) -> None:
        """Makes the manifest agree with the files as they are: the damage is then in the data alone."""
        manifest = self.manifest
        for name, item in manifest["files"].items():
            item.update(sha256=sha256_file(self.folder / name), bytes=(self.folder / name).stat().st_size)
        self.write_manifest(files=manifest["files"])

    def change_copy(self, change: Callable[[bytes], bytes]) -> None:
        """Replaces the chunk table's COPY stream in the backup, so that every checksum fits.

        It is written as it is, without row blocks, as in a backup of the first format: whatever it was changed to.
        """
        manifest, name = self.manifest, "tables/changed.copy.zst"
        entry = manifest["tables"][0]
        (old,) = entry["files"]
        with (self.folder / old).open("rb") as stream:
            data = b"".join(row_blocks.decode(decompressing(stream), len(entry["columns"])))
        (self.folder / old).unlink()
        (self.folder / name).write_bytes(zstandard.ZstdCompressor().compress(change(data)))
        entry["files"] = [name]
        manifest["files"][name] = manifest["files"].pop(old)
        self.write_manifest(**manifest)
        self.fit_manifest()

    def run(self, command: str, backup_id: str | None = None, **environment: str) -> Finished:
        script, *flags = command.split()
        flags += ["--from-another-system"] if script == "restore_production_state" and self.asks_for_another else []
        named = ["--backup-id", self.backup_id if backup_id is None else backup_id]
        environment = {**os.environ, "DATABASE_URL": self.url, "GOLIVE_HOME": str(self.workspace.root), **environment}
        return forked.run(script, *flags, *([] if script.startswith("backup") else named), environment=environment)

    def state(self) -> dict[str, Any]:
        """Every relation with the file that holds it, every row of Golive's own tables, every file of the project."""
        connection = postgres.connect(self.url, "test")
        with connection:
            relations = postgres.every(connection, _RELATIONS)
            rows = {}
            for found in relations:
                if found["relkind"] == "r" and found["nspname"] in ("golive", "public"):
                    name = sql.Identifier(found["nspname"], found["relname"])
                    rows[found["relname"]] = postgres.every(
                        connection,
                        sql.SQL("SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {} t").format(name),
                    )
        connection.close()
        return {"relations": relations, "rows": rows, "files": files_below(self.workspace.root)}


@pytest.fixture(scope="module")
def databases(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """``live``: a release answers. ``fresh``: Golive's state and nothing in it. No test may change them."""
    template, _ = synthetic.stages(server, tmp_path_factory.getbasetemp() / "synthetic")["live"]
    live = synthetic.copy_database(server, template, f"{template}_bad_live")
    administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"{template}_bad_fresh")))
    fresh = staged.database_address(server, f"{template}_bad_fresh")
    connection = postgres.connect(fresh, "test")
    postgres.create_state(connection)
    connection.close()
    yield {"live": live, "fresh": fresh}
    for name in ("live", "fresh"):
        staged.drop_database(server, f"{template}_bad_{name}")


@pytest.fixture
def live(databases, server, tmp_path_factory, workspace) -> Place:
    return _place("live", databases, server, tmp_path_factory, workspace)


@pytest.fixture
def fresh(databases, server, tmp_path_factory, workspace) -> Place:
    """Where everything would come out of the backup."""
    return _place("fresh", databases, server, tmp_path_factory, workspace)


def _place(
    name: str, databases: dict[str, str], server: str, factory: pytest.TempPathFactory, workspace: Workspace
) -> Place:
    _, folder = synthetic.stages(server, factory.getbasetemp() / "synthetic")["live"]
    staged.copy_project(folder, workspace.root)
    (made,) = backup_files.every(workspace)
    assert isinstance(made, backup_files.Backup)
    return Place(workspace, databases[name], made.backup_id)


def refuses(place: Place, commands: tuple[str, ...], code: int, message: str, backup_id: str | None = None) -> None:
    """Each command ends with the code and one clear line with the words ``message`` in it, and changes nothing."""
    before = place.state()
    for command in commands:
        assert_refused(place.run(command, backup_id), code, message)
        assert place.state() == before, command


def assert_refused(done: Finished, code: int, message: str) -> None:
    assert done.code == code, done.err
    first, *rest = done.err.splitlines()
    assert first.startswith("error: ") and message in first, done.err
    assert all(line.startswith("  ") for line in rest), done.err  # the facts, and what to do next
    assert rest[-1].startswith("  hint: "), done.err


# Which backup


@pytest.mark.parametrize(
    "name", [UNKNOWN, "../../x", "/etc/passwd", "x; rm -rf /", ".incomplete-" + UNKNOWN, "latest", "a\nb"]
)
def test_no_such_backup(live, name):
    refuses(live, EVERYBODY, 12, "backup", name)


def test_no_id_at_all(live):
    refuses(live, EVERYBODY, 2, "which backup?", "")


def test_an_empty_folder_is_no_backup(live):
    (live.workspace.backups / UNKNOWN).mkdir()
    refuses(live, EVERYBODY, 14, f"backup {UNKNOWN} has no manifest", UNKNOWN)


def test_a_file_is_no_backup(live):
    (live.workspace.backups / UNKNOWN).write_text("")
    refuses(live, EVERYBODY, 12, f"no backup {UNKNOWN}", UNKNOWN)


def test_a_backup_that_is_being_made_is_none_yet(live):
    live.folder.rename(live.workspace.backups / f".incomplete-{live.backup_id}")
    (live.workspace.backups / f".incomplete-{live.backup_id}" / "manifest.json").unlink()
    refuses(live, EVERYBODY, 12, f"backup {live.backup_id} is not complete")


def test_the_folder_of_another_backup(live):
    live.folder.rename(live.workspace.backups / UNKNOWN)
    refuses(live, EVERYBODY, 14, f"backup {UNKNOWN} holds the manifest of {live.backup_id}", UNKNOWN)


# Manifests


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{", b"[]", b"null", b"\xff\xfe{}", b'{"manifest_version": 1}'])
def test_a_manifest_that_is_none(live, content):
    (live.folder / "manifest.json").write_bytes(content)
    refuses(live, EVERYBODY, 14, f"backup {live.backup_id} has a damaged manifest")


def test_a_manifest_of_a_newer_format(live):
    live.write_manifest(manifest_version=backup_files.MANIFEST_VERSION + 1)
    refuses(live, EVERYBODY, 14, f"backup {live.backup_id} was made by a newer Golive")


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../x", "tables/../../x", "a\\b", "", ".hidden", "a//b", "x\n"])
def test_a_manifest_that_leads_elsewhere(live, name):
    files = {**live.manifest["files"], name: {"sha256": "0" * 64, "bytes": 1}}
    live.write_manifest(files=files)
    refuses(live, EVERYBODY, 14, f"backup {live.backup_id} has a damaged manifest")


def test_data_that_would_be_read_from_elsewhere(live):
    tables = live.manifest["tables"]
    tables[0]["files"] = ["/etc/passwd"]
    live.write_manifest(tables=tables)
    refuses(live, EVERYBODY, 14, f"backup {live.backup_id} has a damaged manifest")


def test_data_that_the_manifest_does_not_list(fresh):
    tables = fresh.manifest["tables"]
    tables[0]["files"] = ["tables/other.copy.zst"]
    fresh.write_manifest(tables=tables)
    shutil.copy(fresh.folder / "manifest.json", fresh.folder / "tables" / "other.copy.zst")
    refuses(fresh, RESTORE[:2], 14, f"backup {fresh.backup_id} has a damaged manifest")


@pytest.mark.parametrize("name", ['a"b', "a'; DROP TABLE documents; --", "x" * 64, "", "Größe", "a b", "x\n"])
def test_a_table_name_that_is_none(live, name):
    tables = live.manifest["tables"]
    tables[0]["table"] = name
    live.write_manifest(tables=tables)
    refuses(live, EVERYBODY, 14, f"backup {live.backup_id} has a damaged manifest")


def test_a_release_that_the_backup_does_not_hold(live):
    before = live.state()
    for command in EVERYBODY:
        done = live.run(f"{command} --release 2026-01-02-030405-v1-ffffffff")
        assert_refused(done, 12, "does not hold release 2026-01-02-030405-v1-ffffffff")
        assert live.state() == before


# Files


def a_link(folder: Path) -> str:
    shutil.move(folder / "state.json", folder.parent / "state.json")
    (folder / "state.json").symlink_to(folder.parent / "state.json")
    return "state.json is a link"


def a_folder_that_is_a_link(folder: Path) -> str:
    shutil.move(folder / "tables", folder.parent / "tables")
    (folder / "tables").symlink_to(folder.parent / "tables")
    return "tables"


def an_extra_file(folder: Path) -> str:
    (folder / "tables" / "more.copy.zst").write_bytes(b"")
    return "tables/more.copy.zst does not belong to it"


def an_extra_link(folder: Path) -> str:
    (folder / "passwords").symlink_to("/etc/passwd")
    return "passwords does not belong to it"


def a_missing_file(folder: Path) -> str:
    (folder / "configs" / "gates.yaml").unlink()
    return "configs/gates.yaml is missing"


def a_flipped_bit(folder: Path) -> str:
    path = next(iter(sorted((folder / "tables").iterdir())))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"tables/{path.name} was changed since it was made"


def a_pipe(folder: Path) -> str:
    (folder / "restore.sh").unlink()
    os.mkfifo(folder / "restore.sh")
    return "restore.sh is no file"


@pytest.mark.parametrize(
    "damage", [a_link, a_folder_that_is_a_link, an_extra_file, an_extra_link, a_missing_file, a_flipped_bit, a_pipe]
)
def test_files_that_are_not_those_of_the_backup(fresh, damage):
    refuses(fresh, RESTORE[:2], 14, damage(fresh.folder))


def test_a_backup_that_lost_its_state(fresh):
    (fresh.folder / "state.json").unlink()
    refuses(fresh, EVERYBODY, 12, f"backup {fresh.backup_id} has lost its state.json")


# Data whose checksums fit


def header_only(data: bytes) -> bytes:
    return data[:19] + b"\xff\xff"


def nothing_after_the_header(data: bytes) -> bytes:
    return data[:19]


def without_last_row_and_trailer(data: bytes) -> bytes:
    return data[: row_starts(data)[-2]]


def fewer_rows(data: bytes) -> bytes:
    return data[: row_starts(data)[-2]] + b"\xff\xff"


def cut_in_a_row(data: bytes) -> bytes:
    return data[: row_starts(data)[1] + 40]


def a_row_twice(data: bytes) -> bytes:
    first, second = row_starts(data)[:2]
    return data[:second] + data[first:]


def other_text(data: bytes) -> bytes:
    assert b"fresh tables" in data
    return data.replace(b"fresh tables", b"stale tables")


def another_dimension(data: bytes) -> bytes:
    """Every 384-dimensional vector (pgvector sends its width, then its values) with one dimension less."""
    width, parts = 4 + 4 * 384, data.split(struct.pack(">ihh", 4 + 4 * 384, 384, 0))
    assert len(parts) == 4
    shorter = [part[: width - 8] + part[width - 4 :] for part in parts[1:]]
    return struct.pack(">ihh", width - 4, 383, 0).join([parts[0], *shorter])


def no_copy_data(data: bytes) -> bytes:
    return b"id,embedding\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (header_only, "is not what backup"),
        (nothing_after_the_header, "is not what backup"),
        (without_last_row_and_trailer, "is not what backup"),
        (fewer_rows, "is not what backup"),
        (cut_in_a_row, "is damaged"),
        (a_row_twice, "is damaged"),
        (other_text, "is not what backup"),
        (another_dimension, "is damaged"),
        (no_copy_data, "is damaged"),
    ],
)
def test_rows_that_are_not_those_that_were_backed_up(fresh, change, message):
    fresh.change_copy(change)
    refuses(fresh, RESTORE[:1], 14, message)


def test_another_config_in_the_backups_state(fresh):
    state = read_json(fresh.folder / "state.json", "state")
    state["releases"][0]["config"]["embedder_dimension"] = 383
    write_json(fresh.folder / "state.json", state)
    fresh.fit_manifest()
    refuses(fresh, RESTORE[:1], 14, "does not match its config_hash")


def test_a_state_without_the_release(fresh):
    state = read_json(fresh.folder / "state.json", "state")
    write_json(fresh.folder / "state.json", {**state, "releases": []})
    fresh.fit_manifest()
    refuses(fresh, RESTORE[:1], 14, "brings back no record of release")


# Databases


def test_a_backup_of_another_database_is_not_restored_unasked(fresh):
    fresh.asks_for_another = False
    refuses(fresh, RESTORE, 15, f"backup {fresh.backup_id} was made of another database")


@pytest.fixture
def own(live, server, databases) -> Iterator[Callable[..., Place]]:
    """The workspace of ``live`` with a database that the test may change: a copy of ``source``, or an empty one."""
    made = []

    def make(source: str | None = None, *commands: str) -> Place:
        name = f"bad_{len(made)}_{os.getpid()}"
        made.append(name)
        if source is None:
            administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            url = staged.database_address(server, name)
        else:
            url = synthetic.copy_database(server, parse_dsn(databases[source])["dbname"], name)
        for command in commands:
            administer(url, sql.SQL(command))
        return Place(live.workspace, url, live.backup_id)

    yield make
    for name in made:
        staged.drop_database(server, name)


def test_pgvector_in_a_schema_that_is_not_looked_in(own):
    place = own(None, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions")
    refuses(place, RESTORE, 15, "pgvector is in the schema extensions, which is not in the search_path")


def test_pgvector_in_a_schema_of_its_own_is_as_good_where_it_is_looked_in(own):
    place = own(None, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions")
    there, place.url = place.url, f"{place.url}&options=-csearch_path%3Dpublic,extensions"
    for command in (RESTORE[0], "validate_rollback", "backup_production_state"):
        assert place.run(command).code == 0
    place.url = there
    refuses(place, (*EVERYBODY, "backup_production_state"), 15, "pgvector is in the schema extensions")


def test_pgvector_that_this_role_may_not_enable(own, server):
    place = own(None, "CREATE ROLE bad_backups_guest LOGIN")
    try:
        place.url = place.url.replace("postgres@", "bad_backups_guest@")
        refuses(place, RESTORE, 15, "pgvector is not enabled here, and this role may not enable it")
    finally:
        administer(server, sql.SQL("DROP ROLE bad_backups_guest"))


def test_a_database_without_golive_is_no_place_for_a_proof_or_a_backup(own):
    place = own()
    refuses(place, ("validate_rollback",), 12, "nothing has been released in this database yet")


@pytest.mark.parametrize(("name", "code"), [('x"; DROP TABLE documents; --', 14), ("x" * 64, 10), ("", 10), ("ä" * 32, 10)])
def test_a_record_whose_table_name_is_none_is_not_backed_up_and_drops_nothing(own, name, code):
    place = own("live")
    with_name(place, name)
    refuses(place, ("backup_production_state",), code, "table")


@pytest.mark.parametrize("name", ['x"; DROP TABLE documents; --', "x" * 64])
def test_a_release_whose_record_names_no_possible_table_comes_back_in_a_table_of_its_own(own, name):
    place = own("live")
    with_name(place, name)
    rows = place.state()["rows"]
    done = place.run("restore_production_state")
    assert done.code == 0, done.err
    assert "live: 2026-01-02-030405-v1-" in done.out and f"in {TABLE}_r1, 3 rows" in done.out
    after = place.state()["rows"]
    assert {table: after[table] for table in (TABLE, "documents")} == {table: rows[table] for table in (TABLE, "documents")}


def test_a_restore_never_writes_into_the_live_table(own):
    place = own("live")
    connection = postgres.connect(place.url, "test")
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(f"UPDATE {TABLE} SET bm25_text = 'something else'")
    connection.close()
    before = place.state()
    assert place.run("restore_production_state").code == 0
    after = place.state()
    assert after["rows"][TABLE] == before["rows"][TABLE]
    number = {relation["relname"]: relation["relfilenode"] for relation in before["relations"]}
    assert {r["relname"]: r["relfilenode"] for r in after["relations"] if r["relname"] in number} == number
    assert f"{TABLE}_r1" in after["rows"]


def test_a_shadow_table_that_holds_rows_of_another_version_is_left_as_it_is(live, own, monkeypatch):
    place = own("live")
    monkeypatch.setenv("DATABASE_URL", place.url)
    connection = postgres.connect(place.url, "test")
    project = Project(place.workspace, place.url, connection)
    staged.lock(project, synthetic.moment_of(2), chunk_size="300")
    shadow = project.release().table_name
    project.execute(f"CREATE TABLE {shadow} (LIKE {TABLE} INCLUDING ALL); INSERT INTO {shadow} SELECT * FROM {TABLE}")
    before = place.state()
    with synthetic.without_a_model(), pytest.raises(IntegrityMismatch) as refused:
        ingesting.ingest(place.workspace, connection)
    connection.close()
    assert refused.value.message == f"table {shadow} holds rows of another ingest"
    assert "lock again" in refused.value.hint
    after = place.state()
    assert before["rows"].pop("releases") != after["rows"].pop(
        "releases"
    )  # it is marked as building, before it is looked at
    assert after == before


def with_name(place: Place, name: str) -> None:
    """Writes a table name into the live release's record, as somebody would who can write to the database."""
    connection = postgres.connect(place.url, "test")
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.releases SET table_name = %s", (name,))
    connection.close()


def row_starts(data: bytes) -> list[int]:
    """Where each row of a binary COPY stream starts, and its trailer (PostgreSQL's manual, COPY, "Binary Format")."""
    place, starts = 19, []
    while True:
        starts.append(place)
        columns = struct.unpack_from(">h", data, place)[0]
        if columns == -1:
            return starts
        place += 2
        for _ in range(columns):
            place += 4 + max(0, struct.unpack_from(">i", data, place)[0])
