"""Look every pinned package up in a source of known vulnerabilities (pip-audit); an audit that could not look fails.

Reads:   requirements/*.txt, the source (PyPI's advisories; --osv-url names another)
Exits with 0 where every package was looked up and none is vulnerable, 3 where one is, 13 where the audit could not run.
"""

import _preflight  # noqa: F401

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import Unavailable, redact
from lib.platform.workspace import CHECKOUT


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("--osv-url", metavar="URL", help="ask this source, which speaks OSV's protocol")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.operations import dependency_audit

    files = sorted((CHECKOUT / "requirements").glob("*.txt"))
    pins = dependency_audit.pins_of([path.read_text(encoding="utf-8") for path in files])
    audit = dependency_audit.judge(pins, run_pip_audit({**pins, **dict([dependency_audit.CANARY])}, args.osv_url))
    cli.emit(args, audit.to_dict(), audit.to_text())
    return int(audit.exit_code)


def run_pip_audit(pins: dict[str, str], osv_url: str | None) -> dict[str, object]:
    """Its JSON document. Raises Unavailable where it gives none."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requirements.txt"
        asked.write_text("".join(f"{name}=={version}\n" for name, version in sorted(pins.items())), encoding="utf-8")
        source = ["-s", "osv", "--osv-url", osv_url] if osv_url else []
        command = [sys.executable, "-m", "pip_audit", "-r", str(asked), "--no-deps", "--disable-pip", "-f", "json", *source]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Unavailable(
            "pip-audit gave no result", detail=redact(last), hint="make audit, with a way to its source"
        ) from None
    return dict(found)


if __name__ == "__main__":
    cli.run(main)
