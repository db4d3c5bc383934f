"""Bad input to an index build, as a user meets it: a line that names it, the documented exit code, production untouched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from psycopg2 import sql

from lib.platform import postgres
from tests.conftest import HANDBOOK


@pytest.fixture
def locked(run_script, workspace, connection) -> Callable[..., dict]:
    """Stores the workspace's corpus and locks a config for it: ``locked("--chunk-size=100")`` gives the release's row."""

    def lock(*arguments: str) -> dict:
        for script, given in (("sync_documents", (str(workspace.default_corpus),)), ("lock_production_config", arguments)):
            finished = run_script(script, *given)
            assert finished.code == 0, finished.err
        with connection:
            return postgres.one(connection, "SELECT * FROM golive.releases")

    return lock


def test_odd_documents_are_indexed_and_what_is_none_is_named(run_script, workspace, connection, locked):
    corpus = workspace.default_corpus
    huge = " ".join(f"{number}{'x' * 1000}" for number in range(1_000))  # 1 MB in one line; the model has no word for any
    (corpus / "huge.md").write_text(huge, encoding="utf-8")
    (corpus / "again.md").write_text(HANDBOOK["backups.md"], encoding="utf-8")
    (corpus / "spam.md").write_text("spam " * 2000, encoding="utf-8")
    (corpus / "endless.md").write_text("x" * 200_000, encoding="utf-8")
    (corpus / "symbols.md").write_text("😀 … — ☃", encoding="utf-8")
    for name, content in (
        ("empty.md", b""),
        ("blank.md", b" \n\t\r\n"),
        ("binary.md", b"\x00\x01"),
        ("latin.txt", b"caf\xe9"),
    ):
        (corpus / name).write_bytes(content)
    finished = run_script("sync_documents", str(corpus), "--dry-run")
    assert finished.code == 0
    for name in ("empty.md", "blank.md", "binary.md", "latin.txt"):
        assert name in finished.out + finished.err

    release = locked()
    finished = run_script("shadow_ingest", "--json")
    assert finished.code == 0, finished.err
    rows = table_of(connection, release)
    assert all(row["embedding_token_count"] <= 512 for row in rows)
    assert {row["doc_id"].removeprefix("corpus/") for row in rows} == {
        "again.md", "chunking.md", "endless.md", "huge.md", "pointer.md", "spam.md", "symbols.md",
    }  # fmt: skip
    (again,) = [row for row in rows if row["doc_id"] == "corpus/again.md"]
    assert [duplicate["doc_id"] for duplicate in again["duplicates"]] == ["corpus/backups.md"]
    covered = sorted((row["span_start"], row["span_end"]) for row in rows if row["doc_id"] == "corpus/huge.md")
    assert covered[0][0] == 0
    assert covered[-1][1] == len(huge)
    assert all(start <= end for (_, end), (start, _) in zip(covered[1:], covered, strict=False))
    assert [row["chunk_index"] for row in rows if row["doc_id"] == "corpus/spam.md"] == [0]  # the others repeat it
    untouched(connection)


def test_a_corpus_without_a_text_is_refused(run_script, workspace, connection):
    shutil.rmtree(workspace.default_corpus)
    workspace.default_corpus.mkdir()
    (workspace.default_corpus / "blank.md").write_text(" \n\u3000\n", encoding="utf-8")
    finished = run_script("sync_documents", str(workspace.default_corpus))
    assert finished.code == 10, finished.err
    assert "blank.md" in finished.err
    untouched(connection)


@pytest.mark.parametrize(
    ("file", "edit", "named"),
    [
        ("tokenizer.json", lambda content: content | {"added_tokens": content["added_tokens"][:-1]}, "tokenizer"),
        ("config.json", lambda content: content | {"hidden_size": 768}, "not the ones that were locked"),
    ],
)
def test_a_model_that_was_changed_after_the_lock_builds_nothing(
    run_script, connection, locked, model_folder, tmp_path, file, edit, named
):
    model = tmp_path / "model"
    shutil.copytree(model_folder, model, ignore=shutil.ignore_patterns("*.safetensors"))
    (model / "model.safetensors").symlink_to((model_folder / "model.safetensors").resolve())
    release = locked("--embedder", str(model), "--chunk-size", "100")
    content = json.loads((model / file).read_text(encoding="utf-8"))
    (model / file).chmod(0o644)
    (model / file).write_text(json.dumps(edit(content)), encoding="utf-8")
    refused(run_script("shadow_ingest"), 14, named)
    with connection:
        assert not postgres.every(connection, "SELECT FROM pg_tables WHERE tablename = %s", (release["table_name"],))
    untouched(connection)


def test_a_table_that_another_config_left_is_named_and_left(run_script, connection, locked):
    release = locked()
    with connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TABLE {} (id text PRIMARY KEY)").format(sql.Identifier(release["table_name"])))
    refused(run_script("shadow_ingest"), 14, release["table_name"])
    with connection:
        assert postgres.one(connection, "SELECT state FROM golive.releases")["state"] in ("locked", "building")
        columns = "SELECT FROM information_schema.columns WHERE table_name = %s"
        assert len(postgres.every(connection, columns, (release["table_name"],))) == 1
    untouched(connection)


def test_an_index_build_without_room_says_so_and_goes_on_once_there_is_some(run_script, connection, locked):
    locked()
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION no_room() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF current_query() ~ 'hnsw' THEN RAISE 'could not extend file: No space left on device'"
            " USING ERRCODE = 'disk_full'; END IF; END $$"
        )
        cursor.execute(
            "CREATE EVENT TRIGGER no_room ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION no_room()"
        )
    finished = run_script("shadow_ingest")
    assert finished.code == 13, finished.err
    assert "No space left on device" in finished.err
    assert "Traceback" not in finished.err
    untouched(connection)
    with connection, connection.cursor() as cursor:
        cursor.execute("DROP EVENT TRIGGER no_room")
    finished = run_script("shadow_ingest", "--json")
    assert finished.code == 0, finished.err
    assert finished.json["embedded_now"] == 0


def table_of(connection, release: dict) -> list[dict]:
    statement = sql.SQL("SELECT * FROM {} ORDER BY doc_id, chunk_index").format(sql.Identifier(release["table_name"]))
    with connection:
        return postgres.every(connection, statement.as_string(connection))


def refused(finished, code: int, named: str) -> None:
    assert finished.code == code, finished.err
    (line,) = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert named in line, finished.err
    assert "Traceback" not in finished.err


def untouched(connection) -> None:
    """Nothing is live, as before."""
    with connection:
        assert postgres.one(connection, "SELECT generation, release_id FROM golive.pointer") == {
            "generation": 0,
            "release_id": None,
        }
