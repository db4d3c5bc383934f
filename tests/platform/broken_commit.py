"""A way to a PostgreSQL on which the answer to a COMMIT gets lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2.extensions

_SOCKET = ".s.PGSQL.5432"


class Way:
    """A proxy before the server. ``lose`` is what becomes of the next COMMIT.

    ``before``: it does not arrive. ``after``: its answer does not. ``held``: it does not, and the server is
    not told that the client is cut off.
    """

    def __init__(self, folder: Path, url: str) -> None:
        asked = psycopg2.extensions.parse_dsn(url)
        self.url = psycopg2.extensions.make_dsn(**{**asked, "host": str(folder)})
        self.lose: str | None = None
        self.lost = 0
        self._server = str(Path(asked["host"]) / _SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / _SOCKET))
        self._listener.listen()
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        _end(self._listener)
        self._listener.close()
        for each in self._kept:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._kept += [client, server]
                threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
                threading.Thread(target=self._to_client, args=(server, client), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.lose and data.startswith(b"Q") and b"COMMIT" in data:
                    self._break(client, server, data)
                    return
                server.sendall(data)
        _end(server)

    def _break(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        how, self.lose = self.lose, None
        self.lost += 1
        _end(client)  # first, so that no answer can reach it
        if how == "after":
            server.sendall(data)
        if how != "held":
            _end(server)

    @staticmethod
    def _to_client(server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _end(client)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


@contextmanager
def way_to(folder: Path, url: str) -> Iterator[Way]:
    way = Way(folder, url)
    try:
        yield way
    finally:
        way.close()
