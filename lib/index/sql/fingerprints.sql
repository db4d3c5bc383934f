-- Of each row of a table that is being built: whose it is, and the SHA-256 of all that decides it but its vector. lib/index/loading.py
-- computes the same. The first text's length keeps the two texts apart. Locks: ACCESS SHARE.
SELECT id, ingest_run_id, sha256(convert_to(concat_ws(E'\x1f',
        doc_id, chunk_index, embedding_token_count, bm25_token_count, span_start, span_end, doc_sha256,
        length(embedding_text), embedding_text, bm25_text
    ), 'UTF8')) AS fingerprint
FROM {table}
