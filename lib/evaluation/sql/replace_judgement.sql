-- Stores a fresh judgement in place of an older one.
-- Locks: ROW EXCLUSIVE on golive.judgements; its row.
INSERT INTO golive.judgements
    (judgement_key, judge, prompt_sha256, repeat, reply, read_as, input_tokens, output_tokens, latency_ms)
VALUES (%(key)s, %(judge)s, %(prompt_sha256)s, %(repeat)s, %(reply)s, %(read_as)s, %(input_tokens)s, %(output_tokens)s,
    %(latency_ms)s)
ON CONFLICT (judgement_key) DO UPDATE
    SET reply = excluded.reply, read_as = excluded.read_as, input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens, latency_ms = excluded.latency_ms, judged_at = now(),
        used_on = current_date;
