-- The digest of read_coverage.sql, of a release that covers the documents as they stand. Locks: ACCESS SHARE on documents.
SELECT encode(sha256(coalesce(string_agg(
        sha256(convert_to(id, 'UTF8')) || golive.document_digest(id, title, metadata, content), ''::bytea ORDER BY id COLLATE "C"
    ), ''::bytea)), 'hex') AS digest
FROM documents WHERE source = ANY(%(sources)s)
