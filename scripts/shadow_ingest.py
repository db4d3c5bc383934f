"""Build the shadow table of the locked config: chunk, deduplicate, embed, load, index, check its recall, seal.

Reads:   configs/locked_configs/active_config.json, configs/index.yaml (EXECUTOR=... goes over it), documents, cases
Writes:  the table document_chunks_<chunk_version>, golive.releases, metrics/golive/<release_id>/receipts/ingest.json
Killed and run again, it goes on where it was. Production is not touched.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--cases", metavar="FILE", help="whose questions measure recall (default: eval/test_cases.json)")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.lease import lease
    from lib.platform.postgres import address, database
    from lib.release import ingesting

    workspace = Workspace.find()
    with database(workspace, "shadow ingest", write=True) as connection:
        if args.dry_run:
            outcome = ingesting.preview(workspace, connection)
        else:
            with lease(address(workspace), "shadow_ingest"):
                cases = Path(args.cases) if args.cases else None
                outcome = ingesting.ingest(workspace, connection, cases)
    cli.emit(args, outcome, ingesting.to_text(outcome))
    return 0


if __name__ == "__main__":
    cli.run(main)
