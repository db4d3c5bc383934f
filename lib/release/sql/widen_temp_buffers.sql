-- Lets a session hold as much of its temporary tables in memory as all sessions hold of others, up to 1 GB. Locks: none.
SELECT set_config('temp_buffers', least(setting::bigint, 131072)::text, false) FROM pg_settings WHERE name = 'shared_buffers'
