"""A proxy before PostgreSQL that sees each query, and can cut the line before or after it, or let somebody die first.

It listens at a Unix socket, as the embedded server does, and speaks just enough of the protocol to tell where a message of
the client begins.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import psycopg2.extensions

_BLOCK = 65536


class Fate(Enum):
    """What becomes of a query: it passes; the line is cut before it arrives; or its answer is lost, though it was done."""

    PASS = "pass"
    LOST = "lost"
    ANSWER_LOST = "answer lost"


@dataclass
class Proxy:
    """``queries`` are all that passed, in order. ``at_query`` decides on each, given its number from 1 and its text.

    ``at_bytes`` is called before each block in either direction with the count of bytes that passed so far; False cuts it.
    """

    url: str
    queries: list[str] = field(default_factory=list)
    at_query: Callable[[int, str], Fate] = lambda number, query: Fate.PASS
    at_bytes: Callable[[int], bool] = lambda passed: True
    passed_bytes: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, query: str) -> Fate:
        with self._guard:
            self.queries.append(query)
            number = len(self.queries)
        return self.at_query(number, query)

    def count(self, block: bytes) -> bool:
        with self._guard:
            passes = self.at_bytes(self.passed_bytes)
            self.passed_bytes += len(block)
        return passes


@contextmanager
def before(url: str) -> Iterator[Proxy]:
    """A proxy before the server of this address, whose host is a folder; gone at the end."""
    parts = psycopg2.extensions.parse_dsn(url)
    target = f"{parts['host']}/.s.PGSQL.{parts.get('port', '5432')}"
    folder = Path(tempfile.mkdtemp(prefix="golive-proxy-", dir="/tmp"))  # a socket's path has 107 bytes
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / ".s.PGSQL.5432"))
    listener.listen(64)
    proxy = Proxy(f"postgresql://{parts['user']}@/{parts['dbname']}?host={quote(str(folder), safe='/')}")
    threading.Thread(target=_accept, args=(listener, target, proxy), daemon=True).start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        shutil.rmtree(folder)


def _accept(listener: socket.socket, target: str, proxy: Proxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(target)
        except OSError:  # as a server that is not there
            server.close()
            client.close()
            continue
        line = _Line(client, server, proxy)
        threading.Thread(target=line.up, daemon=True).start()
        threading.Thread(target=line.down, daemon=True).start()


class _Line:
    """One client's connection."""

    def __init__(self, client: socket.socket, server: socket.socket, proxy: Proxy) -> None:
        self._client, self._server, self._proxy = client, server, proxy
        self._answer_lost = False

    def up(self) -> None:
        with suppress(OSError, EOFError):
            self._server.sendall(self._message(kind=False))
            while message := self._message(kind=True):
                fate = self._proxy.decide(message[5:-1].decode(errors="replace")) if message[:1] == b"Q" else Fate.PASS
                self._answer_lost = fate is Fate.ANSWER_LOST
                if fate is Fate.LOST or not self._proxy.count(message):
                    break
                self._server.sendall(message)
        self._cut()

    def down(self) -> None:
        with suppress(OSError):
            while block := self._server.recv(_BLOCK):
                if self._answer_lost or not self._proxy.count(block):
                    break
                self._client.sendall(block)
        self._cut()

    def _message(self, *, kind: bool) -> bytes:
        head = self._exactly(5 if kind else 4)
        return head + self._exactly(struct.unpack("!i", head[-4:])[0] - 4)

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            block = self._client.recv(count - len(found))
            if not block:
                raise EOFError
            found += block
        return found

    def _cut(self) -> None:
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
