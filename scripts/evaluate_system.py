"""Evaluate a RAG system of your own, an HTTP endpoint or a command, and gate it against an earlier evaluation.

Reads:   configs/evaluation.yaml (system) or --system FILE with such a block, configs/gates.yaml, the cases, the baseline's
         folder; with --corpus a folder of documents, with --sources the database's, in which the gold quotes are looked up
Writes:  metrics/systems/<name>/evaluation/, verdict.json, verdict.txt, report.html, report.md, junit.xml; under GitHub
         Actions annotations and the job's summary. Nothing in a database, which it does without: a verdict on a system
         is in no audit log, even where a database could be reached. A signing key signs it.
A question goes out as {"query_id", "query"}; the answer is documented in configs/schemas/system_reply.schema.json.
Exits with the verdict: 0 PASS, 3 FAIL, 4 INCONCLUSIVE, 13 ERROR. With --dry-run it asks one question and writes nothing.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import VERDICT_CODES, ExitCode
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--system", metavar="FILE", help="YAML with a system: block, in place of the config's")
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    parser.add_argument("--baseline", metavar="DIR", help="an earlier evaluation of the same cases to compare with")
    parser.add_argument("--outdir", metavar="DIR", help="where to write (default: metrics/systems/<name>)")
    gold = parser.add_mutually_exclusive_group()
    gold.add_argument("--corpus", metavar="DIR", help="the documents that hold the gold quotes")
    gold.add_argument("--sources", metavar="NAME,...", help="the same, as sources of the database")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--url", help="the endpoint to ask, in place of the config's system")
    asked.add_argument("--command", metavar="LINE", help="the command to ask, in place of the config's system")
    parser.add_argument("--name", help="stands beside the numbers (default: system.name in configs/evaluation.yaml)")
    parser.add_argument("--use-bedrock", action="store_true", help="judge with a Bedrock model")
    parser.add_argument(
        "--fresh-judging", action="store_true", help="judge anew, and replace the stored judgements of a model"
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from contextlib import closing, nullcontext

    from lib.evaluation import settings as evaluation_settings
    from lib.evaluation import system_settings
    from lib.platform.postgres import database
    from lib.release import report, system_assessment

    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    values = system_settings.chosen(settings, file=args.system, url=args.url, command=args.command, name=args.name)
    sources = tuple(filter(None, (args.sources or "").split(",")))
    with database(workspace, "system evaluation") if sources else nullcontext() as connection:
        corpus = Path(args.corpus) if args.corpus else None
        documents = system_assessment.documents_of(corpus, sources, connection)
    planned = system_assessment.plan(
        workspace,
        settings,
        cases_path=Path(args.cases) if args.cases else workspace.default_cases,
        documents=documents,
        baseline=Path(args.baseline) if args.baseline else None,
        fresh_judging=args.fresh_judging,
        folder=Path(args.outdir) if args.outdir else workspace.root / "metrics" / "systems" / values["name"],
    )
    with closing(system_settings.make_system(workspace, values)) as system:
        if args.dry_run:
            tried = system_assessment.try_out(system, planned)
            cli.emit(args, tried, system_assessment.tried_text(tried))
            return int(ExitCode.UNAVAILABLE if tried["problem"] else ExitCode.DONE)
        found = system_assessment.assess(workspace, system, planned)
    page = report.publish_system(workspace, found.folder, quiet=args.json)
    cli.emit(args, {"verdict": found.content, "report": page}, f"{found.to_text(workspace)}\nreport: {page}")
    return int(VERDICT_CODES[found.verdict])


if __name__ == "__main__":
    cli.run(main)
