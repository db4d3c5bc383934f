-- One stored judgement, and whether it is the first time today that somebody uses it.
-- Locks: ACCESS SHARE on golive.judgements.
SELECT judge, prompt_sha256, repeat, reply, read_as, input_tokens, output_tokens, latency_ms,
    used_on < current_date AS unused_today
FROM golive.judgements
WHERE judgement_key = %(key)s;
