"""Make an Ed25519 key that signs manifests and verdicts, or list the keys that are trusted here.

Reads:   configs/signing/*.pub, or GOLIVE_VERIFY_KEY and GOLIVE_VERIFY_KEY_FILE; GOLIVE_SIGNING_KEY_PASSPHRASE
Writes:  with --new FILE the private key (PEM, mode 0600, encrypted where a passphrase is set), configs/signing/NAME.pub
A key is never overwritten. To sign with it: export GOLIVE_SIGNING_KEY_FILE=FILE
"""

import _preflight  # noqa: F401

import argparse
import os
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--new", metavar="FILE", help="make a key; FILE is the private one: keep it out of the checkout")
    parser.add_argument("--public", metavar="FILE", help="the public one (default: configs/signing/<name of FILE>.pub)")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.platform import signing
    from lib.release import attesting

    workspace = Workspace.find()
    if not args.new:
        keys = sorted(attesting.trusted(workspace))
        signer = attesting.keyid(attesting.signer())
        lines = [*keys, f"{len(keys)} trusted keys", attesting.signed_line(signer).replace("signed by", "signs with")]
        cli.emit(args, {"trusted": keys, "signs_with": signer}, "\n".join(lines))
        return 0
    private = Path(args.new)
    public = Path(args.public) if args.public else workspace.configs / "signing" / f"{private.stem}.pub"
    shown = {"private": str(private), "public": workspace.show(public), "applied": not args.dry_run}
    if args.dry_run:
        signing.require_free(private, public)
        cli.emit(args, shown, f"would write {private} and {shown['public']}")
        return 0
    keyid = signing.write_pair(private, public, os.environ.get(signing.PASSPHRASE, ""))
    lines = [f"key {keyid}", f"private: {private}", f"public:  {shown['public']}"]
    lines.append(f"to sign with it: export {signing.SIGNING_KEY_FILE}={private.resolve()}")
    cli.emit(args, {**shown, "keyid": keyid}, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
