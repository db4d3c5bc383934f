"""A restore of 50,000 chunks (384 dimensions, 2 KB of text) into a database that lost them: ours against pg_restore.

Data: rows in a new table, without indexes; pg_restore -j2 loads a dump of the chunk table. All: with the vector index, the
key and the postings, sealed, digested and named by the pointer; pg_restore -j2 has as much memory and as many workers for
its indexes as ours, and digests nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from psycopg2 import sql

from lib.index.bm25 import terms_of
from lib.platform import embedded
from lib.release import backup, restore, restore_loading
from lib.release.backup_files import Backup
from tests.benchmarks.bench_backup import ROWS, dump
from tests.benchmarks.harness import Comparison, Run, alternate, median_s
from tests.benchmarks.large_release import Server, server

_OURS_DATA, _OURS_ALL = "ours, rows", "ours, all and proved"
_PEER_DATA, _PEER_ALL = "pg_restore -j2, rows", "pg_restore -j2, tuned, all"
_TUNED = "-c maintenance_work_mem=1GB -c max_parallel_maintenance_workers=2"


def run() -> list[Comparison]:
    with server(ROWS) as place:
        made = backup.create(place.workspace, place.connection)
        folder = place.workspace.local / "dumps"
        folder.mkdir()
        terms = terms_of(place.release.table).strings[-1]
        dump(place, folder / "rows", ["-Fd", "-j2"], place.release.table_name)
        dump(place, folder / "all", ["-Fd", "-j2"], place.release.table_name, terms)
        data = alternate(
            {
                _OURS_DATA: _ours_data(place, made),
                _PEER_DATA: _peer(place, folder / "rows", ["--section=pre-data", "--section=data"]),
            }
        )
        whole = alternate({_OURS_ALL: _ours_all(place, made), _PEER_ALL: _peer(place, folder / "all", [], _TUNED)})
    return [
        _compared("restore, rows", data, _OURS_DATA, _PEER_DATA, 4),
        _compared("restore, all", whole, _OURS_ALL, _PEER_ALL, 1),
    ]


def _compared(name: str, runs: list[Run], ours: str, peer: str, target: float) -> Comparison:
    return Comparison(name, median_s(runs, peer) / median_s(runs, ours), target, peer, runs)


def _ours_data(place: Server, made: Backup) -> Callable[[], None]:
    def work() -> None:
        restore_loading.Loading(
            place.workspace, place.connection, made, place.release.release_id, place.release.table_name
        ).load_rows()

    return work


def _ours_all(place: Server, made: Backup) -> Callable[[], dict[str, float]]:
    def work() -> dict[str, float]:
        _drop_tables(place)
        plan = restore.plan_restore(place.connection, made)
        assert plan.action == "load table"
        done = restore.apply_restore(place.workspace, place.connection, made, plan)
        assert done["digest"] == place.release.content_digest
        return {"pointer_ms": done["pointer_ms"]}

    return work


def _peer(place: Server, folder: Path, options: list[str], settings: str = "") -> Callable[[], None]:
    def work() -> None:
        _drop_tables(place)
        command = [embedded.client("pg_restore"), "-j2", *options, "-d", place.url, folder]
        subprocess.run(command, check=True, env={**os.environ, "PGOPTIONS": settings})

    return work


def _drop_tables(place: Server) -> None:
    with place.connection, place.connection.cursor() as cursor:
        for table in (place.release.table, terms_of(place.release.table)):
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
