-- Puts the prefix into the text that words are searched in, as only prefix policy B may. Locks: ROW EXCLUSIVE.
UPDATE {table} SET bm25_text = embedding_text, bm25_token_count = embedding_token_count
