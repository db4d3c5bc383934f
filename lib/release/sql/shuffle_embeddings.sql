-- Gives every row the vector of another, each vector once: the order is that of the ids' hashes. Locks: ROW EXCLUSIVE.
WITH ordered AS (
    SELECT id, embedding, row_number() OVER (ORDER BY sha256(convert_to(id, 'UTF8'))) AS place, count(*) OVER () AS rows
    FROM {table}
)
UPDATE {table} c SET embedding = other.embedding
FROM ordered mine JOIN ordered other ON other.place = mine.place % mine.rows + 1
WHERE c.id = mine.id
