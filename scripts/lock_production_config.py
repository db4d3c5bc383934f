"""Freeze the candidate config: version, tokenizer and weights hashes, baseline metrics; immutable from then on.

Reads:   configs/candidate.yaml (and configs/candidate.<env>.yaml), over it the environment variables CHUNK_SIZE,
         OVERLAP_RATIO, JACCARD_THRESHOLD, PREFIX_POLICY, over both the flags
Writes:  configs/locked_configs/history/<chunk_version>.json (once), configs/locked_configs/active_config.json,
         golive.releases; with --generate-runbook also configs/locked_configs/runbook-<chunk_version>.md
Locking the same config over the same documents again gives the config that was locked before.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--config", metavar="FILE", help="the candidate (default: configs/candidate.yaml)")
    parser.add_argument("--chunk-size", metavar="TOKENS")
    parser.add_argument("--overlap-ratio", metavar="SHARE")
    parser.add_argument("--jaccard-threshold", metavar="J")
    parser.add_argument("--prefix-policy", metavar="A|B")
    parser.add_argument(
        "--embedder", metavar="NAME", help="a name in configs/embedders.yaml, a folder, or a Hugging Face name"
    )
    parser.add_argument("--source", metavar="NAME", action="append", help="index this synced source (repeatable)")
    parser.add_argument("--generate-runbook", action="store_true", help="write the exact commands for this config")
    parser.add_argument("--promote", action="store_true", help="promote the config that is locked already; locks nothing")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform.clock import now
    from lib.platform.lease import lease
    from lib.platform.postgres import address, database
    from lib.release import locking, promotion, runbook

    workspace = Workspace.find()
    if args.promote:
        outcome = promotion.promote_active(workspace, dry_run=args.dry_run)
        cli.emit(args, outcome.to_dict(), outcome.to_text())
        return 0
    flags = {
        name: getattr(args, name)
        for name in ("chunk_size", "overlap_ratio", "jaccard_threshold", "prefix_policy", "embedder")
    }
    candidate = locking.read_candidate(workspace, file=args.config, flags=flags, sources=args.source)
    with database(workspace, "lock", write=True) as connection, lease(address(workspace), "lock_production_config"):
        plan = locking.plan_lock(connection, candidate, now())
        if not args.dry_run:
            locking.apply_lock(connection, workspace, plan)
    result = {**plan.to_dict(), "origins": candidate.layered.origins, "applied": not args.dry_run}
    lines = [f"warning: {line}" for line in plan.warnings]
    verb = "would lock" if args.dry_run else "locked"
    lines.append(f"{'standing' if plan.reused else verb}: {plan.config.ingest_run_id} ({plan.why})")
    lines += [f"  {key} = {candidate.layered.values[key]}  [{candidate.layered.where(key)}]" for key in flags]
    if args.generate_runbook and not args.dry_run:
        path = runbook.write(workspace, plan.config)
        result["runbook"] = workspace.show(path)
        lines.append(f"runbook: {workspace.show(path)}")
    cli.emit(args, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
