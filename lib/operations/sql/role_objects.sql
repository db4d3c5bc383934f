-- What Golive's roles own and may do: every object with its owner and grants, one row each. Locks: none.
-- belongs_to: state (schema golive), documents, chunks (a release's table or postings), place (the database, or a schema
-- that holds these). granted: {role: [privilege, ...]}, PUBLIC for all; a privilege on one column reads "UPDATE (state)".
WITH places AS (
    SELECT to_regnamespace('golive') AS schema UNION SELECT c.relnamespace::regnamespace FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid WHERE t.tgname = 'golive_capture'
    UNION SELECT to_regnamespace(quote_ident(table_schema)) FROM golive.releases
), members AS (
    SELECT c.oid, c.relkind, 'chunks' AS belongs_to FROM golive.releases r CROSS JOIN unnest(ARRAY['', '_terms']) AS suffix
    JOIN pg_class c ON c.oid = to_regclass(format('%I.%I', r.table_schema, r.table_name || suffix))
    UNION SELECT tgrelid, 'r', 'documents' FROM pg_trigger WHERE tgname = 'golive_capture'
), relations AS (
    SELECT oid, relkind, belongs_to FROM members
    UNION ALL
    SELECT c.oid, c.relkind, 'state' FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('golive') AND c.relkind IN ('r', 'p', 'v', 'S')
        AND NOT EXISTS (SELECT FROM members m WHERE m.oid = c.oid)
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
), found AS (
    SELECT CASE WHEN c.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
        format('%s.%I', c.relnamespace::regnamespace, c.relname) AS name, c.relname::text AS short_name, r.belongs_to,
        c.relowner AS owner,
        coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl,
        '' AS suffix
    FROM relations r JOIN pg_class c USING (oid)
    UNION ALL
    SELECT 'TABLE', format('%s.%I', c.relnamespace::regnamespace, c.relname), c.relname::text, r.belongs_to, c.relowner,
        a.attacl, ' (' || quote_ident(a.attname) || ')'
    FROM relations r JOIN pg_class c USING (oid) JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attacl IS NOT NULL
    UNION ALL
    SELECT 'FUNCTION', format('golive.%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)), p.proname::text,
        'state', p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)), ''
    FROM pg_proc p WHERE p.pronamespace = to_regnamespace('golive')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    UNION ALL
    SELECT 'SCHEMA', quote_ident(n.nspname), n.nspname::text, CASE WHEN n.nspname = 'golive' THEN 'state' ELSE 'place' END,
        n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner)), ''
    FROM pg_namespace n WHERE n.oid IN (SELECT schema FROM places)
    UNION ALL
    SELECT 'DATABASE', quote_ident(datname), datname::text, 'place', datdba, coalesce(datacl, acldefault('d', datdba)), ''
    FROM pg_database WHERE datname = current_database()
)
SELECT kind, name, short_name, belongs_to, pg_get_userbyid(owner)::text AS owner, coalesce((
    SELECT jsonb_object_agg(grantee, privileges) FROM (
        SELECT CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END AS grantee,
            jsonb_agg(e.privilege_type || o.suffix ORDER BY e.privilege_type) AS privileges
        FROM found o, aclexplode(o.acl) AS e WHERE (o.kind, o.name) = (f.kind, f.name) GROUP BY 1
    ) AS by_grantee
), '{}') AS granted
FROM (SELECT DISTINCT kind, name, short_name, belongs_to, owner FROM found) AS f
ORDER BY kind <> 'DATABASE', kind <> 'SCHEMA', belongs_to, kind, name
