"""Locking: the same config over the same documents is one release; everything else is a new one, or refused."""

from __future__ import annotations

import json
import shutil

import pytest

from lib.config import store
from lib.config.locked_config import LockedConfig
from lib.index.documents import corpus_digest
from lib.index.shadow import begin
from lib.platform import postgres
from lib.platform.errors import ConfigInvalid, GoliveError, Refused
from lib.release import locking
from tests.conftest import HANDBOOK
from tests.release.staged import FIRST_LOCKED, SECOND_LOCKED, Project, files_below, lock, sync


@pytest.fixture
def fresh(workspace, database_url, connection) -> Project:
    """A database with Golive's state, the handbook synced, nothing locked."""
    project = Project(workspace, database_url, connection)
    sync(project, HANDBOOK)
    return project


def test_a_first_lock_stands_in_the_database_the_history_and_the_active_file(fresh):
    plan = lock(fresh)
    release = fresh.release()
    history = store.history_path(fresh.workspace, plan.config.chunk_version)
    assert (plan.reused, plan.config.chunk_version) == (False, "2026-01-02-030405-v1")
    assert (release.state, release.table_name) == ("locked", "document_chunks_2026_01_02_030405_v1")
    assert release.locked_config == LockedConfig.from_dict(json.loads(history.read_text())) == plan.config
    assert store.read_active(fresh.workspace) == plan.config
    entries = fresh.ask("SELECT action, subject, to_digest FROM golive.audit_log WHERE action = 'lock config'")
    assert entries == [{"action": "lock config", "subject": plan.config.chunk_version, "to_digest": plan.config.digest}]


def test_a_config_that_is_locked_and_not_built_yet_is_reused(fresh):
    first = lock(fresh)
    again = lock(fresh, SECOND_LOCKED)
    assert again.reused
    assert again.config == first.config
    assert len(fresh.releases()) == 1


def test_planning_writes_nothing(fresh):
    before = fresh.ask("SELECT count(*) AS n FROM golive.audit_log")
    plan = locking.plan_lock(fresh.connection, locking.read_candidate(fresh.workspace), FIRST_LOCKED)
    assert not plan.reused
    assert json.loads(json.dumps(plan.to_dict()))["config"]["chunk_version"] == "2026-01-02-030405-v1"
    assert fresh.releases() == []
    assert fresh.ask("SELECT count(*) AS n FROM golive.audit_log") == before
    assert not fresh.workspace.locked_configs.exists()


def test_configs_locked_in_one_second_get_different_versions(fresh):
    versions = [lock(fresh, chunk_size=size).config.chunk_version for size in ("100", "200", "300")]
    assert versions == ["2026-01-02-030405-v1", "2026-01-02-030405-v2", "2026-01-02-030405-v3"]


def test_the_same_config_and_documents_are_the_same_release_byte_for_byte(sealed):
    before, audit = files_below(sealed.workspace.root), sealed.ask("SELECT * FROM golive.audit_log")
    plan = lock(sealed, SECOND_LOCKED)
    assert plan.reused
    assert "locked before" in plan.why
    assert files_below(sealed.workspace.root) == before
    assert len(sealed.releases()) == 1
    assert sealed.ask("SELECT * FROM golive.audit_log") == audit


def test_a_live_release_is_reused_and_keeps_its_production_flag(live):
    plan = lock(live, SECOND_LOCKED)
    assert plan.reused
    assert "live" in plan.why
    assert store.read_active(live.workspace).is_production
    assert len(live.releases()) == 1


def test_changed_documents_make_a_new_version_and_leave_the_old_one(sealed):
    old = sealed.release()
    sync(sealed, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows name the table.\n"})
    plan = lock(sealed, SECOND_LOCKED)
    assert (plan.reused, plan.config.chunk_version) == (False, "2026-01-03-030405-v2")
    assert "documents have changed" in plan.why
    assert old.release_id in plan.why
    assert plan.config.config_hash == old.config_hash
    assert sealed.release(old.release_id) == old


def test_documents_that_were_changed_back_find_their_release_again(sealed):
    first = sealed.release().release_id
    sync(sealed, {**HANDBOOK, "more.md": "# More\n\nOne more page.\n"})
    other = lock(sealed, SECOND_LOCKED).config
    begin(sealed.connection, sealed.release(other.ingest_run_id), corpus_digest(sealed.connection, other.sources))
    sync(sealed, HANDBOOK)
    plan = lock(sealed, SECOND_LOCKED)
    assert (plan.reused, plan.config.ingest_run_id) == (True, first)


@pytest.mark.parametrize("state", ["rolled_back", "retired"])
def test_a_release_that_was_given_up_is_not_taken_again(sealed, state):
    old = sealed.release().release_id
    sealed.execute("UPDATE golive.releases SET state = %s", (state,))
    plan = lock(sealed, SECOND_LOCKED)
    assert not plan.reused
    assert plan.why == f"{old} with the same config was {state.replace('_', ' ')}"
    assert plan.config.chunk_version == "2026-01-03-030405-v2"


@pytest.mark.parametrize("damage", ["DELETE FROM {table} WHERE chunk_index = 0", "DROP TABLE {table}"])
def test_a_damaged_table_is_not_taken_again(sealed, damage):
    sealed.tamper(damage)
    plan = lock(sealed, SECOND_LOCKED)
    assert not plan.reused
    assert "not what was sealed" in plan.why


def test_another_config_is_another_release(sealed):
    plan = lock(sealed, SECOND_LOCKED, overlap_ratio="0.2")
    assert (plan.reused, plan.config.chunk_version) == (False, "2026-01-03-030405-v1")
    assert plan.config.overlap_ratio == 0.2
    assert "never locked" in plan.why


def test_files_that_were_lost_are_written_again_as_they_were(sealed):
    before = files_below(sealed.workspace.locked_configs)
    shutil.rmtree(sealed.workspace.locked_configs)
    assert lock(sealed, SECOND_LOCKED).reused
    assert files_below(sealed.workspace.locked_configs) == before


def test_a_history_file_that_holds_something_else_is_refused_and_left(sealed):
    path = store.history_path(sealed.workspace, sealed.release().chunk_version)
    path.write_text(path.read_text().replace('"chunk_size": 450', '"chunk_size": 451'))
    before = files_below(sealed.workspace.locked_configs)
    with pytest.raises(Refused, match=path.name):
        lock(sealed, SECOND_LOCKED)
    assert files_below(sealed.workspace.locked_configs) == before


def test_the_first_config_has_no_baseline_and_the_next_one_has_the_metrics_of_what_is_live(live):
    assert live.release().locked_config.baseline_metrics == {}
    frozen = lock(live, SECOND_LOCKED, chunk_size="100").config.baseline_metrics
    assert frozen["release_id"] == live.live_id()
    assert frozen["metrics"] == {
        "oracle_hit_rate": 0.9,
        "filter_hit_rate": 0.8,
        "reader_gold_usage": 0.7,
        "avg_snapshot_size": 45.0,
    }


@pytest.mark.parametrize(
    ("flags", "variables", "place", "limit"),
    [
        ({"chunk_size": "1001"}, {}, "flag --chunk-size", "1000"),
        ({"chunk_size": "15"}, {}, "flag --chunk-size", "16"),
        ({}, {"OVERLAP_RATIO": "0.51"}, "environment variable OVERLAP_RATIO", "0.5"),
        ({"jaccard_threshold": "0.49"}, {"JACCARD_THRESHOLD": "0.8"}, "flag --jaccard-threshold", "0.5"),
        ({}, {"PREFIX_POLICY": "C"}, "environment variable PREFIX_POLICY", "A or B"),
        ({"chunk_size": "463"}, {}, "flag --chunk-size", "513 tokens"),  # 463 + 48 + 2 = 513, the embedder reads 512
        ({"chunk_size": "many"}, {}, "flag --chunk-size", "integer"),
        ({"embedder": "no-such-model"}, {}, "no-such-model", "all-MiniLM-L6-v2"),
    ],
)
def test_what_is_over_a_cap_is_refused_by_the_place_it_came_from(workspace, monkeypatch, flags, variables, place, limit):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = files_below(workspace.root)
    with pytest.raises(ConfigInvalid) as raised:
        locking.read_candidate(workspace, flags=flags)
    assert place in raised.value.message
    assert limit in raised.value.message + raised.value.detail
    assert files_below(workspace.root) == before


def test_a_cap_missed_in_a_file_is_named_with_file_and_line(workspace):
    path = workspace.configs / "candidate.yaml"
    path.write_text(path.read_text().replace("chunk_size: 450", "chunk_size: 2000"))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("chunk_size"))
    with pytest.raises(ConfigInvalid, match=rf"configs/candidate\.yaml:{line}: chunk_size"):
        locking.read_candidate(workspace)


def test_the_largest_chunk_that_the_embedder_reads_is_accepted(workspace):
    candidate = locking.read_candidate(workspace, flags={"chunk_size": "462"})  # 462 + 48 + 2 = 512
    assert candidate.layered.values["chunk_size"] == 462


def test_the_embedders_own_document_prompt_takes_its_share_of_what_it_reads(workspace):
    path = workspace.configs / "embedders.yaml"
    path.write_text(
        path.read_text().replace("max_sequence_length: 512", 'max_sequence_length: 512\n  document_prompt: "passage: "')
    )
    assert locking.read_candidate(workspace, flags={"chunk_size": "460"})  # "passage" and ":": 460 + 48 + 2 + 2 = 512
    with pytest.raises(ConfigInvalid, match="prompt 2"):
        locking.read_candidate(workspace, flags={"chunk_size": "461"})


def test_flags_win_over_variables_over_the_environment_file_over_the_base_file(workspace, monkeypatch):
    (workspace.configs / "candidate.staging.yaml").write_text(
        "chunk_size: 100\noverlap_ratio: 0.2\njaccard_threshold: 0.7\n", encoding="utf-8"
    )
    monkeypatch.setenv("GOLIVE_ENV", "staging")
    monkeypatch.setenv("CHUNK_SIZE", "200")
    monkeypatch.setenv("OVERLAP_RATIO", "0.3")
    layered = locking.read_candidate(workspace, flags={"chunk_size": "300"}, sources=["other"]).layered
    found = {name: (layered.values[name], layered.where(name)) for name in ("chunk_size", "overlap_ratio")}
    assert found == {
        "chunk_size": (300, "flag --chunk-size"),
        "overlap_ratio": (0.3, "environment variable OVERLAP_RATIO"),
    }
    assert (layered.values["jaccard_threshold"], layered.where("jaccard_threshold")) == (
        0.7,
        "configs/candidate.staging.yaml:3",
    )
    assert layered.values["prefix_policy"] == "A"
    assert (layered.values["sources"], layered.where("sources")) == (["other"], "flag --source")


def test_a_refused_candidate_leaves_database_and_files_alone(sealed, run_script):
    before, rows = files_below(sealed.workspace.root), sealed.ask("SELECT * FROM golive.releases")
    done = run_script("lock_production_config", "--overlap-ratio", "0.9")
    assert done.code == 10
    assert "flag --overlap-ratio" in done.err
    assert files_below(sealed.workspace.root) == before
    assert sealed.ask("SELECT * FROM golive.releases") == rows


def test_a_config_stored_twice_is_recorded_once(fresh, make_config):
    for _ in range(2):
        locking.store_config(fresh.connection, fresh.workspace, make_config())
    assert len(fresh.releases()) == 1
    assert len(fresh.ask("SELECT FROM golive.audit_log WHERE action = 'lock config'")) == 1


def test_a_lock_that_was_killed_between_database_and_files_is_completed_by_the_next(fresh):
    plan = lock(fresh)
    shutil.rmtree(fresh.workspace.locked_configs)
    with pytest.raises(GoliveError):
        store.read_active(fresh.workspace)
    assert lock(fresh, SECOND_LOCKED).config == plan.config
    assert store.read_active(fresh.workspace) == plan.config
    assert postgres.table_exists(fresh.connection, "golive", "releases")
