"""The ingest step: builds and seals the active config's table once, and leaves a receipt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lib.index import executors, recall
from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, NotFound, Refused, Unavailable
from lib.platform.files import write_json
from lib.release import ingesting, receipts
from tests.conftest import HANDBOOK
from tests.release.staged import CASES, Project, lock, sync


@pytest.fixture
def locked(workspace, database_url, connection, embedder) -> Project:
    project = Project(workspace, database_url, connection)
    sync(project, HANDBOOK)
    lock(project)
    return project


def test_a_preview_says_how_much_and_builds_nothing(locked):
    outcome = ingesting.preview(locked.workspace, locked.connection)
    assert (outcome["applied"], outcome["documents"], outcome["rows"]) == (False, 3, 3)
    assert "would build" in ingesting.to_text(outcome)
    assert locked.release().state == "locked"
    assert not postgres.table_exists(locked.connection, "public", locked.release().table_name)


def test_an_ingest_ends_in_a_sealed_table_and_a_receipt_of_what_it_was_made_from(locked):
    outcome = ingesting.ingest(locked.workspace, locked.connection)
    release = locked.release()
    with locked.connection:
        content = content_of(locked.connection, release.table_schema, release.table_name)
    receipt = receipts.read(locked.workspace, release.release_id, "ingest")
    assert (release.state, release.row_count, content.row_count) == ("sealed", 3, 3)
    assert outcome["content_digest"] == release.content_digest == content.digest == receipt.summary["digest"]
    assert receipt.outcome == "DONE"
    assert receipt.inputs == {"config_hash": release.config_hash, "corpus_digest": release.corpus_digest}
    assert (outcome["documents"], outcome["chunks"], outcome["duplicates"]) == (3, 3, 0)


def test_the_recall_of_the_vector_index_over_the_cases_is_in_the_receipt_and_the_report(locked):
    write_json(locked.workspace.default_cases, CASES)
    outcome = ingesting.ingest(locked.workspace, locked.connection)
    summary = receipts.read(locked.workspace, outcome["release_id"], "ingest").summary
    assert (summary["recall_asked"], summary["recall_questions"], summary["recall_mean"]) == ("cases", 2, 1.0)
    assert summary["recall_plan"] == "sequential: exact"  # of three rows
    assert "vector search finds 100.0% of the 3 nearest rows" in ingesting.to_text(outcome)


def test_cases_that_were_named_and_are_not_there_stop_the_ingest_before_it_writes(locked, tmp_path):
    with pytest.raises(NotFound, match=r"none\.json"):
        ingesting.ingest(locked.workspace, locked.connection, tmp_path / "none.json")
    assert locked.release().state == "locked"


def test_an_executor_that_does_not_answer_stops_the_ingest_before_it_writes(locked, monkeypatch):
    monkeypatch.setenv("EXECUTOR", "dask://127.0.0.1:1")
    monkeypatch.setattr(executors, "_CONNECT_TIMEOUT_S", 1)
    with pytest.raises(Unavailable, match="no Dask scheduler answers"):
        ingesting.ingest(locked.workspace, locked.connection)
    assert locked.release().state == "locked"


def test_a_floor_of_recall_that_is_missed_seals_nothing_and_is_met_once_it_is_lowered(locked):
    settings = locked.workspace.configs / "index.yaml"
    shipped = settings.read_text(encoding="utf-8")
    real = recall.measure
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Refused, match="misses too much"):
        patched.setattr(recall, "measure", lambda *arguments: replace(real(*arguments), minimum=0.4))
        ingesting.ingest(locked.workspace, locked.connection)
    assert locked.release().state == "building"
    settings.write_text(shipped.replace("minimum_floor: 0.50", "minimum_floor: 0.40"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recall, "measure", lambda *arguments: replace(real(*arguments), minimum=0.4))
        assert ingesting.ingest(locked.workspace, locked.connection)["recall_minimum"] == 0.4


def test_what_is_sealed_is_found_and_not_built_again(sealed):
    before = sealed.release()
    for step in (ingesting.preview, ingesting.ingest):
        outcome = step(sealed.workspace, sealed.connection)
        assert outcome["reused"]
        assert outcome["content_digest"] == before.content_digest
        assert ingesting.to_text(outcome).startswith("standing")
    assert sealed.release() == before


def test_a_sealed_release_is_refused_once_its_documents_have_changed(sealed):
    before = sealed.release()
    sync(sealed, {**HANDBOOK, "more.md": "# More\n\nOne more page.\n"})
    with pytest.raises(Refused, match="documents have changed"):
        ingesting.ingest(sealed.workspace, sealed.connection)
    assert sealed.release() == before


@pytest.mark.parametrize("damage", ["DELETE FROM {table} WHERE chunk_index = 0", "DROP TABLE {table}"])
def test_a_sealed_table_that_was_damaged_is_reported_and_not_repaired_in_place(sealed, damage):
    sealed.tamper(damage)
    with pytest.raises(IntegrityMismatch, match="not what was sealed"):
        ingesting.ingest(sealed.workspace, sealed.connection)


def test_a_source_without_documents_cannot_be_built(locked):
    locked.execute("DELETE FROM documents")
    with pytest.raises(NotFound, match="corpus"):
        ingesting.ingest(locked.workspace, locked.connection)
    assert locked.release().state == "locked"


def test_nothing_locked_is_nothing_to_build(workspace, connection):
    with pytest.raises(NotFound, match="no config is locked"):
        ingesting.ingest(workspace, connection)
