-- Deletes judgements that were not used for too long. Those used since the table of the live release, or of the one before it,
-- was sealed stay, however long that is ago: the verdicts on the two were made of them.
-- Locks: ROW EXCLUSIVE on golive.judgements; the rows that go.
DELETE FROM golive.judgements
WHERE used_on < least(
    current_date - %(unused_days)s::integer,
    (
        SELECT min(r.sealed_at)::date FROM golive.releases r
        JOIN golive.pointer p ON r.release_id IN (p.release_id, p.previous)
    )
);
