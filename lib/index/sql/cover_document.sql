-- Records which version of a document a release answers from. Locks: a row lock on golive.release_documents.
INSERT INTO golive.release_documents (release_id, doc_id, doc_digest, chunks) VALUES %s
ON CONFLICT (release_id, doc_id) DO UPDATE SET doc_digest = excluded.doc_digest, chunks = excluded.chunks
