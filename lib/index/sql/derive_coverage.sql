-- What a sealed table itself says about the versions that it was built from: each row, and each near-duplicate that it stands
-- for, names its document's content hash. Another version than the one that stands is recorded as an empty digest.
-- Locks: ACCESS SHARE on the table and on documents, row locks on golive.release_documents.
INSERT INTO golive.release_documents (release_id, doc_id, sealed_digest, doc_digest)
SELECT %(release_id)s, i.doc_id, version.digest, version.digest
FROM (
    SELECT doc_id, doc_sha256 FROM {table}
    UNION SELECT r ->> 'doc_id', r ->> 'doc_sha256' FROM {table}, jsonb_array_elements(duplicates) AS r
) AS i
LEFT JOIN documents d ON d.id = i.doc_id AND d.source = ANY(%(sources)s)
    AND encode(sha256(convert_to(d.content, 'UTF8')), 'hex') = i.doc_sha256
CROSS JOIN LATERAL (
    SELECT CASE WHEN d.id IS NULL THEN ''::bytea ELSE golive.document_digest(d.id, d.title, d.metadata, d.content) END AS digest
) AS version
