"""Write a release's report anew from its evidence: report.html, report.md and junit.xml.

Reads:   metrics/golive/<release_id>/, golive.releases, golive.pointer, the cases
Writes:  metrics/golive/<release_id>/report.html, report.md, junit.xml; under GitHub Actions the job's summary
Exits 0 once they are written, whatever the verdict in them. make golive writes them too.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--release-id", metavar="ID", help="the release (default: that of the active config)")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.config import store
    from lib.index.releases import get_release
    from lib.platform.postgres import database
    from lib.release import exports, report

    workspace = Workspace.find()
    release_id = args.release_id or store.read_active(workspace).ingest_run_id
    with database(workspace, "report") as connection:
        with connection:
            get_release(connection, release_id)
        if not args.dry_run:
            report.write(workspace, connection, release_id)
    files = [workspace.show(workspace.evidence(release_id) / name) for name in report.FILES]
    verb = "would write" if args.dry_run else "written"
    cli.emit(args, {"release_id": release_id, "files": files, "applied": not args.dry_run}, f"{verb}: {', '.join(files)}")
    if not args.dry_run:
        exports.tell_github(workspace, release_id, quiet=args.json)
    return 0


if __name__ == "__main__":
    cli.run(main)
