"""restore.sh: a backup comes back with psql and zstd alone, and the script stops at whatever is not as it was."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.index.seal import content_of
from lib.platform import embedded, postgres
from lib.release import backup_files, restore_script
from lib.release.backup_files import Backup
from tests.release.staged import Project

_ZSTD = """#!{python}
import shutil, sys, zstandard
assert sys.argv[1:3] == ["--decompress", "--stdout"], sys.argv
with open(sys.argv[3], "rb") as stream:
    shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True), sys.stdout.buffer)
"""


@pytest.fixture
def elsewhere(live, empty_database):
    """An empty database to restore into."""
    connection = postgres.connect(empty_database, "test")
    yield Project(live.workspace, empty_database, connection)
    connection.close()


@pytest.fixture
def programs(tmp_path) -> str:
    """A PATH with psql of the embedded server's version, zstd, and what every system has."""
    folder = tmp_path / "programs"
    folder.mkdir()
    if shutil.which("zstd") is None:
        (folder / "zstd").write_text(_ZSTD.format(python=sys.executable))
        (folder / "zstd").chmod(0o755)
    return f"{folder}:{embedded.client('psql').parent}:{os.environ['PATH']}"


def test_the_script_reproduces_rows_and_digests_in_an_empty_database(second, empty_database, programs):
    made = newest(second)
    done = run(made, empty_database, programs)
    assert done.returncode == 0, done.stderr
    assert len(made.manifest["tables"]) == 2
    connection = postgres.connect(empty_database, "test")
    for table in made.manifest["tables"]:
        with connection:
            found = content_of(connection, "public", f"{table['table']}_restored")
        assert (found.row_count, found.digest) == (table["rows"], table["digest"])
        assert f"{table['rows']}|{table['digest']}" in done.stdout
    connection.close()


def test_the_script_changes_nothing_that_stands(live, programs):
    before = live.pointer(), live.releases(), relations(live)
    done = run(newest(live), live.url, programs)
    assert done.returncode == 0, done.stderr
    assert (live.pointer(), live.releases()) == before[:2]
    assert set(relations(live)) - set(before[2]) == {f"{live.release().table_name}_restored"}


def test_the_script_stops_at_a_name_that_is_taken_and_leaves_that_table_alone(live, elsewhere, programs):
    taken = f"{live.release().table_name}_restored"
    elsewhere.execute(f"CREATE TABLE {taken} (id text)")
    done = run(newest(live), elsewhere.url, programs)
    assert done.returncode != 0
    assert "already exists" in done.stderr
    assert elsewhere.ask(f"SELECT * FROM {taken}") == []


def test_the_script_writes_nothing_where_any_name_is_taken(second, empty_database, programs):
    made = newest(second)
    first, last = (f"{table['table']}_restored" for table in made.manifest["tables"])
    connection = postgres.connect(empty_database, "test")
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {last} (id text)")
    done = run(made, empty_database, programs)
    assert done.returncode != 0
    with connection:
        assert not postgres.table_exists(connection, "public", first)
    connection.close()


@pytest.mark.parametrize("name", ["tables/documents.0.rows.zst", "state.json", "configs/gates.yaml"])
def test_the_script_stops_at_one_flipped_byte_before_it_writes(live, elsewhere, programs, name):
    made = newest(live)
    content = bytearray((made.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (made.folder / name).write_bytes(content)
    done = run(made, elsewhere.url, programs)
    assert done.returncode != 0
    assert name in done.stdout + done.stderr
    assert relations(elsewhere) == []


def test_the_script_stops_at_a_table_whose_digest_is_another(live, elsewhere, programs):
    made = newest(live)
    wrong = {**made.manifest["tables"][0], "digest": "0" * 64}
    files = {name: item for name, item in made.manifest["files"].items() if name != "restore.sh"}
    (made.folder / "restore.sh").write_text(restore_script.render({**made.manifest, "tables": [wrong], "files": files}))
    done = run(made, elsewhere.url, programs)
    assert done.returncode == 14
    assert "MISMATCH" in done.stderr
    assert made.manifest["tables"][0]["digest"] in done.stderr


def test_without_an_address_the_script_says_what_to_set(live, programs):
    done = run(newest(live), "", programs)
    assert done.returncode != 0
    assert "set DATABASE_URL" in done.stderr


def test_the_script_is_the_same_for_the_same_manifest_and_holds_no_address(live, monkeypatch):
    manifest = newest(live).manifest
    text = restore_script.render(manifest)
    assert text == restore_script.render(dict(manifest))
    assert not re.search(r"postgresql://(?!\.\.\.)", text)
    for name, item in manifest["files"].items():
        assert f"{item['sha256']}  {name}" in text


def newest(project: Project) -> Backup:
    found = backup_files.every(project.workspace)[0]
    assert isinstance(found, Backup)
    return found


def run(made: Backup, url: str, programs: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(Path(made.folder) / "restore.sh")],
        cwd="/",
        env={"PATH": programs, "DATABASE_URL": url, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def relations(project: Project) -> list[str]:
    rows = project.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return [row["tablename"] for row in rows]
