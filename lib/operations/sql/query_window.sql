-- Latency, snapshot size and rerank scores of one release's queries since a moment. Locks: ACCESS SHARE on query_logs.
-- The drift compares the newer half of the queries with the older half.
WITH asked AS (
    SELECT *, ntile(2) OVER (ORDER BY asked_at, query_id) AS half
    FROM golive.query_logs WHERE release_id = %(release_id)s AND asked_at >= %(since)s
)
SELECT count(*) AS count,
    avg(snapshot_size) AS avg_snapshot_size,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS latency_p50_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS latency_p95_ms,
    avg(mean_rerank_score) FILTER (WHERE half = 1) AS older_score,
    avg(mean_rerank_score) FILTER (WHERE half = 2) AS newer_score,
    stddev_samp(mean_rerank_score) AS score_deviation
FROM asked
