"""Write a release's report anew from its evidence: report.html, report.md and junit.xml.

Reads:   metrics/golive/<release_id>/, metrics/calibration/, golive.releases, golive.pointer, the cases; with --system DIR
         that folder of scripts/evaluate_system.py alone, and no database
Writes:  report.html, report.md and junit.xml there; under GitHub Actions the job's summary
Exits 0 once they are written, whatever the verdict in them. Whatever evaluates or goes live writes them too.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--release-id", metavar="ID", help="the release (default: that of the active config)")
    which.add_argument("--system", metavar="DIR", help="a system of your own: the folder that its verdict stands in")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.release import report

    workspace = Workspace.find()
    if args.system:
        found = {"system": args.system}
        folder = report.require_system(Path(args.system))
        if not args.dry_run:
            report.publish_system(workspace, folder, quiet=args.json)
    else:
        from lib.config import store
        from lib.index.releases import get_release
        from lib.platform.postgres import database

        release_id = args.release_id or store.read_active(workspace).ingest_run_id
        found, folder = {"release_id": release_id}, workspace.evidence(release_id)
        with database(workspace, "report") as connection:
            with connection:
                get_release(connection, release_id)
            if not args.dry_run:
                report.publish(workspace, connection, release_id, quiet=args.json)
    files = [workspace.show(folder / name) for name in report.FILES]
    verb = "would write" if args.dry_run else "written"
    cli.emit(args, {**found, "files": files, "applied": not args.dry_run}, f"{verb}: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
