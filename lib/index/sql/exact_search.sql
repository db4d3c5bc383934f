-- Both lists of a query, as search.sql makes them, but by looking at every row: no index decides what is found.
-- Given are the rows of either list, and the asked ones with the ranks that they have. Locks: ACCESS SHARE.
WITH query AS (
    SELECT DISTINCT golive.lexeme_dimension(lexeme) AS dimension
    FROM unnest(tsvector_to_array(to_tsvector(%(search_config)s::regconfig, %(query)s))) AS lexeme
), asked AS MATERIALIZED (
    SELECT ('{{' || coalesce(string_agg(dimension || ':1', ','), '') || '}}/1000000000')::sparsevec AS terms,
        %(embedding)s::vector AS embedding
    FROM query
), scored AS MATERIALIZED ( -- without an order, which the vector index could answer
    SELECT id, embedding <=> (SELECT embedding FROM asked) AS distance,
        coalesce(-(bm25_weights <#> (SELECT terms FROM asked)), 0) AS score
    FROM {table} WHERE doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
    UNION ALL
    SELECT id, embedding <=> (SELECT embedding FROM asked), coalesce(-(bm25_weights <#> (SELECT terms FROM asked)), 0)
    FROM golive.changed_chunks WHERE release_id = %(release_id)s
), ranked AS (
    SELECT id, 1 - distance AS similarity, score, row_number() OVER (ORDER BY distance, id) AS vector_rank,
        CASE WHEN score > 0 THEN row_number() OVER (ORDER BY score DESC, id) END AS bm25_rank
    FROM scored
)
SELECT id, similarity, score, vector_rank, bm25_rank FROM ranked
WHERE vector_rank <= %(vector_top_k)s OR bm25_rank <= %(bm25_top_k)s OR id = ANY(%(chunk_ids)s)
