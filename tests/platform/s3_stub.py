"""A small S3 in memory that fails as it is told: for what a healthy server does not do."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

DATE = "Thu, 26 Nov 2026 10:00:00 GMT"
_OLD = "2026-11-20T10:00:00.000Z"


@dataclass
class Stub:
    """``fault(method, key, count)`` says what goes wrong with the ``count``-th such request (from 1), None for nothing:

    ``reset`` (the connection ends in the body, or without an answer), ``short`` (a body without its last byte, as if that
    were all), ``lie`` (another byte), ``html`` (a page of a proxy), ``applied-503`` (done, and answered as if not), or a
    status with an error name (``503 SlowDown``). ``ignores_conditions``: writes over what is there. ``locks``: the bucket
    has object lock, and ``drops_locks``: takes no notice of it in a write. ``kept`` holds the objects, ``headers`` what
    they were sent with.
    """

    url: str = ""
    fault: Callable[[str, str, int], str | None] = lambda method, key, count: None
    ignores_conditions: bool = False
    locks: bool = False
    drops_locks: bool = False
    kept: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes], dict[str, str]]] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving() -> Iterator[Stub]:
    stub = Stub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": stub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for the client's delayed acknowledgement
    stub: Stub

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, *arguments: Any) -> None:
        pass

    def _serve(self, method: str) -> None:
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        asked = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.stub.lock:
            self.stub.counts[method, key] += 1
            fault = self.stub.fault(method, key, self.stub.counts[method, key])
        if fault == "reset" and method != "GET":
            self.close_connection = True
            return
        if fault and fault[0].isdigit():
            self._error(*fault.split())
            return
        with self.stub.lock:
            status, content, headers = self._answer(method, key, asked, body)
        if fault == "applied-503":
            self._error("503", "SlowDown")
            return
        if fault == "html":
            status, content, headers = 200, b"<html>Welcome to our network</html>", {}
        if fault == "short":
            content = content[:-1]
        if fault == "lie":
            content = bytes([content[0] ^ 1]) + content[1:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "reset":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif method != "HEAD":
            self.wfile.write(content)

    def _answer(self, method: str, key: str, asked: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        stub = self.stub
        if not key:
            return self._of_bucket(asked)
        if method == "POST" and "uploads" in asked:
            name = f"upload{len(stub.uploads)}"
            stub.uploads[name] = (key, {}, dict(self.headers))
            return 200, _xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>"), {}
        if method == "PUT" and "uploadId" in asked:
            stub.uploads[asked["uploadId"]][1][int(asked["partNumber"])] = body
            return 200, b"", {"ETag": '"part"'}
        if method == "DELETE" and "uploadId" in asked:
            return (204, b"", {}) if stub.uploads.pop(asked["uploadId"], None) else _problem(404, "NoSuchUpload")
        taken = key in stub.kept and self.headers.get("If-None-Match") == "*" and not stub.ignores_conditions
        if method in ("PUT", "POST") and taken:
            return _problem(412, "PreconditionFailed")
        if method == "POST":
            _, sent, headers = stub.uploads.pop(asked["uploadId"])
            stub.kept[key], stub.headers[key] = b"".join(sent[number] for number in sorted(sent)), headers
            return 200, _xml("CompleteMultipartUploadResult", '<ETag>"m-2"</ETag>'), {}
        if method == "PUT":
            stub.kept[key], stub.headers[key] = body, dict(self.headers)
            return 200, b"", {"ETag": '"e"'}
        if method == "DELETE":
            stub.kept.pop(key, None)
            return 204, b"", {}
        return self._of_object(method, key)

    def _of_object(self, method: str, key: str) -> tuple[int, bytes, dict[str, str]]:
        content = self.stub.kept.get(key)
        if content is None:
            return _problem(404, "NoSuchKey")
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Last-Modified": DATE}
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return _problem(412, "PreconditionFailed")
        sent = self.stub.headers[key]
        for name in ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-server-side-encryption"):
            if name in sent and not self.stub.drops_locks:
                headers[name] = sent[name]
        if method == "HEAD":
            return 200, b"", {**headers, "Content-Length": str(len(content))}
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            return 206, content[start:], {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return 200, content, headers

    def _of_bucket(self, asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if "object-lock" in asked:
            enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>"
            found = _xml("ObjectLockConfiguration", enabled)
            return (200, found, {}) if self.stub.locks else _problem(404, "ObjectLockConfigurationNotFoundError")
        prefix = asked.get("prefix", "")
        if "uploads" in asked:
            uploads = "".join(
                f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId><Initiated>{_OLD}</Initiated></Upload>"
                for name, (key, _, _) in self.stub.uploads.items()
                if key.startswith(prefix)
            )
            return 200, _xml("ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{uploads}"), {}
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><LastModified>{_OLD}</LastModified></Contents>"
            for key, content in sorted(self.stub.kept.items())
            if key.startswith(prefix)
        )
        return 200, _xml("ListBucketResult", f"<IsTruncated>false</IsTruncated>{items}"), {}

    def _error(self, status: str, code: str) -> None:
        _, content, _ = _problem(int(status), code)
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _problem(status: int, code: str) -> tuple[int, bytes, dict[str, str]]:
    content = f"<Error><Code>{code}</Code><Message>told to say so</Message></Error>".encode()
    return status, content, {}


def _xml(name: str, inside: str) -> bytes:
    return f'<?xml version="1.0"?><{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inside}</{name}>'.encode()
