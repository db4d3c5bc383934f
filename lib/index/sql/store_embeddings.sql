-- Keeps vectors by their texts; the keys come sorted. A row that is there with other bytes was damaged, and is replaced.
-- Locks: ROW EXCLUSIVE on golive.embedding_cache; its rows, in the order of the keys.
INSERT INTO golive.embedding_cache AS c (identity, text_sha256, vector, check_bytes)
SELECT %(identity)s, t.text_sha256, t.vector, t.check_bytes
FROM unnest(%(keys)s, %(vectors)s, %(checks)s) AS t (text_sha256, vector, check_bytes)
ON CONFLICT (identity, text_sha256) DO UPDATE
    SET vector = excluded.vector, check_bytes = excluded.check_bytes, last_used = excluded.last_used
    WHERE (c.vector, c.check_bytes) IS DISTINCT FROM (excluded.vector, excluded.check_bytes);
