-- The chunks that a table is probed with: those whose ids have the smallest hashes, the same for equal tables.
-- Locks: ACCESS SHARE.
SELECT id, embedding::text AS vector, bm25_text AS text FROM {table}
WHERE id = ANY(ARRAY(SELECT id FROM {table} ORDER BY sha256(convert_to(id, 'UTF8')), id LIMIT %(count)s))
ORDER BY sha256(convert_to(id, 'UTF8')), id
