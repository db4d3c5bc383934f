"""Heads of the audit log, kept outside of the database: what tells that entries were cut off, or that all was written anew.

Each promotion leaves ``audit_head.json`` among the release's evidence (the number and hash of the last entry), and with a
signing key ``audit_head.intoto.json``, whose Statement holds the same. Copy them where the database's owner cannot write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection as Connection

from lib.platform import audit, failpoints, postgres, signing
from lib.platform.errors import ExitCode, GoliveError, IntegrityMismatch
from lib.platform.files import read_json, write_json
from lib.platform.workspace import Workspace
from lib.release import attesting

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

HEAD_TYPE = "urn:golive:attestation:audit-head:v1"
NAME = "audit_head.json"
_SHOWN = 20


@dataclass(frozen=True)
class Found:
    """A head that was found; ``state`` is its signature's, as in ``signing.Signature``. A bad one has no head."""

    where: str
    head: audit.Head | None
    state: str
    told: str


@dataclass
class Report:
    """What holds of a log. ``covered`` is the last entry that a head proves; ``entries`` how many are there."""

    entries: int
    covered: int = 0
    faults: list[str] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """FAIL where anything is wrong, INCONCLUSIVE where nothing tells where the log must end at least, else PASS."""
        return "FAIL" if self.faults else "PASS" if self.covered else "INCONCLUSIVE"

    @property
    def exit_code(self) -> ExitCode:
        codes = {"PASS": ExitCode.DONE, "FAIL": ExitCode.INTEGRITY, "INCONCLUSIVE": ExitCode.INCONCLUSIVE}
        return codes[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **asdict(self)}

    def to_text(self) -> str:
        lines = [f"  head {h['seq'] if h['seq'] else '-'}, {h['where']}: {h['found']}" for h in self.heads]
        lines += [f"  WRONG  {fault}" for fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            lines.append(f"  and {len(self.faults) - _SHOWN} more")
        if self.faults:
            lines.append(f"FAIL: the log is not what was written; {self.entries} entries are there")
        elif not self.covered:
            lines.append(
                f"INCONCLUSIVE: the chain of {self.entries} entries is whole, but no head that can be relied on was found:"
                " whether entries are missing at the end, or all were written anew, cannot be said"
            )
        else:
            lines.append(f"PASS: {self.entries} entries, and the first {self.covered} are those whose head was exported")
            if later := self.entries - self.covered:
                lines.append(f"  the last {later} have no head yet: if they were cut off, this would not show it")
        return "\n".join(lines)


def export(workspace: Workspace, connection: Connection, release_id: str) -> audit.Head:
    """Writes the log's head into a release's evidence, signed where there is a signing key.

    The envelope comes first and holds all that it vouches for, so that a kill in between leaves two heads, both true.

    Raises:
        IntegrityMismatch: the log is not the one whose head stands there already, which is left as it is.
    """
    path = workspace.evidence(release_id) / NAME
    with connection:
        head = audit.head_of(connection)
        if head is None:
            raise IntegrityMismatch("the audit log is empty", detail="what was done a moment ago should stand in it")
        _require_continued(connection, _plain(workspace, path), head)
    key = attesting.signer()
    content = {**head.to_dict(), "release_id": release_id, "signed_by": attesting.keyid(key)}
    failpoints.reach("audit_head.envelope")
    if key:
        statement = signing.statement({"audit_log": head.hash}, HEAD_TYPE, content)
        write_json(attesting.envelope_of(path), signing.sign(statement, key))
    failpoints.reach("audit_head.file")
    write_json(path, content)
    failpoints.reach("audit_head.done")
    return head


def _require_continued(connection: Connection, earlier: Found | None, head: audit.Head) -> None:
    old = earlier.head if earlier else None
    if old is None or old.database != head.database:
        return
    there = postgres.one(connection, "SELECT hash FROM golive.audit_log WHERE seq = %s", (old.seq,))
    if there is None or there["hash"] != old.hash:
        raise IntegrityMismatch(
            f"the audit log is not the one whose head was exported to {earlier.where if earlier else ''}",
            detail=f"entry {old.seq} is {'gone' if there is None else 'another one'}; the exported head is left as it is",
            hint="scripts/verify_audit_log.py",
        )


def collect(workspace: Workspace, folders: Iterable[Path]) -> list[Found]:
    """Every head below the folders, signed ones and others; raises as ``attesting.trusted``."""
    keys = attesting.trusted(workspace)
    found = []
    for folder in folders:
        for path in sorted({*folder.rglob(NAME), *(p.with_name(NAME) for p in folder.rglob("audit_head.intoto.json"))}):
            signed = _signed(workspace, attesting.envelope_of(path), keys)
            plain = _plain(workspace, path)
            if plain is not None and plain.state == "unsigned" and signed is not None and signed.head == plain.head:
                plain = None
            found += [item for item in (signed, plain) if item is not None]
    return found


def _signed(workspace: Workspace, path: Path, keys: Mapping[str, SSlibKey]) -> Found | None:
    """The head in an envelope; None where there is no envelope."""
    signature = signing.check(path, keys)
    if signature.state == "unsigned":
        return None
    where = workspace.show(path)
    if signature.statement is None:
        return Found(where, None, "bad", signature.found)
    if signature.statement.get("predicateType") != HEAD_TYPE:
        return Found(where, None, "bad", f"it attests {signature.statement.get('predicateType')}, not {HEAD_TYPE}")
    head = _head(signature.statement.get("predicate"))
    if head is None:
        return Found(where, None, "bad", "it names no entry")
    told = signature.found if signature.state == "good" else attesting.state_line(signature)
    return Found(where, head, signature.state, told)


def _plain(workspace: Workspace, path: Path) -> Found | None:
    """The head in ``audit_head.json``, which proves nothing by itself; None where there is no such file."""
    if not path.exists():
        return None
    where = workspace.show(path)
    try:
        content = read_json(path, "head of the audit log")
    except GoliveError as error:
        return Found(where, None, "bad", error.message)
    head = _head(content)
    if head is None:
        return Found(where, None, "bad", "it names no entry")
    key = content.get("signed_by")
    if key and not attesting.envelope_of(path).exists():
        return Found(where, head, "bad", f"it says that key {str(key)[:12]} signed it, but no envelope is there")
    return Found(where, head, "unsigned", "UNSIGNED: whoever can write there can have changed it")


def _head(content: Any) -> audit.Head | None:
    if not isinstance(content, dict):
        return None
    fields: dict[str, Any] = {name: content.get(name) for name in ("seq", "hash", "at", "entries", "database")}
    if not all(isinstance(value, int if name in ("seq", "entries") else str) for name, value in fields.items()):
        return None
    return audit.Head(**fields)


def verify(connection: Connection, heads: Sequence[Found], *, keys_trusted: bool) -> Report:
    """Reads the whole log and holds it against the heads of this database; a transaction of its own."""
    with connection:
        database = audit.database_of(connection)
        return judge(audit.read(connection), database, heads, keys_trusted=keys_trusted)


def judge(entries: Iterable[audit.Entry], database: str, heads: Sequence[Found], *, keys_trusted: bool) -> Report:
    """What holds of a log; pure.

    Args:
        keys_trusted: somebody's signature is trusted here. Then a head without a good one proves nothing, though it can
            still show that something is wrong.
    """
    wanted = {item.head.seq for item in heads if item.head}
    there: dict[int, str] = {}
    report = Report(0)

    def counted() -> Iterable[audit.Entry]:
        for entry in entries:
            report.entries += 1
            if entry.seq in wanted:
                there[entry.seq] = entry.hash
            yield entry

    report.faults = [f"entry {fault.seq}: {fault.what}" for fault in audit.find_faults(counted())]
    for item in heads:
        fault = _fault_of(item, database, there)
        foreign = item.head is not None and item.head.database != database and item.state != "bad"
        counts = not foreign and (item.state == "good" or (not keys_trusted and item.state in ("unsigned", "unchecked")))
        if fault:
            report.faults.append(f"{item.where}: {fault}")
        elif counts and item.head:
            report.covered = max(report.covered, item.head.seq)
        told = "of another database: not compared" if foreign else fault or f"holds; {item.told}"
        report.heads.append({"where": item.where, "seq": item.head and item.head.seq, "state": item.state, "found": told})
    return report


def _fault_of(item: Found, database: str, there: Mapping[int, str]) -> str | None:
    """What is wrong between a head and the log; None where nothing is, or where it is a head of another database."""
    if item.state == "bad" or item.head is None:
        return item.told
    if item.head.database != database:
        return None
    if item.head.seq not in there:
        return f"entry {item.head.seq}, which it names, is gone: the log was cut off"
    if there[item.head.seq] != item.head.hash:
        return f"entry {item.head.seq} has another hash than the exported one: the log was written anew"
    return None
