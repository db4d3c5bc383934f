"""The ingest step: builds and seals the active config's table once, and leaves a receipt."""

from __future__ import annotations

import pytest

from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, NotFound, Refused
from lib.release import ingesting, receipts
from tests.conftest import HANDBOOK
from tests.release.staged import Project, lock, sync


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
