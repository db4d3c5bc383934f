"""Copy a backup to a target, bring one back, or read a copy back to its last byte.

Reads:   configs/backup.yaml, .local/backups/<backup_id>/ (or the target's copy, with --fetch and --verify)
Writes:  the target's copy, visible only when whole; with --fetch .local/backups/<backup_id>/. Needs no database.
Credentials come from the environment: AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret; GOLIVE_BACKUP_KEY or
GOLIVE_BACKUP_KEY_FILE for a target that is encrypted. Without --target it is the only one there is.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--backup-id", metavar="ID", default="", help="which backup")
    parser.add_argument("--target", metavar="NAME", default="", help="a target of configs/backup.yaml")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--fetch", action="store_true", help="bring the copy back as a local backup")
    action.add_argument("--verify", action="store_true", help="read the copy back and compare it with its manifest")
    action.add_argument("--list", action="store_true", help="list what the target holds")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.release import backup_copies, backup_files, backup_targets, target_settings

    workspace = Workspace.find()
    target = backup_copies.open_target(target_settings.load(workspace).target(args.target))
    if args.list:
        found = backup_copies.copies(target)
        rows = [item.to_dict() for item in found]
        cli.emit(args, {"target": target.name, "copies": rows}, backup_copies.listing_text(target, found))
    elif args.verify:
        report = backup_copies.verify(target, args.backup_id)
        text = f"backup {args.backup_id} on {target.name} is whole: {report['files']} files, {report['bytes'] / 1e6:.1f} MB"
        cli.emit(args, report, text)
    elif args.fetch:
        if args.dry_run:
            report = backup_targets.plan_fetch(workspace, target, args.backup_id)
            cli.emit(
                args, report, f"would fetch {report['files']} files, {report['bytes'] / 1e6:.1f} MB, to {report['to']}"
            )
            return 0
        made = backup_targets.fetch(workspace, target, args.backup_id)
        text = f"backup {made.backup_id}: {made.bytes / 1e6:.1f} MB in {workspace.show(made.folder)}, equal to its manifest"
        hint = f"\n  scripts/restore_production_state.py --backup-id {made.backup_id} restores it"
        cli.emit(args, {"backup_id": made.backup_id, "bytes": made.bytes, "to": workspace.show(made.folder)}, text + hint)
    else:
        backup = backup_files.find_backup(workspace, args.backup_id)
        if args.dry_run:
            report = backup_targets.plan_copy(target, backup)
            sent = f"{report['to_send']} of {report['files']} files, {report['bytes_to_send'] / 1e6:.1f} MB"
            cli.emit(args, report, f"would send {sent}, to {report['to']}")
            return 0
        report = backup_targets.copy(target, backup)
        cli.emit(args, report, backup_targets.report_text(report))
    return 0


if __name__ == "__main__":
    cli.run(main)
