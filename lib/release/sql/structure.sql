-- What stands over a chunk table, without the names that another table would have. Locks: none on the table.
SELECT
    (SELECT coalesce(jsonb_agg(definition ORDER BY definition), '[]') FROM (
        SELECT CASE WHEN i.indisunique THEN 'unique ' ELSE '' END || CASE WHEN i.indisvalid THEN '' ELSE 'invalid ' END
            || regexp_replace(
                regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', ''), '\m[a-z_][a-z0-9_$]*\.', '', 'g'
            ) AS definition
        FROM pg_index i WHERE i.indrelid = to_regclass(%(table)s)
    ) AS indexes) AS indexes,
    (SELECT jsonb_object_agg(name, EXISTS (
        SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass(quoted) AND t.tgname = 'sealed' AND t.tgenabled <> 'D'
    )) FROM (VALUES ('chunks', %(table)s), ('postings', %(terms)s)) AS relations (name, quoted)) AS sealed
