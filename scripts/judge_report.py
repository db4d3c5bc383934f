"""Measure the offline judge: how far it agrees with people, beside token F1, lexical overlap and Llama3-70B.

Reads:   --pairs: pairs of answers rated by people (RAGChecker's human_labeled_pairs.json; Llama3's scores, where
         ragchecker_llama3_scores.json lies beside it); --claims: claims with evidence (WiCE's claim_dev.jsonl);
         configs/evaluation.yaml
Writes:  metrics/judge_report.json
Other files of the same form are measured the same way. Items are split by the hash of their key: the limits of the shipped
judge are those that the tuning half of RAGChecker's rated pairs picks, and the other half is held out. Of other files no
part was used for tuning.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace

_PAIRS = "../shared/data/ragchecker/human_labeled_pairs.json"  # beside the checkout, on some machines
_CLAIMS = "../shared/data/wice/claim_dev.jsonl"
_RESAMPLES = 2000
_SEED = 42


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("--pairs", metavar="FILE", help=f"rated pairs (default: {_PAIRS})")
    parser.add_argument("--claims", metavar="FILE", help=f"claims with evidence (default: {_CLAIMS})")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.evaluation import judge_report, judges, settings
    from lib.platform.files import write_json

    workspace = Workspace.find()
    pairs_path = Path(args.pairs) if args.pairs else workspace.root / _PAIRS
    claims_path = Path(args.claims) if args.claims else workspace.root / _CLAIMS
    pairs, reference = judge_report.read_pairs(pairs_path)
    claims = judge_report.read_claims(claims_path)
    (judge,) = judges.local_judges(workspace, settings.load(workspace))
    report = {
        "judge": judge.name,
        "read": {"pairs": pairs_path.name, "claims": claims_path.name},
        "resamples": _RESAMPLES,
        "pairs": judge_report.measure_pairs(judge, pairs, reference, resamples=_RESAMPLES, seed=_SEED),
        "claims": judge_report.measure_claims(judge, claims, resamples=_RESAMPLES, seed=_SEED),
    }
    path = workspace.root / "metrics" / "judge_report.json"
    write_json(path, report)
    cli.emit(args, report, f"{judge_report.to_text(report)}\nwritten: {workspace.show(path)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
