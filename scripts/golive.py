"""Go live: run the steps of a release in order, skip what still holds, stop at the first that does not pass.

Reads:   configs/candidate.yaml, a corpus folder, a case file, the receipts of an earlier run
Writes:  what the steps write; metrics/golive/<release_id>/run.json, report.html, report.md and junit.xml; under
         GitHub Actions annotations and the job's summary
Exits with the code of the step that stopped it, or 0. --dry-run says which steps would be done and which still hold.
Run again, it goes on from there; with nothing to do, it says so.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("steps", metavar="STEP", nargs="+", help="the steps in order (the Makefile names them)")
    parser.add_argument("--corpus", metavar="DIR", help="the documents to release (default: eval/corpus)")
    parser.add_argument("--cases", metavar="FILE", help="the cases to judge by (default: eval/test_cases.json)")
    parser.add_argument("--use-bedrock", action="store_true", help="read and judge with Bedrock models")
    parser.add_argument(
        "--fresh-judging", action="store_true", help="ask models anew, and replace their stored judgements and answers"
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from dataclasses import replace

    from lib.platform.postgres import database
    from lib.release import exports, golive, locking, steps

    workspace = Workspace.find()
    chosen = steps.find(args.steps)
    candidate = locking.read_candidate(workspace)
    asked = golive.read_input(workspace, corpus=args.corpus, cases=args.cases)
    with database(workspace, "golive", write=True) as connection:
        sources = candidate.layered.values["sources"]
        options = golive.options_for(workspace, connection, asked, sources, args.use_bedrock)
        options = replace(options, fresh_judging=args.fresh_judging)
        carry_out = golive.preview if args.dry_run else golive.run
        outcome = carry_out(workspace, connection, options, chosen)
    cli.emit(args, outcome.to_dict(), golive.to_text(outcome))
    if outcome.report:
        exports.tell_github(workspace.evidence(str(outcome.release_id)), str(outcome.release_id), quiet=args.json)
    return outcome.exit_code


if __name__ == "__main__":
    cli.run(main)
