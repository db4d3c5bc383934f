-- The postings of a weighed table, from its own BM25 weights. Locks: ACCESS SHARE on it.
INSERT INTO {terms}
WITH postings AS (
    SELECT golive.lexeme_dimension(id) AS chunk, split_part(entry, ':', 1)::integer AS dimension,
        split_part(entry, ':', 2)::real AS weight
    FROM {table}, string_to_table(btrim(split_part(bm25_weights::text, '/', 1), '{{}}'), ',') AS entry WHERE entry <> ''
), placed AS (
    SELECT *, row_number() OVER (PARTITION BY dimension ORDER BY weight DESC, chunk) - 1 AS place FROM postings
), cut AS (
    SELECT *, CASE WHEN place < 64 THEN 0 ELSE floor(ln(place / 64) / ln(2.0::float8))::integer + 1 END AS segment FROM placed
)
SELECT dimension, segment, max(weight), count(*), array_agg(chunk), array_agg(weight) FROM cut GROUP BY dimension, segment
