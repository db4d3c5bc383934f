-- Forgets what every kept release has seen. Locks: row locks on golive.document_changes.
DELETE FROM golive.document_changes l
WHERE NOT EXISTS (
    SELECT FROM unnest(%(kept)s::text[]) AS k (release_id) LEFT JOIN golive.coverage c USING (release_id)
    WHERE c.seen IS NULL OR NOT pg_visible_in_snapshot(l.xid, c.seen)
)
