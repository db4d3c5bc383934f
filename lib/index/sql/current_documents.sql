-- Documents as they stand, each with the digest of its version and of the one in a release's sealed table. Locks: ACCESS SHARE.
-- A document that is gone has a row too, with nulls.
SELECT w.id AS doc_id, d.source, d.path, d.title, d.sections, d.content, d.metadata,
    encode(sha256(convert_to(d.content, 'UTF8')), 'hex') AS sha256,
    CASE WHEN d.id IS NOT NULL THEN golive.document_digest(d.id, d.title, d.metadata, d.content) END AS digest,
    r.sealed_digest
FROM unnest(%(doc_ids)s::text[]) AS w (id)
LEFT JOIN documents d ON d.id = w.id AND d.source = ANY(%(sources)s)
LEFT JOIN golive.release_documents r ON r.release_id = %(release_id)s AND r.doc_id = w.id
ORDER BY w.id COLLATE "C"
