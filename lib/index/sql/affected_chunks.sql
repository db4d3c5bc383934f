-- Sealed chunks that stand for near-duplicates, where these documents decide whether they still do: their own chunks, and the
-- hidden ones that stood for theirs. Locks: ACCESS SHARE.
SELECT id, doc_id, duplicates FROM {table}
WHERE duplicates <> '[]' AND (
    doc_id = ANY(%(doc_ids)s)
    OR (doc_id IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
        AND EXISTS (SELECT FROM jsonb_array_elements(duplicates) AS r WHERE r ->> 'doc_id' = ANY(%(doc_ids)s)))
)
ORDER BY id COLLATE "C"
