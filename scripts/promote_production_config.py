"""Move the pointer to the locked config's release, if it is exactly what was evaluated, gated and backed up.

Reads:   active_config.json, verdict.json, the backup's manifest, the database
Writes:  golive.pointer (one transaction), active_config.json
Refused (15) if anything differs from what the verdict was given for.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    return cli.parser(__doc__, dry_run=True)


def main() -> int:
    args = build_parser().parse_args()
    from lib.release import promotion

    outcome = promotion.promote_active(Workspace.find(), dry_run=args.dry_run)
    cli.emit(args, outcome.to_dict(), outcome.to_text())
    return 0


if __name__ == "__main__":
    cli.run(main)
