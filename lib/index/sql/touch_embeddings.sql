-- Marks cached vectors as used today, at most once a day each; a row that another session is writing is left to it.
-- Locks: ROW EXCLUSIVE on golive.embedding_cache; its rows, without waiting.
UPDATE golive.embedding_cache c SET last_used = current_date
FROM (
    SELECT identity, text_sha256 FROM golive.embedding_cache
    WHERE identity = %(identity)s AND text_sha256 = ANY (%(keys)s)
    ORDER BY text_sha256 FOR NO KEY UPDATE SKIP LOCKED
) AS used
WHERE c.identity = used.identity AND c.text_sha256 = used.text_sha256;
