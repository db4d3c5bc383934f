-- The SHA-256 of every row of a chunk table, over every column that decides an answer; created_at is left out.
-- Locks: ACCESS SHARE.
SELECT sha256(convert_to(ROW(
        id, doc_id, chunk_index, embedding_text, bm25_text, embedding_token_count, bm25_token_count, chunk_version,
        ingest_run_id, span_start, span_end, doc_sha256, duplicates
    )::text, 'UTF8') || vector_send(embedding) || coalesce(sparsevec_send(bm25_weights), ''::bytea)) AS row_hash
FROM {table}
