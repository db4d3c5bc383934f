-- The coverage of a release that was sealed from the documents as they stand. Locks: row locks on golive.release_documents.
INSERT INTO golive.release_documents (release_id, doc_id, sealed_digest, doc_digest)
SELECT %(release_id)s, id, digest, digest
FROM (
    SELECT id, golive.document_digest(id, title, metadata, content) AS digest FROM documents WHERE source = ANY(%(sources)s)
) AS versions
