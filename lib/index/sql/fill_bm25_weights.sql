-- Writes every row's BM25 term weights. Locks: row locks on the shadow table alone.
--
-- Lucene's form: weight(t, d) = idf(t) * tf / (tf + k1 * (1 - b + b * |d| / avg|d|)), idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5));
-- a query's score is then the inner product with a vector of ones (Robertson and Zaragoza, 2009; Kamphuis et al., ECIR 2020).
-- A lexeme's dimension is 30 bits of its SHA-256, so that a query needs no dictionary.
--
-- The texts are analysed by parallel workers into a temporary table; row by row from there on, so that memory stays flat.
CREATE TEMPORARY TABLE golive_analysed ON COMMIT DROP AS
    SELECT ctid AS place, to_tsvector({search_config}::regconfig, bm25_text) AS words FROM {table};
CREATE TEMPORARY TABLE golive_frequencies ON COMMIT DROP AS
    SELECT word COLLATE "C" AS lexeme, golive.lexeme_dimension(word) AS dimension,
        ln(1 + (n - ndoc + 0.5) / (ndoc + 0.5))::float8 AS idf, sum(nentry) OVER () / n AS average
    FROM ts_stat('SELECT words FROM golive_analysed'), (SELECT count(*)::float8 AS n FROM golive_analysed) AS collection;
CREATE UNIQUE INDEX ON golive_frequencies (lexeme) INCLUDE (dimension, idf, average);
ANALYZE golive_frequencies;
UPDATE {table} c SET bm25_weights = v.weights::sparsevec
FROM (
    SELECT place, (
        SELECT '{{' || coalesce(string_agg(dimension || ':' || weight::real, ','), '') || '}}/1000000000' FROM (
            SELECT f.dimension, sum(f.idf * tf / (tf + {k1} * (1 - {b} + {b} * length / f.average))) AS weight
            FROM (
                SELECT lexeme COLLATE "C" AS lexeme, cardinality(positions)::float8 AS tf,
                    sum(cardinality(positions)) OVER ()::float8 AS length
                FROM unnest(a.words)
            ) AS t, LATERAL (SELECT dimension, idf, average FROM golive_frequencies WHERE lexeme = t.lexeme OFFSET 0) AS f
            GROUP BY f.dimension
        ) AS weighted
    ) AS weights
    FROM golive_analysed a
) AS v WHERE c.ctid = v.place;
DROP TABLE golive_analysed, golive_frequencies
