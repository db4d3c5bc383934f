"""Refuse all queries at once, through the database, for every client that uses the retriever.

Writes:  golive.traffic (survives a restart of the database), the audit log
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--reason", default="emergency stop", help="why; every refused query is told")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.postgres import database
    from lib.release import traffic

    with database(Workspace.find(), "emergency stop", write=True) as connection:
        before = traffic.read(connection)
        after = before if args.dry_run else traffic.stop(connection, args.reason)
    verb = "would be stopped" if args.dry_run else "stopped"
    again = (
        f" (stopped already since {before.to_dict()['changed_at']}: {before.reason})" if before.state == "stopped" else ""
    )
    cli.emit(args, {"before": before.to_dict(), "after": after.to_dict()}, f"queries {verb}{again}")
    return 0


if __name__ == "__main__":
    cli.run(main)
