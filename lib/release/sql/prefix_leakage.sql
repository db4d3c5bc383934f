-- bm25_text of every row that answers, against its own source span. Locks: ACCESS SHARE on the chunk table and documents.
-- Stale rows belong to documents that were changed or deleted since: there is nothing left to compare them with.
WITH answering AS (
    SELECT doc_id, doc_sha256, bm25_text, span_start, span_end FROM {table}
    WHERE doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
    UNION ALL
    SELECT doc_id, doc_sha256, bm25_text, span_start, span_end FROM golive.changed_chunks WHERE release_id = %(release_id)s
), versions AS MATERIALIZED (
    SELECT id, encode(sha256(convert_to(content, 'UTF8')), 'hex') AS sha256 FROM documents
)
SELECT count(*) AS rows,
    count(*) FILTER (WHERE v.sha256 = c.doc_sha256
        AND c.bm25_text IS DISTINCT FROM substr(d.content, c.span_start + 1, c.span_end - c.span_start)) AS leaking,
    count(*) FILTER (WHERE v.sha256 IS DISTINCT FROM c.doc_sha256) AS stale
FROM answering c LEFT JOIN versions v ON v.id = c.doc_id LEFT JOIN documents d ON d.id = c.doc_id
