"""Measure the gate's own error rates on a release: built twice unchanged, and with six regressions planted on purpose.

Reads:   the release's locked config (what is live, else the active one), its documents, the cases, configs/gates.yaml,
         configs/evaluation.yaml, configs/deterministic_evaluation.env
Writes:  metrics/calibration/<release_id>.json and the embedding cache; every table is temporary, nothing is promoted
Exits with 0 where the unchanged release passes and every planted regression (at least one) is stopped, else
with 3.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import ExitCode
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    parser.add_argument("--release", metavar="ID", help="the release (default: what is live, else the active config's)")
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="plant this regression alone; may be given again"
    )
    parser.add_argument("--use-bedrock", action="store_true", help="read and judge with Bedrock models")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.evaluation import settings as evaluation_settings
    from lib.platform.postgres import database
    from lib.release import calibration

    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    cases_path = Path(args.cases) if args.cases else workspace.default_cases
    with database(workspace, "gate calibration") as connection:
        planned = calibration.plan(
            workspace, connection, settings, cases_path=cases_path, release_id=args.release, only=args.only
        )
        if args.dry_run:
            cli.emit(args, planned.to_dict(), planned.to_text())
            return int(ExitCode.DONE)
        found = calibration.calibrate(workspace, connection, planned)
    cli.emit(args, found, calibration.to_text(found))
    return int(ExitCode.DONE if calibration.passed(found) else ExitCode.FAIL)


if __name__ == "__main__":
    cli.run(main)
