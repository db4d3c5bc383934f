-- Writes every row's BM25 term weights. Locks: row locks on the shadow table alone.
--
-- Lucene's form: weight(t, d) = idf(t) * tf / (tf + k1 * (1 - b + b * |d| / avg|d|)), idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5));
-- a query's score is then the inner product with a vector of ones (Robertson and Zaragoza, 2009; Kamphuis et al., ECIR 2020).
-- A lexeme's dimension is 30 bits of its SHA-256, so that a query needs no dictionary.
WITH lexemes AS MATERIALIZED (
    SELECT c.id, t.lexeme, cardinality(t.positions)::float8 AS tf
    FROM {table} c, unnest(to_tsvector({search_config}::regconfig, c.bm25_text)) AS t
), lengths AS (
    SELECT id, sum(tf) AS length FROM lexemes GROUP BY id
), collection AS (
    SELECT count(*)::float8 AS n, (SELECT avg(length) FROM lengths) AS average FROM {table}
), frequencies AS (
    SELECT lexeme, count(*)::float8 AS df,
        golive.lexeme_dimension(lexeme) AS dimension
    FROM lexemes GROUP BY lexeme
), weighted AS (
    SELECT l.id, f.dimension,
        sum(ln(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + {k1} * (1 - {b} + {b} * length / average))) AS weight
    FROM lexemes l JOIN lengths USING (id) JOIN frequencies f USING (lexeme) CROSS JOIN collection
    GROUP BY l.id, f.dimension
), vectors AS (
    SELECT id, '{{' || string_agg(dimension || ':' || weight::real, ',' ORDER BY dimension) || '}}/1000000000' AS weights
    FROM weighted GROUP BY id
)
UPDATE {table} c SET bm25_weights = coalesce(v.weights, '{{}}/1000000000')::sparsevec
FROM {table} every_row LEFT JOIN vectors v USING (id) WHERE c.id = every_row.id
