-- The vector index of a shadow table. Locks: SHARE on the shadow table.
CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw (embedding vector_cosine_ops)
    WITH (m = {m}, ef_construction = {ef_construction})
