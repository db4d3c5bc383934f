"""The audit of packages: what pip-audit could not look up is never taken for sound."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lib.operations import dependency_audit
from lib.operations.dependency_audit import CANARY
from lib.platform.errors import ExitCode, IntegrityMismatch
from tests.conftest import PROJECT

CANARY_FOUND = {"name": CANARY[0], "version": CANARY[1], "vulns": [{"id": "PYSEC-1", "fix_versions": ["9"]}]}
PINS = {"alpha": "1.0", "beta-gamma": "2.0"}


def document(*entries):
    return {"dependencies": list(entries)}


def sound(name, version="1.0"):
    return {"name": name, "version": version, "vulns": []}


def test_packages_that_were_all_looked_up_pass():
    audit = dependency_audit.judge(PINS, document(sound("alpha"), sound("Beta_Gamma"), CANARY_FOUND))
    assert (audit.exit_code, audit.unknown, audit.vulnerable) == (ExitCode.DONE, [], [])
    assert "2 packages looked up" in audit.to_text()


def test_a_vulnerable_package_fails_with_the_version_that_mends_it():
    bad = {"name": "alpha", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1", "2.0"]}]}
    audit = dependency_audit.judge(PINS, document(bad, sound("beta-gamma"), CANARY_FOUND))
    assert audit.exit_code is ExitCode.FAIL
    assert audit.vulnerable == ["alpha 1.0: CVE-1, fixed in 1.1, 2.0"]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [sound("alpha"), sound("beta-gamma")],
        [sound("alpha"), sound("beta-gamma"), {"name": CANARY[0], "version": CANARY[1], "vulns": []}],
        [sound("alpha"), sound("beta-gamma"), {"name": CANARY[0], "skip_reason": "not found"}],
        [sound("alpha"), CANARY_FOUND],
        [sound("alpha"), {"name": "beta-gamma", "skip_reason": "not found"}, CANARY_FOUND],
    ],
)
def test_what_was_not_looked_up_is_no_pass(entries):
    audit = dependency_audit.judge(PINS, document(*entries))
    assert audit.exit_code is ExitCode.UNAVAILABLE
    assert "COULD NOT AUDIT" in audit.to_text()


def test_pins_are_read_from_all_files_and_may_not_differ():
    assert dependency_audit.pins_of(["A_b==1.0\n# c==2\n", "a.b==1.0\ntorch==2.13.0+cpu\n"])["a-b"] == "1.0"
    with pytest.raises(IntegrityMismatch, match="pinned to 1 and to 2"):
        dependency_audit.pins_of(["a==1\n", "a==2\n"])


class _Source(BaseHTTPRequestHandler):
    """Speaks OSV's protocol (POST /v1/query), and knows of the canary's vulnerability alone."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["package"]["name"].lower() == CANARY[0]
        affected = {"package": {"name": CANARY[0], "ecosystem": "PyPI"}, "versions": [CANARY[1]], "ranges": []}
        body = json.dumps({"vulns": [{"id": "OSV-1", "affected": [affected], "aliases": []}]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def source() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Source)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    server.shutdown()
    server.server_close()


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "scripts" / "audit_dependencies.py"), "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_script_says_so_where_there_is_no_pip_audit_or_nothing_behind_it():
    done = audit("--osv-url", "http://127.0.0.1:1/v1/query")
    assert done.returncode == 13
    assert "pip-audit gave no result" in done.stdout + done.stderr


def test_the_script_passes_with_a_source_that_knows_every_package(source):
    pytest.importorskip("pip_audit", reason="make audit installs it")
    done = audit("--osv-url", source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["source_reached"] is True
