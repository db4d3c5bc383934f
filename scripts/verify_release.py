"""Verify a release's evidence: signatures, the digest of every file, and the chain from verdict to evaluation to manifest.

Reads:   metrics/golive/<release_id>/ (or --evidence DIR), the cases, the database,
         configs/signing/*.pub (or GOLIVE_VERIFY_KEY, GOLIVE_VERIFY_KEY_FILE)
Writes:  nothing; with --export FILE the attestations as an in-toto bundle, one JSON document a line
Exits 0 if every check passes, 14 if one fails, 13 if one could not look. What is unsigned never passes by itself.
"""

import _preflight  # noqa: F401

import argparse
from contextlib import ExitStack
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import GoliveError
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("release_id", metavar="RELEASE_ID")
    parser.add_argument("--evidence", metavar="DIR", help="the folder (default: metrics/golive/RELEASE_ID)")
    parser.add_argument("--offline", action="store_true", help="do not look for a database; its checks are not made")
    parser.add_argument("--allow-unsigned", action="store_true", help="exit 0 although nothing is signed")
    parser.add_argument("--export", metavar="FILE", help="write the attestations here (name it *.intoto.jsonl)")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.files import write_bytes
    from lib.platform.postgres import database
    from lib.release import attesting, verification

    workspace = Workspace.find()
    folder = Path(args.evidence) if args.evidence else workspace.evidence(args.release_id)
    keys = attesting.trusted(workspace)
    connection, why = None, "not asked for (--offline)"
    with ExitStack() as stack:
        if not args.offline:
            try:
                connection = stack.enter_context(database(workspace, "verification"))
            except GoliveError as error:  # each check that needs it says so, and none of them passes
                why = f"no database: {error.message}"
        evidence = verification.Evidence(args.release_id, folder, workspace.root, keys, connection, why)
        checks = verification.verify(evidence)
        lines = [verification.to_text(checks)]
        if args.export:
            bundle, signed = verification.export(evidence)
            write_bytes(Path(args.export), bundle)
            lines.append(f"exported: {args.export}" + ("" if signed else " (UNSIGNED: bare Statements)"))
    code = verification.exit_code(checks, allow_unsigned=args.allow_unsigned)
    counts = verification.count(checks)
    lines.append(", ".join(f"{number} {verification.WORDS[status]}" for status, number in counts.items() if number))
    cli.emit(args, {"release_id": args.release_id, "checks": verification.as_dicts(checks), **counts}, "\n".join(lines))
    return int(code)


if __name__ == "__main__":
    cli.run(main)
