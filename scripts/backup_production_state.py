"""Back up what is live and the sealed candidate, and prove the backup by really restoring it.

Reads:   chunk tables, documents, pointer and release tables (one snapshot), locked and active configs, gates
Writes:  .local/backups/<backup_id>/ (visible only when complete and proven), golive.backups, and a copy on each target of
         configs/backup.yaml that is required; where one of those fails it exits with 13, and the backup here stays
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    return cli.parser(__doc__, dry_run=True)


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.lease import lease
    from lib.platform.postgres import address, database
    from lib.release import backup, backup_targets

    workspace = Workspace.find()
    with database(workspace, "backup", write=True) as connection:
        if args.dry_run:
            plan = backup.plan_backup(workspace, connection)
            text = "\n".join(f"would back up {role} table {r.table_name}: {r.row_count} rows" for role, r in plan.held)
            cli.emit(args, plan.to_dict(), f"{text}\nit would restore {plan.restores.release_id}: {plan.why}")
            return 0
        with lease(address(workspace), "backup_production_state"):
            made = backup.create(workspace, connection)
    copies = backup_targets.copy_to_all(workspace, made)
    manifest = made.manifest
    lines = [f"backup {made.backup_id}: {made.bytes / 1e6:.1f} MB in {workspace.show(made.folder)}"]
    lines += [f"  {t['role']} {t['release_id']}: {t['rows']} rows, digest {t['digest'][:12]}" for t in manifest["tables"]]
    lines.append(f"  proven: restored into fresh tables with equal digests in {manifest['proven']['seconds']:.2f} s")
    lines.append(f"  restores {manifest['restores']['release_id']} ({manifest['restores']['why']})")
    lines += [*backup.recovery_lines(manifest), *map(backup_targets.report_text, copies)]
    cli.emit(args, {"backup_id": made.backup_id, "bytes": made.bytes, "copies": copies, **manifest}, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
