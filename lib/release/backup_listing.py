"""The list of backups, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.platform.clock import age, moment_of, now
from lib.platform.workspace import Workspace
from lib.release import backup_chain, backup_files, backup_signature
from lib.release.tables import text_table


def listing(workspace: Workspace) -> list[dict[str, Any]]:
    """Every backup, newest first, as ``--list --json`` shows it; damaged ones with the reason."""
    rows = []
    for item in backup_files.every(workspace):
        if isinstance(item, tuple):
            name, error = item
            rows.append({"backup_id": name, "usable": False, "problem": error.message})
            continue
        manifest = item.manifest
        rows.append(
            {
                "backup_id": item.backup_id,
                "usable": True,
                "created_at": manifest["created_at"],
                "bytes": item.bytes,
                "restores": manifest["restores"]["release_id"],
                "why": manifest["restores"]["why"],
                "releases": [table["release_id"] for table in manifest["tables"]],
                "rows": sum(table["rows"] for table in manifest["tables"]),
                "proven_at": manifest["proven"]["at"],
                "restore_s": manifest["proven"]["seconds"],
                "number": manifest["number"],
                "rto": manifest["rto"],
                "rpo": manifest["rpo"],
                "signature": backup_signature.check(workspace, item).state,
            }
        )
    return rows


def chain_breaks(workspace: Workspace, connection: Connection) -> list[str]:
    """What is wrong with the chain of the backups that were made from this database and stand here."""
    with connection:
        rows, identity = backup_chain.registered(connection), backup_chain.identity_of(connection)
    standing = [item for item in backup_files.every(workspace) if not isinstance(item, tuple)]
    there = {item.backup_id: item.manifest_digest for item in standing}
    chained = {item.backup_id: (item.manifest["previous"] or {}).get("manifest_digest") for item in standing}
    recorded = {row["backup_id"] for row in rows}
    unrecorded = [item for item in standing if item.manifest["identity"] == identity and item.backup_id not in recorded]
    return [
        *backup_chain.breaks(rows, there, chained),
        *(f"{item.backup_id} is not on record; make backup records it if it follows the last one" for item in unrecorded),
    ]


def listing_text(rows: list[dict[str, Any]], breaks: Sequence[str] = ()) -> str:
    """The list as a table, with ages; what is wrong with the chain stands under it."""
    if not rows and not breaks:
        return "no backups yet: make backup"
    table = [["backup", "age", "size", "restores", "rows", "proven", "signature"]]
    for row in rows:
        if row["usable"]:
            made = moment_of(row["created_at"])
            cells = [
                age(made, now()),
                f"{row['bytes'] / 1e6:.1f} MB",
                row["restores"],
                str(row["rows"]),
                f"yes, in {row['restore_s']:.2f} s",
                row["signature"],
            ]
        else:
            cells = ["", "", "", "", f"UNUSABLE: {row['problem']}", ""]
        table.append([row["backup_id"], *cells])
    return "\n".join([text_table(table), *(f"CHAIN BROKEN: {line}" for line in breaks)])
