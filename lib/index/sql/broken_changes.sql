-- Whether rows are gone that the coverage says were made for changed documents, or others are there. Locks: ACCESS SHARE.
WITH covered AS (
    SELECT doc_id, chunks, sealed_digest IS NOT NULL AND doc_digest IS DISTINCT FROM sealed_digest AS should_hide
    FROM golive.release_documents WHERE release_id = %(release_id)s
), indexed AS (
    SELECT doc_id, count(*) AS made FROM golive.changed_chunks
    WHERE release_id = %(release_id)s AND instead_of IS NULL GROUP BY doc_id
), hidden AS (
    SELECT doc_id, true AS is_hidden FROM golive.superseded WHERE release_id = %(release_id)s
)
SELECT EXISTS (
    SELECT FROM covered FULL JOIN indexed USING (doc_id) FULL JOIN hidden USING (doc_id)
    WHERE coalesce(chunks, 0) <> coalesce(made, 0) OR coalesce(should_hide, false) <> coalesce(is_hidden, false)
) AS broken
