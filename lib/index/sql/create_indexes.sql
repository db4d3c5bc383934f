-- The vector index of a shadow table, and the index that finds a chunk by the number it has in the postings.
-- Locks: SHARE on the shadow table.
CREATE INDEX IF NOT EXISTS {vectors} ON {table} USING hnsw (embedding vector_cosine_ops)
    WITH (m = {m}, ef_construction = {ef_construction});
CREATE INDEX IF NOT EXISTS {numbers} ON {table} (golive.lexeme_dimension(id))
