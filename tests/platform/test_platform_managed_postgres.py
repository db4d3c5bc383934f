"""Golive on a PostgreSQL as managed services run it: TLS, a role that is no superuser, PgBouncer in transaction mode."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from lib.config import store
from lib.index.releases import get_release, read_pointer
from lib.index.seal import content_of
from lib.platform import postgres, tls
from lib.platform.errors import ConfigInvalid, LeaseHeld, Refused, Unavailable
from lib.platform.lease import lease
from lib.platform.workspace import Workspace
from lib.release.promotion import move_pointer
from tests.platform import managed

_HOLD = """
import sys
from lib.platform.lease import lease
with lease(sys.argv[1], "backup"):
    print("held", flush=True)
    sys.stdin.read()
"""
both_ways = pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])


@pytest.fixture(scope="module")
def service() -> Iterator[managed.Managed]:
    """The running servers, with Golive's state in the database."""
    try:
        with managed.running() as started:
            with closing(postgres.connect(started.url(), "test")) as connection:
                postgres.create_state(connection)
            yield started
    except managed.Missing as missing:
        pytest.skip(str(missing))


# who is let in


@both_ways
def test_a_role_that_is_no_superuser_works_over_verified_tls(service: managed.Managed, pooled: bool) -> None:
    with closing(postgres.connect(service.url(pooled=pooled), "test")) as connection, connection:
        found = postgres.one(
            connection,
            "SELECT ssl, usename = %s AS role, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super"
            " FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE pid = pg_backend_pid()",
            (managed.ROLE,),
        )
        assert found == {"ssl": True, "role": True, "super": False}


@both_ways
def test_a_certificate_of_another_authority_is_refused_and_the_hint_names_the_setting(
    service: managed.Managed, pooled: bool, tmp_path: Path
) -> None:
    stranger = managed.make_authority(tmp_path, "stranger")
    with pytest.raises(Unavailable, match="cannot connect to the database") as caught:
        postgres.connect(service.url(pooled=pooled, sslrootcert=str(stranger)), "test")
    assert "certificate verify failed" in caught.value.detail
    assert "sslrootcert" in caught.value.hint
    assert managed.PASSWORD not in str(caught.value.to_dict()) + caught.value.detail


@both_ways
def test_a_connection_without_tls_is_refused(service: managed.Managed, pooled: bool) -> None:
    with pytest.raises(Unavailable):
        postgres.connect(service.url(pooled=pooled, sslmode="disable"), "test")


@both_ways
def test_a_database_without_pgvector_is_refused_with_what_its_superuser_must_type(
    service: managed.Managed, pooled: bool
) -> None:
    service.administer(f"CREATE DATABASE empty OWNER {managed.ROLE}")
    with closing(postgres.connect(service.url(pooled=pooled, database="empty"), "test")) as connection:
        with pytest.raises(Refused, match="pgvector is not enabled here") as caught:
            postgres.create_state(connection)
        assert "CREATE EXTENSION vector" in caught.value.hint
        service.administer("CREATE EXTENSION vector", database="empty")
        postgres.create_state(connection)
    service.administer("DROP DATABASE empty WITH (FORCE)")


# the production profile


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLIVE_ENV", "production")
    for name in ("PGSSLMODE", "PGSERVICE", "PGSERVICEFILE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)


@both_ways
def test_in_production_a_verified_connection_works(service: managed.Managed, pooled: bool, production: None) -> None:
    with closing(postgres.connect(service.url(pooled=pooled), "test")) as connection:
        assert connection.info.ssl_in_use


def test_in_production_a_mode_from_anywhere_else_is_refused_too(
    service: managed.Managed, production: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = service.url().partition("?")[0]
    with pytest.raises(Refused, match="sslmode=prefer is refused") as caught:
        postgres.connect(bare, "test")
    assert "the default" in caught.value.detail
    monkeypatch.setenv("PGSSLMODE", "require")
    with pytest.raises(Refused, match="sslmode=require is refused") as caught:
        postgres.connect(bare, "test")
    assert "PGSSLMODE" in caught.value.detail
    services = tmp_path / "services"
    services.write_text(f"[weak]\nsslmode=verify-ca\n[sound]\nsslmode=verify-full\nsslrootcert={service.authority}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSERVICE", "weak")
    with pytest.raises(Refused, match="sslmode=verify-ca is refused") as caught:
        postgres.connect(bare, "test")
    assert "the service 'weak'" in caught.value.detail
    monkeypatch.setenv("PGSERVICE", "sound")
    postgres.connect(bare, "test").close()
    monkeypatch.delenv("PGSERVICE")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(service.authority))
    postgres.connect(bare, "test").close()


def test_in_production_a_socket_beside_a_host_that_is_not_verified_does_not_help(
    service: managed.Managed, production: None
) -> None:
    with pytest.raises(Refused, match="is refused"):
        postgres.connect(f"host={service.folder},localhost port={service.port} user=postgres dbname=postgres", "test")


def test_in_production_the_local_socket_is_let_in(service: managed.Managed, production: None) -> None:
    postgres.connect(f"host={service.folder} port={service.port} user=postgres dbname=postgres", "test").close()


def test_in_production_a_connection_that_is_not_encrypted_after_all_is_refused(
    service: managed.Managed, production: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "require_verified", lambda asked: None)  # as where GSSAPI encryption takes precedence
    service.hosts("hostnossl all all 127.0.0.1/32 scram-sha-256")
    try:
        with pytest.raises(Refused, match="does not use TLS"):
            postgres.connect(service.url(sslmode="disable"), "test")
    finally:
        service.hosts()


def test_elsewhere_the_mode_is_the_users_own_affair(service: managed.Managed) -> None:
    postgres.connect(service.url(sslmode="require"), "test").close()


def test_scripts_of_the_production_profile_exit_with_the_code_and_one_line(
    service: managed.Managed, run_script: Callable[..., object]
) -> None:
    done = run_script("status", DATABASE_URL=service.url(sslmode="prefer"), GOLIVE_ENV="production")
    assert (done.code, done.err.count("error:"), managed.PASSWORD in done.err) == (15, 1, False)


# what a session keeps


def test_a_connection_knows_whether_it_has_a_session_of_its_own(service: managed.Managed) -> None:
    for pooled in (False, True):
        with closing(postgres.connect(service.url(pooled=pooled), "test")) as connection:
            assert postgres.has_own_session(connection) is not pooled


@both_ways
def test_every_transaction_is_in_utc_whichever_session_of_the_server_it_gets(
    service: managed.Managed, pooled: bool
) -> None:
    connections = [postgres.connect(service.url(pooled=pooled), "test") for _ in range(3)]
    seen = set()
    for _ in range(2):
        for connection in connections:  # transactions that overlap are in sessions of their own
            found = postgres.one(connection, "SELECT pg_backend_pid() AS pid, current_setting('TimeZone') AS zone")
            assert found is not None
            assert found["zone"] == "UTC"
            seen.add(found["pid"])
        for connection in reversed(connections):
            connection.rollback()
    for connection in connections:
        connection.close()
    assert len(seen) >= 3


def test_a_search_path_in_the_address_works_without_a_pooler(service: managed.Managed) -> None:
    url = service.url(options="-csearch_path=golive,public")
    with closing(postgres.connect(url, "test")) as connection, connection:
        assert postgres.one(connection, "SELECT current_schema() AS first") == {"first": "golive"}


def test_a_search_path_that_the_pooler_refuses_is_told_with_the_way_around(service: managed.Managed) -> None:
    with pytest.raises(ConfigInvalid, match="pooler") as caught:
        postgres.connect(service.url(pooled=True, options="-csearch_path=golive,public"), "test")
    assert "ALTER ROLE" in caught.value.hint


def test_a_search_path_that_the_pooler_drops_is_noticed(service: managed.Managed) -> None:
    with _pooler_settings(service, "ignore_startup_parameters = options"):
        with pytest.raises(ConfigInvalid, match="does not reach the database") as caught:
            postgres.connect(service.url(pooled=True, options="-c search_path=golive,public"), "test")
        assert "ALTER ROLE" in caught.value.hint
    with (
        _role_setting(service, "search_path", "golive, public"),
        closing(postgres.connect(service.url(pooled=True), "test")) as connection,
        connection,
    ):
        assert postgres.one(connection, "SELECT current_schema() AS first") == {"first": "golive"}


# the lease


@both_ways
def test_one_at_a_time_holds_whichever_way_the_second_comes(service: managed.Managed, pooled: bool) -> None:
    with lease(service.url(pooled=pooled), "backup"):
        for way in (False, True):
            with pytest.raises(LeaseHeld, match="backup by"), lease(service.url(pooled=way), "restore"):
                pytest.fail("two hold the lease")


def test_a_lease_is_free_again_at_once_behind_a_pooler(service: managed.Managed) -> None:
    for _ in range(5):
        with lease(service.url(pooled=True), "step"):
            pass
        with lease(service.url(), "step"):
            pass


def test_a_child_works_under_its_parents_lease_behind_a_pooler(
    service: managed.Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(service.url(pooled=True), "golive") as shared:
        monkeypatch.setenv("GOLIVE_LEASE", shared["GOLIVE_LEASE"])
        with lease(service.url(pooled=True), "ingest") as inherited:
            assert inherited == shared


def test_a_holder_that_was_killed_behind_a_pooler_holds_nothing(service: managed.Managed) -> None:
    url = service.url(pooled=True)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LeaseHeld, match=f"pid {holder.pid},"), lease(url, "restore"):
            pytest.fail("two hold the lease")
        holder.send_signal(signal.SIGKILL)
    _wait_until(lambda: _takes(url))


def test_a_lease_outlives_the_servers_limit_for_idle_transactions_and_holds_vacuum_back_in_nothing(
    service: managed.Managed,
) -> None:
    look = (
        "SELECT backend_xid IS NULL AND backend_xmin IS NULL FROM pg_stat_activity"
        " WHERE datname = 'golive' AND state = 'idle in transaction'"
    )
    with (
        _role_setting(service, "idle_in_transaction_session_timeout", "'50ms'"),
        lease(service.url(pooled=True), "backup"),
    ):
        time.sleep(0.3)
        assert _as_superuser(service, look) == [(True,)]


def test_a_step_whose_pooler_lost_the_lease_does_not_end_as_done(service: managed.Managed) -> None:
    with pytest.raises(Unavailable, match="the lease was lost"), lease(service.url(pooled=True), "backup"):
        _end_sessions(service)


# what goes wrong


def test_a_connection_goes_on_after_the_server_ended_the_sessions_behind_its_pooler(service: managed.Managed) -> None:
    with closing(postgres.connect(service.url(pooled=True), "test")) as connection:
        _end_sessions(service)
        _wait_until(lambda: _answers(connection))


def test_a_session_that_ends_within_a_transaction_is_told_as_unavailable(service: managed.Managed) -> None:
    with closing(postgres.connect(service.url(pooled=True), "test")) as connection:
        postgres.one(connection, "SELECT 1")
        _end_sessions(service)
        with pytest.raises(psycopg2.Error) as caught:
            postgres.one(connection, "SELECT 1")
    assert type(postgres.translate(caught.value)) is Unavailable


def test_a_role_without_rights_is_refused_by_name_and_code(
    service: managed.Managed, run_script: Callable[..., object], workspace: Workspace
) -> None:
    blind = run_script("status", DATABASE_URL=service.url(pooled=True, role=managed.READER))
    assert (blind.code, "may not do this" in blind.err) == (15, True)
    service.administer(
        f"GRANT USAGE ON SCHEMA golive TO {managed.READER}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA golive, public TO {managed.READER}",
        database=managed.DATABASE,
    )
    assert run_script("status", DATABASE_URL=service.url(pooled=True, role=managed.READER)).code == 0
    refused = run_script(
        "sync_documents", str(workspace.default_corpus), DATABASE_URL=service.url(pooled=True, role=managed.READER)
    )
    assert (refused.code, "use a role that may create and write tables" in refused.err) == (15, True)


def test_a_read_only_server_is_refused_by_code(
    service: managed.Managed, run_script: Callable[..., object], workspace: Workspace
) -> None:
    with _role_setting(service, "default_transaction_read_only", "on"):
        done = run_script("sync_documents", str(workspace.default_corpus), DATABASE_URL=service.url(pooled=True))
    assert (done.code, "not read-only" in done.err) == (15, True)


# the whole path


def test_documents_become_a_release_that_answers_is_backed_up_and_keeps_up_behind_a_pooler(
    service: managed.Managed, run_script: Callable[..., object], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", service.url(pooled=True))
    for step in (
        ("sync_documents", str(workspace.default_corpus), "--source", "corpus"),
        ("lock_production_config", "--source", "corpus"),
        ("shadow_ingest",),
    ):
        done = run_script(*step)
        assert done.code == 0, done.err
    with closing(postgres.connect(service.url(), "test")) as connection:
        with connection:
            release = get_release(connection, store.read_active(workspace).ingest_run_id)
            content = content_of(connection, release.table_schema, release.table_name)
        assert content is not None
        assert (release.state, content.row_count > 0, content.digest) == ("sealed", True, release.content_digest)
        with connection:
            move_pointer(connection, read_pointer(connection, lock=True), release, "test", "retired")
    answered = run_script("query_index", "how long are daily backups kept?", "--json")
    assert (answered.code, "last seven daily backups" in answered.out) == (0, True), answered.err
    saved = run_script("backup_production_state", "--json")
    assert saved.code == 0, saved.err
    (workspace.default_corpus / "news.md").write_text("# News\n\nThe walrus has moved to the north harbour.\n")
    for step in (("sync_documents", str(workspace.default_corpus), "--source", "corpus"), ("catch_up", "--once")):
        done = run_script(*step)
        assert done.code == 0, done.err
    answered = run_script("query_index", "where is the walrus?", "--json")
    assert (answered.code, "north harbour" in answered.out) == (0, True), answered.err


@contextmanager
def _pooler_settings(service: managed.Managed, *more: str) -> Iterator[None]:
    """PgBouncer with more settings than usual, while the block runs."""

    def load(*more: str) -> None:
        managed.write_pooler_settings(service.folder, service.port, service.pooled_port, *more)
        log = service.folder / "log"
        before = log.read_text().count("SIGHUP")
        service.pooler.send_signal(signal.SIGHUP)
        _wait_until(lambda: log.read_text().count("SIGHUP") > before)

    load(*more)
    try:
        yield
    finally:
        load()


@contextmanager
def _role_setting(service: managed.Managed, setting: str, value: str) -> Iterator[None]:
    """The role with a setting that its new sessions have, while the block runs; the pooler has none but new ones."""
    service.administer(f"ALTER ROLE {managed.ROLE} SET {setting} = {value}")
    _end_sessions(service)
    try:
        yield
    finally:
        service.administer(f"ALTER ROLE {managed.ROLE} RESET {setting}")
        _end_sessions(service)


def _end_sessions(service: managed.Managed) -> None:
    """Ends the sessions of everybody but the superuser, and waits until the server and the pooler have noticed."""
    _as_superuser(service, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename <> 'postgres'")


def _as_superuser(service: managed.Managed, query: str) -> list[tuple[object, ...]]:
    with (
        closing(
            psycopg2.connect(host=str(service.folder), port=service.port, user="postgres", dbname="postgres")
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(query)
        return cursor.fetchall()


def _takes(url: str) -> bool:
    try:
        with lease(url, "restore"):
            return True
    except LeaseHeld:
        return False


def _answers(connection: Connection) -> bool:
    """Whether a transaction works; one that meets a session that was just ended does not, the next one does."""
    try:
        with connection:
            return postgres.one(connection, "SELECT 1 AS yes") == {"yes": 1}
    except psycopg2.OperationalError:
        assert not connection.closed
        return False


def _wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 30 s")
