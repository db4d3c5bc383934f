"""What takes the place of changed documents: their chunks by the locked config, beside a sealed table that stays as it is.

For one release, what stands in ``golive.superseded`` and ``golive.changed_chunks`` is a function of its sealed table and of
the versions it covers, whatever the order in which the changes came: each changed document has its own chunks, of which
near-duplicates are dropped within the document alone; and where a hidden chunk stood for near-duplicates in documents that
did not change, the first of those stands for the others from then on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection as Connection
from psycopg2.extras import execute_values

from lib.config.locked_config import LockedConfig
from lib.index import bm25
from lib.index.chunking import Counter
from lib.index.documents import Document
from lib.index.embedder import BadVector, Embedder
from lib.index.ingest import ChunkRow, plan_ingest
from lib.index.prefixes import prefix_of, texts_of
from lib.index.releases import Release
from lib.index.structure import section_path, sections_of
from lib.platform import audit, postgres
from lib.platform.errors import IntegrityMismatch
from lib.platform.files import digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLUMNS = (
    "release_id, id, doc_id, chunk_index, embedding_text, bm25_text, embedding_token_count, bm25_token_count,"
    " chunk_version, ingest_run_id, span_start, span_end, doc_sha256, duplicates, instead_of, embedding"
)
_BATCH_ROWS = 16
_NOT_A_PLACE = -1  # chunk_index of a chunk that stands in for a hidden one: it is none of its document's series


@dataclass(frozen=True)
class Version:
    """A document as it stands (None: it is gone), with the digest of that version and of the one in the sealed table."""

    doc_id: str
    document: Document | None
    digest: bytes | None
    sealed_digest: bytes | None

    @property
    def changed(self) -> bool:
        return self.digest != self.sealed_digest

    @property
    def hides(self) -> bool:
        """Whether its rows in the sealed table, where there are any, no longer answer."""
        return self.sealed_digest is not None and self.changed


@dataclass(frozen=True)
class Replacement:
    """What one release will answer from for some documents.

    ``instead_of`` maps the id of each stand-in to the hidden chunk; ``stood_for`` are all sealed chunks whose stand-ins are
    made anew, or are not needed any more.
    """

    release: Release
    versions: list[Version]
    rows: list[ChunkRow]
    instead_of: dict[str, str] = field(default_factory=dict)
    stood_for: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        gone = sum(version.document is None for version in self.versions)
        indexed = len(self.versions) - gone
        return f"{indexed} documents indexed in {len(self.rows)} chunks, {gone} taken out"


def plan(connection: Connection, release: Release, doc_ids: Sequence[str], counter: Counter) -> Replacement:
    """Chunks the documents as they stand; reads in the caller's transaction and writes nothing.

    Documents that share a near-duplicate with one of these and have changed too are taken in, so that no text is lost
    between two transactions.
    """
    config = release.locked_config
    wanted = sorted(set(doc_ids))
    while True:
        versions = _versions(connection, release, wanted)
        stand_ins = _find_stand_ins(connection, release, versions)
        neighbours = _versions(
            connection, release, sorted({place["doc_id"] for places in stand_ins.values() for place in places})
        )
        more = [version.doc_id for version in neighbours if version.changed]
        if not more:
            break
        wanted = sorted({*wanted, *more})
    rows = [row for version in versions if version.changed for row in _rows_of(version, config, counter)]
    texts = {version.doc_id: version.document for version in neighbours if version.document}
    instead_of: dict[str, str] = {}
    for hidden, places in stand_ins.items():
        made = _rows_instead(places, texts, config, counter)
        rows += made
        instead_of |= {row.chunk_id: hidden for row in made}
    return Replacement(release, versions, rows, instead_of, sorted(stand_ins))


def embed(replacement: Replacement, embedder: Embedder) -> dict[str, NDArray[np.float32]]:
    """Chunk id -> vector. Each document is embedded by itself, so that no other one decides the bits of its vectors.

    Raises:
        IntegrityMismatch: the embedder gave something that is no vector; it names the chunk.
    """
    vectors: dict[str, NDArray[np.float32]] = {}
    by_document: dict[str, list[ChunkRow]] = {}
    for row in replacement.rows:
        by_document.setdefault(row.doc_id, []).append(row)
    for rows in by_document.values():
        for first in range(0, len(rows), _BATCH_ROWS):
            batch = rows[first : first + _BATCH_ROWS]
            try:
                found = embedder.embed_documents([row.embedding_text for row in batch])
            except BadVector as error:
                name = batch[error.position].chunk_id
                raise IntegrityMismatch(f"{error.message}: chunk {name}", detail=error.detail, hint=error.hint) from error
            vectors |= {row.chunk_id: vector for row, vector in zip(batch, found, strict=True)}
    return vectors


def apply(connection: Connection, replacement: Replacement, vectors: dict[str, NDArray[np.float32]], why: str) -> None:
    """Puts the rows in the place of what stood for these documents, with coverage and audit.

    The caller owns the transaction, and sees to it that nobody else does this at the same time.
    """
    release, versions = replacement.release, replacement.versions
    doc_ids = [version.doc_id for version in versions]
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM golive.changed_chunks WHERE release_id = %s"
            " AND ((doc_id = ANY(%s) AND instead_of IS NULL) OR instead_of = ANY(%s))",
            (release.release_id, doc_ids, replacement.stood_for),
        )
        cursor.execute(
            "DELETE FROM golive.superseded WHERE release_id = %s AND doc_id = ANY(%s)", (release.release_id, doc_ids)
        )
        hidden = [(release.release_id, version.doc_id) for version in versions if version.hides]
        execute_values(cursor, "INSERT INTO golive.superseded (release_id, doc_id) VALUES %s", hidden)
        values = [_values(row, replacement, vectors[row.chunk_id]) for row in replacement.rows]
        execute_values(cursor, f"INSERT INTO golive.changed_chunks ({_COLUMNS}) VALUES %s", values)  # nosec B608  # constants of this module; values are parameters
        own = [row.doc_id for row in replacement.rows if row.chunk_id not in replacement.instead_of]
        covered = [(release.release_id, v.doc_id, v.digest, own.count(v.doc_id)) for v in versions]
        execute_values(cursor, postgres.read_sql(__file__, "cover_document"), covered)
        cursor.execute(
            "DELETE FROM golive.release_documents WHERE release_id = %s AND doc_id = ANY(%s)"
            " AND doc_digest IS NULL AND sealed_digest IS NULL",
            (release.release_id, doc_ids),
        )
    bm25.weigh_changes(connection, release)
    after = digest_of([[v.doc_id, v.digest.hex() if v.digest else None] for v in versions])
    audit.record(connection, "catch up", release.release_id, f"{why}: {replacement.to_text()}", after=after)


def _versions(connection: Connection, release: Release, doc_ids: Sequence[str]) -> list[Version]:
    query = postgres.read_sql(__file__, "current_documents")
    parameters = {
        "doc_ids": list(doc_ids),
        "sources": list(release.locked_config.sources),
        "release_id": release.release_id,
    }
    found = []
    for row in postgres.every(connection, query, parameters):
        digest, sealed_digest = (bytes(d) if d is not None else None for d in (row.pop("digest"), row.pop("sealed_digest")))
        document = Document(**row) if row["content"] is not None else None
        found.append(Version(row["doc_id"], document, digest, sealed_digest))
    return found


def _find_stand_ins(
    connection: Connection, release: Release, versions: Sequence[Version]
) -> dict[str, list[dict[str, Any]]]:
    """Sealed chunk -> the near-duplicates that must answer in its place: none where it answers itself or all are hidden."""
    doc_ids = [version.doc_id for version in versions]
    standing = postgres.every(
        connection, "SELECT doc_id FROM golive.superseded WHERE release_id = %s", (release.release_id,)
    )
    hidden = {row["doc_id"] for row in standing} - set(doc_ids) | {version.doc_id for version in versions if version.hides}
    query = postgres.compose(__file__, "affected_chunks", table=release.table)
    rows = postgres.every(connection, query, {"doc_ids": doc_ids, "release_id": release.release_id})
    return {
        row["id"]: [place for place in row["duplicates"] if place["doc_id"] not in hidden]
        if row["doc_id"] in hidden
        else []
        for row in rows
    }


def _rows_of(version: Version, config: LockedConfig, counter: Counter) -> list[ChunkRow]:
    return plan_ingest([version.document], config, counter).rows if version.document else []


def _rows_instead(
    places: Sequence[dict[str, Any]], documents: dict[str, Document], config: LockedConfig, counter: Counter
) -> list[ChunkRow]:
    """One row for the first of these near-duplicates, and for each that is none of a row's before it."""
    from lib.index.near_duplicates import find_duplicates

    ordered = sorted(places, key=lambda place: (place["doc_id"], place["start"]))
    texts = [documents[place["doc_id"]].content[place["start"] : place["end"]] for place in ordered]
    dropped = find_duplicates(texts, config.jaccard_threshold)
    rows = []
    for index, place in enumerate(ordered):
        if index in dropped:
            continue
        repeats = tuple(ordered[other] for other, kept in dropped.items() if kept == index)
        rows.append(_row_at(place, documents[place["doc_id"]], repeats, config, counter))
    return rows


def _row_at(
    place: dict[str, Any], document: Document, repeats: tuple[dict[str, Any], ...], config: LockedConfig, counter: Counter
) -> ChunkRow:
    """The span as a row; its sections are those in which it begins."""
    start, end = place["start"], place["end"]
    text = document.content[start:end]
    sections = section_path(sections_of(document.content), start)
    prefix = prefix_of(document.title, sections, str(document.metadata.get("type", "text")), counter.count)
    embedding_text, bm25_text = texts_of(text, prefix, config.prefix_policy)
    return ChunkRow(
        chunk_id=f"{document.doc_id}#{start}-{end}",
        doc_id=document.doc_id,
        chunk_index=_NOT_A_PLACE,
        embedding_text=embedding_text,
        bm25_text=bm25_text,
        embedding_token_count=counter.count(embedding_text),
        bm25_token_count=counter.count(bm25_text),
        span_start=start,
        span_end=end,
        doc_sha256=document.sha256,
        duplicates=repeats,
    )


def _values(row: ChunkRow, replacement: Replacement, vector: NDArray[np.float32]) -> tuple[Any, ...]:
    release = replacement.release
    return (
        release.release_id,
        row.chunk_id,
        row.doc_id,
        row.chunk_index,
        row.embedding_text,
        row.bm25_text,
        row.embedding_token_count,
        row.bm25_token_count,
        release.chunk_version,
        release.release_id,
        row.span_start,
        row.span_end,
        row.doc_sha256,
        json.dumps(list(row.duplicates)),
        replacement.instead_of.get(row.chunk_id),
        "[" + ",".join(map(repr, vector.tolist())) + "]",
    )
