-- Does each of ten chunks find itself, by its own vector and by its own words? Locks: ACCESS SHARE.
-- A chunk counts as found where the best hit is as good as itself: equal texts may stand in two chunks.
WITH probes AS (
    SELECT id, embedding, bm25_weights FROM {table} ORDER BY id LIMIT 10
)
SELECT count(*) AS probes,
    count(*) FILTER (WHERE (SELECT t.embedding <=> p.embedding FROM {table} t ORDER BY t.embedding <=> p.embedding LIMIT 1) < 1e-6) AS by_vector,
    count(*) FILTER (WHERE (SELECT -(t.bm25_weights <#> p.bm25_weights) FROM {table} t ORDER BY t.bm25_weights <#> p.bm25_weights LIMIT 1)
        >= -(p.bm25_weights <#> p.bm25_weights) - 1e-6) AS by_words
FROM probes p
