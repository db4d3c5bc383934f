-- The chunks that answer for a release, chosen by id, or by a document whose text they hold or stand for. Reads every row.
-- What answers: the sealed table without the documents changed since, and the chunks of those. Locks: ACCESS SHARE.
SELECT c.id AS chunk_id, c.doc_id, c.span_start, c.span_end, c.bm25_text, c.embedding_text, c.embedding_token_count,
    c.bm25_token_count, c.doc_sha256, kept.duplicates
FROM (
    SELECT id, doc_id, span_start, span_end, bm25_text, embedding_text, embedding_token_count, bm25_token_count, doc_sha256,
        duplicates FROM {table}
    WHERE doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
    UNION ALL
    SELECT id, doc_id, span_start, span_end, bm25_text, embedding_text, embedding_token_count, bm25_token_count, doc_sha256,
        duplicates FROM golive.changed_chunks WHERE release_id = %(release_id)s
) AS c CROSS JOIN LATERAL ( -- what a chunk stands for as a near-duplicate, without the documents that have changed
    SELECT coalesce(jsonb_agg(entry ORDER BY place), '[]') AS duplicates,
        coalesce(bool_or(entry ->> 'doc_id' = ANY(%(doc_ids)s)), false) AS asked
    FROM jsonb_array_elements(c.duplicates) WITH ORDINALITY AS e (entry, place)
    WHERE entry ->> 'doc_id' NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
) AS kept
WHERE c.id = ANY(%(chunk_ids)s) OR c.doc_id = ANY(%(doc_ids)s) OR kept.asked
ORDER BY c.id COLLATE "C"
