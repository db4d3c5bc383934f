-- The versions that a table was built from. One that does not stand any more is recorded as an empty digest.
-- Locks: ACCESS SHARE on documents, row locks on golive.release_documents.
INSERT INTO golive.release_documents (release_id, doc_id, sealed_digest, doc_digest)
SELECT %(release_id)s, b.id, version.digest, version.digest
FROM unnest(%(ids)s::text[], %(sha256s)s::text[], %(titles)s::text[], %(metadata)s::text[]) AS b (id, sha256, title, metadata)
LEFT JOIN documents d ON d.id = b.id AND encode(sha256(convert_to(d.content, 'UTF8')), 'hex') = b.sha256
    AND d.title = b.title AND d.metadata = b.metadata::jsonb
CROSS JOIN LATERAL (
    SELECT CASE WHEN d.id IS NULL THEN ''::bytea ELSE golive.document_digest(d.id, d.title, d.metadata, d.content) END AS digest
) AS version
