-- What a restore has to know of the server and the database. Locks: ACCESS SHARE on catalogs.
SELECT current_setting('server_version') AS postgresql, current_setting('server_version_num')::integer AS version_num,
    current_database() AS database, (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
    (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding,
    (SELECT datcollate FROM pg_database WHERE datname = current_database()) AS collation,
    (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector,
    (SELECT jsonb_object_agg(extname, extversion ORDER BY extname) FROM pg_extension) AS extensions,
    (SELECT jsonb_object_agg(sequencename, last_value ORDER BY sequencename) FROM pg_sequences WHERE schemaname = 'golive')
        AS sequences
