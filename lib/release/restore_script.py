"""The restore script inside a backup: plain psql and zstd, for the day on which Golive itself is not at hand. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lib.index import seal

_HEAD = """#!/bin/sh
# Restores the chunk tables of backup {backup_id}, and nothing else of it, into new tables, with psql, zstd and
# python3 alone. Nothing that stands is touched:
# a table whose name is taken makes the script stop before it writes. The pointer is not moved; that is done by
#   scripts/restore_production_state.py --backup-id {backup_id}
# Usage: DATABASE_URL=postgresql://... sh restore.sh
set -eu
cd "$(dirname "$0")"
: "${{DATABASE_URL:?set DATABASE_URL to the database to restore into}}"
ask() {{ psql "$DATABASE_URL" --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --command "$1"; }}
load() {{ zstd --decompress --stdout "$3" | python3 row_blocks.py "$2" | ask "$1"; }}
expect() {{ if [ "$2" != "$3" ]; then echo "MISMATCH in $1: got $2, expected $3" >&2; exit 14; fi; echo "$1: $2"; }}
free() {{ found=$(ask "$2"); if [ -n "$found" ]; then echo "$1 already exists: nothing was written" >&2; exit 15; fi; }}

sha256sum --check --quiet - <<'SUMS'
{sums}
SUMS
{names}
ask 'CREATE EXTENSION IF NOT EXISTS vector'
"""

_TABLE = """
ask {create}
{loads}
expect {table} "$(ask {digest})" {expected}
"""


def render(manifest: dict[str, Any]) -> str:
    """The script's text for a manifest that has no script yet."""
    sums = "\n".join(f"{item['sha256']}  {name}" for name, item in sorted(manifest["files"].items()))
    names = "\n".join(_free(f"{table['table']}_restored") for table in manifest["tables"])
    parts = [_HEAD.format(backup_id=manifest["backup_id"], sums=sums, names=names)]
    create = _sql_of(seal, "create_chunk_table").replace("CREATE TABLE IF NOT EXISTS", "CREATE TABLE")
    digest = _sql_of(seal, "content_digest")
    for table in manifest["tables"]:
        name = f'"{table["table"]}_restored"'
        parts.append(
            _TABLE.format(
                create=shlex.quote(create.format(table=name, dimension=table["dimension"])),
                loads="\n".join(_load(name, table["columns"], file) for file in table["files"]),
                table=shlex.quote(table["table"]),
                digest=shlex.quote(digest.format(hashes=_sql_of(seal, "chunk_hashes").format(table=name))),
                expected=shlex.quote(f"{table['rows']}|{table['digest']}"),
            )
        )
    parts.append('\necho "restored; the tables end in _restored"\n')
    return "".join(parts)


def _load(table: str, columns: list[str], file: str) -> str:
    copy = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"
    return f"load {shlex.quote(copy)} {len(columns)} {shlex.quote(file)}"


def _free(name: str) -> str:
    """The line that stops the script where a table has that name already."""
    query = f"SELECT to_regclass(quote_ident(current_schema()) || '.{name}')"
    return f"free {shlex.quote(name)} {shlex.quote(query)}"


def _sql_of(module: Any, name: str) -> str:
    """A SQL file's text without its comments, in one shell word."""
    text = (Path(module.__file__).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return " ".join(line.strip() for line in text.splitlines() if not line.startswith("--"))
