-- Deletes vectors that were not used for too long, and of the rest the longest unused beyond a size.
-- Locks: ROW EXCLUSIVE on golive.embedding_cache; the rows that go. A row that another session is writing stays.
WITH ranked AS (
    SELECT identity, text_sha256, last_used,
        sum(octet_length(vector)) OVER (ORDER BY last_used DESC, identity, text_sha256) AS bytes
    FROM golive.embedding_cache
),
gone AS (
    SELECT c.identity, c.text_sha256 FROM golive.embedding_cache c JOIN ranked r USING (identity, text_sha256)
    WHERE r.last_used < current_date - %(unused_days)s::integer OR r.bytes > %(max_bytes)s
    ORDER BY c.identity, c.text_sha256 FOR UPDATE OF c SKIP LOCKED
)
DELETE FROM golive.embedding_cache c USING gone
WHERE c.identity = gone.identity AND c.text_sha256 = gone.text_sha256;
