"""Measure a release with RAGChecker's eleven metrics, without judging it against anything.

Reads:   the live release (or --release ID), the cases, configs/evaluation.yaml, configs/deterministic_evaluation.env;
         where a model judges, the stored judgements (golive.judgements, judgements.jsonl beside the results)
Writes:  <outdir>/<release_id>/metrics.json, case_results.jsonl, ragchecker.json, answers.jsonl, timings.json,
         lessons.json;
         where a model judges, judgements.jsonl and golive.judgements
Equal inputs give equal bytes in all of them but timings.json and answers.jsonl.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import Refused
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    parser.add_argument("--outdir", metavar="DIR", help="where to write (default: metrics/baseline_evaluations)")
    parser.add_argument(
        "--release", metavar="ID", help="the release to measure (default: what is live, else the candidate)"
    )
    parser.add_argument("--use-bedrock", action="store_true", help="read and judge with Bedrock models")
    parser.add_argument(
        "--fresh-judging", action="store_true", help="ask models anew, and replace their stored judgements and answers"
    )
    parser.add_argument(
        "--bypass-cli", action="store_true", help="compute in this process, not by ragchecker's command line"
    )
    parser.add_argument(
        "--stable", action="store_true", help="refuse to run unless every deterministic setting is in force"
    )
    parser.add_argument("--lessons-mode", choices=("off", "advisory"), default="off")
    parser.add_argument("--lessons-scope", choices=("case", "profile", "global"), default="profile")
    parser.add_argument(
        "--lessons-window", metavar="N", type=int, default=5, help="look at the last N evaluations (default: 5)"
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.evaluation import settings as evaluation_settings
    from lib.platform.postgres import database
    from lib.release import measuring

    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    if args.stable and (problems := settings.determinism.problems()):
        raise Refused(
            "the settings are not deterministic",
            detail="; ".join(problems),
            hint="source configs/deterministic_evaluation.env",
        )
    request = measuring.Request(
        cases_path=Path(args.cases) if args.cases else workspace.default_cases,
        outdir=Path(args.outdir) if args.outdir else workspace.evaluations,
        release_id=args.release,
        bypass_cli=args.bypass_cli,
        lessons_scope=args.lessons_scope if args.lessons_mode == "advisory" else None,
        lessons_window=args.lessons_window,
        fresh_judging=args.fresh_judging,
    )
    with database(workspace, "ragchecker evaluation") as connection:
        if args.dry_run:
            asked, folder = measuring.plan(workspace, connection, settings, request)
            planned = {"release_id": asked.release.release_id, "cases": asked.cases.count, "folder": str(folder)}
            text = f"would measure {planned['release_id']} on {planned['cases']} cases and write {planned['folder']}"
            cli.emit(args, planned, text)
            return 0
        result = measuring.measure(workspace, connection, settings, request)
    cli.emit(args, result, measuring.to_text(result))
    return 0


if __name__ == "__main__":
    cli.run(main)
