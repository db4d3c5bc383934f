"""Three roles: the reader cannot write, the operator cannot drop, and each can do what it is there for."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from lib.index.retrieval import LiveRetriever
from lib.operations import roles
from lib.platform import audit, postgres
from lib.platform.errors import ConfigInvalid, Refused, Unavailable
from lib.release import catching_up, ingesting, promotion, traffic
from tests.conftest import HANDBOOK, PROJECT, administer
from tests.release.staged import Project, lock, make_ready, sync

THIRD_LOCKED = datetime(2026, 1, 4, 3, 4, 5, tzinfo=UTC)
LOGINS = {"ann": "golive_owner", "otto": "golive_operator", "rita": "golive_reader"}
WRITES = {
    "INSERT": "INSERT INTO {} DEFAULT VALUES",
    "UPDATE": "UPDATE {} SET {column} = {column} WHERE false",
    "DELETE": "DELETE FROM {} WHERE false",
}
OWNERS_ALONE = {
    "TRUNCATE": "TRUNCATE {}",
    "ALTER": "ALTER TABLE {} ADD COLUMN planted integer",
    "DISABLE TRIGGER": "ALTER TABLE {} DISABLE TRIGGER ALL",
    "DROP": "DROP TABLE {}",
}
OPERATOR_MAY = {
    *((name, "UPDATE") for name in ("traffic", "pointer", "leases", "release_documents", "coverage", "superseded")),
    *((name, "INSERT") for name in ("leases", "backups", "query_logs", "release_documents", "coverage", "superseded")),
    *((name, "DELETE") for name in ("document_changes", "release_documents", "coverage", "superseded")),
    *((name, action) for name in ("changed_chunks", "documents") for action in WRITES),
}


@pytest.fixture(scope="module")
def logins(server: str) -> None:
    """People's logins, each a member of the role that is for it; roles are the whole server's."""
    for login, role in LOGINS.items():
        for command in ("CREATE ROLE {role} NOLOGIN", "CREATE ROLE {login} LOGIN", "GRANT {role} TO {login}"):
            administer(server, sql.SQL(command).format(role=sql.Identifier(role), login=sql.Identifier(login)))


@pytest.fixture
def as_login(logins: None) -> Iterator[Callable[[Project, str], Project]]:
    """The project as somebody sees it who came in with this login."""
    opened: list[Connection] = []

    def open_(project: Project, login: str) -> Project:
        url = make_dsn(project.url, user=login)
        opened.append(postgres.connect(url, "test"))
        return Project(project.workspace, url, opened[-1])

    yield open_
    for connection in opened:
        connection.close()


def set_up(project: Project, **names: str) -> roles.Plan:
    with project.connection:
        made = roles.look(project.connection, names)
    roles.apply(project.connection, made)
    return made


def left_to_do(project: Project) -> list[str]:
    with project.connection:
        return roles.look(project.connection, {}).statements


# setting up


def test_setting_up_twice_changes_nothing_the_second_time(live: Project, logins: None) -> None:
    assert set_up(live).statements
    before = live.ask("SELECT count(*) AS entries FROM golive.audit_log")
    assert left_to_do(live) == []
    assert live.ask("SELECT name FROM golive.roles ORDER BY name") == [{"name": name} for name in sorted(LOGINS.values())]
    assert live.ask("SELECT count(*) AS entries FROM golive.audit_log") == before


def test_the_script_prints_its_plan_executes_it_and_says_what_differs(
    live: Project, run_script: Callable[..., Any], server: str
) -> None:
    names = [f"--{kind}={kind}s of it" for kind in roles.KINDS]
    planned = run_script("database_roles", *names, "--dry-run", "--json")
    assert (planned.code, planned.json["applied"]) == (0, False)
    assert 'CREATE ROLE "readers of it" NOLOGIN' in planned.json["statements"]
    assert run_script("database_roles", *names, "--check").code == 3
    done = run_script("database_roles", *names, "--json")
    assert (done.code, done.json["applied"]) == (0, True), done.err
    assert done.json["statements"] == planned.json["statements"]
    again = run_script("database_roles", "--check", "--json")
    assert (again.code, again.json["statements"]) == (0, [])
    assert again.json["roles"]["reader"] == "readers of it"
    other = run_script("database_roles", "--reader", "somebody")
    assert (other.code, 'ALTER ROLE "readers of it" RENAME TO "somebody"' in other.err) == (15, True)
    live.execute('GRANT DELETE ON golive.verdicts TO "operators of it"')
    differs = run_script("database_roles", "--check", "--json")
    assert differs.code == 3
    assert differs.json["statements"] == ['REVOKE DELETE ON TABLE golive.verdicts FROM "operators of it"']
    assert run_script("database_roles").code == 0
    assert run_script("database_roles", "--check").code == 0


def test_a_database_owner_who_is_no_superuser_can_set_them_up(
    empty_database: str, server: str, monkeypatch: pytest.MonkeyPatch, logins: None
) -> None:
    name = psycopg2.extensions.parse_dsn(empty_database)["dbname"]
    administer(server, sql.SQL("CREATE ROLE dba LOGIN CREATEROLE"))
    administer(server, sql.SQL("ALTER DATABASE {} OWNER TO dba").format(sql.Identifier(name)))
    administer(empty_database, sql.SQL("CREATE EXTENSION vector"))
    names = {kind: f"{name}_{kind}" for kind in roles.KINDS}
    with closing(postgres.connect(make_dsn(empty_database, user="dba"), "test")) as connection:
        postgres.create_state(connection)
        with connection:
            made = roles.look(connection, names)
        assert f'GRANT "{names["owner"]}" TO CURRENT_USER' in made.statements
        roles.apply(connection, made)
        with connection:
            assert roles.look(connection, {}).statements == []
        postgres.create_state(connection)  # as after an update
        with connection:
            owners = postgres.every(
                connection,
                "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'golive' OR tablename = 'documents'",
            )
    assert owners == [{"tableowner": names["owner"]}]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"reader": "pg_reader"}, "PostgreSQL keeps such names"),
        ({"reader": "public"}, "PostgreSQL keeps such names"),
        ({"reader": "r" * 64}, "1 to 63 bytes"),
        ({"reader": "golive_owner"}, "golive_owner, golive_operator, golive_owner"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(connection: Connection, names: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigInvalid) as caught, connection:
        roles.look(connection, names)
    assert told in caught.value.message + caught.value.detail


def test_a_login_a_superuser_or_one_above_another_is_no_group_role(
    connection: Connection, logins: None, server: str
) -> None:
    with pytest.raises(Refused, match="rita cannot be the reader: it is one that logs in"), connection:
        roles.look(connection, {"reader": "rita"})
    administer(server, sql.SQL("CREATE ROLE mighty NOLOGIN BYPASSRLS"))
    with pytest.raises(Refused, match="mighty cannot be the operator"), connection:
        roles.look(connection, {"operator": "mighty"})
    administer(server, sql.SQL("CREATE ROLE climber NOLOGIN IN ROLE golive_owner"))
    with pytest.raises(Refused, match="the reader climber is a member of golive_owner"), connection:
        roles.look(connection, {"reader": "climber"})


def test_whoever_owned_it_and_whoever_was_granted_by_hand_are_told(
    connection: Connection, logins: None, server: str
) -> None:
    administer(server, sql.SQL("CREATE ROLE report NOLOGIN"))
    with connection:
        connection.cursor().execute("GRANT SELECT ON golive.verdicts TO report; GRANT SELECT ON golive.leases TO PUBLIC")
        made = roles.look(connection, {})
    assert any(note.startswith("report has rights of its own on 1 objects") for note in made.notes)
    assert any(note.startswith("postgres owned some of this") for note in made.notes)
    assert "REVOKE SELECT ON TABLE golive.leases FROM PUBLIC" in made.statements


# what each may not do


def test_the_reader_can_read_what_answers_and_write_nothing(second: Project, as_login: Any) -> None:
    set_up(second)
    reader = as_login(second, "rita")
    allowed = {(name, action) for name, action in _tried(second, reader) if _may(reader, name, action)}
    assert allowed == {("query_logs", "INSERT")}
    unread = {name for schema, name in _tables(second) if not _reads(reader, schema, name)}
    assert {"judgements", "leases", "audit_log", "documents", "verdicts", "backups", "query_logs", "roles"} <= unread
    assert not unread & {"pointer", "releases", second.release().table_name, f"{second.release().table_name}_terms"}
    for call in ("golive.audit('me','stop','x','y',NULL,NULL)", "golive.hold_table('x')", "golive.admit_readers()"):
        assert _refuses(reader, f"SELECT {call}")
    assert _refuses(reader, "CREATE TABLE golive.mine (id integer)")
    assert _refuses(reader, "CREATE TABLE public.mine (id integer)")
    assert _refuses(reader, "CREATE SCHEMA mine")


def test_the_operator_can_drop_truncate_and_alter_nothing_and_write_no_sealed_table(second: Project, as_login: Any) -> None:
    set_up(second)
    operator = as_login(second, "otto")
    allowed = {(name, action) for name, action in _tried(second, operator) if _may(operator, name, action)}
    assert allowed == OPERATOR_MAY
    assert all(_reads(operator, schema, name) for schema, name in _tables(second))
    for statement in (
        "UPDATE golive.releases SET content_digest = 'x'",
        "CREATE TABLE golive.mine (id integer)",
        "CREATE OR REPLACE FUNCTION golive.route() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "DROP FUNCTION golive.audit",
        "DROP SCHEMA golive CASCADE",
        "SET session_replication_role = replica",
        "SET ROLE golive_owner",
    ):
        assert _refuses(operator, statement), statement


def test_even_the_owner_changes_no_entry_of_the_audit_log_without_going_to_some_length(
    live: Project, as_login: Any
) -> None:
    set_up(live)
    owner = as_login(live, "ann")
    for statement in ("UPDATE golive.audit_log SET reason = 'nicer'", "DELETE FROM golive.audit_log"):
        assert _refuses(owner, statement), statement
    with pytest.raises(psycopg2.Error, match="truncate refused"):
        owner.execute("TRUNCATE golive.audit_log")


# what each may do


def test_the_operator_promotes_rolls_back_and_does_the_daily_work(
    second: Project, as_login: Any, run_script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(second)
    operator = as_login(second, "otto")
    monkeypatch.setenv("DATABASE_URL", operator.url)
    first = second.live_id()
    assert promotion.promote_active(second.workspace).applied
    assert second.live_id() == second.release().release_id != first
    saved = json.loads(_done(run_script("restore_production_state", "--list", "--json")))["backups"][0]["backup_id"]
    _done(run_script("emergency_stop", "--reason", "it answers nonsense"))
    _done(run_script("restore_production_state", "--backup-id", saved))
    _done(run_script("validate_rollback", "--backup-id", saved))
    _done(run_script("resume_operations"))
    assert second.live_id() == first
    assert first in _done(run_script("status"))
    _done(run_script("backup_production_state"))
    assert run_script("production_health_monitor", "--json").json["release_id"] == first
    sync(operator, {**HANDBOOK, "news.md": "# News\n\nThe walrus has moved to the north harbour.\n"})
    assert catching_up.catch_up(second.workspace, operator.connection).failed == {}
    entries = second.ask("SELECT DISTINCT role FROM golive.audit_log WHERE action IN ('stop queries', 'back up')")
    assert {"role": "otto"} in entries


def test_the_operator_is_told_what_needs_the_owner(
    second: Project, as_login: Any, run_script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(second)
    monkeypatch.setenv("DATABASE_URL", as_login(second, "otto").url)
    locked = run_script("lock_production_config", "--chunk-size", "30")
    assert (locked.code, "the database role may not do this" in locked.err) == (15, True)
    assert "docs/access.md" in locked.err
    dropped = second.pointer().release
    assert dropped is not None
    second.execute(sql.SQL("DROP TABLE {}").format(dropped.table))
    saved = run_script("restore_production_state", "--list", "--json").json["backups"][0]["backup_id"]
    loaded = run_script("restore_production_state", "--backup-id", saved, "--release", dropped.release_id)
    assert (loaded.code, "the database role may not do this" in loaded.err) == (15, True)


def test_the_owner_builds_and_releases_and_readers_reach_the_new_table(
    second: Project, as_login: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(second)
    owner = as_login(second, "ann")
    monkeypatch.setenv("DATABASE_URL", owner.url)
    lock(owner, THIRD_LOCKED, chunk_size="30")
    ingesting.ingest(owner.workspace, owner.connection)
    make_ready(owner)
    assert promotion.promote_active(owner.workspace).applied
    assert left_to_do(second) == [], "a table made later is the owner's and carries the grants"
    reader = as_login(second, "rita")
    found = LiveRetriever(reader.connection, second.workspace).retrieve("how long does going back take?")
    assert (found.release_id, found.context[0].doc_id) == (owner.release().release_id, "corpus/pointer.md")


def test_a_reader_asks_the_live_index(
    live: Project, as_login: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(live)
    monkeypatch.setenv("DATABASE_URL", as_login(live, "rita").url)
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    monkeypatch.setattr("sys.argv", ["query_index.py", "how long does going back take?", "--json"])
    # in this process, which has the model's libraries at hand
    assert runpy.run_path(str(PROJECT / "scripts" / "query_index.py"))["main"]() == 0
    assert "milliseconds" in json.loads(capsys.readouterr().out)["context"][0]["text"]
    assert live.ask("SELECT count(*) AS logged FROM golive.query_logs") == [{"logged": 1}]


def test_readers_stay_shut_out_while_queries_are_stopped(second: Project, as_login: Any) -> None:
    set_up(second)
    operator, reader = as_login(second, "otto"), as_login(second, "rita")
    table = second.release().table_name
    traffic.stop(operator.connection, "stopped by a test")
    second.execute(sql.SQL("REVOKE SELECT ON {} FROM golive_reader").format(sql.Identifier(table)))
    with second.connection:
        found = roles.look(second.connection, {})
    assert not [statement for statement in found.statements if table in statement]
    assert any(note.startswith("queries are stopped") for note in found.notes)
    second.execute("SELECT golive.adopt(%s)", (second.release().release_id,))
    assert not _reads(reader, "public", table)
    traffic.resume(operator.connection, "over")
    assert _reads(reader, "public", table)


def test_a_stop_while_the_roles_are_set_up_is_not_undone(live: Project, logins: None) -> None:
    with live.connection:
        made = roles.look(live.connection, {})
    with closing(live.connect()) as other:
        traffic.stop(other, "meanwhile")
    with pytest.raises(Unavailable, match="stopped or resumed meanwhile"):
        roles.apply(live.connection, made)
    assert live.ask("SELECT FROM golive.roles") == []


def test_an_entry_names_the_login_whatever_the_client_says_of_itself(live: Project, as_login: Any) -> None:
    set_up(live)
    operator = as_login(live, "otto")
    operator.execute("SET ROLE golive_operator")
    operator.execute("SELECT golive.audit('root@nowhere', 'stop queries', 'traffic', 'a lie', NULL, NULL)")
    (entry,) = live.ask("SELECT actor, role FROM golive.audit_log ORDER BY seq DESC LIMIT 1")
    assert entry == {"actor": "root@nowhere", "role": "otto"}
    with live.connection:
        assert audit.first_break(live.connection) is None


def _done(finished: Any) -> str:
    assert finished.code == 0, finished.err
    return str(finished.out)


def _tables(project: Project) -> list[tuple[str, str]]:
    rows = project.ask("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('golive', 'public') ORDER BY 1, 2")
    found = [(row["schemaname"], row["tablename"]) for row in rows]
    assert len(found) > 18
    return found


def _tried(project: Project, who: Project) -> Iterator[tuple[str, str]]:
    """Every table with everything that might be tried on it; ``who`` must not own it."""
    for _, name in _tables(project):
        yield from ((name, action) for action in (*WRITES, *OWNERS_ALONE))


def _may(who: Project, name: str, action: str) -> bool:
    """Tries it, and takes it back."""
    schema = (
        "golive"
        if who.ask("SELECT to_regclass('golive.' || quote_ident(%s)) IS NOT NULL AS state", (name,))[0]["state"]
        else "public"
    )
    table = sql.Identifier(schema, name)
    (column,) = who.ask(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attidentity = '' LIMIT 1",
        (table.as_string(who.connection),),
    )
    statement = sql.SQL({**WRITES, **OWNERS_ALONE}[action]).format(table, column=sql.Identifier(column["attname"]))
    return not _refuses(who, statement)


def _refuses(who: Project, statement: str | sql.Composable) -> bool:
    """Whether the database says that the role may not; any other error comes after the rights were looked at."""
    try:
        with who.connection.cursor() as cursor:
            cursor.execute(statement)
    except psycopg2.errors.InsufficientPrivilege:
        return True
    except psycopg2.Error:
        return False
    finally:
        who.connection.rollback()
    return False


def _reads(who: Project, schema: str, name: str) -> bool:
    return not _refuses(who, sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(schema, name)))
