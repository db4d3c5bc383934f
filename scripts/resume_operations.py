"""Answer queries again, if what the pointer names is what was sealed and answers; readers get their rights back.

Reads:   everything that validate_rollback.py reads
Writes:  golive.traffic, the grants that the stop took, the audit log
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--reason", default="resumed by hand", help="why; kept in the audit log")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.postgres import database
    from lib.release import traffic

    workspace = Workspace.find()
    with database(workspace, "resume", write=True) as connection:
        before = traffic.read(connection)
        live, generation = traffic.validate_live(workspace, connection)
        after = before if args.dry_run else traffic.resume(connection, args.reason, generation=generation)
    again = " already" if before.state == "open" else ""
    verb = "would be answered" if args.dry_run else f"are answered{again}"
    text = f"queries {verb}: {live['release_id']}, {live['rows']} rows, digest {live['digest'][:12]}"
    cli.emit(args, {"before": before.to_dict(), "after": after.to_dict(), "live": live}, text)
    return 0


if __name__ == "__main__":
    cli.run(main)
