"""Verify the audit log: find any entry that was changed, removed, moved or cut off, also by the database's owner.

Reads:   golive.audit_log; the heads exported with each release, metrics/golive/*/audit_head*.json (and below --heads);
         configs/signing/*.pub (or GOLIVE_VERIFY_KEY, GOLIVE_VERIFY_KEY_FILE)
Writes:  nothing
Exits 0 if the log is whole up to an exported head, 14 if anything is wrong, 4 if the chain is whole but no head that can be
relied on was found: then nothing tells whether entries are missing at its end.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("--heads", metavar="FOLDER", action="append", default=[], help="look for heads here too")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.errors import NotFound
    from lib.platform.postgres import database
    from lib.release import attesting, audit_heads

    workspace = Workspace.find()
    folders = [workspace.root / "metrics" / "golive", *map(Path, args.heads)]
    for folder in folders[1:]:
        if not folder.is_dir():
            raise NotFound(f"no folder {folder}", hint="--heads names a folder that holds exported heads")
    heads = audit_heads.collect(workspace, folders)
    with database(workspace, "audit log") as connection:
        report = audit_heads.verify(connection, heads, keys_trusted=bool(attesting.trusted(workspace)))
    cli.emit(args, report.to_dict(), report.to_text())
    return int(report.exit_code)


if __name__ == "__main__":
    cli.run(main)
