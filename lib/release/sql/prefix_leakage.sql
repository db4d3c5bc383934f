-- Every row's bm25_text against its own source span. Locks: ACCESS SHARE on the chunk table and documents.
SELECT count(*) AS rows,
    count(*) FILTER (WHERE d.sha256 = c.doc_sha256
        AND c.bm25_text IS DISTINCT FROM substr(d.content, c.span_start + 1, c.span_end - c.span_start)) AS leaking,
    count(*) FILTER (WHERE d.sha256 IS DISTINCT FROM c.doc_sha256) AS stale
FROM {table} c LEFT JOIN documents d ON d.id = c.doc_id
