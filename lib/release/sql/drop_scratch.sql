-- Drops a temporary chunk table with its postings. Locks: ACCESS EXCLUSIVE on them, which no other session sees.
DROP TABLE IF EXISTS {table}, {terms}
