"""The database that Golive works on: DATABASE_URL, or the embedded PostgreSQL under .local/.

url prints its address (without the password), shell opens psql on it, stop stops the embedded server.
"""

import _preflight  # noqa: F401

import argparse
import os
import subprocess

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("action", choices=("url", "shell", "stop"))
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform import embedded
    from lib.platform.postgres import address, client_environment

    workspace = Workspace.find()
    if args.action == "stop":
        stopped = embedded.stop(workspace)
        cli.emit(args, {"stopped": stopped}, "stopped" if stopped else "the embedded PostgreSQL is not running")
        return 0
    url = address(workspace)
    if args.action == "url":
        cli.emit(args, {"url": url}, url)
        return 0
    return subprocess.call([str(embedded.client("psql"))], env={**os.environ, **client_environment(url)})


if __name__ == "__main__":
    cli.run(main)
