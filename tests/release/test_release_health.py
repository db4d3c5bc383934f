"""The health gates: each fails when its thing is really broken, and what could not be looked at never passes."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lib.config import embedder_files
from lib.evaluation import settings as evaluation_settings
from lib.release import catching_up, health
from lib.release.health import Check
from tests.conftest import HANDBOOK
from tests.release.staged import Project, build, sync

GATES = ["environment", "database_connectivity", "index_presence", "token_budget", "prefix_leakage", "model_availability"]


def test_everything_in_place_passes_with_its_evidence(sealed):
    checks = look(sealed)
    assert list(checks) == GATES
    assert {check.status for check in checks.values()} == {"PASS"}
    assert "3 rows" in checks["index_presence"].evidence
    assert "0 of 3 chunks over 510 tokens" in checks["token_budget"].evidence  # 512 that the embedder reads - 2 special
    assert "0 of 3 rows differ" in checks["prefix_leakage"].evidence
    assert "384 dimensions" in checks["model_availability"].evidence
    assert health.overall(list(checks.values())) == "PASS"


def test_looking_leaves_nothing_behind(sealed):
    before, tables = sealed.pointer(), sealed.ask("SELECT relname FROM pg_class ORDER BY oid")
    look(sealed)
    assert sealed.pointer() == before
    assert sealed.ask("SELECT relname FROM pg_class ORDER BY oid") == tables


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TEMPERATURE", "0.7", "TEMPERATURE is 0.7"),
        ("EVAL_DISABLE_CACHE", "0", "EVAL_DISABLE_CACHE"),
        ("RANDOM_SEED", "7", "RANDOM_SEED is 7"),
        ("PROMPT_AUDIT", "0", "PROMPT_AUDIT"),
        ("MAX_WORKERS", "4", "MAX_WORKERS is 4"),
        ("BEDROCK_REQUESTS_PER_SECOND", "1", "BEDROCK_REQUESTS_PER_SECOND"),
    ],
)
def test_a_wrong_variable_fails_the_environment_and_is_named(workspace, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    check = health.check_environment(workspace, evaluation_settings.load(workspace))
    assert check.status == "FAIL"
    assert said in check.evidence
    assert f"{variable}={value} in the environment" in check.evidence


def test_a_variable_that_differs_within_the_limits_passes_and_is_reported(workspace, monkeypatch):
    monkeypatch.setenv("MAX_WORKERS", "2")
    check = health.check_environment(workspace, evaluation_settings.load(workspace))
    assert check.status == "PASS"
    assert "MAX_WORKERS=2 in the environment, 3 in the file" in check.evidence


def test_a_model_that_is_sent_no_temperature_is_named(workspace):
    path = workspace.configs / "evaluation.yaml"
    text = path.read_text(encoding="utf-8").replace("send_temperature: true", "send_temperature: false")
    path.write_text(text, encoding="utf-8")
    offline, bedrock = (
        health.check_environment(workspace, evaluation_settings.load(workspace, use_bedrock=used)) for used in (False, True)
    )
    assert (offline.status, bedrock.status) == ("PASS", "PASS")
    assert "is sent no temperature" not in offline.evidence
    assert bedrock.evidence.count("is sent no temperature: it is not deterministic") == 2


def test_an_environment_that_cannot_be_read_is_an_error(workspace):
    settings = evaluation_settings.load(workspace)
    (workspace.configs / "deterministic_evaluation.env").unlink()
    check = health.check_environment(workspace, settings)
    assert check.status == "ERROR"
    assert "deterministic_evaluation.env" in check.evidence


@pytest.mark.parametrize("limit", ["SET ROLE pg_read_all_data", "SET default_transaction_read_only = on"])
def test_a_database_that_may_only_be_read_does_not_pass_and_the_rest_is_still_looked_at(sealed, limit):
    sealed.execute(limit)
    checks = look(sealed)
    assert [name for name in GATES if checks[name].status != "PASS"] == ["database_connectivity"]
    assert "may not do this" in checks["database_connectivity"].evidence


def test_gates_that_may_not_read_are_errors(sealed):
    sealed.execute("SET ROLE pg_monitor")
    checks = look(sealed)
    assert {name: check.status for name, check in checks.items()} == {
        "environment": "PASS",
        **dict.fromkeys(GATES[1:5], "ERROR"),
        "model_availability": "PASS",
    }
    assert health.overall(list(checks.values())) == "ERROR"


def test_a_lost_connection_is_an_error_in_each_gate_that_needs_it(sealed):
    release, lost = sealed.release(), sealed.connect()
    lost.close()
    found = health.check_all(sealed.workspace, lost, release, evaluation_settings.load(sealed.workspace))
    assert [check.status for check in found] == ["PASS", *["ERROR"] * 4, "PASS"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("DELETE FROM {table} WHERE id = 'corpus/pointer.md#0'", "content digest"),
        ("DELETE FROM {table}", "the table is empty"),
        ("UPDATE {table} SET bm25_weights = NULL WHERE id = 'corpus/pointer.md#0'", "1 rows without BM25 weights"),
        ("DROP INDEX document_chunks_2026_01_02_030405_v1_hnsw", "no valid vector index"),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE '%_hnsw'", "no valid vector index"),
        ("DROP TABLE {table}", "is gone"),
    ],
)
def test_a_broken_index_fails_its_presence(sealed, command, said):
    sealed.tamper(command)
    check = look(sealed)["index_presence"]
    assert check.status == "FAIL"
    assert said in check.evidence


def test_a_table_that_is_not_sealed_fails(sealed):
    sealed.execute("UPDATE golive.releases SET content_digest = NULL")
    check = look(sealed)["index_presence"]
    assert (check.status, "not sealed" in check.evidence) == ("FAIL", True)


def test_many_documents_changed_since_the_seal_fail_presence_and_leave_their_rows_uncompared(sealed):
    sync(sealed, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows.\n"})
    checks = look(sealed)
    assert "the documents have changed since the table was sealed: 1 of 3" in checks["index_presence"].evidence
    assert checks["prefix_leakage"].evidence == "0 of 3 rows differ from their source span, 1 could not be compared"
    assert [name for name in GATES if checks[name].status == "FAIL"] == ["index_presence"]


def test_a_few_documents_changed_since_the_seal_are_left_to_be_brought_in(sealed):
    path = sealed.workspace.configs / "index.yaml"
    path.write_text(path.read_text().replace("max_share: 0.05", "max_share: 0.4"))
    sync(sealed, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows.\n"})
    checks = look(sealed)
    assert [name for name in GATES if checks[name].status != "PASS"] == []
    assert "1 of them are to be brought in" in checks["index_presence"].evidence


@pytest.mark.parametrize(
    ("command", "gate"),
    [
        ("UPDATE golive.changed_chunks SET bm25_text = embedding_text", "prefix_leakage"),
        ("UPDATE golive.changed_chunks SET embedding_token_count = 511", "token_budget"),
    ],
)
def test_the_gates_look_at_what_was_brought_in_too(sealed, command, gate):
    sync(sealed, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows.\n"})
    catching_up.catch_up(sealed.workspace, sealed.connection)
    assert look(sealed)[gate].status == "PASS"
    sealed.execute(command)
    assert look(sealed)[gate].status == "FAIL"


@pytest.mark.parametrize(("tokens", "status"), [(510, "PASS"), (511, "FAIL")])
def test_one_chunk_over_the_budget_fails(sealed, tokens, status):
    sealed.tamper(f"UPDATE {{table}} SET embedding_token_count = {tokens} WHERE id = 'corpus/pointer.md#0'")
    check = look(sealed)["token_budget"]
    assert check.status == status
    assert f"the longest has {tokens}" in check.evidence


def test_one_leaking_prefix_fails(sealed):
    sealed.tamper("UPDATE {table} SET bm25_text = embedding_text WHERE id = 'corpus/pointer.md#0'")
    check = look(sealed)["prefix_leakage"]
    assert check.status == "FAIL"
    assert check.evidence.startswith("1 of 3 rows differ")


def test_an_empty_table_passes_neither_budget_nor_leakage(sealed):
    sealed.tamper("DELETE FROM {table}")
    checks = look(sealed)
    assert (checks["token_budget"].status, checks["prefix_leakage"].status) == ("FAIL", "FAIL")


def test_a_dropped_table_is_an_error_where_its_rows_are_needed(sealed):
    sealed.tamper("DROP TABLE {table}")
    checks = look(sealed)
    assert (checks["token_budget"].status, checks["prefix_leakage"].status) == ("ERROR", "ERROR")
    assert "gone" in checks["token_budget"].evidence


def test_under_policy_b_the_prefix_in_bm25_text_is_on_purpose(sealed, make_config):
    release = build(sealed, make_config(prefix_policy="B", chunk_version="2026-01-05-030405-v1"))
    assert sealed.ask(f"SELECT FROM {release.table_name} WHERE bm25_text <> embedding_text") == []
    check = look(sealed)["prefix_leakage"]
    assert (check.status, "policy B" in check.evidence) == ("PASS", True)


def test_an_embedder_that_is_gone_is_an_error(sealed):
    write_embedders(sealed, "/nowhere/at/all")
    check = look(sealed)["model_availability"]
    assert (check.status, "/nowhere/at/all" in check.evidence) == ("ERROR", True)


def test_another_embedder_under_the_locked_name_does_not_pass(sealed, tmp_path):
    original = embedder_files.find(sealed.workspace, "all-MiniLM-L6-v2").folder
    folder = tmp_path / "model"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "tokenizer.json").unlink()
    shutil.copy(original / "tokenizer.json", folder)
    with (folder / "tokenizer.json").open("a") as stream:
        stream.write("\n")
    write_embedders(sealed, str(folder))
    check = look(sealed)["model_availability"]
    assert check.status in ("FAIL", "ERROR")
    assert "tokenizer" in check.evidence


@pytest.mark.parametrize(("reply", "status"), [(200, "PASS"), (403, "ERROR")])
def test_with_bedrock_each_model_is_really_called(sealed, monkeypatch, reply, status):
    with model_service(reply) as (address, called):
        for name, value in {
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
            "BEDROCK_REQUESTS_PER_SECOND": "1000",
        }.items():
            monkeypatch.setenv(name, value)
        check = look(sealed, use_bedrock=True)["model_availability"]
    assert check.status == status
    assert len(called) == (2 if status == "PASS" else 1)
    assert "secret-of-the-test" not in check.evidence


@pytest.mark.parametrize(
    ("statuses", "overall"),
    [
        (["PASS", "PASS"], "PASS"),
        (["PASS", "ERROR"], "ERROR"),
        (["ERROR", "FAIL", "PASS"], "FAIL"),
        ([], "ERROR"),
    ],
)
def test_the_whole_is_as_good_as_its_worst_gate_and_nothing_is_not_a_pass(statuses, overall):
    checks = [Check(f"gate{n}", status, "seen", 0.25) for n, status in enumerate(statuses)]
    assert health.overall(checks) == overall
    assert len(health.to_text(checks).splitlines()) == 1 + len(checks)


def look(project: Project, *, use_bedrock: bool = False) -> dict[str, Check]:
    release, settings = release_of(project), evaluation_settings.load(project.workspace, use_bedrock=use_bedrock)
    return {check.name: check for check in health.check_all(project.workspace, project.connection, release, settings)}


def release_of(project: Project):
    """The active release, read by a session that may read it whatever was done to the project's own."""
    other = project.connect()
    found = Project(project.workspace, project.url, other).release()
    other.close()
    return found


def write_embedders(project: Project, folder: str) -> None:
    (project.workspace.configs / "embedders.yaml").write_text(f"all-MiniLM-L6-v2:\n  model_path: {folder}\n")


@contextmanager
def model_service(status: int) -> Iterator[tuple[str, list[str]]]:
    """A Converse endpoint on this machine that gives every request the same status; yields its address and the calls."""
    called: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            called.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            reply = {"output": {"message": {"role": "assistant", "content": [{"text": "ready"}]}}, "usage": {}}
            body = json.dumps(reply if status == 200 else {"message": "not allowed"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("x-amzn-ErrorType", "AccessDeniedException")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", called
    server.shutdown()
    server.server_close()
    thread.join()
