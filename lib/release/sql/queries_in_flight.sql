-- Sessions with a lock on a chunk table, which a query holds until its transaction ends: {pid, role, client, state, since}.
-- Not this session, nor those of Golive's own steps (backup, restore, catching up …); query_index.py is a client like others.
-- Locks: none.
SELECT a.pid, a.usename::text AS role, a.application_name AS client, a.state, a.xact_start AS since
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND (a.application_name NOT LIKE 'golive %' OR a.application_name = 'golive query')
    AND a.backend_type = 'client backend' AND EXISTS (
        SELECT FROM pg_locks l
        JOIN golive.releases r ON l.relation = to_regclass(format('%I.%I', r.table_schema, r.table_name))
        WHERE l.pid = a.pid AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
ORDER BY a.xact_start, a.pid
