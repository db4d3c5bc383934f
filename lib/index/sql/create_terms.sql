-- The postings of a weighed table, from its own BM25 weights, so that a restore needs nothing else. Locks: ACCESS SHARE on it.
--
-- A lexeme's postings are cut into segments by falling weight: 64, then 64, 128, 256, … chunks. high is a segment's largest
-- weight, and so a bound for every chunk that is in this segment or in a later one. A chunk stands here by its number,
-- golive.lexeme_dimension(id), which a chunk may share with another one: the search tells them apart.
CREATE TABLE {terms} (
    dimension  integer NOT NULL,
    segment    integer NOT NULL,
    high       real NOT NULL,
    size       integer NOT NULL,
    chunks     integer[] NOT NULL,
    weights    real[] NOT NULL
);
ALTER TABLE {terms} ALTER chunks SET STORAGE EXTERNAL, ALTER weights SET STORAGE EXTERNAL;
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
SELECT dimension, segment, max(weight), count(*), array_agg(chunk), array_agg(weight) FROM cut GROUP BY dimension, segment;
ALTER TABLE {terms} ADD PRIMARY KEY (dimension, segment)
