"""What is live, since when, whether it answers queries, what the scripts are working on, and what is behind the documents.

Reads:   golive.pointer, golive.traffic, golive.releases, golive.document_changes, active_config.json
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    return cli.parser(__doc__)


def main() -> int:
    args = build_parser().parse_args()
    from lib.config import store
    from lib.index.releases import read_pointer
    from lib.platform.clock import age, now, timestamp
    from lib.platform.errors import NotFound
    from lib.platform.postgres import database
    from lib.release import catching_up, traffic

    workspace = Workspace.find()
    with database(workspace, "status") as connection:
        queries = traffic.read(connection)
        with connection:
            pointer = read_pointer(connection)
        kept = catching_up.status_of(workspace, connection)
    try:
        active = store.read_active(workspace).ingest_run_id
    except NotFound:
        active = None
    live = pointer.release
    result = {
        "live": live.release_id if live else None,
        "table": live.table_name if live else None,
        "rows": live.row_count if live else None,
        "generation": pointer.generation,
        "since": timestamp(pointer.moved_at),
        "by": pointer.moved_by,
        "reason": pointer.reason,
        "traffic": queries.to_dict(),
        "active_config": active,
        "kept": kept,
    }
    lines = [
        f"live:    {result['live'] or 'nothing'} (generation {pointer.generation},"
        f" {age(pointer.moved_at, now())} ago, {pointer.reason})",
        f"queries: {queries.state}" + (f", {queries.reason} ({queries.changed_by})" if queries.state == "stopped" else ""),
        f"locked:  {active or 'nothing'}",
        *catching_up.status_text(kept),
    ]
    cli.emit(args, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
