-- The SHA-256 of every row's text, of any table. The texts of values depend on settings (lib/release/snapshot.py pins them).
-- Locks: ACCESS SHARE.
SELECT sha256(convert_to(ROW({columns})::text, 'UTF8')) AS row_hash FROM {table}
