-- What a release answers from, with a digest over the ids and versions of all documents covered. Locks: ACCESS SHARE.
SELECT c.origin, count(r.doc_digest) AS documents, count(r.sealed_digest) AS sealed,
    count(r.doc_id) FILTER (WHERE r.doc_digest IS DISTINCT FROM r.sealed_digest) AS changed,
    encode(sha256(coalesce(string_agg(sha256(convert_to(r.doc_id, 'UTF8')) || r.doc_digest, ''::bytea ORDER BY r.doc_id COLLATE "C")
        FILTER (WHERE r.doc_digest IS NOT NULL), ''::bytea)), 'hex') AS digest
FROM golive.coverage c LEFT JOIN golive.release_documents r USING (release_id)
WHERE c.release_id = %(release_id)s GROUP BY c.origin
