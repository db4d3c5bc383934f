-- Every verdict with its release, oldest first. Locks: ACCESS SHARE on golive.verdicts and golive.releases.
SELECT v.verdict_id, v.release_id, v.verdict, v.cases_digest, v.verdict_digest, v.baseline, v.metrics, v.decided_at,
       r.state
FROM golive.verdicts v JOIN golive.releases r USING (release_id)
ORDER BY v.verdict_id
