-- The table of one release. Locks: none on other tables; ACCESS EXCLUSIVE on this one, which no query reads yet.
-- duplicates: what near-duplicate removal dropped in favour of this chunk, as a list of doc_id, start, end, doc_sha256.
-- bm25_weights: BM25 term weights, one dimension a lexeme; filled in when all rows are there.
CREATE TABLE {table} (
    id                     text PRIMARY KEY,
    doc_id                 text NOT NULL,
    chunk_index            integer NOT NULL,
    embedding_text         text NOT NULL,
    bm25_text              text NOT NULL,
    embedding_token_count  integer NOT NULL,
    bm25_token_count       integer NOT NULL,
    chunk_version          text NOT NULL,
    ingest_run_id          text NOT NULL,
    created_at             timestamptz NOT NULL DEFAULT now(),
    span_start             integer NOT NULL,
    span_end               integer NOT NULL,
    doc_sha256             text NOT NULL,
    duplicates             jsonb NOT NULL DEFAULT '[]',
    embedding              vector({dimension}) NOT NULL,
    bm25_weights           sparsevec(1000000000)
);
-- The weights stay in the row, out of which the search scores chunks one by one; texts and vectors make room for them. Texts
-- are not compressed: for texts of a chunk's size pglz saves a third, and took 40 % of the time in which they are loaded.
ALTER TABLE {table} ALTER bm25_weights SET STORAGE MAIN, ALTER embedding_text SET STORAGE EXTERNAL,
    ALTER bm25_text SET STORAGE EXTERNAL
