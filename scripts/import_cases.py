"""Bring a public collection in as a corpus folder and a case file, ready for make golive CORPUS=... CASES=...

Reads:   a BEIR folder (corpus.jsonl, queries.jsonl, qrels/), a SQuAD JSON file, or a RAGChecker JSON file
Writes:  <out>/corpus/, <out>/cases.json
Nothing is written if anything is wrong with the input; the folder must not exist yet.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("kind", choices=("beir", "squad", "ragchecker"), help="what the input is")
    parser.add_argument("input", metavar="PATH", help="the folder or file")
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write")
    parser.add_argument(
        "--name", metavar="NAME", help="the corpus folder's name, and so its source (default: the input's name)"
    )
    parser.add_argument("--split", default="test", help="of a BEIR folder's qrels (default: test)")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.evaluation import imports

    source, out = Path(args.input), Path(args.out)
    collection = imports.read(args.kind, source, split=args.split)
    name = args.name or source.stem
    imports.check_target(out, name)
    result = {
        "documents": len(collection.documents),
        "cases": len(collection.cases),
        "left_out": collection.left_out,
        "corpus": str(out / name),
        "case_file": str(out / "cases.json"),
        "applied": not args.dry_run,
    }
    if not args.dry_run:
        imports.write(collection, out, name)
    lines = [f"left out {reason}: {count}" for reason, count in collection.left_out.items()]
    verb = "would write" if args.dry_run else "written"
    lines.append(
        f"{verb}: {result['documents']} documents in {result['corpus']}, {result['cases']} cases in {result['case_file']}"
    )
    if not args.dry_run:
        lines.append(f"next: make golive CORPUS={result['corpus']} CASES={result['case_file']}")
    cli.emit(args, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
