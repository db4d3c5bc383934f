"""Prove a rollback by reading everything back: pointer, record, rows, indexes, answers to probes, config files.

Reads:   the database; configs/; with --backup-id the manifest, state, probes and configs of .local/backups/<backup_id>/
Exits 14 if anything is not as it should be; what is only told (documents, settings) decides nothing.
"""

import _preflight  # noqa: F401

import argparse
from typing import Any

from lib.platform import cli
from lib.platform.errors import ExitCode
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("--backup-id", metavar="ID", help="what the state must equal (default: what was sealed)")
    parser.add_argument(
        "--release", metavar="ID", help="the release of the backup that must be live (default: the one it restores)"
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.postgres import database
    from lib.release import backup_files, rollback_validation

    workspace = Workspace.find()
    backup = backup_files.find_backup(workspace, args.backup_id) if args.backup_id is not None else None
    with database(workspace, "validate rollback") as connection:
        checks = rollback_validation.validate(workspace, connection, backup, args.release)
    valid = all(check["holds"] for check in checks if not check["told"])
    lines = [f"  {_said(check)}  {check['name']}: {check['found']}" for check in checks]
    lines.append("valid: the live state reads back as it should" if valid else "INVALID: do not resume; make backups")
    cli.emit(args, {"valid": valid, "backup_id": args.backup_id, "checks": checks}, "\n".join(lines))
    return int(ExitCode.DONE if valid else ExitCode.INTEGRITY)


def _said(check: dict[str, Any]) -> str:
    return "told " if check["told"] else "holds" if check["holds"] else "FAILS"


if __name__ == "__main__":
    cli.run(main)
