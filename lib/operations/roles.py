"""Least privilege: three roles that logins are made members of, what each may do, and how a database is brought to that.

The owner owns everything and does all that Golive does. The operator reads everything, and does what an incident and daily
work need: stop and resume, move the pointer, back up, catch up, sync documents. The reader asks the live index. Whatever a
role has of Golive's objects beyond its table here is taken away; what others were given by hand is left, and told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.platform import audit, failpoints, postgres
from lib.platform.errors import ConfigInvalid, Refused, Unavailable

KINDS = ("owner", "operator", "reader")
DEFAULTS = {kind: f"golive_{kind}" for kind in KINDS}
_CHANGES = {"INSERT", "UPDATE", "DELETE"}
# What the operator may do to tables of the state besides reading them. Verdicts, judgements, embeddings and the records of
# releases stay the owner's: of a release, only its state changes.
_OPERATOR_WRITES: dict[str, set[str]] = {
    "traffic": {"UPDATE"},
    "pointer": {"UPDATE"},
    "releases": {"UPDATE (state)"},
    "leases": {"INSERT", "UPDATE"},
    "backups": {"INSERT", "UPDATE (deleted_at)"},
    "query_logs": {"INSERT"},
    "document_changes": {"DELETE"},
    "release_documents": _CHANGES,
    "coverage": _CHANGES,
    "superseded": _CHANGES,
    "changed_chunks": _CHANGES,
}
# All that a query reads besides the chunk table, and the one line that it leaves.
_READER: dict[str, set[str]] = {
    **{name: {"SELECT"} for name in ("traffic", "pointer", "releases", "superseded", "changed_chunks", "schema_version")},
    "query_logs": {"INSERT"},
}
_CLOSED_BY_A_STOP = "changed_chunks"  # as the chunk tables are
_READER_FUNCTIONS = {"route", "lexeme_dimension"}
# A backup is proven in temporary tables; a restore loads into a schema of its own.
_OPERATOR_DATABASE = {"CONNECT", "CREATE", "TEMPORARY"}
_OWNER_NEVER = {"audit_log": {"UPDATE", "DELETE"}}
_PUBLIC = "PUBLIC"


@dataclass(frozen=True)
class Thing:
    """An object of the database: who owns it, and what is granted on it (``role_objects.sql`` says how that reads)."""

    kind: str
    name: str
    short_name: str
    belongs_to: str
    owner: str
    granted: Mapping[str, Sequence[str]]

    def has(self, role: str) -> set[str]:
        return set(self.granted.get(role, ()))


@dataclass(frozen=True)
class Role:
    """A role as it stands; ``is_mine``: whoever looks here has its rights."""

    name: str
    logs_in: bool
    is_mighty: bool
    member_of: Sequence[str]
    is_mine: bool


@dataclass(frozen=True)
class Plan:
    """The statements that bring the database to the three roles, in order, and what people should know besides.

    ``stopped``: queries were stopped when it was made, so that it opens nothing to readers.
    """

    roles: dict[str, str]
    statements: list[str]
    notes: list[str]
    stopped: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def look(connection: Connection, asked: Mapping[str, str | None]) -> Plan:
    """Plans for the names that are asked for, else for those that stand on record, else for the defaults.

    The caller owns the transaction.

    Raises:
        ConfigInvalid: a name cannot be one, or is given twice. Refused: as ``plan``, or other roles are on record.
    """
    rows = postgres.every(connection, "SELECT kind, name FROM golive.roles")
    recorded = {row["kind"]: row["name"] for row in rows}
    names = {kind: asked.get(kind) or recorded.get(kind) or DEFAULTS[kind] for kind in KINDS}
    _check_names(names)
    known = [*names.values(), *recorded.values()]
    roles = postgres.every(connection, postgres.read_sql(__file__, "role_attributes"), {"names": known})
    there = {row["name"]: Role(**row) for row in roles}
    for kind, name in recorded.items():
        if name != names[kind] and name in there:
            raise Refused(
                f"the {kind} of this database is the role {name} already",
                hint=f"ALTER ROLE {_quoted(name)} RENAME TO {_quoted(names[kind])}; then run this again",
            )
    things = [Thing(**row) for row in postgres.every(connection, postgres.read_sql(__file__, "role_objects"))]
    here = postgres.one(
        connection,
        "SELECT (SELECT state = 'stopped' FROM golive.traffic) AS stopped,"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS by_superuser",
    )
    assert here is not None
    return plan(names, recorded, there, things, **here)


def plan(
    names: Mapping[str, str],
    recorded: Mapping[str, str],
    there: Mapping[str, Role],
    things: Sequence[Thing],
    *,
    stopped: bool,
    by_superuser: bool,
) -> Plan:
    """What is missing, and what is too much; pure.

    Raises:
        Refused: a role is one that must not be a group role of Golive, or stands above one of the others.
    """
    _check_roles(names, there)
    owner = names["owner"]
    statements = [f"CREATE ROLE {_quoted(name)} NOLOGIN" for name in names.values() if name not in there]
    if not (by_superuser or (owner in there and there[owner].is_mine)):
        statements.append(f"GRANT {_quoted(owner)} TO CURRENT_USER")
    for thing in things:
        if thing.kind == "SCHEMA" and thing.belongs_to == "place":
            statements += _grants(thing, owner, {"USAGE", "CREATE"}, may_have_more=True)
        elif thing.kind == "DATABASE":
            statements += _grants(thing, owner, _OPERATOR_DATABASE, may_have_more=True)
    statements += [
        f"ALTER {thing.kind} {thing.name} OWNER TO {_quoted(owner)}"
        for thing in things
        if thing.belongs_to != "place" and thing.kind != "SEQUENCE" and thing.owner != owner
    ]
    for thing in things:
        statements += _grants_on(thing, names, stopped)
    for kind, name in names.items():
        if recorded.get(kind) != name:
            statements.append(
                f"INSERT INTO golive.roles VALUES ({_literal(kind)}, {_literal(name)})"  # nosec B608 - both are quoted as literals; --dry-run shows the very statement
                " ON CONFLICT (kind) DO UPDATE SET name = excluded.name"
            )
    return Plan(dict(names), statements, _notes(names, things, stopped), stopped)


def apply(connection: Connection, made: Plan) -> None:
    """Executes a plan in one transaction and looks whether anything is left to do.

    Raises:
        Refused: this role may not, or the database is not as planned afterwards.
        Unavailable: queries were stopped or resumed since the plan was made; nothing was changed.
    """
    failpoints.reach("roles.statements")
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'")  # who owns a table changes under a lock that stops its readers
        for statement in made.statements:
            cursor.execute(statement)
        names = ", ".join(made.roles.values())
        audit.record(connection, "set up roles", names, f"{len(made.statements)} statements of scripts/database_roles.py")
        left = look(connection, made.roles).statements
        if left:
            raise Refused(
                "the roles do not read back as planned: nothing was changed",
                detail=f"left to do: {left[0]}",
                hint="run this as the owner of the database, or as a superuser",
            )
        # last, so that whoever stops queries waits for the commit alone
        now = postgres.one(connection, "SELECT state = 'stopped' AS stopped FROM golive.traffic FOR SHARE")
        if now != {"stopped": made.stopped}:
            raise Unavailable("queries were stopped or resumed meanwhile: nothing was changed", hint="run this again")
    failpoints.reach("roles.done")


def _check_names(names: Mapping[str, str]) -> None:
    for kind, name in names.items():
        is_taken = name.startswith("pg_") or name.lower() in ("public", "none")
        if not 0 < len(name.encode()) <= postgres.IDENTIFIER_LIMIT_BYTES or "\0" in name or is_taken:
            detail = "PostgreSQL keeps such names" if is_taken else "1 to 63 bytes are possible"
            raise ConfigInvalid(f"{name!r} cannot be the name of the {kind} role", detail=detail)
    if len(set(names.values())) < len(names):
        raise ConfigInvalid("owner, operator and reader must be three roles", detail=", ".join(names.values()))


def _check_roles(names: Mapping[str, str], there: Mapping[str, Role]) -> None:
    hint = "name another one: --owner, --operator, --reader"
    for rank, (kind, name) in enumerate(names.items()):
        role = there.get(name)
        if role is None:
            continue
        if role.logs_in or role.is_mighty:
            what = "one that logs in" if role.logs_in else "a superuser, creates roles or ignores row security"
            raise Refused(f"{name} cannot be the {kind}: it is {what}, not a group of logins", hint=hint)
        above = [names[other] for other in KINDS[:rank] if names[other] in role.member_of]
        if above:
            raise Refused(f"the {kind} {name} is a member of {above[0]}, and so may all that it may", hint=hint)


def _grants_on(thing: Thing, names: Mapping[str, str], stopped: bool) -> list[str]:
    """What the owner, the operator, the reader and everybody else should have of one object."""
    owner, operator, reader = (names[kind] for kind in KINDS)
    if thing.kind == "DATABASE":
        return [
            *_grants(thing, operator, _OPERATOR_DATABASE, may_have_more=True),
            *_grants(thing, reader, {"CONNECT"}),
        ]
    if thing.kind == "SCHEMA":
        return [*_grants(thing, operator, {"USAGE"}), *_grants(thing, reader, {"USAGE"})]
    if thing.kind == "SEQUENCE":
        return [*_grants(thing, operator, {"SELECT"}), *_grants(thing, reader, set())]
    if thing.kind == "FUNCTION":
        reads = {"EXECUTE"} if thing.short_name in _READER_FUNCTIONS else thing.has(_PUBLIC) & {"EXECUTE"}
        return [*_grants(thing, operator, {"EXECUTE"}), *_grants(thing, reader, reads)]
    if thing.belongs_to == "documents":
        return [*_grants(thing, operator, {"SELECT"} | _CHANGES), *_grants(thing, reader, set())]
    if thing.belongs_to == "chunks":
        readers = [] if stopped else _grants(thing, reader, {"SELECT"})  # a stop has taken it from the reader
        return [*_revokes(thing, _PUBLIC, thing.has(_PUBLIC)), *_grants(thing, operator, {"SELECT"}), *readers]
    never = _OWNER_NEVER.get(thing.short_name, set())
    closed = stopped and thing.short_name == _CLOSED_BY_A_STOP
    readers = [] if closed else _grants(thing, reader, _READER.get(thing.short_name, set()))
    return [
        *_revokes(thing, _PUBLIC, thing.has(_PUBLIC)),
        *_revokes(thing, owner, never & thing.has(thing.owner)),
        *_grants(thing, operator, {"SELECT"} | _OPERATOR_WRITES.get(thing.short_name, set())),
        *readers,
    ]


def _grants(thing: Thing, role: str, wanted: set[str], *, may_have_more: bool = False) -> list[str]:
    missing = wanted - thing.has(role) - (set() if thing.kind == "TABLE" else thing.has(_PUBLIC))
    if thing.owner == role:
        missing = set()
    spare = set() if may_have_more or thing.owner == role else thing.has(role) - wanted
    granted = [f"GRANT {_listed(missing)} ON {thing.kind} {thing.name} TO {_quoted(role)}"] if missing else []
    return [*_revokes(thing, role, spare), *granted]


def _revokes(thing: Thing, role: str, spare: set[str]) -> list[str]:
    named = role if role == _PUBLIC else _quoted(role)
    return [f"REVOKE {_listed(spare)} ON {thing.kind} {thing.name} FROM {named}"] if spare else []


def _notes(names: Mapping[str, str], things: Sequence[Thing], stopped: bool) -> list[str]:
    notes = []
    if stopped:
        notes.append("queries are stopped: readers get their right on chunk tables back when they are resumed, not here")
    before = sorted({thing.owner for thing in things if thing.belongs_to != "place"} - {names["owner"]})
    notes += [
        f"{role} owned some of this: unless it is a superuser, GRANT {_quoted(names['owner'])} TO {_quoted(role)},"
        " or it cannot go on working"
        for role in before
    ]
    others: dict[str, set[str]] = {}
    for thing in things:
        for role in set(thing.granted) - {*names.values(), _PUBLIC, thing.owner}:
            if thing.belongs_to != "place":
                others.setdefault(role, set()).add(thing.name)
    return notes + [f"{role} has rights of its own on {len(on)} objects: they are left" for role, on in others.items()]


def _listed(privileges: set[str]) -> str:
    return ", ".join(sorted(privileges))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
