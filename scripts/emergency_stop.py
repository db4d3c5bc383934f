"""Refuse all queries at once, for every client: golive.route() refuses, and readers may not read chunk tables any more.

Writes:  golive.traffic (survives a restart of the database), golive.stopped_grants and the grants, the audit log
Exits:   13 where --drain or --force left queries in flight; queries are stopped all the same
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.errors import ExitCode, UsageError
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--reason", default="emergency stop", help="why; every refused query is told")
    parser.add_argument("--drain", type=float, metavar="SECONDS", help="wait so long for the queries in flight")
    parser.add_argument("--force", action="store_true", help="end the queries that are in flight then, or at once")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    if args.drain is not None and not 0 <= args.drain <= 86400:
        raise UsageError("--drain takes seconds, from 0 to 86400")
    from lib.platform.commit import alive
    from lib.platform.postgres import address, database
    from lib.release import traffic

    workspace, ended, left = Workspace.find(), 0, []
    with database(workspace, "emergency stop", write=True) as connection:
        before = traffic.read(connection)
        after = before if args.dry_run else traffic.stop(connection, args.reason)
        if args.drain is not None or args.force:
            with alive(connection, address(workspace)) as still:
                left = traffic.in_flight(still)
                if left and not args.dry_run:
                    ended, left = traffic.drain(still, args.drain or 0, force=args.force)
    verb = "would be stopped" if args.dry_run else "stopped"
    again = (
        f" (stopped already since {before.to_dict()['changed_at']}: {before.reason})" if before.state == "stopped" else ""
    )
    flight = f"; {ended} in flight were ended, {len(left)} still are: --drain SECONDS, --force" if ended or left else ""
    sessions = [{**session, "since": str(session["since"])} for session in left]
    result = {"before": before.to_dict(), "after": after.to_dict(), "ended": ended, "in_flight": sessions}
    cli.emit(args, result, f"queries {verb}{again}{flight}")
    return int(ExitCode.UNAVAILABLE) if left and not args.dry_run else 0


if __name__ == "__main__":
    cli.run(main)
