-- The documents that the log names since a release last caught up; unknown where that cannot be said. A snapshot from the
-- future was brought here from another server, whose transaction numbers mean nothing here. Locks: ACCESS SHARE.
SELECT c.seen IS NULL OR pg_snapshot_xmax(c.seen) > pg_snapshot_xmax(pg_current_snapshot()) AS unknown,
    coalesce(array_agg(DISTINCT l.doc_id) FILTER (WHERE l.doc_id IS NOT NULL), '{}') AS names,
    coalesce(bool_or(l.doc_id IS NULL) FILTER (WHERE l.seq IS NOT NULL), false) AS truncated
FROM golive.coverage c LEFT JOIN golive.document_changes l ON NOT pg_visible_in_snapshot(l.xid, c.seen)
WHERE c.release_id = %(release_id)s GROUP BY c.release_id
