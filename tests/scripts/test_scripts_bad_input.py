"""Bad input to ``make golive`` and its scripts: one clear line, the documented exit code, nothing changed."""

import json
from pathlib import Path

import psycopg2
import pytest

STEPS = ("sync", "lock")
CASE = {"query_id": "a", "query": "How is a backup proven?", "gt_answer": "By restoring it.", "answerable": True}
GOLD = {"doc_id": "backups.md", "quote": "A backup is proven by restoring it into fresh tables."}


@pytest.fixture
def cases(workspace):
    """A case file that fits the test's corpus."""
    return write_cases(workspace.default_cases, [{**CASE, "gold": [GOLD]}])


@pytest.mark.parametrize("value", ["0", "-1", "012", "1e3", "nan", "5000", "4.5", "450 ", "true"])
def test_a_chunk_size_that_is_none(run_script, cases, workspace, value):
    refused(run_script("golive", *STEPS, CHUNK_SIZE=value), 10, "environment variable CHUNK_SIZE")
    refused(run_script("lock_production_config", f"--chunk-size={value}"), 10, "flag --chunk-size")
    untouched(workspace)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OVERLAP_RATIO", "0.51"), ("OVERLAP_RATIO", ".nan"), ("JACCARD_THRESHOLD", "0.49"), ("PREFIX_POLICY", "C")],
)
def test_a_value_over_a_hard_cap(run_script, cases, workspace, variable, value):
    refused(run_script("golive", *STEPS, **{variable: value}), 10, f"environment variable {variable}")
    untouched(workspace)


def test_a_chunk_that_the_embedder_would_cut(run_script, cases, workspace):
    refused(run_script("golive", *STEPS, CHUNK_SIZE="500"), 10, "over the 512 that the embedder reads")
    untouched(workspace)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chunk_size: 300", "duplicate key 'chunk_size'"),
        ("chunk_sise: 300", "unknown key 'chunk_sise' (did you mean chunk_size?)"),
        ("extra: *anchor", "not valid YAML"),
        ("prefix: !!python/object:os.system x", "YAML tags are not allowed"),
    ],
)
def test_a_config_that_is_not_what_it_should_be(run_script, cases, workspace, line, message):
    with (workspace.configs / "candidate.yaml").open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
    refused(run_script("golive", *STEPS), 10, message)
    untouched(workspace)


def test_an_unknown_embedder(run_script, cases, workspace):
    refused(run_script("lock_production_config", "--embedder", "no-such-model"), 10, "unknown embedder 'no-such-model'")
    untouched(workspace)


def test_an_environment_without_config_files(run_script, cases, workspace):
    refused(run_script("golive", *STEPS, GOLIVE_ENV="moon"), 12, "configs/*.moon.yaml")
    refused(run_script("golive", *STEPS, GOLIVE_ENV="../x"), 10, "cannot be the name of an environment")
    untouched(workspace)


def test_cases_that_cannot_be_used(run_script, workspace, tmp_path):
    refused(run_script("golive", *STEPS, "--cases", str(tmp_path / "none.json")), 12, "no case file")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    refused(run_script("golive", *STEPS, "--cases", str(tmp_path / "broken.json")), 10, "is not JSON")
    gone = write_cases(tmp_path / "gone.json", [{**CASE, "gold": [{**GOLD, "quote": "This is said nowhere at all."}]}])
    finished = run_script("golive", *STEPS, "--cases", str(gone))
    refused(finished, 10, "quotes do not stand in the corpus exactly once")
    assert "a: quote not in backups.md" in finished.err
    untouched(workspace)


def test_a_corpus_that_cannot_be_used(run_script, cases, workspace, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(run_script("golive", *STEPS, "--corpus", str(tmp_path / "empty")), 10, "holds no document")
    refused(run_script("golive", *STEPS, "--corpus", str(tmp_path / "none")), 12, "no corpus folder")
    untouched(workspace)


def test_a_database_that_is_not_there_and_a_password_that_is_not_shown(run_script, cases, workspace):
    finished = run_script("golive", *STEPS, DATABASE_URL="postgresql://user:hunter2secret@127.0.0.1:1/x")
    refused(finished, 13, "cannot connect to the database")
    assert "hunter2secret" not in finished.out + finished.err
    untouched(workspace)


def test_a_role_that_may_only_read(run_script, cases, workspace, connection, database_url):
    with connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS only_reads")
        cursor.execute("CREATE ROLE only_reads LOGIN")
        cursor.execute("GRANT USAGE ON SCHEMA golive, public TO only_reads")
        cursor.execute("GRANT SELECT ON ALL TABLES IN SCHEMA golive, public TO only_reads")
    url = database_url.replace("postgres@", "only_reads@").replace("postgres:@", "only_reads:@")
    try:
        for script, arguments in (("golive", STEPS), ("emergency_stop", ()), ("lock_production_config", ())):
            refused(run_script(script, *arguments, DATABASE_URL=url), 15, "the database role may not do this")
        untouched(workspace)
    finally:
        with connection, connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY only_reads")
            cursor.execute("DROP ROLE only_reads")


@pytest.mark.parametrize("backup_id", ["nope", "../../x", "20200101-000000-abcdef", "/etc"])
def test_a_backup_that_is_not_there(run_script, connection, backup_id):
    for script in ("restore_production_state", "validate_rollback"):
        refused(run_script(script, "--backup-id", backup_id), 12, "backup")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT state FROM golive.traffic")
        assert cursor.fetchone() == ("open",)


def test_nothing_to_work_on_yet(run_script, connection):
    refused(run_script("shadow_ingest"), 12, "no config is locked yet")
    refused(run_script("backup_production_state"), 12, "no release to back up")
    refused(run_script("resume_operations"), 12, "no release is live")
    refused(run_script("production_health_monitor"), 12, "no release is live")
    refused(run_script("query_index", "what is live?"), 12, "no release is live yet")


def test_a_read_only_script_leaves_an_empty_database_empty(run_script, workspace, database_url):
    refused(run_script("status"), 12, "nothing has been released in this database yet")
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'golive'")
        assert cursor.fetchone() == (0,)


def test_json_errors_are_one_document(run_script, cases):
    finished = run_script("golive", *STEPS, "--json", CHUNK_SIZE="0")
    assert finished.code == 10
    assert finished.json["exit_code"] == 10
    assert "CHUNK_SIZE" in finished.json["error"]


def test_a_dry_run_changes_nothing(run_script, cases, workspace, connection):
    assert run_script("sync_documents", str(workspace.default_corpus), "--dry-run").code == 0
    assert run_script("lock_production_config", "--dry-run").code == 0
    assert run_script("emergency_stop", "--dry-run").code == 0
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM golive.releases), state FROM golive.traffic"
        )
        assert cursor.fetchone() == (0, 0, "open")
    untouched(workspace)


def write_cases(path: Path, cases: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema_version": 1, "cases": cases}), encoding="utf-8")
    return path


def refused(finished, code: int, message: str) -> None:
    assert finished.code == code, finished.err
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0], finished.err
    assert "Traceback" not in finished.err


def untouched(workspace) -> None:
    """Nothing was locked and no evidence was written."""
    assert not workspace.locked_configs.exists()
    assert not (workspace.root / "metrics").exists()
