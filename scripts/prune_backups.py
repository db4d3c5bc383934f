"""Delete backups that nobody needs any more: shows the plan first, and deletes only with --yes.

Reads:   .local/backups/ (or a target's copies, with --target), configs/backup.yaml, golive.pointer, receipts
Writes:  nothing without --yes; then those backups go, golive.backups says so, and so does the audit log
Never deleted: the newest proven backup, one that is being copied or is dated in the future, one that holds the live, the
previous or a sealed release or is named by such a release's receipts, one under object lock, one that cannot be read.
"""

import _preflight  # noqa: F401

import argparse
from contextlib import ExitStack

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--keep", type=int, metavar="N", help="the newest N stay (default: configs/backup.yaml)")
    parser.add_argument("--older-than", metavar="30d", help="only what is older goes: 12h, 30d, 4w (default: as above)")
    parser.add_argument("--target", metavar="NAME", help="copies on this target instead of local backups")
    parser.add_argument("--yes", action="store_true", help="delete what the plan says")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.errors import Refused, UsageError
    from lib.platform.lease import lease
    from lib.platform.postgres import address, create_state, database
    from lib.release import backup_copies, pruning, retention, target_settings

    if args.keep is not None and args.keep < 1:
        raise UsageError("--keep must be at least 1")
    workspace = Workspace.find()
    settings = target_settings.load(workspace)
    older_than = target_settings.duration(args.older_than) if args.older_than else settings.older_than
    rules = pruning.Rules(args.keep or settings.keep, older_than)
    target = backup_copies.open_target(settings.target(args.target)) if args.target else None
    where = target.store.shown if target else workspace.show(workspace.backups)
    applies = args.yes and not args.dry_run
    with ExitStack() as open_ones:
        connection = open_ones.enter_context(database(workspace, "prune backups", write=True))
        if applies:
            create_state(connection)
            open_ones.enter_context(lease(address(workspace), "prune_backups"))
        decisions = pruning.plan(workspace, connection, rules, target)
        text = retention.plan_text(where, decisions, pruning.moment(connection))
        report = {"where": where, "plan": [item.to_dict() for item in decisions], "deleted": list[str]()}
        if applies:
            if not args.json:
                print(text, flush=True)
            report["deleted"] = pruning.apply(workspace, connection, target, decisions)
            text = f"deleted {len(report['deleted'])} backups"
    if any(item.deletes for item in decisions) and not args.yes and not args.dry_run:
        raise Refused("nothing was deleted", detail=text, hint="--yes deletes what the plan says; --dry-run shows it alone")
    cli.emit(args, report, text)
    return 0


if __name__ == "__main__":
    cli.run(main)
