"""Bring documents that changed since a table was sealed into every release that is kept up to date.

Kept are the live release, the one before it (catch_up.bake_hours of configs/index.yaml), and the sealed candidate.
Reads:   documents, golive.document_changes, configs/index.yaml, active_config.json
Writes:  golive.changed_chunks, golive.superseded, golive.release_documents; never a sealed table
--watch goes on until it is interrupted, pass after pass. Killed and run again, it goes on where it was.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.errors import ExitCode, UsageError
from lib.platform.progress import note
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--once", action="store_true", help="one pass over all documents (the default)")
    how_long.add_argument("--watch", action="store_true", help="a pass whenever documents are written")
    parser.add_argument(
        "--poll-s", metavar="S", type=float, default=10.0, help="with --watch: look this often where no notice arrives"
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()
    if args.poll_s <= 0 or (args.watch and args.dry_run):
        raise UsageError("--poll-s must be over 0" if args.poll_s <= 0 else "--dry-run looks once: leave out --watch")
    from lib.platform.postgres import database
    from lib.release import catching_up

    workspace = Workspace.find()
    if args.watch:
        return watch(args, workspace)
    with database(workspace, "catch up", write=True) as connection:
        look = catching_up.preview if args.dry_run else catching_up.catch_up
        outcome = look(workspace, connection)
    cli.emit(args, outcome.to_dict(), outcome.to_text())
    return int(ExitCode.UNAVAILABLE if outcome.failed else ExitCode.DONE)


def watch(args: argparse.Namespace, workspace: Workspace) -> int:
    """Tells of the first pass and of each that brought something in; ends cleanly when it is interrupted."""
    from lib.release import catching_up

    try:
        for number, outcome in enumerate(catching_up.watch(workspace, poll_s=args.poll_s)):
            if number == 0 or outcome.failed or any(item["documents"] for item in outcome.releases):
                cli.emit(args, outcome.to_dict(), outcome.to_text())
    except KeyboardInterrupt:
        note("no longer watching")
    return int(ExitCode.DONE)


if __name__ == "__main__":
    cli.run(main)
