-- Writes the BM25 weights of a release's changed chunks by the statistics of its sealed table. Locks: row locks on them.
--
-- The sealed table's average length follows from its own weights: weight = idf * tf / (tf + K) gives K, and
-- K = k1 * (1 - b + b * |d| / average) gives the average; the median over some rows, as two lexemes may share a dimension.
WITH changed AS MATERIALIZED (
    SELECT c.id, golive.lexeme_dimension(t.lexeme) AS dimension, cardinality(t.positions)::float8 AS tf,
        sum(cardinality(t.positions)) OVER (PARTITION BY c.id)::float8 AS length
    FROM golive.changed_chunks c, unnest(to_tsvector({search_config}::regconfig, c.bm25_text)) AS t
    WHERE c.release_id = {release_id} AND c.bm25_weights IS NULL
), sealed AS MATERIALIZED (
    SELECT c.id, golive.lexeme_dimension(t.lexeme) AS dimension, cardinality(t.positions)::float8 AS tf,
        sum(cardinality(t.positions)) OVER (PARTITION BY c.id)::float8 AS length
    FROM (
        SELECT id, bm25_text FROM {table} WHERE bm25_weights <> '{{}}/1000000000' AND EXISTS (SELECT FROM changed) LIMIT 20
    ) AS c, unnest(to_tsvector({search_config}::regconfig, c.bm25_text)) AS t
), frequencies AS MATERIALIZED (
    SELECT dimension, ln(1 + (n - df + 0.5) / (df + 0.5)) AS idf FROM (
        SELECT dimension, coalesce(sum(t.size), 0)::float8 AS df
        FROM (SELECT dimension FROM changed UNION SELECT dimension FROM sealed) AS asked LEFT JOIN {terms} t USING (dimension)
        GROUP BY dimension
    ) AS counted, (SELECT count(*)::float8 AS n FROM {table}) AS collection
), known AS (
    SELECT c.id, split_part(entry, ':', 1)::integer AS dimension, split_part(entry, ':', 2)::float8 AS weight
    FROM {table} c, string_to_table(btrim(split_part(c.bm25_weights::text, '/', 1), '{{}}'), ',') AS entry
    WHERE c.id IN (SELECT id FROM sealed)
), collection AS MATERIALIZED (
    SELECT percentile_cont(0.5) WITHIN GROUP (
        ORDER BY {b} * length / nullif(tf * (idf / weight - 1) / nullif({k1}, 0) - (1 - {b}), 0)
    ) AS average
    FROM sealed JOIN known USING (id, dimension) JOIN frequencies USING (dimension)
), weighted AS (
    SELECT id, dimension, sum(idf * tf / (tf + {k1} * (1 - {b} + {b} * coalesce(length / average, 1)))) AS weight
    FROM changed JOIN frequencies USING (dimension) CROSS JOIN collection GROUP BY id, dimension
), vectors AS (
    SELECT id, '{{' || string_agg(dimension || ':' || weight::real, ',' ORDER BY dimension) || '}}/1000000000' AS weights
    FROM weighted GROUP BY id
)
UPDATE golive.changed_chunks c SET bm25_weights = coalesce(v.weights, '{{}}/1000000000')::sparsevec
FROM golive.changed_chunks every_row LEFT JOIN vectors v USING (id)
WHERE c.release_id = {release_id} AND every_row.release_id = c.release_id AND every_row.id = c.id AND c.bm25_weights IS NULL
