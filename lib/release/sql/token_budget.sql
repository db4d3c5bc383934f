-- Chunks that answer and that the embedder would cut. Locks: ACCESS SHARE.
SELECT count(*) AS rows, count(*) FILTER (WHERE embedding_token_count > %(budget)s) AS over, max(embedding_token_count) AS longest
FROM (
    SELECT embedding_token_count FROM {table}
    WHERE doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
    UNION ALL
    SELECT embedding_token_count FROM golive.changed_chunks WHERE release_id = %(release_id)s
) AS answering
