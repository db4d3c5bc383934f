-- The cached vectors of these texts; stale says that a row's last_used is to be set.
-- Locks: ACCESS SHARE on golive.embedding_cache.
SELECT text_sha256, vector, check_bytes, last_used < current_date AS stale
FROM golive.embedding_cache
WHERE identity = %(identity)s AND text_sha256 = ANY (%(keys)s);
