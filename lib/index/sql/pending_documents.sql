-- Documents of which a release does not answer from the version that stands. Locks: ACCESS SHARE.
WITH standing AS (
    SELECT id, golive.document_digest(id, title, metadata, content) AS digest
    FROM documents WHERE source = ANY(%(sources)s) AND {looked_at}
), covered AS (
    SELECT id, doc_digest AS digest FROM (
        SELECT doc_id AS id, doc_digest FROM golive.release_documents
        WHERE release_id = %(release_id)s AND doc_digest IS NOT NULL
    ) AS versions WHERE {looked_at}
)
SELECT id AS doc_id FROM standing s FULL JOIN covered c USING (id)
WHERE s.digest IS DISTINCT FROM c.digest ORDER BY id COLLATE "C"
