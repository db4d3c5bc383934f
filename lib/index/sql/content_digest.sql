-- Row count and content digest of a table: SHA-256 over the sorted SHA-256 of every row, so the order of rows does not matter.
-- OFFSET 0: without it the rows are sorted whole, and each is hashed twice.
SELECT count(*) AS row_count, encode(sha256(coalesce(string_agg(row_hash, ''::bytea ORDER BY row_hash), ''::bytea)), 'hex') AS digest
FROM ({hashes} OFFSET 0) AS rows
