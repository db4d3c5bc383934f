"""Metrics over releases: every verdict in time order, and where the cases or the judge changed.

Reads:   golive.verdicts, golive.releases, metrics/golive/*/verdict.json
Writes:  with --plot FILE an SVG; else nothing
A metric that was not measured is a gap. Where the cases or the judge changed, what follows is marked as not comparable.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("--metric", metavar="NAME", action="append", default=[], help="show this one (again for more)")
    parser.add_argument("--plot", metavar="FILE", help="draw them into this SVG file")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.postgres import database
    from lib.release import history

    workspace = Workspace.find()
    with database(workspace, "history") as connection:
        points = history.read(workspace, connection)
    metrics = history.named(points, args.metric)
    result, lines = history.to_dict(points), [history.to_text(points, metrics)]
    if args.plot and points and metrics:
        history.write_svg(Path(args.plot), points, metrics)
        result["plot"] = args.plot
        lines.append(f"plot: {args.plot}")
    cli.emit(args, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
