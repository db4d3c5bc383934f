"""Cut-over under load, and a stop that holds for clients that ignore the serving contract."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from lib.config import store
from lib.index.releases import read_pointer
from lib.platform import embedded, postgres
from lib.platform.commit import committing
from lib.platform.errors import IntegrityMismatch, Refused, Unavailable
from lib.platform.workspace import Workspace
from lib.release import backup_files, promotion, restore, traffic
from tests.benchmarks import cutover_load
from tests.platform import managed
from tests.platform.broken_commit import Way, way_to
from tests.release.staged import Project

_MOVES = 20


@pytest.fixture
def reader(live: Project) -> Iterator[str]:
    """A login that may read the live table by a grant of its own, one column of it twice, and that ignores route()."""
    role = f"reader {uuid.uuid4().hex[:8]}"  # a blank, as a role's name must be quoted
    table = live.release().table
    live.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    live.execute(sql.SQL("GRANT SELECT ON {} TO {} WITH GRANT OPTION").format(table, sql.Identifier(role)))
    live.execute(sql.SQL("GRANT SELECT (id) ON {} TO {}").format(table, sql.Identifier(role)))
    live.execute(sql.SQL("GRANT SELECT, INSERT ON {} TO PUBLIC").format(table))
    yield role
    with suppress(psycopg2.errors.UndefinedObject):
        live.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


@pytest.mark.parametrize("way", ["prepared, direct", "pooled"])
def test_under_load_a_cut_over_gives_no_error_and_no_answer_out_of_two_releases(database_url: str, way: str) -> None:
    if way == "pooled":
        try:
            with managed.running() as service:
                cut_over(service.url(), service.url(pooled=True), prepared=False)
        except managed.Missing as missing:
            pytest.skip(str(missing))
    else:
        cut_over(database_url, database_url, prepared=True)


def cut_over(direct: str, url: str, *, prepared: bool) -> None:
    with closing(postgres.connect(direct, "test")) as connection:
        postgres.create_state(connection)
        releases = cutover_load.make_releases(connection, rows=200)
        cutover_load.move(connection, releases[1])
        with (
            cutover_load.long_reader(direct, releases),
            cutover_load.clients(url, prepared=prepared) as seen,
        ):
            moves = cutover_load.move_often(connection, releases, _MOVES)
        with connection:
            assert read_pointer(connection).generation == _MOVES + 1 == len(moves) + 1
    assert (seen.errors, seen.mixed) == ([], 0)
    assert seen.answered_by == {release.release_id for release in releases}


def test_a_promotion_behind_a_locked_pointer_gives_up_and_moves_nothing(second: Project, monkeypatch) -> None:
    monkeypatch.setattr(promotion, "_LOCK_TIMEOUT", "20ms")
    before = second.pointer()
    holder = second.connect()
    with closing(holder), holder:
        read_pointer(holder, lock=True)
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            promotion.promote(second.workspace, second.connection)
        assert second.ask("SELECT release_id FROM golive.route('meanwhile')") == [{"release_id": before.release.release_id}]
    assert second.pointer() == before
    assert promotion.promote(second.workspace, second.connection).applied


def test_a_promotion_gets_the_pointer_that_is_let_go_between_its_tries(second: Project, monkeypatch) -> None:
    monkeypatch.setattr(promotion, "_LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(promotion, "_LOCK_TRIES", 100)
    holder, tried = second.connect(), threading.Event()
    with holder.cursor() as cursor:
        cursor.execute("SELECT FROM golive.pointer FOR UPDATE")

    def let_go() -> None:
        tried.wait(30)
        holder.rollback()

    waiting = threading.Thread(target=let_go)
    waiting.start()
    monkeypatch.setattr("lib.platform.locks.time.sleep", lambda _: tried.set())
    assert promotion.promote(second.workspace, second.connection).applied
    assert tried.is_set(), "the pointer was not locked: nothing was tested"
    waiting.join()
    holder.close()


def test_of_two_that_move_the_pointer_at_once_one_moves_it_and_the_other_is_told(second: Project) -> None:
    release, both_have_read = second.release(), threading.Barrier(2)
    outcomes: list[object] = []

    def move() -> None:
        with closing(second.connect()) as connection:
            with connection:
                pointer = read_pointer(connection)
            both_have_read.wait()
            try:
                with committing(connection):
                    promotion.move_pointer(connection, pointer, release, "race", "retired")
                outcomes.append("moved")
            except Refused as error:
                outcomes.append(error.message)

    threads = [threading.Thread(target=move) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["moved", "the pointer was moved by somebody else meanwhile"]
    assert second.pointer().generation == 2


def test_a_stop_holds_for_a_client_that_reads_the_table_without_asking(live: Project, reader: str) -> None:
    before = rights(live)
    client = client_of(live, reader)
    assert read(client, live) == 3
    traffic.stop(live.connection, "leaking")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        read(client, live)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        read(client, live, "count(id)")
    traffic.stop(live.connection, "again")  # what was taken is not forgotten
    traffic.resume(live.connection, "sealed")
    assert read(client, live) == 3
    assert rights(live) == before
    assert live.ask("SELECT FROM golive.stopped_grants") == []
    client.close()


def test_a_stop_takes_the_chunks_that_changed_since_the_seal_too(live: Project, reader: str) -> None:
    name = sql.Identifier(reader)
    live.execute(sql.SQL("GRANT USAGE ON SCHEMA golive TO {0}; GRANT SELECT ON golive.changed_chunks TO {0}").format(name))
    before = rights(live)
    with closing(client_of(live, reader)) as client:
        client.autocommit = True
        assert postgres.every(client, "SELECT id FROM golive.changed_chunks") == []
        traffic.stop(live.connection, "leaking")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            postgres.every(client, "SELECT id FROM golive.changed_chunks")
        traffic.resume(live.connection, "sealed")
        assert postgres.every(client, "SELECT id FROM golive.changed_chunks") == []
    assert rights(live) == before


def test_a_right_that_is_given_during_a_stop_is_taken_by_the_next_one(live: Project, reader: str) -> None:
    traffic.stop(live.connection, "leaking")
    live.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(live.release().table, sql.Identifier(reader)))
    with closing(client_of(live, reader)) as client:
        assert read(client, live) == 3
        traffic.stop(live.connection, "still leaking")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            read(client, live)


def test_a_resume_passes_over_readers_and_tables_that_are_gone(live: Project, reader: str) -> None:
    traffic.stop(live.connection, "leaking")
    live.execute("INSERT INTO golive.stopped_grants VALUES ('public', 'gone', '', 'PUBLIC', false)")
    live.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(reader)))
    assert traffic.resume(live.connection, "sealed").state == "open"


def test_a_reader_may_not_stop_queries_or_give_itself_rights(live: Project, reader: str) -> None:
    live.execute(sql.SQL("GRANT USAGE ON SCHEMA golive TO {}").format(sql.Identifier(reader)))
    with closing(client_of(live, reader)) as client:
        for function in ("close_tables", "open_tables"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), client:
                postgres.one(client, f"SELECT golive.{function}()")


def test_queries_in_flight_are_waited_for_and_ended_by_force(live: Project) -> None:
    client = psycopg2.connect(live.url)
    read(client, live, keep_open=True)
    traffic.stop(live.connection, "fire")
    (session,) = traffic.in_flight(live.connection)
    assert session["pid"] == client.info.backend_pid
    assert [each["pid"] for each in traffic.drain(live.connection, 0.1)[1]] == [session["pid"]]
    assert traffic.drain(live.connection, 0, force=True) == (1, [])
    with pytest.raises(psycopg2.OperationalError):
        read(client, live)


def test_golives_own_steps_are_no_queries_in_flight(live: Project) -> None:
    with closing(postgres.connect(live.url, "backup")) as backup:
        read(backup, live, keep_open=True)
        assert traffic.in_flight(live.connection) == []
        assert traffic.drain(live.connection, 0, force=True) == (0, [])
        assert read(backup, live) == 3


def test_a_drain_ends_when_the_last_query_does(live: Project) -> None:
    client = psycopg2.connect(live.url)
    read(client, live, keep_open=True)
    ending = threading.Timer(0.2, client.rollback)
    ending.start()
    assert traffic.drain(live.connection, 60) == (0, [])
    ending.join()
    client.close()


def test_a_stop_survives_a_restart_of_the_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("restarted"))
    try:
        with closing(postgres.connect(embedded.address(workspace), "test")) as connection:
            postgres.create_state(connection)
            traffic.stop(connection, "power cut")
        embedded.stop(workspace)
        with closing(postgres.connect(embedded.address(workspace), "test")) as connection:
            with pytest.raises(psycopg2.Error, match="power cut") as raised:
                postgres.one(connection, "SELECT * FROM golive.route('first after the restart')")
            assert raised.value.pgcode == "GL001"
    finally:
        embedded.stop(workspace)


@pytest.mark.parametrize(
    ("damage", "failing"),
    [
        ("DROP INDEX {table}_hnsw", "no valid vector index"),
        ("DELETE FROM {table} WHERE chunk_index = 0", "is damaged"),
    ],
)
def test_a_state_that_does_not_validate_is_not_resumed_onto(live: Project, damage: str, failing: str) -> None:
    live.tamper(damage.replace("{table}_hnsw", f'"{live.release().table_name}_hnsw"'))
    with pytest.raises(IntegrityMismatch, match=failing):
        traffic.validate_live(live.workspace, live.connection)


def test_config_files_of_another_production_are_not_resumed_onto_and_a_candidate_is_no_hindrance(second: Project) -> None:
    live, generation = traffic.validate_live(second.workspace, second.connection)  # the second is locked, the first live
    assert (live["release_id"], generation) == (second.live_id(), 1)
    store.write_active(second.workspace, second.release().locked_config.in_production(True))
    with pytest.raises(IntegrityMismatch, match="config files"):
        traffic.validate_live(second.workspace, second.connection)


def test_a_pointer_that_moved_since_it_was_validated_is_not_resumed_onto(live: Project) -> None:
    traffic.stop(live.connection, "fire")
    live.execute("UPDATE golive.pointer SET generation = generation + 1")
    with pytest.raises(Refused, match="moved while its release was validated"):
        traffic.resume(live.connection, "try", generation=1)
    assert traffic.read(live.connection).state == "stopped"


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_promotion_whose_commit_got_lost_says_what_became_of_it(second: Project, way: Way, monkeypatch, how: str) -> None:
    first, release = second.live_id(), second.release()
    lose_next_commit(monkeypatch, way, how)
    with closing(postgres.connect(way.url, "test")) as connection:
        if how == "after":
            assert promotion.promote(second.workspace, connection).applied
        else:
            with pytest.raises(Unavailable, match="nothing was committed"):
                promotion.promote(second.workspace, connection)
    assert way.lost == 1
    assert second.live_id() == (release.release_id if how == "after" else first)
    assert store.read_active(second.workspace).is_production == (how == "after")
    outcome = promotion.promote(second.workspace, second.connection)  # and again, to the end
    assert (outcome.already_live, second.live_id()) == (how == "after", release.release_id)


def test_a_restore_whose_commits_answer_got_lost_is_done(second: Project, way: Way, monkeypatch) -> None:
    first = second.live_id()
    promotion.promote(second.workspace, second.connection)
    made = backup_files.every(second.workspace)[0]
    lose_next_commit(monkeypatch, way, "after")
    with closing(postgres.connect(way.url, "test")) as connection:
        done = restore.apply_restore(second.workspace, connection, made, restore.plan_restore(connection, made, first))
    assert (way.lost, done["release_id"], second.live_id()) == (1, first, first)


def test_a_stop_whose_commits_answer_got_lost_is_a_stop(live: Project, way: Way, monkeypatch) -> None:
    record = traffic.audit.record

    def lose(*given, **named) -> None:
        record(*given, **named)
        way.lose = "after"

    monkeypatch.setattr(traffic.audit, "record", lose)
    with closing(postgres.connect(way.url, "test")) as connection:
        assert traffic.stop(connection, "fire").state == "stopped"
    assert way.lost == 1


@pytest.fixture
def way() -> Iterator[Way]:
    """A way to the project's database that loses what it is told to; the path of a socket must be short."""
    with tempfile.TemporaryDirectory() as folder, way_to(Path(folder), os.environ["DATABASE_URL"]) as made:
        yield made


def lose_next_commit(monkeypatch, way: Way, how: str) -> None:
    """The COMMIT that follows the pointer's move gets lost."""

    def move(*given, **named) -> None:
        move_pointer(*given, **named)
        way.lose = how

    move_pointer = promotion.move_pointer
    monkeypatch.setattr(promotion, "move_pointer", move)
    monkeypatch.setattr(restore, "move_pointer", move)


def client_of(live: Project, role: str):
    made = psycopg2.connect(make_dsn(live.url, user=role))
    made.autocommit = True
    return made


def read(client, live: Project, what: str = "count(*)", *, keep_open: bool = False) -> int:
    with client.cursor() as cursor:
        cursor.execute(sql.SQL(f"SELECT {what} FROM {{}}").format(live.release().table))
        (found,) = cursor.fetchone()
    if not keep_open:
        client.rollback()
    return found


def rights(live: Project) -> list[dict]:
    """Who may do what with the live table and its columns."""
    return live.ask(
        "SELECT '' AS name, e.grantee, e.privilege_type, e.is_grantable FROM pg_class c, aclexplode(relacl) e"
        " WHERE c.oid = %(table)s::regclass UNION ALL"
        " SELECT attname, e.grantee, e.privilege_type, e.is_grantable FROM pg_attribute, aclexplode(attacl) e"
        " WHERE attrelid = %(table)s::regclass ORDER BY 1, 2, 3, 4",
        {"table": postgres.quoted_name("public", live.release().table_name)},
    )
