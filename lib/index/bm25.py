"""BM25 inside PostgreSQL: term weights are computed once a table is loaded, and a query sums those of its terms."""

from __future__ import annotations

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.platform import postgres


def weigh(connection: Connection, table: sql.Identifier, config: LockedConfig) -> None:
    """Writes the weights of every row. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            postgres.compose(
                __file__,
                "fill_bm25_weights",
                table=table,
                search_config=sql.Literal(config.retrieval.text_search_config),
                k1=sql.Literal(config.retrieval.bm25_k1),
                b=sql.Literal(config.retrieval.bm25_b),
            )
        )
