"""Compare two releases, was and is, on the same cases: settings, metrics with paired differences, and every case.

Reads:   metrics/golive/*/evaluation/ and baseline/, configs/locked_configs/history/, configs/gates.yaml, the cases
Writes:  with --html FILE that page; else nothing
Exits 0 once it has compared: it gives no verdict. A part of a release's name will do. Evaluations of different cases, or by
different judges, are refused.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("before", metavar="A", help="the release that was")
    parser.add_argument("now", metavar="B", help="the release that is; + in a difference says that it is better")
    parser.add_argument("--html", metavar="FILE", help="write a page with every case, was and is")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.files import write_text
    from lib.release import comparing, report

    workspace = Workspace.find()
    found = comparing.compare(workspace, args.before, args.now)
    result, lines = found.to_dict(), [comparing.to_text(found)]
    if args.html:
        write_text(Path(args.html), report.comparison_page(found))
        result["html"] = args.html
        lines.append(f"page: {args.html}")
    cli.emit(args, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
