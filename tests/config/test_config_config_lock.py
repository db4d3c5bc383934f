"""The specification's public names do what they say, on a real database and the embedded model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from lib.config import config_lock, store
from lib.config.config_lock import (
    ConfigLockManager,
    EvaluationRunbook,
    LockedConfig,
    ProductionGuardrails,
    ShadowIndexManager,
    create_production_config,
)
from lib.index.fusion import Candidate
from lib.index.retrieval import Retrieved
from lib.platform import postgres
from lib.platform.errors import ConfigInvalid, LeaseHeld, NotFound, Refused, Unavailable
from lib.platform.lease import lease, who
from lib.platform.workspace import Workspace

Make = Callable[..., LockedConfig]
_EMBEDDED = "all-MiniLM-L6-v2"


def test_the_public_names_are_all_there() -> None:
    for name in config_lock.__all__:
        assert hasattr(config_lock, name)


# create_production_config


def test_a_production_config_has_the_specifications_defaults(workspace: Workspace, make_config: Make) -> None:
    before = datetime.now(UTC)
    config = create_production_config(embedder_name=_EMBEDDED)
    known = make_config()
    assert (config.chunk_size, config.overlap_ratio, config.jaccard_threshold, config.prefix_policy) == (450, 0.1, 0.8, "A")
    assert (config.tokenizer_hash, config.embedder_weights_hash) == (known.tokenizer_hash, known.embedder_weights_hash)
    assert config.chunk_version.endswith("-v1")
    assert f"{before:%Y-%m-%d-%H%M%S}" <= config.chunk_version[:17] <= f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}"
    assert (config.is_locked, config.is_production) == (True, False)
    assert config.created_by == who()
    assert config.retrieval.snapshot_size == 45


def test_making_a_config_stores_nothing(workspace: Workspace) -> None:
    create_production_config(embedder_name=_EMBEDDED)
    assert not workspace.locked_configs.exists()
    assert not workspace.local.exists()


def test_arguments_win_over_variables_and_files(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUNK_SIZE", "100")
    monkeypatch.setenv("GOLIVE_ENV", "staging")
    (workspace.configs / "candidate.staging.yaml").write_text("prefix_policy: A\nretrieval:\n  rrf_k: 10\n")
    config = create_production_config(300, 0.25, 0.9, "B", _EMBEDDED)
    assert (config.chunk_size, config.overlap_ratio, config.jaccard_threshold, config.prefix_policy) == (
        300,
        0.25,
        0.9,
        "B",
    )
    assert config.retrieval.rrf_k == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_size": 15}, "flag --chunk-size: chunk_size must be 16 to 1000 tokens, not 15"),
        ({"chunk_size": 1001}, "flag --chunk-size: chunk_size must be 16 to 1000 tokens, not 1001"),
        ({"chunk_size": 463}, "flag --chunk-size: a chunk with its prefix"),
        ({"overlap_ratio": 0.51}, "flag --overlap-ratio: overlap_ratio must be 0 to 0.5, not 0.51"),
        ({"overlap_ratio": float("nan")}, "flag --overlap-ratio: overlap_ratio must be of type number"),
        ({"jaccard_threshold": 0.49}, "flag --jaccard-threshold: jaccard_threshold must be 0.5 to 1, not 0.49"),
        ({"prefix_policy": "C"}, "flag --prefix-policy: prefix_policy must be A or B, not 'C'"),
        ({"embedder_name": "no-such"}, "unknown embedder 'no-such'"),
    ],
)
def test_a_config_out_of_bounds_is_refused_by_name(changes: dict[str, Any], words: str, workspace: Workspace) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        create_production_config(**{"embedder_name": _EMBEDDED, **changes})
    assert words in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [{"chunk_size": 16}, {"chunk_size": 462}, {"overlap_ratio": 0}, {"overlap_ratio": 0.5}, {"jaccard_threshold": 1}],
)
def test_a_config_exactly_at_a_cap_is_made(changes: dict[str, Any], workspace: Workspace) -> None:
    config = create_production_config(embedder_name=_EMBEDDED, **changes)
    assert {name: getattr(config, name) for name in changes} == changes
    assert ProductionGuardrails(config).validate_config()["valid"] is True


def test_a_small_overlap_is_a_number_too(workspace: Workspace) -> None:
    assert create_production_config(overlap_ratio=1e-05, embedder_name=_EMBEDDED).overlap_ratio == 1e-05


def test_a_whole_number_with_a_decimal_point_is_the_same_config_or_none(workspace: Workspace) -> None:
    plain = create_production_config(embedder_name=_EMBEDDED)
    path = workspace.configs / "candidate.yaml"
    path.write_text(path.read_text().replace("vector_top_k: 40", "vector_top_k: 40.0"))
    try:
        pointed = create_production_config(embedder_name=_EMBEDDED)
    except ConfigInvalid:
        return
    assert pointed.config_hash == plain.config_hash


def test_an_embedder_whose_files_are_not_here_is_unavailable(workspace: Workspace) -> None:
    (workspace.configs / "embedders.yaml").write_text("BAAI/bge-large-en-v1.5:\n  model_path: /no/such/folder\n")
    with pytest.raises(Unavailable, match="no model in /no/such/folder"):
        create_production_config()


# ConfigLockManager


def test_a_manager_without_locked_configs_has_none(workspace: Workspace) -> None:
    manager = ConfigLockManager()
    assert manager.get_active_config() is None
    assert manager.list_versions() == []
    with pytest.raises(NotFound, match="no locked config at"):
        manager.get_config("2026-01-02-030405-v1")


def test_a_locked_config_stands_in_the_database_and_in_files(
    connection: Connection, workspace: Workspace, make_config: Make
) -> None:
    config = make_config()
    manager = ConfigLockManager()
    assert manager.lock_config(config) == config
    assert manager.get_active_config() == manager.get_config(config.chunk_version) == config
    with connection:
        (row,) = postgres.every(connection, "SELECT * FROM golive.releases")
        (entry,) = postgres.every(connection, "SELECT * FROM golive.audit_log")
    assert (row["release_id"], row["state"], row["config_hash"]) == (config.ingest_run_id, "locked", config.config_hash)
    assert row["table_name"] == config.shadow_table
    assert LockedConfig.from_dict(row["config"]) == config
    assert (entry["subject"], entry["to_digest"]) == (config.chunk_version, config.digest)


def test_locking_the_same_again_changes_nothing(connection: Connection, workspace: Workspace, make_config: Make) -> None:
    for _ in range(2):
        ConfigLockManager().lock_config(make_config())
    with connection:
        counts = "SELECT (SELECT count(*) FROM golive.releases) AS r, (SELECT count(*) FROM golive.audit_log) AS a"
        assert postgres.one(connection, counts) == {"r": 1, "a": 1}


def test_the_last_config_locked_is_active_and_versions_come_newest_first(
    connection: Connection, workspace: Workspace, make_config: Make
) -> None:
    manager = ConfigLockManager()
    versions = ["2026-01-02-030405-v1", "2026-01-03-030405-v1", "2025-12-31-235959-v2"]
    for version in versions:
        manager.lock_config(make_config(chunk_version=version))
    active = manager.get_active_config()
    assert active is not None
    assert active.chunk_version == "2025-12-31-235959-v2"
    assert manager.list_versions() == ["2026-01-03-030405-v1", "2026-01-02-030405-v1", "2025-12-31-235959-v2"]
    assert manager.get_config(versions[0]).chunk_version == versions[0]


def test_the_same_config_with_another_history_is_refused(
    connection: Connection, workspace: Workspace, make_config: Make
) -> None:
    manager = ConfigLockManager()
    manager.lock_config(make_config())
    with pytest.raises(Refused, match="holds another config"):
        manager.lock_config(make_config(created_by="somebody@else"))
    assert manager.get_active_config() == make_config()


def test_a_second_config_of_the_same_second_is_refused(
    connection: Connection, workspace: Workspace, make_config: Make
) -> None:
    manager = ConfigLockManager()
    manager.lock_config(make_config())
    with pytest.raises(Refused):
        manager.lock_config(make_config(chunk_size=300))


def test_a_config_that_the_history_refuses_is_not_in_the_database_either(
    connection: Connection, workspace: Workspace, make_config: Make
) -> None:
    store.write_history(workspace, make_config(created_by="somebody@else"))
    with pytest.raises(Refused):
        ConfigLockManager().lock_config(make_config())
    with connection:
        assert postgres.every(connection, "SELECT release_id FROM golive.releases") == []


def test_a_version_that_another_project_of_the_database_took_is_refused(
    connection: Connection, workspace: Workspace, tmp_path: Path, make_config: Make
) -> None:
    ConfigLockManager().lock_config(make_config())
    elsewhere = ConfigLockManager(Workspace(tmp_path / "elsewhere"))
    for other in (make_config(chunk_size=300), make_config(created_by="somebody@else")):
        with pytest.raises(Refused, match="another config is locked as 2026-01-02-030405-v1"):
            elsewhere.lock_config(other)
    assert elsewhere.get_active_config() is None
    assert elsewhere.lock_config(make_config()) == make_config()


def test_nothing_is_locked_while_another_step_is_at_work(
    connection: Connection, database_url: str, workspace: Workspace, make_config: Make
) -> None:
    with lease(database_url, "restore"), pytest.raises(LeaseHeld, match="restore by"):
        ConfigLockManager().lock_config(make_config())
    assert ConfigLockManager().get_active_config() is None
    with connection:
        assert postgres.every(connection, "SELECT release_id FROM golive.releases") == []


def test_nothing_that_was_not_evaluated_is_promoted(
    connection: Connection, workspace: Workspace, make_config: Make
) -> None:
    manager = ConfigLockManager()
    with pytest.raises(NotFound, match="no config is locked yet"):
        manager.promote_to_production()
    manager.lock_config(make_config())
    with pytest.raises(Refused, match="has no verdict"):
        manager.promote_to_production()
    with connection:
        assert postgres.one(connection, "SELECT generation, release_id FROM golive.pointer") == {
            "generation": 0,
            "release_id": None,
        }
    active = manager.get_active_config()
    assert active is not None
    assert active.is_production is False


# ShadowIndexManager


def test_the_shadow_table_is_really_created_once(connection: Connection, workspace: Workspace, make_config: Make) -> None:
    config = make_config(embedder_dimension=12)
    manager = ShadowIndexManager(config)
    assert manager.create_shadow_table() == "document_chunks_2026_01_02_030405_v1"
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO document_chunks_2026_01_02_030405_v1 (id, doc_id, chunk_index, embedding_text, bm25_text,"
            " embedding_token_count, bm25_token_count, chunk_version, ingest_run_id, span_start, span_end, doc_sha256,"
            " embedding) VALUES ('c', 'd', 0, 't', 't', 1, 1, 'v', 'r', 0, 1, 's', %s)",
            ("[" + ",".join(["0"] * 12) + "]",),
        )
    assert manager.create_shadow_table() == config.shadow_table
    with connection:
        assert postgres.one(
            connection, "SELECT id, vector_dims(embedding) AS dims FROM document_chunks_2026_01_02_030405_v1"
        ) == {"id": "c", "dims": 12}
        assert postgres.one(connection, "SELECT release_id FROM golive.pointer") == {"release_id": None}


def test_queries_go_to_the_table_that_the_pointer_names(
    connection: Connection, workspace: Workspace, make_config: Make
) -> None:
    live, candidate = make_config(), make_config(chunk_version="2026-02-03-040506-v1", chunk_size=300)
    manager = ShadowIndexManager(candidate)
    assert manager.get_retrieval_table() == "document_chunks"
    assert manager.get_retrieval_table(use_shadow=True) == "document_chunks_2026_02_03_040506_v1"
    ConfigLockManager().lock_config(live)
    ConfigLockManager().lock_config(candidate)
    assert manager.get_retrieval_table() == "document_chunks"
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE golive.pointer SET release_id = %s", (live.ingest_run_id,))
    assert manager.get_retrieval_table() == "document_chunks_2026_01_02_030405_v1"
    assert manager.get_retrieval_table(use_shadow=True) == "document_chunks_2026_02_03_040506_v1"


def test_an_ingest_run_is_named_by_version_and_hash(make_config: Make, workspace: Workspace) -> None:
    config = make_config()
    manager = ShadowIndexManager(config)
    assert manager.ingest_run_id == manager.get_ingest_run_id() == f"2026-01-02-030405-v1-{config.config_hash[:8]}"


# ProductionGuardrails


def test_guardrails_judge_a_config(make_config: Make) -> None:
    assert ProductionGuardrails(make_config()).validate_config() == {"valid": True, "issues": [], "warnings": []}
    found = ProductionGuardrails(make_config(chunk_size=1001)).validate_config()
    assert found["valid"] is False
    assert "chunk_size must be 16 to 1000 tokens, not 1001" in found["issues"]


def test_guardrails_judge_what_a_retriever_gave(make_config: Make) -> None:
    guardrails = ProductionGuardrails(make_config())
    sound = _retrieved(*[_candidate()] * 30)
    assert guardrails.check_retrieval_health([sound])["healthy"] is True
    leaking = _retrieved(*[_candidate()] * 29, _candidate(bm25_text="Document: pointer.md\n\nOne row."))
    found = guardrails.check_retrieval_health([sound, leaking])
    assert (found["healthy"], found["bm25_prefix_leakage"], found["avg_snapshot_size"]) == (False, 1, 30.0)
    long = _retrieved(*[_candidate()] * 29, _candidate(embedding_token_count=511))
    assert guardrails.check_retrieval_health([long])["over_budget_chunks"] == 1
    assert guardrails.check_retrieval_health([])["healthy"] is None


def test_guardrails_judge_plain_mappings_too(make_config: Make) -> None:
    chunk = {"bm25_text": "One row.", "source_text": "One row.", "embedding_token_count": 5}
    found = ProductionGuardrails(make_config()).check_retrieval_health(
        [{"snapshot": [chunk] * 30}, _retrieved(*[_candidate()] * 30)]
    )
    assert (found["healthy"], found["queries"]) == (True, 2)


# EvaluationRunbook


def test_a_runbook_holds_the_commands_of_this_config(workspace: Workspace, make_config: Make) -> None:
    config = make_config(chunk_size=300, prefix_policy="B")
    runbook = EvaluationRunbook(config)
    path = runbook.save()
    assert path == workspace.locked_configs / "runbook-2026-01-02-030405-v1.md"
    assert path.read_text() == runbook.generate()
    assert _environment_of(path) == {
        "CHUNK_SIZE": "300",
        "OVERLAP_RATIO": "0.1",
        "JACCARD_THRESHOLD": "0.8",
        "PREFIX_POLICY": "B",
        "CHUNK_VERSION": "2026-01-02-030405-v1",
        "INGEST_RUN_ID": config.ingest_run_id,
        "TEMPERATURE": "0",
        "RANDOM_SEED": "42",
        "GOLIVE_HOME": str(workspace.root),
    }
    scripts = Workspace(Path(config_lock.__file__).resolve().parents[2]).root
    for line in path.read_text().splitlines():
        if line.startswith(".venv/bin/python "):
            assert (scripts / line.split()[1]).exists()


def test_a_runbooks_commands_work_in_a_folder_with_a_blank(workspace: Workspace, make_config: Make) -> None:
    home = Workspace(workspace.root / "my project")
    home.configs.mkdir(parents=True)
    (home.configs / "deterministic_evaluation.env").write_text(
        (workspace.configs / "deterministic_evaluation.env").read_text()
    )
    assert _environment_of(EvaluationRunbook(make_config(), home).save())["GOLIVE_HOME"] == str(home.root)


def _environment_of(runbook: Path) -> dict[str, str]:
    """What the runbook's first block of commands sets, run by a shell as it stands."""
    block = runbook.read_text().partition("```sh\n")[2].partition("```")[0]
    done = subprocess.run(
        ["bash", "-euc", f"{block}\nenv -0"], cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True
    )
    found = dict(item.split("=", 1) for item in done.stdout.decode().split("\0") if item)
    shown = ("CHUNK_SIZE", "OVERLAP_RATIO", "JACCARD_THRESHOLD", "PREFIX_POLICY", "CHUNK_VERSION", "INGEST_RUN_ID")
    return {name: found[name] for name in (*shown, "TEMPERATURE", "RANDOM_SEED", "GOLIVE_HOME")}


def _candidate(**changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "chunk_id": "c",
        "doc_id": "pointer.md",
        "span_start": 10,
        "span_end": 18,
        "bm25_text": "One row.",
        "embedding_text": "Document: pointer.md\n\nOne row.",
        "embedding_token_count": 12,
        "bm25_token_count": 3,
        "doc_sha256": "0" * 64,
        "duplicates": (),
        "vector_rank": 1,
        "bm25_rank": 1,
        "similarity": 0.5,
        "bm25_score": 1.0,
    }
    return Candidate(**{**values, **changes})


def _retrieved(*snapshot: Candidate) -> Retrieved:
    return Retrieved("r", "query", list(snapshot), list(snapshot[:6]), 1.0)
