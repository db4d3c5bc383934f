"""Bring back a backup's release: into new tables, proved, then named by the pointer. Nothing that stands is overwritten.

Reads:   .local/backups/<backup_id>/
Writes:  a new chunk table (unless the backup's own still stands, sound), golive.pointer, active_config.json
--list shows the backups, newest first, and whether one is gone or was replaced; then it exits with 14.
--check only says whether the backup could be restored.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import ExitCode, GoliveError
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--backup-id", metavar="ID", default="", help="the backup to restore")
    parser.add_argument("--release", metavar="ID", help="a release the backup holds (default: the one it restores)")
    parser.add_argument(
        "--from", dest="folder", metavar="DIR", help="the backups are in this folder (default: .local/backups)"
    )
    parser.add_argument(
        "--from-another-system", action="store_true", help="the backup may have been made of another database"
    )
    parser.add_argument("--list", action="store_true", help="list the backups")
    parser.add_argument("--check", action="store_true", help="check the backup and change nothing")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.lease import lease
    from lib.platform.postgres import address, create_state, database
    from lib.release import backup_files, backup_signature, restore
    from lib.release.checklist import requires_signature

    workspace = Workspace.find()
    if args.list:
        return show_list(args, workspace)
    backup = backup_files.find_backup(workspace, args.backup_id, Path(args.folder) if args.folder else None)
    signature = backup_signature.require(workspace, backup, required=requires_signature(workspace))
    with database(workspace, "restore", write=True) as connection:
        create_state(connection)
        restore.require_own(connection, backup, another_allowed=args.from_another_system)
        plan = restore.plan_restore(connection, backup, args.release)
        if args.check:
            restore.check_files(backup, plan)
            cli.emit(args, plan.to_dict(), f"backup {backup.backup_id} can be restored: {plan.action}\n  {signature}")
            return 0
        if args.dry_run:
            cli.emit(args, plan.to_dict(), f"{plan.to_text()}\n  {signature}")
            return 0
        with lease(address(workspace), "restore_production_state"):
            plan = restore.plan_restore(connection, backup, args.release)
            done = restore.apply_restore(workspace, connection, backup, plan)
    lines = [
        plan.to_text(),
        f"  {signature}",
        f"live: {done['release_id']} in {done['table']}, {done['rows']} rows, digest {done['digest'][:12]}",
        f"  pointer generation {done['generation']}, moved in {done['pointer_ms']:.1f} ms; {done['seconds']:.2f} s in all",
    ]
    cli.emit(args, {**plan.to_dict(), **done}, "\n".join(lines))
    return 0


def show_list(args: argparse.Namespace, workspace: Workspace) -> int:
    """The list needs no database; without one the chain is not checked, and that is said."""
    from lib.platform.postgres import database
    from lib.release import backup_listing

    rows = backup_listing.listing(workspace)
    try:
        with database(workspace, "backup list") as connection:
            breaks, why = backup_listing.chain_breaks(workspace, connection), None
    except GoliveError as error:
        breaks, why = [], error.message
    text = backup_listing.listing_text(rows, breaks) + (f"\nchain not checked: {why}" if why else "")
    cli.emit(args, {"backups": rows, "chain_breaks": breaks, "chain_unchecked": why}, text)
    return int(ExitCode.INTEGRITY if breaks else ExitCode.DONE)


if __name__ == "__main__":
    cli.run(main)
