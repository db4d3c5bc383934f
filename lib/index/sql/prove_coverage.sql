-- Does a release answer from exactly the documents that stand? Counts of what is wrong. Locks: ACCESS SHARE.
-- missing: a document in another version, or not at all. returned: a deleted one is still covered. ghosts: rows that answer
-- for a document that does not stand. stale: rows that answer from another content. unindexed: changed documents whose new
-- chunks are not all there. unhidden: changed documents whose old rows still answer, or unchanged ones that are hidden.
WITH standing AS MATERIALIZED (
    SELECT id, golive.document_digest(id, title, metadata, content) AS digest,
        encode(sha256(convert_to(content, 'UTF8')), 'hex') AS sha256
    FROM documents WHERE source = ANY(%(sources)s)
), covered AS MATERIALIZED (
    SELECT * FROM golive.release_documents WHERE release_id = %(release_id)s
), hidden AS MATERIALIZED (
    SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s
), answering AS MATERIALIZED (
    SELECT DISTINCT doc_id, doc_sha256 FROM {table} c
    WHERE NOT EXISTS (SELECT FROM hidden h WHERE h.doc_id = c.doc_id)
    UNION SELECT doc_id, doc_sha256 FROM golive.changed_chunks WHERE release_id = %(release_id)s
), indexed AS (
    SELECT doc_id, count(*) AS chunks FROM golive.changed_chunks
    WHERE release_id = %(release_id)s AND instead_of IS NULL GROUP BY doc_id
)
SELECT
    (SELECT count(*) FROM standing s LEFT JOIN covered c ON c.doc_id = s.id
        WHERE c.doc_digest IS DISTINCT FROM s.digest) AS missing,
    (SELECT count(*) FROM covered c WHERE c.doc_digest IS NOT NULL
        AND NOT EXISTS (SELECT FROM standing s WHERE s.id = c.doc_id)) AS returned,
    (SELECT count(*) FROM answering a WHERE NOT EXISTS (SELECT FROM standing s WHERE s.id = a.doc_id)) AS ghosts,
    (SELECT count(*) FROM answering a JOIN standing s ON s.id = a.doc_id WHERE s.sha256 <> a.doc_sha256) AS stale,
    (SELECT count(*) FROM covered c FULL JOIN indexed i USING (doc_id)
        WHERE coalesce(c.chunks, 0) <> coalesce(i.chunks, 0)) AS unindexed,
    (SELECT count(*) FROM covered c FULL JOIN hidden h USING (doc_id)
        WHERE (c.sealed_digest IS NOT NULL AND c.doc_digest IS DISTINCT FROM c.sealed_digest) <> (h.doc_id IS NOT NULL)) AS unhidden
