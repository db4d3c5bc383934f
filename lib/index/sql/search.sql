-- Both candidate lists of one query in one round trip. Locks: ACCESS SHARE.
-- The vector list comes from the HNSW index; BM25 is exact. Ties are broken by id, so that equal inputs give equal lists.
WITH terms AS (
    SELECT '{{' || coalesce(string_agg(DISTINCT golive.lexeme_dimension(lexeme) || ':1', ','), '') || '}}/1000000000' AS vector
    FROM unnest(tsvector_to_array(to_tsvector(%(search_config)s::regconfig, %(query)s))) AS lexeme
), nearest AS MATERIALIZED (
    SELECT id, embedding <=> %(embedding)s::vector AS distance
    FROM {table} ORDER BY embedding <=> %(embedding)s::vector LIMIT %(vector_top_k)s
), vector_hits AS (
    SELECT id, row_number() OVER (ORDER BY distance, id) AS vector_rank FROM nearest
), best AS MATERIALIZED (
    SELECT id, -(bm25_weights <#> (SELECT vector::sparsevec FROM terms)) AS score
    FROM {table} ORDER BY score DESC, id LIMIT %(bm25_top_k)s
), bm25_hits AS (
    SELECT id, row_number() OVER (ORDER BY score DESC, id) AS bm25_rank FROM best WHERE score > 0
)
SELECT c.id AS chunk_id, c.doc_id, c.span_start, c.span_end, c.bm25_text, c.embedding_text, c.embedding_token_count,
    c.bm25_token_count, c.doc_sha256, c.duplicates, v.vector_rank, b.bm25_rank,
    1 - (c.embedding <=> %(embedding)s::vector) AS similarity,
    -(c.bm25_weights <#> (SELECT vector::sparsevec FROM terms)) AS bm25_score
FROM vector_hits v FULL JOIN bm25_hits b USING (id) JOIN {table} c USING (id)
