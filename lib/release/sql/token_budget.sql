-- Chunks that the embedder would cut. Locks: ACCESS SHARE.
SELECT count(*) AS rows, count(*) FILTER (WHERE embedding_token_count > %(budget)s) AS over, max(embedding_token_count) AS longest
FROM {table}
