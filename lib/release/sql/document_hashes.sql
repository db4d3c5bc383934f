-- The SHA-256 of every document. Locks: ACCESS SHARE.
SELECT sha256(convert_to(ROW(id, source, path, title, sections, content, sha256, metadata)::text, 'UTF8')) AS row_hash FROM {table}
