"""Replies by content: what a model that judges or reads replied to a prompt, so that a verdict can be recomputed.

The key is the model (service, address, id, decoding), the SHA-256 of the whole prompt (the template with the input in it),
and which of the repeated judgings it belongs to; an answer is asked for once. They stand in ``golive.judgements`` for the
next evaluation, and beside the results of the one that used them (docs/adr/0011-stored-judgements.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json

from lib.platform import postgres
from lib.platform.errors import ConfigInvalid, GoliveError, IntegrityMismatch, redact
from lib.platform.files import digest_of, read_json_lines, write_json_lines, writing
from lib.platform.model_client import ModelClient, ModelFailed, prompt_hash
from lib.platform.workspace import Workspace

FILE = "judgements.jsonl"


@dataclass(frozen=True)
class Judgement:
    """One reply, and what was read in it: the claims or labels that RAGChecker found, or a reader's answer.

    ``latency_ms``: how long the model took then; None where that was not recorded.
    """

    judge: dict[str, Any]
    prompt_sha256: str
    repeat: int
    reply: str
    read_as: list[Any]
    input_tokens: int | None
    output_tokens: int | None
    latency_ms: float | None = None

    @property
    def key(self) -> str:
        return key_of(self.judge, self.prompt_sha256, self.repeat)


def key_of(judge: dict[str, Any], prompt_sha256: str, repeat: int) -> str:
    """What a judgement is found by; ``judge`` is a ``ModelClient.identity``."""
    return digest_of({"judge": judge, "prompt_sha256": prompt_sha256, "repeat": repeat})


def reply_to(
    prompt: str,
    client: ModelClient,
    stored: Judgements | None,
    read: Callable[[str], list[Any] | None],
    *,
    purpose: str,
    repeat: int = 0,
) -> Judgement:
    """The stored reply to a prompt; else the model's, which is stored then.

    Args:
        read: what a reply says, None where it cannot be read.

    Raises:
        IntegrityMismatch: the stored reply is not read as it was.
        ModelFailed: the model gave no reply that can be read. Unavailable: its service will not serve us.
    """
    key = key_of(client.identity, prompt_hash(prompt), repeat)
    if stored and (found := stored.find(key)):
        if read(found.reply) != found.read_as:
            raise IntegrityMismatch(
                f"the stored judgement {key[:12]} is not read as it was",
                detail="another version of ragchecker, or a damaged row",
                hint="--fresh-judging judges anew",
            )
        return found
    reply = client.complete(prompt, purpose=purpose)
    read_as = read(reply.text)
    if read_as is None:
        raise ModelFailed(f"{client.model_id} gave a reply that cannot be read: {redact(reply.text)[:80]!r}")
    made = Judgement(
        judge=client.identity,
        prompt_sha256=reply.prompt_sha256,
        repeat=repeat,
        reply=reply.text,
        read_as=read_as,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        latency_ms=reply.latency_ms,
    )
    return stored.keep(made) if stored else made


class Judgements:
    """The stored judgements as one evaluation sees and adds to them; threads may share it.

    Those beside an earlier evaluation's results come before the database's: they are what its numbers were made of. With
    ``fresh``, both are passed over and replaced; what was judged once in this run is not judged again in it.
    ``connection`` is this object's alone.
    """

    def __init__(self, connection: Connection, *, fresh: bool = False) -> None:
        self._connection = connection
        self._fresh = fresh
        self._lock = threading.Lock()
        self._at_hand: dict[str, Judgement] = {}
        self._used: dict[str, Judgement] = {}

    def load(self, folder: Path) -> None:
        """Takes in what an earlier evaluation left in ``folder``, whichever machine it ran on.

        Raises:
            ConfigInvalid: the file was damaged.
        """
        path = folder / FILE
        if self._fresh or not path.exists():
            return
        for row in read_json_lines(path, "judgements"):
            try:
                key, found = row.pop("key"), Judgement(**row)
            except (AttributeError, KeyError, TypeError) as error:
                raise _damaged(path, str(error)) from error
            if found.key != key:
                raise _damaged(path, "a key does not belong to its judgement")
            self._at_hand[key] = found

    def find(self, key: str) -> Judgement | None:
        with self._lock:
            found = self._used.get(key) or self._at_hand.get(key)
            if found is None and not self._fresh:
                found = self._read(key)
            if found:
                self._used[key] = found
            return found

    def keep(self, judgement: Judgement) -> Judgement:
        """Stores a judgement and returns the one that counts: of two that were made at the same time, the first."""
        key = judgement.key
        with self._lock:
            if key in self._used:
                return self._used[key]
            name = "replace_judgement" if self._fresh else "keep_judgement"
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute(
                    postgres.read_sql(__file__, name),
                    {
                        "key": key,
                        **asdict(judgement),
                        "judge": Json(judgement.judge),
                        "read_as": Json(judgement.read_as),
                    },
                )
            kept = judgement if self._fresh else self._read(key) or judgement
            self._used[key] = kept
            return kept

    def write(self, folder: Path) -> None:
        """Writes every judgement that was used into ``folder``; equal judgements give equal bytes."""
        rows = [{"key": key, **asdict(self._used[key])} for key in sorted(self._used)]
        write_json_lines(folder / FILE, rows)

    def _read(self, key: str) -> Judgement | None:
        with self._connection:
            row = postgres.one(self._connection, postgres.read_sql(__file__, "read_judgement"), {"key": key})
            if row and row.pop("unused_today"):
                with self._connection.cursor() as cursor:
                    cursor.execute(postgres.read_sql(__file__, "use_judgement"), {"key": key})
        return Judgement(**row) if row else None


@contextmanager
def opened(workspace: Workspace, folders: Sequence[Path], *, fresh: bool, unused_days: int) -> Iterator[Judgements]:
    """The stored judgements over a connection of their own, with those that stand in ``folders``; the last one's win.

    Once they were used without an error, those of the database that nobody used for ``unused_days`` are pruned.
    """
    connection = postgres.connect(postgres.address(workspace), "judgements")
    try:
        store = Judgements(connection, fresh=fresh)
        for folder in folders:
            store.load(folder)
        yield store
        prune(connection, unused_days)
    finally:
        connection.close()


def prune(connection: Connection, unused_days: int) -> int:
    """Deletes what was not used for over ``unused_days`` and since the live release and the one before it were sealed.

    Returns how many went.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(postgres.read_sql(__file__, "prune_judgements"), {"unused_days": unused_days})
        return int(cursor.rowcount)


def forget(folder: Path) -> None:
    """Removes an earlier evaluation's judgements from ``folder``: the next one there has none."""
    with writing(folder):
        (folder / FILE).unlink(missing_ok=True)


def _damaged(path: Path, detail: str) -> GoliveError:
    return ConfigInvalid(f"{path} is damaged", detail=detail, hint="--fresh-judging judges anew")
