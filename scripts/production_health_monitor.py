"""Health of what is live: config, retrieval, quality of the last evaluation, latency and drift of the last queries.

Reads:   the database (pointer, chunk table, golive.query_logs, golive.verdicts), configs/monitoring.yaml
Exits 0 if healthy, 3 if not. What has no data is null and never counts as healthy.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.errors import ExitCode
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    return cli.parser(__doc__)


def main() -> int:
    args = build_parser().parse_args()
    from lib.operations import monitoring
    from lib.platform.clock import now
    from lib.platform.postgres import database

    workspace = Workspace.find()
    with database(workspace, "monitor") as connection:
        found = monitoring.look(workspace, connection, now())
    cli.emit(args, found, monitoring.to_text(found))
    return int(ExitCode.DONE if found["overall_healthy"] else ExitCode.FAIL)


if __name__ == "__main__":
    cli.run(main)
