-- Row count and content digest: SHA-256 over the sorted SHA-256 of every row, so the order of rows does not matter.
-- Covers every column that decides an answer; created_at is left out. Locks: ACCESS SHARE.
-- OFFSET 0: without it the rows are sorted whole, and each is hashed twice.
SELECT count(*) AS row_count, encode(sha256(coalesce(string_agg(row_hash, ''::bytea ORDER BY row_hash), ''::bytea)), 'hex') AS digest
FROM (
    SELECT sha256(convert_to(ROW(
            id, doc_id, chunk_index, embedding_text, bm25_text, embedding_token_count, bm25_token_count, chunk_version,
            ingest_run_id, span_start, span_end, doc_sha256, duplicates
        )::text, 'UTF8') || vector_send(embedding) || coalesce(sparsevec_send(bm25_weights), ''::bytea)) AS row_hash
    FROM {table} OFFSET 0
) AS rows
