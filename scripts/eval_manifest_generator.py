"""Freeze what an evaluation's outcome depends on into one file: models, config, index, corpus, cases, thresholds, code.

Reads:   active_config.json, the database, the cases, configs/, GOLIVE_SIGNING_KEY_FILE or GOLIVE_SIGNING_KEY
Writes:  metrics/golive/<release_id>/manifest.yaml or .json, and manifest.intoto.json where there is a signing key
With --verify FILE it writes nothing, checks the signature where there is one, and says, field by field, what has changed
since; exit 14 if anything has, or if the signature is bad.
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
    parser.add_argument("--format", choices=("yaml", "json"), default="yaml")
    parser.add_argument("--verify", metavar="FILE", help="compare this manifest with how things stand now")
    parser.add_argument("--cases", metavar="FILE", help="the cases (default: eval/test_cases.json)")
    parser.add_argument("--use-bedrock", action="store_true", help="name the Bedrock models as reader and judge")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.config import store
    from lib.evaluation import settings as evaluation_settings
    from lib.index.releases import get_release
    from lib.platform.postgres import database
    from lib.release import attesting, manifest, receipts

    started = time.monotonic()
    workspace = Workspace.find()
    settings = evaluation_settings.load(workspace, use_bedrock=args.use_bedrock)
    cases_path = Path(args.cases) if args.cases else workspace.default_cases
    then = manifest.read(Path(args.verify)) if args.verify else None
    signature = attesting.check_manifest(workspace, Path(args.verify), then) if then else None
    key = None if then else attesting.signer()
    with database(workspace, "manifest") as connection:
        release_id = then["release_id"] if then else store.read_active(workspace).ingest_run_id
        with connection:
            release = get_release(connection, release_id)
        now = manifest.build(workspace, connection, release, cases_path=cases_path, settings=settings)
    if then is not None and signature is not None:
        changed = manifest.differences(then, now)
        lines = [f"{item['field']}: was {item['then']}, is {item['now']}" for item in changed]
        lines.append(f"{len(changed)} fields have changed since {then['generated_at']}")
        lines.append(attesting.state_line(signature))
        found = {"release_id": release_id, "changed": changed, "signature": signature.state}
        cli.emit(args, found, "\n".join(lines))
        return int(ExitCode.INTEGRITY if changed else ExitCode.DONE)
    folder = workspace.evidence(release_id)
    result = {"manifest": now, "applied": not args.dry_run}
    if args.dry_run:
        cli.emit(args, result, f"would write {workspace.show(folder)}/manifest.{args.format}")
        return 0
    path = manifest.write(folder, now, args.format)
    assert not manifest.differences(manifest.read(path), now), "the manifest does not read back as written"
    attesting.sign_manifest(path, now, key)
    signed_by = attesting.keyid(key)
    receipts.write(
        workspace,
        release_id,
        "manifest",
        outcome="DONE",
        inputs={"manifest_digest": manifest.digest(now), "use_bedrock": args.use_bedrock},
        summary={"file": workspace.show(path)},
        seconds=time.monotonic() - started,
    )
    text = f"manifest: {workspace.show(path)}\n{attesting.signed_line(signed_by)}"
    cli.emit(args, {**result, "file": workspace.show(path), "signed_by": signed_by}, text)
    return 0


if __name__ == "__main__":
    cli.run(main)
