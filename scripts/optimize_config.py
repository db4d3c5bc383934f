"""Search for a better config: chunking, prefix policy, retrieval and rerank settings, by quality, latency and index size.

Reads:   configs/candidate.yaml (the base), configs/search.yaml (what may change, limits, budget), the documents in the
         database, the cases, configs/gates.yaml, configs/evaluation.yaml, configs/deterministic_evaluation.env
Writes:  metrics/optimize/<study>/: candidates/NN.yaml, pareto.svg, pareto.json, trials.jsonl, held_out/; and the
         embedding cache. Every table is temporary; nothing is locked or promoted.
The search asks the training cases alone. The best config of the front is then judged by the gate on cases about other
documents, beside the base. Exits with that verdict: 0 PASS, 3 FAIL, 4 INCONCLUSIVE (also where nothing better was found),
13 ERROR. The same command goes on with a search that was interrupted.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import VERDICT_CODES, ExitCode
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--trials", type=int, metavar="N", help="configs to try (default: configs/search.yaml)")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds after which no trial begins (default: as above)"
    )
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the sampler (default: RANDOM_SEED)")
    parser.add_argument("--study", metavar="NAME", help="folder of the study (default: a digest of all that decides it)")
    parser.add_argument("--use-bedrock", action="store_true", help="read and judge with Bedrock models")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.evaluation import settings as evaluation_settings
    from lib.platform.postgres import database
    from lib.release import optimizing, optimizing_files

    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    with database(workspace, "config search") as connection:
        planned = optimizing.plan(
            workspace,
            connection,
            settings,
            cases_path=Path(args.cases) if args.cases else workspace.default_cases,
            trials=args.trials,
            timeout_s=args.timeout,
            seed=args.seed,
            study=args.study,
        )
        if args.dry_run:
            cli.emit(args, planned.to_dict(workspace), planned.to_text(workspace))
            return int(ExitCode.DONE)
        found = optimizing.optimize(workspace, connection, planned)
    content = optimizing_files.write(workspace, planned, found)
    cli.emit(args, content, optimizing_files.to_text(workspace, planned, found))
    return int(VERDICT_CODES[found.word])


if __name__ == "__main__":
    cli.run(main)
