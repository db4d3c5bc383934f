-- Stores a judgement, unless somebody else's stands there already.
-- Locks: ROW EXCLUSIVE on golive.judgements.
INSERT INTO golive.judgements
    (judgement_key, judge, prompt_sha256, repeat, reply, read_as, input_tokens, output_tokens, latency_ms)
VALUES (%(key)s, %(judge)s, %(prompt_sha256)s, %(repeat)s, %(reply)s, %(read_as)s, %(input_tokens)s, %(output_tokens)s,
    %(latency_ms)s)
ON CONFLICT (judgement_key) DO NOTHING;
