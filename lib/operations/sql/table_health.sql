-- Prefix leakage and token budget over every row of a chunk table. Locks: ACCESS SHARE on it and on documents.
-- Stale rows belong to documents that were changed or deleted since: there is nothing left to compare them with.
SELECT
    count(*) FILTER (WHERE %(policy)s = 'A' AND d.sha256 = c.doc_sha256
        AND c.bm25_text IS DISTINCT FROM substr(d.content, c.span_start + 1, c.span_end - c.span_start)) AS leaking,
    count(*) FILTER (WHERE d.sha256 IS DISTINCT FROM c.doc_sha256) AS stale,
    count(*) FILTER (WHERE c.embedding_token_count > %(budget)s) AS over
FROM {table} c LEFT JOIN documents d ON d.id = c.doc_id
