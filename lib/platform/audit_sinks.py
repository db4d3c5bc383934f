"""What the audit log tells outside of the database: to a file, and to a webhook.

A sink that is away never fails a command, and holds it up for seconds at most: one line says so, and what was done stands
in the audit log. The file misses nothing for good: whoever writes next adds all entries that it lacks. A webhook gets what
a command did, once.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from psycopg2.extensions import connection as Connection

from lib.platform import audit, failpoints
from lib.platform.errors import GoliveError, Refused, redact, secret
from lib.platform.lease import who
from lib.platform.progress import note

FILE = "GOLIVE_AUDIT_LOG"
WEBHOOK = "GOLIVE_WEBHOOK_URL"  # or in the file that GOLIVE_WEBHOOK_URL_FILE names
_TIMEOUT_S = 3.0
_TAIL_BYTES = 1 << 20  # of the file, in which its last whole entry must be
_SHOWN = 20  # entries in a webhook's text


def tell(connection: Connection) -> None:
    """Tells every sink of the environment what this process recorded; the transaction, if one is open, is undone."""
    numbers = audit.take_recorded()
    if not numbers:
        return
    for name, sink in ((FILE, _to_file), (WEBHOOK, _to_webhook)):
        try:
            if where := secret(name):
                sink(connection, where, numbers)
        except Exception as error:
            note(f"{name}: {_reason(error)}; what was done stands in the audit log")


def _to_file(connection: Connection, where: str, numbers: Sequence[int]) -> None:
    path = Path(where)
    with path.open("ab+") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise Refused(f"{path} is no plain file")
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        last, torn = _last_entry(stream, path)
        # in ASCII: no reader takes U+2028 in a reason for the end of a line, and no terminal obeys it
        lines = [json.dumps(asdict(entry)) for entry in _entries(connection, last, path)]
        if lines:
            failpoints.reach("sinks.file")
            stream.write(("\n" * torn + "\n".join(lines) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())


def _last_entry(stream: BinaryIO, path: Path) -> tuple[dict[str, Any], bool]:
    """The last whole entry, with the number 0 where there is none; whether a line stands after it that was cut off."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL_BYTES))
    tail = stream.read()
    for line in reversed(tail.splitlines()):
        try:
            entry = json.loads(line)
            return {"seq": int(entry["seq"]), "hash": str(entry["hash"])}, not tail.endswith(b"\n")
        except (ValueError, TypeError, KeyError):
            continue
    if tail.strip() and size > _TAIL_BYTES:
        raise Refused(f"{path} does not end in entries of an audit log")
    return {"seq": 0, "hash": ""}, bool(tail) and not tail.endswith(b"\n")


def _entries(connection: Connection, last: dict[str, Any], path: Path) -> list[audit.Entry]:
    """The entries after the file's last one, which must stand in the log as it stands in the file."""
    connection.rollback()
    with connection:
        found = list(audit.read(connection, first=max(1, last["seq"])))
    if last["seq"] and (not found or (found[0].seq, found[0].hash) != (last["seq"], last["hash"])):
        raise Refused(f"{path} ends in entry {last['seq']} of another log, or that entry was changed")
    return found[1:] if last["seq"] else found


def _to_webhook(connection: Connection, url: str, numbers: Sequence[int]) -> None:
    from lib.platform import http_targets

    connection.rollback()
    with connection:
        # others may have recorded something in between, and what was undone has a number that another entry may have got
        mine = [e for e in audit.read(connection, first=min(numbers)) if e.seq in numbers and e.actor == who()]
    if not mine:
        return
    told = [f"{entry.action} {entry.subject}: {entry.reason} ({entry.actor})" for entry in mine[:_SHOWN]]
    body = {"text": "\n".join(told), "entries": [asdict(entry) for entry in mine]}
    reply = http_targets.pool(max_in_flight=1, allow_internal=True).request(
        "POST",
        url,
        body=json.dumps(body, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json"},
        timeout=_TIMEOUT_S,
        redirect=False,
        preload_content=False,
    )
    reply.close()
    if not 200 <= reply.status < 300:
        raise Refused(f"{urlsplit(url).netloc.rpartition('@')[2]} answered with status {reply.status}")


def _reason(error: Exception) -> str:
    if isinstance(error, GoliveError):
        return error.message
    if isinstance(error, BlockingIOError):
        return "another command is writing to the file"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the file'}: {error.strerror.lower()}"
    return redact(f"{type(error).__name__}: {error}").partition("\n")[0]
