"""A local service that takes JSON by POST and answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes, dict[str, str]]  # status, body, headers


@dataclass
class Service:
    """Gives ``replies`` in order, the last for ever, or what ``answer`` says to a request.

    A status of 0 closes the connection. ``part_s`` is how long it takes over each byte of a body, ``slow_s`` how long it
    does nothing first; both end with the test.
    """

    path: str = ""
    url: str = ""
    replies: list[Answer] = field(default_factory=list)
    answer: Callable[[Any], Answer] | None = None
    requests: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    slow_s: float = 0.0
    part_s: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                service.requests.append(body)
                service.paths.append(self.path)
                service.headers.append(dict(self.headers))
                service.in_flight += 1
                service.most_in_flight = max(service.most_in_flight, service.in_flight)
                count = len(service.requests)
            replies = service.replies
            status, content, headers = service.answer(body) if service.answer else replies[min(count, len(replies)) - 1]
            if service.slow_s:
                service.over.wait(service.slow_s)
            with lock:
                service.in_flight -= 1
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if not service.part_s:
                self.wfile.write(content)
                return
            for byte in content:
                self.wfile.write(bytes([byte]))
                service.over.wait(service.part_s)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that gave up has closed its connection."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}{service.path}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield service
        finally:
            service.over.set()
            server.shutdown()
            thread.join()
