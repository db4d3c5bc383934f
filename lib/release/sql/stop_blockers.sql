-- Sessions whose open transaction has written where a stop must write: {pid, role, client, state}. Locks: none.
SELECT DISTINCT a.pid, a.usename::text AS role, a.application_name AS client, a.state
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.granted AND l.relation IN ('golive.audit_log'::regclass, 'golive.traffic'::regclass)
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') AND a.pid <> pg_backend_pid()
ORDER BY a.pid
