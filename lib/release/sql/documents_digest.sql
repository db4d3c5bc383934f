-- Row count and content digest of documents: SHA-256 over the sorted SHA-256 of every row. Locks: ACCESS SHARE.
SELECT count(*) AS row_count, encode(sha256(coalesce(string_agg(row_hash, ''::bytea ORDER BY row_hash), ''::bytea)), 'hex') AS digest
FROM (
    SELECT sha256(convert_to(ROW(id, source, path, title, sections, content, sha256, metadata)::text, 'UTF8')) AS row_hash
    FROM {table} OFFSET 0
) AS rows
