-- The exact answers to every probe, by one look at every row: no index and no postings decide what is found.
-- Locks: ACCESS SHARE on the chunk table.
-- A sample of rows bounds what can be among the best, so that few rows are ranked; a row's vector is fetched once for all
-- probes. What comes back: each probe's nearest rows by distance, and its best rows by BM25, ties in the order of the ids.
WITH asked AS MATERIALIZED (
    SELECT p.probe, p.vector::vector AS embedding, t.terms
    FROM unnest(%(vectors)s::text[], %(queries)s::text[]) WITH ORDINALITY AS p (vector, query, probe), LATERAL (
        SELECT ('{{' || coalesce(string_agg(dimension || ':1', ','), '') || '}}/1000000000')::sparsevec AS terms
        FROM (
            SELECT DISTINCT golive.lexeme_dimension(lexeme) AS dimension
            FROM unnest(tsvector_to_array(to_tsvector(%(search_config)s::regconfig, p.query))) AS lexeme
        ) AS dimensions
    ) AS t
), sample AS MATERIALIZED (
    SELECT subvector(embedding, 1, vector_dims(embedding)) AS embedding, bm25_weights FROM {table} LIMIT 2000
), bounded AS MATERIALIZED (
    SELECT a.*, coalesce((
        SELECT s.embedding <=> a.embedding AS distance FROM sample s ORDER BY distance OFFSET %(vector_top_k)s - 1 LIMIT 1
    ), 'infinity') AS farthest, coalesce((
        SELECT -(s.bm25_weights <#> a.terms) AS score FROM sample s WHERE s.bm25_weights IS NOT NULL
        ORDER BY score DESC OFFSET %(bm25_top_k)s - 1 LIMIT 1
    ), 0) AS least
    FROM asked a
), measured AS (
    SELECT m.probe, r.id, m.distance, m.score, m.near, m.worded FROM (
        SELECT id, subvector(embedding, 1, vector_dims(embedding)) AS embedding, bm25_weights FROM {table} OFFSET 0
    ) AS r CROSS JOIN LATERAL (
        SELECT probe, distance, score, distance <= farthest AS near, score > 0 AND score >= least AS worded FROM (
            SELECT probe, farthest, least, r.embedding <=> embedding AS distance,
                coalesce(-(r.bm25_weights <#> terms), 0) AS score
            FROM bounded OFFSET 0
        ) AS values
    ) AS m WHERE m.near OR m.worded
), ranked AS (
    SELECT probe, id, 'nearest' AS list, distance AS value, row_number() OVER (PARTITION BY probe ORDER BY distance, id) AS rank,
        %(vector_top_k)s AS top_k FROM measured WHERE near
    UNION ALL
    SELECT probe, id, 'words', score, row_number() OVER (PARTITION BY probe ORDER BY score DESC, id), %(bm25_top_k)s
    FROM measured WHERE worded
)
SELECT probe, list, id, value FROM ranked WHERE rank <= top_k ORDER BY probe, list, rank
