-- Bytes of a chunk table with its indexes, and of its postings, by their quoted names. Locks: ACCESS SHARE.
SELECT pg_total_relation_size(%s::regclass) + pg_total_relation_size(%s::regclass) AS bytes
