-- Rows that BM25 cannot find. Locks: ACCESS SHARE.
SELECT count(*) AS rows FROM {table} WHERE bm25_weights IS NULL
