"""Judgements by content: what a judge's model replied to a prompt, kept so that a verdict can be recomputed to the byte.

The key is the judge (service, address, model, decoding), the SHA-256 of the whole prompt (RAGChecker's template with the
input in it), and which of the repeated judgings it belongs to. They stand in ``golive.judgements`` for the next evaluation,
and beside the results of the one that used them (docs/adr/0011-stored-judgements.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json

from lib.platform import postgres
from lib.platform.errors import ConfigInvalid, GoliveError
from lib.platform.files import digest_of, read_json_lines, write_json_lines, writing
from lib.platform.workspace import Workspace

FILE = "judgements.jsonl"


@dataclass(frozen=True)
class Judgement:
    """One reply, and the claims or labels that RAGChecker read in it (``read_as``)."""

    judge: dict[str, Any]
    prompt_sha256: str
    repeat: int
    reply: str
    read_as: list[Any]
    input_tokens: int | None
    output_tokens: int | None

    @property
    def key(self) -> str:
        return key_of(self.judge, self.prompt_sha256, self.repeat)


def key_of(judge: dict[str, Any], prompt_sha256: str, repeat: int) -> str:
    """What a judgement is found by; ``judge`` is a ``ModelClient.identity``."""
    return digest_of({"judge": judge, "prompt_sha256": prompt_sha256, "repeat": repeat})


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
        return Judgement(**row) if row else None


@contextmanager
def opened(workspace: Workspace, folder: Path, *, fresh: bool) -> Iterator[Judgements]:
    """The stored judgements over a connection of their own, with those that stand in ``folder``."""
    connection = postgres.connect(postgres.address(workspace), "judgements")
    try:
        store = Judgements(connection, fresh=fresh)
        store.load(folder)
        yield store
    finally:
        connection.close()


def forget(folder: Path) -> None:
    """Removes an earlier evaluation's judgements from ``folder``: the next one there has none."""
    with writing(folder):
        (folder / FILE).unlink(missing_ok=True)


def _damaged(path: Path, detail: str) -> GoliveError:
    return ConfigInvalid(f"{path} is damaged", detail=detail, hint="--fresh-judging judges anew")
