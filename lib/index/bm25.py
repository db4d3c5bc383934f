"""BM25 inside PostgreSQL: every row's term weights, and postings that find the best rows without reading all of them."""

from __future__ import annotations

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from lib.config.locked_config import LockedConfig
from lib.index.releases import Release
from lib.index.seal import seal
from lib.platform import postgres


def terms_of(table: sql.Identifier) -> sql.Identifier:
    """The table of a chunk table's postings: ``<table>_terms``, in the same schema."""
    *schema, name = table.strings
    return sql.Identifier(*schema, f"{name}_terms")


def weigh(connection: Connection, table: sql.Identifier, config: LockedConfig) -> None:
    """Writes the weights of every row. The caller owns the transaction."""
    _execute(connection, "fill_bm25_weights", config, table=table)


def build_postings(connection: Connection, table: sql.Identifier) -> None:
    """Makes a weighed table's postings anew and seals them: they decide answers too. The caller owns the transaction."""
    terms = terms_of(table)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(terms))
        create_postings(connection, terms)
        cursor.execute(postgres.compose(__file__, "fill_terms", terms=terms, table=table))
    finish_postings(connection, terms)


def create_postings(connection: Connection, terms: sql.Identifier) -> None:
    """Makes an empty table of postings. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(postgres.compose(__file__, "create_terms", terms=terms))


def finish_postings(connection: Connection, terms: sql.Identifier) -> None:
    """Indexes and seals a filled table of postings. The caller owns the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (dimension, segment)").format(terms))
        cursor.execute(sql.SQL("ANALYZE {}").format(terms))
    seal(connection, terms)


def weigh_changes(connection: Connection, release: Release) -> None:
    """Weighs the rows of ``golive.changed_chunks`` that have no weights, as if they stood in the release's sealed table.

    The number of chunks, the document frequencies and the average length are the sealed table's, so that scores of both can
    be compared. The caller owns the transaction.
    """
    release_id, terms = sql.Literal(release.release_id), terms_of(release.table)
    _execute(connection, "weigh_changes", release.locked_config, table=release.table, terms=terms, release_id=release_id)


def _execute(connection: Connection, name: str, config: LockedConfig, **parts: sql.Composable) -> None:
    settings: dict[str, sql.Composable] = {
        "search_config": sql.Literal(config.retrieval.text_search_config),
        "k1": sql.Literal(config.retrieval.bm25_k1),
        "b": sql.Literal(config.retrieval.bm25_b),
    }
    with connection.cursor() as cursor:
        cursor.execute(postgres.compose(__file__, name, **parts, **settings))
