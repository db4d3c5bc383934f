"""A chunk table and the indexes over it: how they are made, for a shadow build and for a restore alike."""

from __future__ import annotations

from collections.abc import Callable

import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.bm25 import build_postings
from lib.platform import postgres
from lib.platform.errors import Unavailable
from lib.platform.progress import note

_OUT_OF_MEMORY = "hnsw graph no longer fits into maintenance_work_mem"  # how pgvector's notice begins


def create_chunk_table(connection: Connection, table: sql.Identifier, dimension: int) -> None:
    """Creates a chunk table where it is missing. The caller owns the transaction."""
    if postgres.one(connection, "SELECT FROM pg_class WHERE oid = to_regclass(%s)", (table.as_string(connection),)) is None:
        with connection.cursor() as cursor:
            cursor.execute(postgres.compose(__file__, "create_chunk_table", table=table, dimension=sql.Literal(dimension)))


def relations_of(name: str) -> tuple[str, ...]:
    """The names that a chunk table and its indexes take; postings that a dropped table left behind are made anew."""
    return (name, f"{name}_hnsw", f"{name}_numbers")


def compact(connection: Connection, table: sql.Identifier) -> None:
    """Gives back the room of dead rows: weighing leaves a dead copy of every row. No transaction is open."""
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("VACUUM (FULL) {}").format(table))
    finally:
        connection.autocommit = False


def build_index(
    connection: Connection,
    table: sql.Identifier,
    name: str,
    config: LockedConfig,
    *,
    maintenance_work_mem_mb: int = 512,
    parallel_workers: int = 2,
    postings: Callable[[Connection, sql.Identifier], None] = build_postings,
) -> None:
    """Builds all indexes over a loaded, weighed table and refreshes the planner's statistics.

    The caller owns the transaction.

    Args:
        name: the table's name without its schema.
        postings: makes the table's postings.

    Raises:
        Unavailable: the disk, or the memory that parallel workers share, is full.
    """
    before = len(connection.notices)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('maintenance_work_mem', %s, true), set_config('work_mem', %s, true),"
                " set_config('max_parallel_maintenance_workers', %s, true)",
                (f"{maintenance_work_mem_mb}MB", f"{max(4, maintenance_work_mem_mb // 4)}MB", str(parallel_workers)),
            )
            cursor.execute(
                postgres.compose(
                    __file__,
                    "create_indexes",
                    table=table,
                    vectors=sql.Identifier(f"{name}_hnsw"),
                    numbers=sql.Identifier(f"{name}_numbers"),
                    m=sql.Literal(config.retrieval.hnsw_m),
                    ef_construction=sql.Literal(config.retrieval.hnsw_ef_construction),
                )
            )
            postings(connection, table)
            cursor.execute(sql.SQL("ANALYZE {}").format(table))
    except psycopg2.errors.DiskFull as error:
        raise _no_space(name, error, maintenance_work_mem_mb) from error
    if any(_OUT_OF_MEMORY in notice for notice in list(connection.notices)[before:]):
        note(
            f"the vector index of {name} did not fit into {maintenance_work_mem_mb} MB and was built slowly on disk:"
            " raise build.maintenance_work_mem_mb in configs/index.yaml"
        )


def _no_space(name: str, error: psycopg2.Error, memory_mb: int) -> Unavailable:
    first_line = str(error).partition("\n")[0]
    if "shared memory" in first_line:
        return Unavailable(
            f"the index of {name} needs more shared memory than the server's /dev/shm has",
            detail=first_line,
            hint=f"lower build.maintenance_work_mem_mb ({memory_mb}) in configs/index.yaml, or build.parallel_workers to 0",
        )
    return Unavailable(
        f"the database server's disk is full: the index of {name} was not built",
        detail=first_line,
        hint="free or add disk space, then run the same command again",
    )
