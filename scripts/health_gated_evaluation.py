"""Look whether everything that an evaluation stands on is really there, and evaluate only then.

Gates:   environment, database connectivity (a query and a write), index presence, token budget, prefix leakage (every row),
         model availability (a real call to each model)
Reads:   active_config.json, the sealed shadow table, documents, configs/
Writes:  metrics/golive/<release_id>/receipts/health.json; without --check-only, what production_evaluation.py writes;
         with --dry-run nothing
Exits 0 if all pass, 3 if one fails, 13 if one could not look; else with the evaluation's verdict.
"""

import _preflight  # noqa: F401

import argparse
import time
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import VERDICT_CODES
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--check-only", action="store_true", help="stop after the gates")
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    parser.add_argument("--use-bedrock", action="store_true", help="read and judge with Bedrock models")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.config import store
    from lib.evaluation import settings as evaluation_settings
    from lib.index.releases import get_release
    from lib.platform.lease import lease
    from lib.platform.postgres import address, database
    from lib.release import assessment, health, receipts, report

    started = time.monotonic()
    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    with database(workspace, "health gates") as connection:
        with connection:
            release = get_release(connection, store.read_active(workspace).ingest_run_id)
        checks = health.check_all(workspace, connection, release, settings)
        status = health.overall(checks)
        result: dict[str, object] = {
            "release_id": release.release_id,
            "status": status,
            "checks": [c.to_dict() for c in checks],
        }
        if not args.dry_run:
            receipts.write(
                workspace,
                release.release_id,
                "health",
                outcome=status,
                inputs={"content_digest": release.content_digest, "settings_digest": settings.digest},
                summary={"checks": [check.to_dict() for check in checks]},
                seconds=time.monotonic() - started,
            )
        lines = [health.to_text(checks), f"{status}: health gates of {release.release_id}"]
        if status == "PASS" and not (args.check_only or args.dry_run):
            cases_path = Path(args.cases) if args.cases else workspace.default_cases
            with lease(address(workspace), "health_gated_evaluation"):
                found = assessment.assess(workspace, connection, cases_path=cases_path, settings=settings)
            result["verdict"], status = found.content, found.verdict
            result["report"] = report.publish(workspace, connection, found.release_id, quiet=args.json)
            lines += [found.to_text(workspace), f"report: {result['report']}"]
    cli.emit(args, result, "\n".join(lines))
    return int(VERDICT_CODES[status])


if __name__ == "__main__":
    cli.run(main)
