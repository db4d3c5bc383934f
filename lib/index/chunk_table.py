"""A chunk table and the indexes over it: how they are made, for a shadow build and for a restore alike."""

from __future__ import annotations

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.platform import postgres


def create_chunk_table(connection: Connection, table: sql.Identifier, dimension: int) -> None:
    """Creates a chunk table where it is missing. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(postgres.compose(__file__, "create_chunk_table", table=table, dimension=sql.Literal(dimension)))


def build_index(connection: Connection, table: sql.Identifier, name: str, config: LockedConfig) -> None:
    """Builds the vector index and refreshes the planner's statistics. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL maintenance_work_mem = '512MB'")
        cursor.execute(
            postgres.compose(
                __file__,
                "create_indexes",
                table=table,
                index=sql.Identifier(f"{name}_hnsw"),
                m=sql.Literal(config.retrieval.hnsw_m),
                ef_construction=sql.Literal(config.retrieval.hnsw_ef_construction),
            )
        )
        cursor.execute(sql.SQL("ANALYZE {}").format(table))
