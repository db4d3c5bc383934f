-- The vector list of a query, as search.sql makes it: the distances of the nearest rows. Locks: ACCESS SHARE.
SELECT embedding <=> %(embedding)s::vector AS distance
FROM {table} ORDER BY embedding <=> %(embedding)s::vector LIMIT %(vector_top_k)s
