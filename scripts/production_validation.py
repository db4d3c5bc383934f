"""Walk the go-live checklist: each item checked (with evidence), attested by a person, failed, or missing.

Reads:   configs/checklist.yaml, configs/attestations.yaml, the receipts of the release, the database
Writes:  metrics/golive/<release_id>/receipts/validate.json
Exits 3 if an item that blocks is failed or missing. Without --full-check only the items that block are walked.
"""

import _preflight  # noqa: F401

import argparse
import time
from pathlib import Path

from lib.platform import cli
from lib.platform.errors import ExitCode
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--full-check", action="store_true", help="walk every item, not only those that block")
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.config import store
    from lib.index.releases import get_release
    from lib.platform.clock import now
    from lib.platform.postgres import database
    from lib.release import checklist, receipts

    started = time.monotonic()
    workspace = Workspace.find()
    with database(workspace, "validation") as connection:
        with connection:
            release = get_release(connection, store.read_active(workspace).ingest_run_id)
        cases_path = Path(args.cases) if args.cases else workspace.default_cases
        items = checklist.walk(checklist.Context(workspace, connection, release, cases_path, now()))
    shown = items if args.full_check else [item for item in items if item.blocking]
    summary = checklist.as_summary(items)
    blocking = checklist.blocking_items(summary)
    if not args.dry_run:
        receipts.write(
            workspace,
            release.release_id,
            "validate",
            outcome="FAIL" if blocking else "PASS",
            inputs={"content_digest": release.content_digest},
            summary=summary,
            seconds=time.monotonic() - started,
        )
    verdict = f"FAIL: {', '.join(blocking)} block" if blocking else "PASS: nothing that blocks is missing"
    result = {"release_id": release.release_id, "blocking": blocking, **checklist.as_summary(shown)}
    cli.emit(args, result, f"{checklist.to_text(shown)}\n{verdict}")
    return int(ExitCode.FAIL if blocking else ExitCode.DONE)


if __name__ == "__main__":
    cli.run(main)
