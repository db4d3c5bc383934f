-- The indexes, constraints and triggers of a table, as PostgreSQL would write them. Locks: ACCESS SHARE on catalogs.
SELECT
    (SELECT coalesce(jsonb_agg(pg_get_indexdef(indexrelid) ORDER BY indexrelid::regclass::text), '[]')
        FROM pg_index WHERE indrelid = %(table)s::regclass) AS indexes,
    (SELECT coalesce(jsonb_agg(conname || ' ' || pg_get_constraintdef(oid) ORDER BY conname), '[]')
        FROM pg_constraint WHERE conrelid = %(table)s::regclass) AS constraints,
    (SELECT coalesce(jsonb_agg(pg_get_triggerdef(oid) ORDER BY tgname), '[]')
        FROM pg_trigger WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal) AS triggers
