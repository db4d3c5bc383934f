-- The SHA-256 of every row of a table of postings, over its values' bytes: their text takes three times as long.
-- Locks: ACCESS SHARE.
SELECT sha256(int4send(dimension) || int4send(segment) || float4send(high) || int4send(size) || array_send(chunks)
    || array_send(weights)) AS row_hash FROM {table}
