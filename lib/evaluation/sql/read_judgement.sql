-- One stored judgement.
-- Locks: ACCESS SHARE on golive.judgements.
SELECT judge, prompt_sha256, repeat, reply, read_as, input_tokens, output_tokens
FROM golive.judgements
WHERE judgement_key = %(key)s;
