"""Evaluate the locked config's release against what is live, on the same cases, and gate it.

Reads:   active_config.json, the sealed shadow table, the live table, the cases, configs/evaluation.yaml,
         configs/gates.yaml, configs/deterministic_evaluation.env, a model's stored judgements
Writes:  metrics/golive/<release_id>/evaluation/, verdict.json, verdict.txt, report.html, report.md, junit.xml,
         golive.verdicts, golive.judgements; under GitHub Actions annotations and the job's summary
Exits with the verdict: 0 PASS, 3 FAIL, 4 INCONCLUSIVE, 13 ERROR. With --skip-ingest and --skip-eval it only checks the
environment that an evaluation would run in.
With --manifest FILE it runs that manifest's evaluation again, into metrics/golive/<release_id>/reproduced/<time>/, and
compares: 0 the same metrics, 14 others, or something that decides them has changed; 4 nothing was recorded to compare with.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import VERDICT_CODES, ExitCode, UsageError
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    parser.add_argument("--skip-ingest", action="store_true", help="do not build the shadow table first")
    parser.add_argument("--skip-eval", action="store_true", help="do not evaluate")
    parser.add_argument("--manifest", metavar="FILE", help="run the evaluation of this manifest again, and compare")
    parser.add_argument("--outdir", metavar="DIR", help="with --manifest: where to write")
    parser.add_argument("--use-bedrock", action="store_true", help="read and judge with Bedrock models")
    parser.add_argument("--fresh-judging", action="store_true", help="ask models anew, and replace their stored replies")
    parser.add_argument("--no-report", action="store_true", help="leave the report to whoever runs this as a step")
    return parser


def reproduce(args: argparse.Namespace) -> int:
    from lib.platform.postgres import database
    from lib.platform.progress import note
    from lib.release import reproducing

    if args.skip_ingest or args.skip_eval or args.use_bedrock:
        raise UsageError("--manifest says all by itself: only --cases, --outdir, --dry-run and --json go with it")
    workspace = Workspace.find()
    cases, outdir = (Path(name) if name else None for name in (args.cases, args.outdir))
    with database(workspace, "reproduction") as connection:
        planned = reproducing.plan(workspace, connection, Path(args.manifest), cases_path=cases, outdir=outdir)
        note(planned.to_text())
        if args.dry_run:
            text = "\n".join(planned.refusals or [f"would evaluate it again into {workspace.show(planned.folder)}"])
            cli.emit(args, planned.to_dict(), text)
            return int(ExitCode.INTEGRITY if planned.refusals else ExitCode.DONE)
        found = reproducing.reproduce(workspace, connection, planned)
    cli.emit(args, {**planned.to_dict(), **found.to_dict()}, f"{planned.to_text()}\n{found.to_text(workspace)}")
    return int(found.exit_code)


def main() -> int:
    args = build_parser().parse_args()
    if args.manifest:
        return reproduce(args)
    if args.outdir:
        raise UsageError("--outdir goes with --manifest")
    from lib.evaluation import settings as evaluation_settings
    from lib.platform.lease import lease
    from lib.platform.postgres import address, database
    from lib.release import assessment, health, ingesting, report

    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    cases_path = Path(args.cases) if args.cases else workspace.default_cases
    environment = health.check_environment(workspace, settings)
    if environment.status != "PASS":
        cli.emit(args, {"checks": [environment.to_dict()]}, health.to_text([environment]))
        return int(VERDICT_CODES[environment.status])
    result: dict[str, object] = {"checks": [environment.to_dict()]}
    lines, code, built = [health.to_text([environment])], 0, True
    with database(workspace, "evaluation", write=True) as connection, lease(address(workspace), "production_evaluation"):
        if not args.skip_ingest:
            outcome = (ingesting.preview if args.dry_run else ingesting.ingest)(workspace, connection)
            result["ingest"], built = outcome, outcome["reused"] or outcome["applied"]
            lines.append(ingesting.to_text(outcome))
        if args.dry_run and built and not args.skip_eval:
            planned = assessment.plan(workspace, connection, cases_path=cases_path, settings=settings)
            result["plan"] = planned.to_dict()
            lines.append(planned.to_text())
        elif not (args.skip_eval or args.dry_run):
            found = assessment.assess(
                workspace, connection, cases_path=cases_path, settings=settings, fresh_judging=args.fresh_judging
            )
            result["verdict"], code = found.content, int(VERDICT_CODES[found.verdict])
            lines.append(found.to_text(workspace))
            if not args.no_report:
                result["report"] = report.publish(workspace, connection, found.release_id, quiet=args.json)
                lines.append(f"report: {result['report']}")
    cli.emit(args, result, "\n".join(lines))
    return code


if __name__ == "__main__":
    cli.run(main)
