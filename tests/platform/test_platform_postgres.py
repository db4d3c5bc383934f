"""PostgreSQL: what Golive needs of it, what it leaves alone, and its errors in Golive's words."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.platform import embedded, postgres
from lib.platform.commit import alive
from lib.platform.errors import ConfigInvalid, GoliveError, IntegrityMismatch, NotFound, Refused, Unavailable
from lib.platform.workspace import Workspace

_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


@pytest.fixture
def stranger(server: str, database_url: str) -> Iterator[str]:
    """The address of the test's database for a role that owns nothing and may do nothing."""
    role = f"stranger_{os.getpid()}"
    _execute(server, f"CREATE ROLE {role} LOGIN")
    yield database_url.replace("//postgres@", f"//{role}@")
    _execute(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.fixture
def extensions(database_url: str) -> Iterator[Path]:
    """An empty folder outside of which the test's database finds no extension; the server's own user can read it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        name = sql.Identifier(psycopg2.extensions.parse_dsn(database_url)["dbname"])
        change = sql.SQL("ALTER DATABASE {} SET extension_control_path = {}").format(name, sql.Literal(folder))
        _execute(database_url, change)
        yield Path(folder)


# where it is


def test_the_environment_names_the_database(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/else")
    assert postgres.address(workspace) == "postgresql://somewhere/else"
    assert not embedded.data_folder(workspace).exists()


def test_a_connection_is_in_utc_and_commits_nothing_by_itself(server: str) -> None:
    connection = postgres.connect(f"{server}&options=-ctimezone%3DAsia/Tokyo", "looking around")
    try:
        with connection:
            assert postgres.one(connection, "SHOW TimeZone") == {"TimeZone": "UTC"}
            assert postgres.one(connection, "SHOW application_name") == {"application_name": "golive looking around"}
        assert connection.autocommit is False
    finally:
        connection.close()


@pytest.mark.parametrize(
    "url",
    [
        "not an address",
        "mysql://u:hunter22@h/d",
        "postgresql://u:hunter22@h/d?no_such_option=1",
        "postgresql://u:hunter22%zz@h/d",
    ],
)
def test_what_is_no_postgresql_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="DATABASE_URL is not a PostgreSQL address") as caught:
        postgres.connect(url, "test")
    assert "hunter22" not in str(caught.value.to_dict())


@pytest.mark.parametrize("form", ["postgresql://u:hunter22@/d?host={}", "host={} user=u password=hunter22 dbname=d"])
def test_a_server_that_is_not_there_is_unavailable(form: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot connect to the database") as caught:
        postgres.connect(form.format(tmp_path), "test")
    assert str(tmp_path) in caught.value.detail
    assert "hunter22" not in str(caught.value.to_dict())


def test_a_database_that_is_not_there_is_named(server: str) -> None:
    with pytest.raises(Unavailable) as caught:
        postgres.connect(server.replace("/postgres?", "/no_such_database?"), "test")
    assert 'database "no_such_database" does not exist' in caught.value.detail


def test_a_wrong_password_is_never_shown(home: Workspace) -> None:
    _execute(embedded.address(home), "CREATE ROLE app LOGIN PASSWORD 'right'")
    embedded.stop(home)
    rules = embedded.data_folder(home) / "pg_hba.conf"
    rules.write_text("local all app scram-sha-256\n" + rules.read_text())
    app = embedded.address(home).replace("//postgres@", "//app:{}@")
    postgres.connect(app.format("right"), "test").close()
    with pytest.raises(Unavailable) as caught:
        postgres.connect(app.format("wr%6Fng-horse"), "test")
    assert "password authentication failed" in caught.value.detail
    told = f"{caught.value!r} {caught.value.to_dict()} {caught.value.__cause__!r}"
    assert "wrong-horse" not in told
    assert "wr%6Fng-horse" not in told


# the state


def test_reading_where_nothing_was_released_says_so_and_creates_nothing(database_url: str, workspace: Workspace) -> None:
    with (
        pytest.raises(NotFound, match="nothing has been released in this database"),
        postgres.database(workspace, "test"),
    ):
        pytest.fail("there is no state")
    assert _rows(database_url, "SELECT nspname FROM pg_namespace WHERE nspname = 'golive'") == []
    assert _rows(database_url, "SELECT extname FROM pg_extension WHERE extname = 'vector'") == []


def test_writing_creates_the_state_once_and_keeps_it(database_url: str, workspace: Workspace) -> None:
    with postgres.database(workspace, "test", write=True) as connection, connection:
        postgres.every(connection, "UPDATE golive.pointer SET reason = 'mine' RETURNING 1")
    assert connection.closed
    with postgres.database(workspace, "test", write=True) as connection:
        postgres.create_state(connection)
    with postgres.database(workspace, "test") as connection, connection:
        assert postgres.one(connection, "SELECT generation, release_id, reason FROM golive.pointer") == {
            "generation": 0,
            "release_id": None,
            "reason": "mine",
        }
        assert postgres.one(connection, "SELECT state FROM golive.traffic") == {"state": "open"}


def test_after_a_connection_that_was_lost_there_is_a_new_one(database_url: str, workspace: Workspace) -> None:
    with postgres.database(workspace, "test", write=True) as connection:
        with alive(connection, database_url) as still:
            assert still is connection
        connection.close()
        with alive(connection, database_url) as still:
            assert postgres.one(still, "SELECT state FROM golive.traffic") == {"state": "open"}
        assert still.closed


def test_the_connection_is_closed_after_an_error_too(database_url: str, workspace: Workspace) -> None:
    with pytest.raises(RuntimeError), postgres.database(workspace, "test", write=True) as connection:
        raise RuntimeError
    assert connection.closed


def test_the_state_of_a_newer_golive_is_not_touched(connection: Connection, workspace: Workspace) -> None:
    with connection:
        postgres.every(connection, "UPDATE golive.schema_version SET version = version + 1 RETURNING 1")
    for write in (False, True):
        with (
            pytest.raises(Refused, match="newer Golive") as caught,
            postgres.database(workspace, "test", write=write),
        ):
            pytest.fail("a newer state was opened")
        assert str(postgres.SCHEMA_VERSION + 1) in caught.value.detail


def test_a_documents_table_of_somebody_else_is_left_alone(database_url: str) -> None:
    _execute(database_url, "CREATE TABLE documents (id integer, content text)", "INSERT INTO documents VALUES (1, 'mine')")
    with pytest.raises(Refused, match="a table named documents is there already") as caught:
        _create_state(database_url)
    assert caught.value.detail == "missing: metadata, path, sections, sha256, source, title"
    assert _rows(database_url, "SELECT * FROM documents") == [(1, "mine")]
    assert _rows(database_url, "SELECT nspname FROM pg_namespace WHERE nspname = 'golive'") == []


def test_the_way_around_somebody_elses_documents_is_what_the_hint_says(database_url: str) -> None:
    _execute(database_url, "CREATE TABLE documents (id integer)")
    with pytest.raises(Refused) as caught:
        _create_state(database_url)
    addition = caught.value.hint.partition("add ?")[2].partition(" to ")[0]
    _create_state(f"{database_url}&{addition}")


def test_a_documents_table_that_the_role_cannot_see_is_left_alone_too(database_url: str, stranger: str) -> None:
    role = stranger.partition("//")[2].partition("@")[0]
    _execute(
        database_url,
        "CREATE EXTENSION vector",
        "CREATE TABLE documents (id integer)",
        f"GRANT CREATE, USAGE ON SCHEMA public TO {role}",
        f"GRANT CREATE ON DATABASE {psycopg2.extensions.parse_dsn(database_url)['dbname']} TO {role}",
    )
    with pytest.raises(Refused):
        _create_state(stranger)


def test_a_role_that_may_not_create_is_told_so(database_url: str, stranger: str) -> None:
    with pytest.raises(Refused, match="pgvector is not enabled here") as caught:
        _create_state(stranger)
    assert "CREATE EXTENSION vector" in caught.value.hint
    _execute(database_url, "CREATE EXTENSION vector")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege) as denied:
        _create_state(stranger)
    assert isinstance(postgres.translate(denied.value), Refused)


def test_a_server_without_pgvector_is_unavailable(database_url: str, extensions: Path) -> None:
    with pytest.raises(Unavailable, match="this PostgreSQL has no pgvector") as caught:
        _create_state(database_url)
    assert "pgvector 0.7 or newer" in caught.value.hint
    assert _rows(database_url, "SELECT nspname FROM pg_namespace WHERE nspname = 'golive'") == []


@pytest.mark.parametrize(("version", "accepted"), [("0.6.2", False), ("0.7.0", True), ("0.10.1", True)])
def test_an_old_pgvector_is_unavailable(version: str, accepted: bool, database_url: str, extensions: Path) -> None:
    folder = extensions / "extension"
    folder.mkdir()
    (folder / "vector.control").write_text(f"default_version = '{version}'\nrelocatable = true\n")
    (folder / f"vector--{version}.sql").write_text("CREATE DOMAIN vector AS text;")
    connection = postgres.connect(database_url, "test")
    try:
        if accepted:
            postgres.require_pgvector(connection)
        else:
            with pytest.raises(Unavailable, match=f"pgvector {version} is too old"):
                postgres.require_pgvector(connection)
    finally:
        connection.close()


def test_two_first_steps_at_the_same_time_both_succeed(database_url: str) -> None:
    first = psycopg2.connect(database_url)
    failures: list[Exception] = []
    second = threading.Thread(target=_collect, args=(failures, lambda: _create_state(database_url)))
    with first.cursor() as cursor:
        cursor.execute("CREATE EXTENSION vector")
        second.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'golive test' AND wait_event_type = 'Lock'"
        while second.is_alive() and not _rows(database_url, waiting):
            pass
    first.commit()
    first.close()
    second.join()
    assert failures == []


# names, rows, files


@pytest.mark.parametrize("name", ["t", "a" * 63, "é" * 31 + "a", 'we"ird.; DROP TABLE x', "UPPER case"])
def test_every_name_up_to_63_bytes_works_as_it_stands(name: str, state: Connection) -> None:
    table = postgres.table_identifier("public", name)
    with state.cursor() as cursor:
        assert not postgres.table_exists(state, "public", name)
        cursor.execute(sql.SQL("CREATE TABLE {} (x integer)").format(table))
        assert postgres.table_exists(state, "public", name)
        assert postgres.every(
            state, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename = %s", (name,)
        )
    state.rollback()


@pytest.mark.parametrize("name", ["", "a" * 64, "é" * 32, "a\0b"])
def test_a_name_that_postgresql_would_cut_is_refused(name: str) -> None:
    for pair in (("public", name), (name, "t")):
        with pytest.raises(ConfigInvalid, match="cannot be a table or schema name"):
            postgres.table_identifier(*pair)


@given(st.lists(st.tuples(st.none() | _TEXT, st.none() | st.integers(-(2**31), 2**31 - 1), st.booleans()), max_size=5))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_rows_that_were_copied_are_read_back_as_they_were(
    state: Connection, rows: list[tuple[str | None, int | None, bool]]
) -> None:
    with state.cursor() as cursor:
        cursor.execute('CREATE TEMPORARY TABLE copied (line serial, "Te xt" text, number integer, flag boolean)')
        postgres.copy_rows(cursor, sql.Identifier("copied"), ("Te xt", "number", "flag"), rows)
        cursor.execute('SELECT "Te xt", number, flag FROM copied ORDER BY line')
        assert cursor.fetchall() == rows
    state.rollback()


def test_the_text_copy_ends_with_is_ordinary_text(state: Connection) -> None:
    hostile = [(r"\.",), (r"\N",), ("",), ("\\",), ("a\tb\nc\rd\\n",), ("\x0b\x0c\b",)]
    with state.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE hostile (line serial, words text)")
        postgres.copy_rows(cursor, sql.Identifier("hostile"), ("words",), hostile)
        cursor.execute("SELECT words FROM hostile ORDER BY line")
        assert cursor.fetchall() == hostile
    state.rollback()


def test_rows_come_as_dictionaries(state: Connection) -> None:
    query = "SELECT n AS number, n * 2 AS double FROM generate_series(1, %s) n"
    with state:
        assert postgres.every(state, query, (2,)) == [{"number": 1, "double": 2}, {"number": 2, "double": 4}]
        assert postgres.one(state, query, (2,)) == {"number": 1, "double": 2}
        assert postgres.one(state, query, (0,)) is None


def test_a_sql_file_takes_names_and_values_quoted(state: Connection, tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "ask.sql").write_text("SELECT {value} AS {column}")
    query = postgres.compose(str(tmp_path / "m.py"), "ask", value=sql.Literal("it's"), column=sql.Identifier('a "b"'))
    with state:
        assert postgres.one(state, query) == {'a "b"': "it's"}


# errors


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SELECT * FROM golive.route()", NotFound, "no release is live yet"),
        ("UPDATE golive.traffic SET state = 'stopped', reason = 'fire'; SELECT * FROM golive.route()", Refused, "fire"),
        ("TRUNCATE golive.audit_log", Refused, "golive.audit_log is sealed: truncate refused"),
        ("CREATE ROLE nobody_here; SET ROLE nobody_here; SELECT * FROM golive.pointer", Refused, "permission denied"),
        ("SET TRANSACTION READ ONLY; CREATE TABLE t (x integer)", Refused, "read-only transaction"),
        ("SELECT * FROM document_chunks_gone", IntegrityMismatch, "document_chunks_gone"),
        ("SET LOCAL search_path = nowhere; CREATE TABLE t (x integer)", ConfigInvalid, "no schema has been selected"),
        ("DO $$ BEGIN RAISE data_corrupted USING MESSAGE = 'invalid page'; END $$", IntegrityMismatch, "invalid page"),
        ("CREATE TABLE t (v vector(2001)); CREATE INDEX ON t USING hnsw (v vector_l2_ops)", Refused, "2000 dimensions"),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)", Unavailable, "statement timeout"),
        ("DO $$ BEGIN RAISE disk_full USING MESSAGE = 'no space'; END $$", Unavailable, "no space"),
        ("DO $$ BEGIN RAISE deadlock_detected USING MESSAGE = 'deadlock'; END $$", Unavailable, "deadlock"),
    ],
)
def test_a_database_error_is_told_in_golives_words(
    statement: str, kind: type[GoliveError], words: str, state: Connection
) -> None:
    told = postgres.translate(_error_of(state, statement))
    assert type(told) is kind
    assert words in f"{told.message} {told.detail}"


def test_a_refusal_hands_on_the_servers_hint(state: Connection) -> None:
    told = postgres.translate(_error_of(state, "UPDATE golive.traffic SET state = 'stopped'; SELECT golive.route()"))
    assert told is not None
    assert told.hint == "scripts/resume_operations.py"


def test_a_locked_table_is_unavailable(state: Connection, state_url: str) -> None:
    other = psycopg2.connect(state_url)
    try:
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE golive.leases")
        error = _error_of(state, "SET LOCAL lock_timeout = 20; SELECT * FROM golive.leases")
    finally:
        other.close()
    told = postgres.translate(error)
    assert type(told) is Unavailable
    assert told.message == "a table is locked by another session"


def test_a_connection_that_was_cut_off_is_unavailable_and_stays_so(state: Connection, state_url: str) -> None:
    victim = postgres.connect(state_url, "victim")
    with state:
        postgres.every(state, "SELECT pg_terminate_backend(%s)", (victim.info.backend_pid,))
    for _ in range(2):
        assert type(postgres.translate(_error_of(victim, "SELECT 1"))) is Unavailable
    victim.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SELEC 1",
        "SELECT no_such_column FROM golive.pointer",
        "INSERT INTO golive.pointer VALUES (true, 1, NULL, now(), '', '')",
    ],
)
def test_what_only_a_bug_explains_is_not_dressed_up(statement: str, state: Connection) -> None:
    assert postgres.translate(_error_of(state, statement)) is None


def test_other_errors_are_not_the_databases() -> None:
    assert postgres.translate(ValueError("x")) is None


def test_an_error_of_the_server_holds_no_password(state: Connection) -> None:
    told = postgres.translate(_error_of(state, 'SELECT * FROM "host=h password=hunter22 x"'))
    assert told is not None
    assert "hunter22" not in str(told.to_dict()) + told.detail


def _create_state(url: str) -> None:
    connection = postgres.connect(url, "test")
    try:
        postgres.create_state(connection)
    finally:
        connection.close()


def _execute(url: str, *statements: str | sql.Composable) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def _rows(url: str, query: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute(query)
        found = cursor.fetchall()
    connection.close()
    return found


def _error_of(connection: Connection, statement: str) -> Exception:
    with pytest.raises(psycopg2.Error) as caught, connection.cursor() as cursor:
        cursor.execute(statement)
    if not connection.closed:
        connection.rollback()
    return caught.value


def _collect(failures: list[Exception], work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:  # whatever it is, the test shows it
        failures.append(error)
