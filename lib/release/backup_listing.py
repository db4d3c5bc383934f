"""The list of backups, for people and for programs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lib.platform.clock import age, now
from lib.platform.workspace import Workspace
from lib.release import backup_files
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
            }
        )
    return rows


def listing_text(rows: list[dict[str, Any]]) -> str:
    """The list as a table, with ages."""
    if not rows:
        return "no backups yet: make backup"
    table = [["backup", "age", "size", "restores", "rows", "proven"]]
    for row in rows:
        if row["usable"]:
            made = datetime.fromisoformat(row["created_at"].replace("Z", "+00:00"))
            cells = [
                age(made, now()),
                f"{row['bytes'] / 1e6:.1f} MB",
                row["restores"],
                str(row["rows"]),
                f"yes, in {row['restore_s']:.2f} s",
            ]
        else:
            cells = ["", "", "", "", f"UNUSABLE: {row['problem']}"]
        table.append([row["backup_id"], *cells])
    return text_table(table)
