"""PostgreSQL: where it is, how to connect, SQL files, identifiers, and its errors in Golive's words."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.platform import tls
from lib.platform.errors import (
    ConfigInvalid,
    GoliveError,
    IntegrityMismatch,
    NotFound,
    Refused,
    Unavailable,
    redact,
    secret,
)
from lib.platform.workspace import Workspace

SCHEMA_VERSION = 6
OLDEST_SERVER = 150000
OLDEST_PGVECTOR = (0, 7)
IDENTIFIER_LIMIT_BYTES = 63
# Where the address does not say. A network on the way forgets a silent connection in minutes; systems ask after two hours.
_CONNECT_DEFAULTS = {"connect_timeout": 10, "keepalives_idle": 60, "keepalives_interval": 20, "keepalives_count": 6}
_ADDRESS_FORM = "postgresql://user@host:5432/name"
# https://www.postgresql.org/docs/current/libpq-envars.html
_CLIENT_VARIABLES = {"dbname": "PGDATABASE", "application_name": "PGAPPNAME", "connect_timeout": "PGCONNECT_TIMEOUT"} | {
    name: f"PG{name.replace('_', '').upper()}"
    for name in (
        *("host", "hostaddr", "port", "user", "password", "passfile", "service", "options", "sslmode", "sslrootcert"),
        *("sslcert", "sslkey", "sslcrl", "sslcrldir", "sslsni", "sslcompression", "require_auth", "channel_binding"),
        *("requirepeer", "krbsrvname", "gsslib", "gssencmode", "client_encoding"),
        *("target_session_attrs", "load_balance_hosts", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    )
}
_SEARCH_PATH = re.compile(r"(?:^|\s)(?:-c\s*|--)search_path=((?:\\.|\S)*)")
_SEARCH_PATH_OF_ROLE = "give it to the role instead: ALTER ROLE name SET search_path = golive, public"

_STOPPED, _NOTHING_LIVE, _SEALED = "GL001", "GL002", "GL003"
_DOCUMENT_COLUMNS = {"id", "source", "path", "title", "sections", "content", "sha256", "metadata"}


def address(workspace: Workspace) -> str:
    """``DATABASE_URL``, or what is in ``DATABASE_URL_FILE``, or the embedded PostgreSQL, started where needed."""
    url = secret("DATABASE_URL")
    if url:
        return url
    from lib.platform import embedded

    return embedded.address(workspace)


def connect(url: str, purpose: str) -> Connection:
    """A connection in UTC with autocommit off; ``with connection:`` is a transaction.

    Raises:
        ConfigInvalid: the address cannot be understood, or a pooler does not hand on the ``search_path`` in it.
        Unavailable: nothing answers there, or it refuses to let us in (the password is never shown).
        Refused: in the production profile, the connection would not be verified TLS.
    """
    try:
        asked = {**_CONNECT_DEFAULTS, **psycopg2.extensions.parse_dsn(url), "application_name": f"golive {purpose}"}
        tls.require_verified(asked)
        connection: Connection = psycopg2.connect(**asked)
    except psycopg2.ProgrammingError as error:
        raise ConfigInvalid("DATABASE_URL is not a PostgreSQL address", hint=_ADDRESS_FORM) from error
    except psycopg2.OperationalError as error:
        raise _refusal(url, str(error)) from None
    if connection.server_version < OLDEST_SERVER:
        version = connection.server_version // 10000
        connection.close()
        raise Unavailable(f"PostgreSQL {version} is too old", hint="PostgreSQL 15 or newer is needed")
    try:
        tls.require_in_use(connection)
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def beside(connection: Connection, purpose: str) -> Connection:
    """Another connection to the same database, as the same role; raises as ``connect``."""
    return connect(address_of(connection), purpose)


def address_of(connection: Connection) -> str:
    """Where an open connection leads, so that there is a way back when it is lost."""
    hidden = {"password": connection.info.password or None}  # in the dsn
    asked = {**psycopg2.extensions.parse_dsn(connection.dsn), **hidden}
    return str(psycopg2.extensions.make_dsn(**{name: value for name, value in asked.items() if value is not None}))


def current_schema(connection: Connection) -> str:
    """Where new tables go. The caller owns the transaction."""
    found = one(connection, "SELECT current_schema() AS name")
    assert found is not None
    return str(found["name"])


def client_environment(url: str) -> dict[str, str]:
    """What libpq's programs need to reach ``url``, as environment variables: a command line is shown to all by ps.

    Raises:
        ConfigInvalid: the address cannot be understood, or a setting of it has no variable.
    """
    try:
        settings = psycopg2.extensions.parse_dsn(url)
    except psycopg2.ProgrammingError:
        raise ConfigInvalid("DATABASE_URL is not a PostgreSQL address", hint=_ADDRESS_FORM) from None
    settings = {name: value for name, value in settings.items() if not name.startswith(("keepalives", "tcp_"))}
    if unknown := sorted(settings.keys() - _CLIENT_VARIABLES.keys()):
        raise ConfigInvalid(f"psql takes no {unknown[0]} from the environment", hint="leave it out of DATABASE_URL")
    return {_CLIENT_VARIABLES[name]: value for name, value in settings.items()}


def has_own_session(connection: Connection) -> bool:
    """Whether this connection is one session of the server; behind a pooler each transaction may run in another.

    Where it is not, LISTEN hears nothing, and session-level locks, temporary tables and settings do not last.
    """
    with connection:
        found = one(connection, "SELECT pg_backend_pid() AS pid")
    # a pooler answers for itself when it is asked who serves this connection, as it must to pass on a cancellation
    return found is not None and found["pid"] == connection.info.backend_pid


def _prepare(connection: Connection) -> None:
    """Sets the time zone, which poolers know to keep for each client, and looks whether the search_path arrived."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'; SELECT current_setting('search_path')")
        (found,) = cursor.fetchone() or ("",)
    asked = _SEARCH_PATH.findall(connection.info.options or "")
    if asked and found != re.sub(r"\\(.)", r"\1", asked[-1]):
        raise ConfigInvalid(
            "the search_path of DATABASE_URL does not reach the database",
            detail=f"asked for {asked[-1]}, got {found}: a pooler on the way leaves it out",
            hint=_SEARCH_PATH_OF_ROLE,
        )


def _refusal(url: str, said: str) -> GoliveError:
    """Why there is no connection, with the likely remedy."""
    reason = " ".join(redact(said.strip().replace(_password_of(url) or "\0", "***")).split())
    if "unsupported startup parameter" in reason:
        return ConfigInvalid(
            "the pooler does not take the options of DATABASE_URL", detail=reason, hint=_SEARCH_PATH_OF_ROLE
        )
    hint = "check DATABASE_URL and the server"
    if "certificate verify failed" in reason or "root certificate file" in reason:
        hint = "sslrootcert in DATABASE_URL must name the certificate of the authority that signed the server's"
    return Unavailable("cannot connect to the database", detail=reason, hint=hint)


@contextmanager
def database(workspace: Workspace, purpose: str, *, write: bool = False) -> Iterator[Connection]:
    """A connection to a database that holds Golive's state; closed at the end.

    With ``write`` the state is created where it is missing, and brought up to date where an older Golive made it; what was
    recorded in the audit log is told outside at the end.

    Raises:
        NotFound, Refused: without ``write``, where no state is, or an older one.
    """
    connection = connect(address(workspace), purpose)
    try:
        version = _state_version(connection)
        if version is None and not write:
            raise NotFound("nothing has been released in this database yet", hint="make golive")
        if version != SCHEMA_VERSION:
            if not write:
                raise Refused(
                    "this database was set up by an older Golive",
                    detail=f"schema version {version}, {SCHEMA_VERSION} is needed",
                    hint="scripts/catch_up.py brings it up to date",
                )
            create_state(connection)
        yield connection
    finally:
        if write:
            from lib.platform import audit_sinks

            audit_sinks.tell(connection)
        connection.close()


def create_state(connection: Connection) -> None:
    """Creates the extension, the schema ``golive`` and ``documents``, in one transaction.

    Raises:
        Unavailable: pgvector is missing or too old.
        Refused: the role may not, or another table named ``documents`` stands in the way.
    """
    require_pgvector(connection)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('golive schema'))")
        cursor.execute("SET LOCAL lock_timeout = '10s'")  # the triggers on documents wait for those who write there
        # made before the look around, so that it can be the first schema of the search_path, as the hint below says
        cursor.execute("CREATE SCHEMA IF NOT EXISTS golive")
        cursor.execute(
            "SELECT array_agg(attname::text) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
            " AND attrelid = to_regclass(quote_ident(current_schema()) || '.documents')"
        )
        columns = (cursor.fetchone() or (None,))[0]
        if columns and not set(columns) >= _DOCUMENT_COLUMNS:
            raise Refused(
                "a table named documents is there already, with other columns",
                detail=f"missing: {', '.join(sorted(_DOCUMENT_COLUMNS - set(columns)))}",
                hint="give Golive a schema of its own: add ?options=-csearch_path%3Dgolive,public to DATABASE_URL",
            )
        cursor.execute(read_sql(__file__, "schema"))


def complete_state(connection: Connection) -> None:
    """``create_state`` where something of it may be lost; a role that may not create it works with what is there."""
    with connection:
        found = one(connection, "SELECT has_schema_privilege('golive', 'CREATE') AS may_create")
    if found and found["may_create"]:
        create_state(connection)


def require_pgvector(connection: Connection) -> None:
    """Installs the extension where it is missing and checks its version.

    Raises:
        Unavailable: the server does not have it, or one older than 0.7.
        Refused: this role may not enable it, or does not see the schema that it is in.
    """
    try:
        # two first steps at the same time: the one that waited fails on the other's committed row, and has what it wants
        with suppress(psycopg2.errors.UniqueViolation), connection, connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        with connection:
            found = one(connection, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    except (psycopg2.errors.UndefinedFile, psycopg2.errors.FeatureNotSupported) as error:
        raise Unavailable("this PostgreSQL has no pgvector", hint="install pgvector 0.7 or newer on the server") from error
    except psycopg2.errors.InsufficientPrivilege as error:
        raise Refused(
            "pgvector is not enabled here, and this role may not enable it",
            hint="as a superuser: CREATE EXTENSION vector",
        ) from error
    _require_visible_pgvector(connection)
    version = str(found["extversion"]) if found else "0.0"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PGVECTOR:
        raise Unavailable(f"pgvector {version} is too old", hint="update the server to pgvector 0.7 or newer")


def _require_visible_pgvector(connection: Connection) -> None:
    """Raises Refused where pgvector's types are in a schema that is not in the search_path."""
    with connection:
        hidden = one(
            connection,
            "SELECT n.nspname AS name, current_setting('search_path') AS path FROM pg_extension e"
            " JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector' AND to_regtype('vector') IS NULL",
        )
    if hidden:
        raise Refused(
            f"pgvector is in the schema {hidden['name']}, which is not in the search_path",
            detail=f"the search_path is {hidden['path']}",
            hint=f"add ?options=-csearch_path%3Dpublic,{hidden['name']} to DATABASE_URL, or set it for the role",
        )


def read_sql(module_file: str, name: str) -> str:
    """The text of ``sql/<name>.sql`` beside a module."""
    return (Path(module_file).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def compose(module_file: str, name: str, **parts: sql.Composable) -> sql.Composed:
    """A SQL file with its ``{placeholders}`` filled by quoted identifiers or literals."""
    return sql.SQL(read_sql(module_file, name)).format(**parts)


def table_identifier(schema: str, table: str) -> sql.Identifier:
    """A quoted, qualified table name.

    Raises:
        ConfigInvalid: a name is empty or over the 63 bytes after which PostgreSQL cuts it silently.
    """
    for name in (schema, table):
        if not 0 < len(name.encode()) <= IDENTIFIER_LIMIT_BYTES or "\0" in name:
            raise ConfigInvalid(
                f"{name!r} cannot be a table or schema name",
                detail="1 to 63 bytes are possible",
                hint="correct it where it comes from: the record in golive.releases, or the search_path in DATABASE_URL",
            )
    return sql.Identifier(schema, table)


def one(connection: Connection, query: str | sql.Composable, parameters: Any = None) -> dict[str, Any] | None:
    """The first row as a dictionary, or None."""
    rows = every(connection, query, parameters)
    return rows[0] if rows else None


def every(connection: Connection, query: str | sql.Composable, parameters: Any = None) -> list[dict[str, Any]]:
    """All rows as dictionaries. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def copy_rows(cursor: Any, table: sql.Identifier, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Loads rows by COPY (text form); None is NULL, everything else its ``str``."""
    lines = "".join("\t".join(map(_copy_field, row)) + "\n" for row in rows)
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    cursor.copy_expert(sql.SQL("COPY {} ({}) FROM STDIN").format(table, names), io.StringIO(lines))


def _copy_field(value: Any) -> str:
    if value is None:
        return r"\N"
    text = str(value)
    for character, escaped in (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r")):
        text = text.replace(character, escaped)
    return text


def table_exists(connection: Connection, schema: str, table: str) -> bool:
    found = one(connection, "SELECT to_regclass(%s) IS NOT NULL AS there", (quoted_name(schema, table),))
    return bool(found and found["there"])


def quoted_name(schema: str, table: str) -> str:
    """The name as ``to_regclass`` takes it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))


def _state_version(connection: Connection) -> int | None:
    """The version of the state in the database; None where there is none.

    Raises:
        Refused: it is of a newer Golive, or pgvector cannot be seen.
    """
    with connection:
        there = one(connection, "SELECT to_regclass('golive.schema_version') IS NOT NULL AS there")
        if not there or not there["there"]:
            return None
        version = one(connection, "SELECT version FROM golive.schema_version")
    _require_visible_pgvector(connection)
    if not version or version["version"] > SCHEMA_VERSION:
        raise Refused(
            "this database was set up by a newer Golive", detail=f"schema version {version and version['version']}"
        )
    return int(version["version"])


def _password_of(url: str) -> str:
    try:
        return str(psycopg2.extensions.parse_dsn(url).get("password", ""))
    except psycopg2.Error:
        return ""


def translate(error: Exception) -> GoliveError | None:
    """A database error in Golive's words; None for what only a bug explains (bad SQL, bad types)."""
    if not isinstance(error, psycopg2.Error):
        return None
    first_line = redact((str(error).strip().splitlines() or [type(error).__name__])[0])
    code = error.pgcode or ""
    hint = (error.diag.message_hint or "") if error.pgcode else ""
    if code in (_STOPPED, _SEALED):
        return Refused(first_line, hint=hint)
    if code == _NOTHING_LIVE:
        return NotFound(first_line, hint=hint)
    if isinstance(error, (psycopg2.errors.InsufficientPrivilege, psycopg2.errors.ReadOnlySqlTransaction)):
        return Refused(
            "the database role may not do this",
            detail=first_line,
            hint="use a role that may create and write tables, and a server that is not read-only; docs/access.md",
        )
    if isinstance(error, psycopg2.errors.UndefinedTable):
        return IntegrityMismatch(
            "a table that should be there is gone", detail=first_line, hint="make status, make backups"
        )
    if isinstance(error, psycopg2.errors.InvalidSchemaName):
        return ConfigInvalid(
            "a schema that is needed is not in the database",
            detail=first_line,
            hint="check the search_path in DATABASE_URL",
        )
    if isinstance(error, psycopg2.errors.DataCorrupted):
        return IntegrityMismatch("the database reports corrupted data", detail=first_line)
    if isinstance(error, psycopg2.errors.ProgramLimitExceeded):
        return Refused("a limit of PostgreSQL or pgvector is reached", detail=first_line, hint="docs/scaling.md")
    if isinstance(error, psycopg2.errors.LockNotAvailable):
        return Unavailable("a table is locked by another session", detail=first_line, hint="try again")
    if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)):
        return Unavailable("the database failed or went away", detail=first_line, hint="try again")
    return None
