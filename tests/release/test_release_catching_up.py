"""Catching up, as an operator relies on it: what is live and what a rollback brings back know every document."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg2.errors
import pytest

from lib.index import changes
from lib.index.releases import Release
from lib.index.retrieval import LiveRetriever
from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.errors import IntegrityMismatch, LeaseHeld, Refused, Unavailable
from lib.platform.lease import who
from lib.release import backup_files, catching_up, promotion, restore
from tests.conftest import PROJECT
from tests.release.staged import Project

TEA = "Tea is steeped for four minutes in water that has just boiled."


def write(project: Project, name: str, content: str | None) -> None:
    """As anybody does who has the database's address: not through this project's own scripts."""
    if content is None:
        project.execute("DELETE FROM documents WHERE id = %s", (f"corpus/{name}.md",))
    else:
        project.execute(
            "INSERT INTO documents (id, source, path, title, sections, content, sha256)"
            " VALUES (%s, 'corpus', %s, %s, '[]', %s, '') ON CONFLICT (id) DO UPDATE SET content = excluded.content",
            (f"corpus/{name}.md", f"{name}.md", name, content),
        )


def allow_changes(project: Project) -> None:
    """Three documents are too few for the shipped limit to mean anything."""
    path = project.workspace.configs / "index.yaml"
    path.write_text(path.read_text().replace("max_share: 0.05", "max_share: 1.0"))


def answers(project: Project, question: str = "how is tea made?") -> set[str]:
    """The documents that the live release shows for a question."""
    connection = project.connect()
    found = LiveRetriever(connection, project.workspace).retrieve(question)
    connection.close()
    return {chunk.doc_id for chunk in found.snapshot}


def catch_up(project: Project) -> catching_up.Outcome:
    return catching_up.catch_up(project.workspace, project.connection)


def behind(project: Project) -> dict[str, int | None]:
    return {item["role"]: item["pending"] for item in catching_up.status_of(project.workspace, project.connection)}


def faults(project: Project, release: Release) -> list[str]:
    with project.connection:
        return changes.find_faults(project.connection, release)


def covers(project: Project, release: Release) -> str:
    with project.connection:
        found = changes.coverage_of(project.connection, release)
    assert found is not None
    return found.digest


@pytest.fixture
def promoted(second: Project) -> Project:
    """The second release took over from the first, which is kept for its bake window."""
    promotion.promote(second.workspace, second.connection)
    return second


def roll_back(project: Project) -> restore.RestorePlan:
    made = backup_files.every(project.workspace)[0]
    first = project.releases()[0].release_id
    plan = restore.plan_restore(project.connection, made, first)
    restore.apply_restore(project.workspace, project.connection, made, plan)
    return plan


def test_what_is_live_answers_from_a_document_once_it_was_brought_in(live):
    write(live, "tea", TEA)
    assert "corpus/tea.md" not in answers(live)
    done = catch_up(live)
    assert done.releases == [{"role": "live", "release_id": live.release().release_id, "documents": 1}]
    assert "corpus/tea.md" in answers(live)
    write(live, "tea", None)
    catch_up(live)
    assert "corpus/tea.md" not in answers(live)
    assert faults(live, live.release()) == []


def test_the_sealed_table_stays_as_it_was_evaluated(live):
    release = live.release()
    write(live, "pointer", "# The pointer\n\nTwo rows, since today.\n")
    catch_up(live)
    with live.connection:
        content = content_of(live.connection, release.table_schema, release.table_name)
    assert content is not None and content.digest == release.content_digest


def test_each_batch_is_told_of_in_the_audit_log(live):
    write(live, "tea", TEA)
    catch_up(live)
    (entry,) = live.ask("SELECT * FROM golive.audit_log WHERE action = 'catch up'")
    assert entry["subject"] == live.release().release_id
    assert entry["reason"] == "catch up: 1 documents indexed in 1 chunks, 0 taken out"


def test_where_nothing_changed_no_model_is_loaded(live, monkeypatch):
    monkeypatch.setattr(catching_up, "load_embedder", lambda *_: pytest.fail("a model was loaded"))
    before = live.ask("SELECT count(*) FROM golive.audit_log")
    assert catch_up(live).releases[0]["documents"] == 0
    assert live.ask("SELECT count(*) FROM golive.audit_log") == before


def test_a_rollback_loses_no_document_that_was_written_since_the_promotion(promoted):
    write(promoted, "tea", TEA)
    write(promoted, "backups", None)
    assert [item["role"] for item in catch_up(promoted).releases] == ["live", "previous"]
    plan = roll_back(promoted)
    assert promoted.live_id() == promoted.releases()[0].release_id
    assert "corpus/tea.md" in answers(promoted)
    assert "corpus/backups.md" not in answers(promoted, "how are backups kept?")
    assert (plan.behind, "brings them in" in plan.to_text()) == (0, False)


def test_a_rollback_says_what_the_release_is_behind_and_what_brings_it_in(promoted):
    catch_up(promoted)
    write(promoted, "tea", TEA)
    plan = roll_back(promoted)
    assert plan.behind == 1
    assert "1 of documents; scripts/catch_up.py brings them in" in plan.to_text()
    assert behind(promoted) == {"live": 1}
    catch_up(promoted)
    assert "corpus/tea.md" in answers(promoted)


def test_a_table_that_was_loaded_again_keeps_the_changes_made_beside_it(promoted):
    write(promoted, "tea", TEA)
    catch_up(promoted)
    first = promoted.releases()[0]
    promoted.execute(f"DROP TABLE {first.table_name} CASCADE")
    plan = roll_back(promoted)
    assert (plan.action, plan.behind) == ("load table", 0)
    assert faults(promoted, promoted.releases()[0]) == []
    assert "corpus/tea.md" in answers(promoted)


def test_a_table_loaded_where_its_changes_were_lost_too_starts_from_what_was_sealed(promoted):
    write(promoted, "tea", TEA)
    catch_up(promoted)
    first = promoted.releases()[0]
    promoted.execute(f"DROP TABLE {first.table_name} CASCADE")
    promoted.execute("DELETE FROM golive.changed_chunks WHERE release_id = %s", (first.release_id,))
    roll_back(promoted)
    assert "corpus/tea.md" not in answers(promoted)
    catch_up(promoted)
    assert "corpus/tea.md" in answers(promoted)
    assert faults(promoted, promoted.releases()[0]) == []


def test_after_the_bake_window_the_release_before_is_let_go(promoted):
    write(promoted, "tea", TEA)
    catch_up(promoted)
    promoted.execute("UPDATE golive.pointer SET moved_at = now() - interval '49 hours'")
    assert [item["role"] for item in catch_up(promoted).releases] == ["live"]
    held = promoted.ask("SELECT DISTINCT release_id FROM golive.changed_chunks")
    assert held == [{"release_id": promoted.live_id()}]
    plan = roll_back(promoted)
    assert plan.behind == 1
    catch_up(promoted)
    assert "corpus/tea.md" in answers(promoted)


@pytest.mark.parametrize(("hours", "roles"), [("0.5", ["live", "previous"]), ("0", ["live"])])
def test_the_bake_window_is_what_the_settings_say(promoted, hours, roles):
    path = promoted.workspace.configs / "index.yaml"
    path.write_text(path.read_text().replace("bake_hours: 48", f"bake_hours: {hours}"))
    assert [item["role"] for item in catch_up(promoted).releases] == roles


def test_a_release_whose_model_is_gone_does_not_keep_the_others_behind(promoted, monkeypatch):
    live, previous = promoted.live_id(), promoted.releases()[0].release_id
    real = catching_up.load_embedder

    def load(workspace: Any, config: Any) -> Any:
        if config.ingest_run_id == previous:
            raise Unavailable("no embedder x")
        return real(workspace, config)

    monkeypatch.setattr(catching_up, "load_embedder", load)
    write(promoted, "tea", TEA)
    done = catch_up(promoted)
    assert done.failed == {previous: "no embedder x"}
    assert "not brought up to date: no embedder x" in done.to_text()
    assert behind(promoted) == {"live": 0, "previous": 1}
    assert live == promoted.live_id() and "corpus/tea.md" in answers(promoted)


def test_a_bad_vector_stops_it_with_the_chunks_name_and_nothing_half_done(live, monkeypatch):
    from lib.index.embedder import BadVector

    class Bad:
        dimension = 384

        def embed_documents(self, texts: list[str]) -> Any:
            raise BadVector("the embedder gave a vector that is not finite", position=0)

    monkeypatch.setattr(catching_up, "load_embedder", lambda *_: Bad())
    write(live, "tea", TEA)
    with pytest.raises(IntegrityMismatch, match=r"corpus/tea\.md#0"):
        catch_up(live)
    assert (behind(live), live.ask("SELECT FROM golive.changed_chunks")) == ({"live": 1}, [])


@pytest.mark.parametrize("die_before", [0, 3, 9, 17])
def test_killed_at_any_moment_a_batch_is_in_every_kept_release_or_in_none(promoted, die_before):
    releases = promoted.releases()
    for name in ("tea", "rye", "oats"):
        write(promoted, name, f"A text on {name}.")
    write(promoted, "pointer", None)
    done = subprocess.run([sys.executable, "-m", "tests.release.killed_catch_up", str(die_before)], cwd=PROJECT)
    assert done.returncode == -signal.SIGKILL
    assert covers(promoted, releases[0]) == covers(promoted, releases[1])
    with promoted.connection:
        pending = [changes.pending_documents(promoted.connection, release) for release in releases]
    assert pending[0] == pending[1] != []
    catch_up(promoted)
    assert [faults(promoted, release) for release in releases] == [[], []]
    assert promoted.ask("SELECT id, release_id FROM golive.changed_chunks GROUP BY 1, 2 HAVING count(*) > 1") == []


def test_only_one_at_a_time_brings_documents_in(live, monkeypatch):
    with (
        catching_up.turn(live.workspace),
        pytest.raises(LeaseHeld) as refused,
        catching_up.turn(live.workspace, wait_s=0.2),
    ):
        pytest.fail("two have the turn")
    assert f"catch up: {who()}"[:40] in refused.value.detail
    assert catch_up(live).applied


def test_a_preview_changes_nothing(live):
    write(live, "tea", TEA)
    live.execute("TRUNCATE golive.coverage, golive.release_documents")
    tables = ("coverage", "release_documents", "changed_chunks", "document_changes", "audit_log")
    before = {name: live.ask(f"SELECT * FROM golive.{name}") for name in tables}
    found = catching_up.preview(live.workspace, live.connection)
    assert (found.applied, found.releases[0]["documents"]) == (False, 1)
    assert "behind by 1 documents" in found.to_text()
    assert {name: live.ask(f"SELECT * FROM golive.{name}") for name in tables} == before


def test_the_log_is_forgotten_once_every_kept_release_has_seen_it(promoted):
    write(promoted, "tea", TEA)
    catch_up(promoted)
    assert promoted.ask("SELECT FROM golive.document_changes") == []


def test_a_watcher_hears_of_a_write_and_outlives_a_lost_connection(live):
    passes = catching_up.watch(live.workspace, poll_s=0.5)
    assert next(passes).releases[0]["documents"] == 0
    write(live, "tea", TEA)
    assert next(item for item in passes if item.releases[0]["documents"]).releases[0]["documents"] == 1
    live.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    write(live, "rye", "Rye bread.")
    assert next(item for item in passes if item.releases[0]["documents"]).releases[0]["documents"] == 1
    passes.close()
    assert behind(live) == {"live": 0}


def test_status_shows_what_is_kept_and_how_far_behind_it_is(promoted, run_script):
    catch_up(promoted)
    write(promoted, "tea", TEA)
    shown = run_script("status").out
    live, previous = promoted.live_id(), promoted.releases()[0].release_id
    assert f"kept:    live {live}: 1 documents behind, the oldest " in shown
    assert f"kept:    previous {previous}: 1 documents behind, the oldest " in shown
    kept = run_script("status", "--json").json["kept"]
    assert [(item["role"], item["pending"]) for item in kept] == [("live", 1), ("previous", 1)]
    assert kept[0]["oldest"] is not None


def test_the_script_brings_in_what_it_said_it_would(live, run_script):
    write(live, "tea", TEA)
    said = run_script("catch_up", "--dry-run", "--json")
    assert (said.code, said.json["releases"][0]["documents"], said.json["applied"]) == (0, 1, False)
    done = run_script("catch_up", "--once")
    assert (done.code, done.out.strip()) == (0, f"live {live.release().release_id}: caught up with 1 documents")
    assert behind(live) == {"live": 0}
    assert run_script("catch_up", "--watch", "--dry-run").code == 2


def test_a_watch_ends_cleanly_when_it_is_interrupted(live):
    command = [sys.executable, str(PROJECT / "scripts" / "catch_up.py"), "--watch", "--poll-s", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "caught up with 0 documents" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.strip()) == (0, "no longer watching")


def test_a_candidate_goes_live_with_every_document_written_until_that_moment(second):
    allow_changes(second)
    release, previous = second.release(), second.pointer().release
    write(second, "tea", TEA)
    write(second, "backups", None)
    done = promotion.promote(second.workspace, second.connection)
    (condition,) = [c for c in done.conditions if c.name == "documents"]
    assert condition.found == "2 of 3 changed since the table was sealed; all that stand are covered, and no others"
    assert faults(second, release) == faults(second, previous) == []
    assert "corpus/tea.md" in answers(second)


def test_a_dry_run_says_how_many_documents_are_brought_in_first_and_leaves_them(second):
    allow_changes(second)
    write(second, "tea", TEA)
    found = promotion.promote(second.workspace, second.connection, dry_run=True)
    (condition,) = [c for c in found.conditions if c.name == "documents"]
    assert condition.holds
    assert condition.found == "1 of 3 changed since the table was sealed, 1 of them are to be brought in"
    assert second.ask("SELECT FROM golive.changed_chunks") == []


def test_too_many_changes_need_a_new_evaluation_and_are_not_indexed_for_a_promotion_that_fails(second):
    write(second, "tea", TEA)
    live = second.live_id()
    with pytest.raises(Refused, match="documents: 1 of 3 changed since the table was sealed, over 5%"):
        promotion.promote(second.workspace, second.connection)
    assert (second.live_id(), second.ask("SELECT FROM golive.changed_chunks")) == (live, [])


def test_a_writer_that_does_not_end_keeps_a_release_from_going_live(second, monkeypatch):
    allow_changes(second)
    monkeypatch.setattr(promotion, "_DOCUMENTS_LOCK_TIMEOUT", "100ms")
    before, writer = second.live_id(), second.connect()
    with writer.cursor() as cursor:
        cursor.execute("INSERT INTO documents VALUES ('corpus/tea.md', 'corpus', 'tea.md', 'tea', '[]', %s, '')", (TEA,))
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        promotion.promote(second.workspace, second.connection)
    assert second.live_id() == before
    writer.commit()
    writer.close()
    promotion.promote(second.workspace, second.connection)
    assert second.live_id() == second.release().release_id
    assert "corpus/tea.md" in answers(second)


def test_a_document_that_slips_in_before_the_lock_is_in_what_goes_live(second, monkeypatch):
    allow_changes(second)
    real = promotion._lock_documents

    def write_first(connection: Any) -> None:
        other = second.connect()
        write(Project(second.workspace, second.url, other), "tea", TEA)
        other.close()
        real(connection)

    monkeypatch.setattr(promotion, "_lock_documents", write_first)
    promotion.promote(second.workspace, second.connection)
    assert faults(second, second.release()) == []
    assert "corpus/tea.md" in answers(second)


def test_people_go_on_writing_while_a_release_goes_live_and_a_watcher_catches_up(second):
    allow_changes(second)
    stop, written, problems = threading.Event(), [], []

    def keep_writing() -> None:
        connection = second.connect()
        project = Project(second.workspace, second.url, connection)
        while not stop.is_set():
            name = ("backups", "chunking", "pointer")[len(written) % 3]
            write(project, name, None if len(written) % 5 == 4 else f"Note number {len(written)}.")
            written.append(name)
            time.sleep(0.02)
        connection.close()

    def keep_catching_up() -> None:
        connection = second.connect()
        try:
            while not stop.is_set():
                with suppress(LeaseHeld):  # on a busy machine a promotion may keep its turn for longer than one waits
                    catching_up.catch_up(second.workspace, connection, logged_only=True)
        except Exception as error:
            problems.append(error)
        connection.close()

    threads = [threading.Thread(target=work) for work in (keep_writing, keep_catching_up)]
    for thread in threads:
        thread.start()
    promotion.promote(second.workspace, second.connection)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == [] and written
    assert second.live_id() == second.release().release_id
    catch_up(second)
    assert [faults(second, release) for release in second.releases()] == [[], []]


def test_what_was_evaluated_is_named_with_the_documents_it_answered_from(live, monkeypatch):
    from lib.evaluation import settings as evaluation_settings
    from lib.release import assessment

    allow_changes(live)
    write(live, "tea", TEA)
    found = assessment.assess(
        live.workspace,
        live.connection,
        cases_path=live.workspace.default_cases,
        settings=evaluation_settings.load(live.workspace),
    )
    assert found.content["inputs"]["coverage_digest"] == covers(live, live.release())
    covered = covers(live, live.release())
    with live.connection:
        assert changes.digest_of_standing(live.connection, ["corpus"]) == covered


def make_it_version_one(project: Project) -> None:
    """The database as the Golive before this one left it."""
    project.execute(
        "DROP TRIGGER golive_capture ON documents; DROP TRIGGER golive_announce ON documents;"
        "DROP TABLE golive.coverage, golive.release_documents, golive.superseded, golive.changed_chunks,"
        " golive.document_changes; ALTER TABLE golive.pointer DROP COLUMN previous;"
        "UPDATE golive.schema_version SET version = 1"
    )


def test_a_database_of_the_version_before_is_brought_up_to_date_by_the_first_that_writes(live, run_script):
    make_it_version_one(live)
    asked = run_script("status")
    assert (asked.code, "scripts/catch_up.py" in asked.err) == (15, True)
    done = run_script("catch_up")
    assert (done.code, "caught up with 0 documents" in done.out) == (0, True)
    assert live.ask("SELECT version FROM golive.schema_version") == [{"version": postgres.SCHEMA_VERSION}]
    assert live.ask("SELECT origin FROM golive.coverage") == [{"origin": "rebuilt"}]
    write(live, "tea", TEA)
    assert behind(live) == {"live": 1}


def test_an_upgrade_waits_only_so_long_for_those_who_write(live, monkeypatch):
    make_it_version_one(live)
    writer = live.connect()
    with writer.cursor() as cursor:
        cursor.execute("UPDATE documents SET title = title")
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        postgres.create_state(live.connection)
    writer.close()
    postgres.create_state(live.connection)
    assert live.ask("SELECT version FROM golive.schema_version") == [{"version": postgres.SCHEMA_VERSION}]
