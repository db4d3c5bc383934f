"""Bring a folder of Markdown and text files into the table "documents", the source of truth for what is indexed.

Reads:   every .md, .markdown and .txt file below FOLDER
Writes:  documents (adds, updates, and deletes what is gone, of this source alone)
Binary, empty, non-UTF-8 and unreadable files are named and skipped. Run again without changes, it changes nothing.
"""

import _preflight  # noqa: F401

import argparse
from pathlib import Path

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("folder", metavar="FOLDER", help="the corpus folder")
    parser.add_argument(
        "--source", metavar="NAME", help="the name these documents stand under (default: the folder's name)"
    )
    parser.add_argument("--allow-mass-delete", action="store_true", help="let the sync delete over half of the source")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.index import documents
    from lib.platform.lease import lease
    from lib.platform.postgres import address, database

    workspace = Workspace.find()
    folder = Path(args.folder)
    source = documents.source_name(folder, args.source)
    scan = documents.scan_folder(folder, source)
    with database(workspace, "sync", write=True) as connection, lease(address(workspace), "sync_documents"):
        standing = documents.standing_documents(connection, source)
        plan = documents.plan_sync(standing, scan.documents)
        documents.check_mass_delete(plan, len(standing), args.allow_mass_delete)
        if plan.changes and not args.dry_run:
            documents.apply_sync(connection, source, plan, scan.documents)
            left = documents.plan_sync(documents.standing_documents(connection, source), scan.documents)
            assert left.changes == 0, "the table does not equal the folder after the sync"
    result = {
        "source": source,
        "documents": len(scan.documents),
        "added": plan.add,
        "updated": plan.update,
        "deleted": plan.delete,
        "unchanged": plan.unchanged,
        "skipped": [{"path": path, "reason": reason} for path, reason in scan.skipped],
        "applied": not args.dry_run,
    }
    lines = [f"skipped {path}: {reason}" for path, reason in scan.skipped]
    would = "would be " if args.dry_run else ""
    changes = f"{len(plan.add)} {would}added, {len(plan.update)} {would}updated, {len(plan.delete)} {would}deleted"
    files = f"{plan.unchanged} unchanged, {len(scan.skipped)} files skipped"
    lines.append(f"source {source}: {len(scan.documents)} documents; {changes}, {files}")
    cli.emit(args, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
