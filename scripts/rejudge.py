"""Judge the answers of an evaluation again, out of the stored judgements or afresh, and compare with what was recorded.

Reads:   the evaluation's folder (default: the active release's), configs/evaluation.yaml, golive.judgements
Writes:  golive.judgements, where a model had to be asked; nothing in the folder
Exits 14 where claims, labels or metrics are not what was recorded, 13 where an answer could not be judged. With
--fresh-judging a difference is the judge's noise, which is shown.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import ExitCode
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--folder", metavar="DIR", help="the evaluation (default: the active release's evidence)")
    parser.add_argument("--use-bedrock", action="store_true", help="the judge was a Bedrock model")
    parser.add_argument(
        "--fresh-judging", action="store_true", help="judge anew, and replace the stored judgements of a model"
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.config import store
    from lib.evaluation import rejudging
    from lib.evaluation import settings as evaluation_settings
    from lib.platform.postgres import database

    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    active = None if args.folder else store.read_active(workspace).ingest_run_id
    folder = Path(args.folder) if active is None else workspace.evidence(active) / "evaluation"
    audit_file = folder.parent / "prompt_audit.jsonl"
    if args.dry_run:
        planned = rejudging.plan(folder)
        cli.emit(args, planned, f"would judge {planned['cases']} answers again, which {planned['judge']} judged")
        return 0
    with database(workspace, "rejudge"):
        found = rejudging.rejudge(workspace, settings, folder, fresh=args.fresh_judging, audit_file=audit_file)
    cli.emit(args, found.to_dict(), found.to_text())
    if found.differs and not args.fresh_judging:
        return int(ExitCode.INTEGRITY)
    return int(ExitCode.UNAVAILABLE if found.lost else ExitCode.DONE)


if __name__ == "__main__":
    cli.run(main)
