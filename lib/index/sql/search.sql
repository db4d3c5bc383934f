-- Both candidate lists of one query in one round trip. Locks: ACCESS SHARE.
-- The vector list comes from the HNSW index; BM25 is exact. Ties are broken by id, so that equal inputs give equal lists.
-- What is searched: the sealed table without the documents changed since, and the chunks of those as they are now.
--
-- BM25 reads as few postings as it can prove to be enough (the threshold algorithm: Fagin, Lotem, Naor, JCSS 2003, and MaxScore:
-- Turtle and Flood, IPM 1995). seeds: the rarest terms' postings give chunks whose exact scores bound the k-th best from below
-- (threshold). planned: for each term the tail of its postings is passed over; a chunk that stands only in tails scores at most
-- the sum of their bounds, which stays under the threshold. gathered: the chunks of the other segments that can still
-- reach it. leaders: the best of them are scored, which raises the threshold; rest: those that can reach that are scored too.
WITH query AS MATERIALIZED (
    SELECT DISTINCT golive.lexeme_dimension(lexeme) AS dimension
    FROM unnest(tsvector_to_array(to_tsvector(%(search_config)s::regconfig, %(query)s))) AS lexeme
), asked AS MATERIALIZED (
    SELECT ('{{' || coalesce(string_agg(dimension || ':1', ','), '') || '}}/1000000000')::sparsevec AS terms,
        %(embedding)s::vector AS embedding,
        greatest(0, 1 - 1e-6 * (10 + count(*))) AS slack -- sums of 32-bit weights differ by their order
    FROM query
), segments AS MATERIALIZED (
    SELECT t.dimension, t.segment, t.size, max(t.high) OVER (PARTITION BY t.dimension) AS highest,
        t.high::float8 - lead(t.high::float8, 1, 0::float8) OVER (PARTITION BY t.dimension ORDER BY t.segment) AS fall
    FROM query JOIN {terms} t USING (dimension)
), seeds AS MATERIALIZED (
    SELECT p.chunk FROM (
        SELECT dimension, segment, sum(size) OVER (ORDER BY highest DESC, dimension, segment) AS so_far FROM segments
    ) s JOIN {terms} t USING (dimension, segment), unnest(t.chunks, t.weights) AS p (chunk, weight)
    WHERE s.so_far <= %(seed_postings)s OR s.segment = 0
    GROUP BY p.chunk ORDER BY sum(p.weight) DESC, p.chunk LIMIT 2 * %(bm25_top_k)s
), threshold AS MATERIALIZED (
    SELECT coalesce((
        SELECT c.score * (SELECT slack FROM asked)
        FROM seeds s, LATERAL (
            SELECT -(bm25_weights <#> (SELECT terms FROM asked)) AS score FROM {table}
            WHERE golive.lexeme_dimension(id) = s.chunk
                AND doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s) OFFSET 0
        ) AS c ORDER BY c.score DESC OFFSET %(bm25_top_k)s - 1 LIMIT 1
    ), 0) AS least
), planned AS MATERIALIZED (
    SELECT dimension, segment, fall,
        sum(fall) OVER (ORDER BY gain DESC, dimension, segment DESC) < %(passed_share)s * (SELECT least FROM threshold) AS passed
    FROM (
        SELECT *, min(size / greatest(fall, 1e-9)) OVER (PARTITION BY dimension ORDER BY segment DESC) AS gain FROM segments
    ) AS by_gain -- postings passed over for what they can add to a score; a term's last segments always go first
), bounds AS MATERIALIZED (
    SELECT dimension, coalesce(sum(fall) FILTER (WHERE passed), 0) AS bound FROM planned GROUP BY dimension
), gathered AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY most DESC, chunk) AS place FROM (
        SELECT p.chunk, sum(p.weight::float8 - b.bound) + (SELECT sum(bound) FROM bounds) AS most
        FROM planned s JOIN bounds b USING (dimension) JOIN {terms} t USING (dimension, segment),
            unnest(t.chunks, t.weights) AS p (chunk, weight)
        WHERE NOT s.passed GROUP BY p.chunk
    ) AS sums WHERE most >= (SELECT least FROM threshold)
), leaders AS MATERIALIZED (
    SELECT c.id, c.score FROM gathered g, LATERAL (
        SELECT id, -(bm25_weights <#> (SELECT terms FROM asked)) AS score FROM {table}
        WHERE golive.lexeme_dimension(id) = g.chunk
            AND doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s) OFFSET 0
    ) AS c WHERE g.place <= 2 * %(bm25_top_k)s
), rest AS MATERIALIZED (
    SELECT c.id, c.score FROM gathered g, LATERAL (
        SELECT id, -(bm25_weights <#> (SELECT terms FROM asked)) AS score FROM {table}
        WHERE golive.lexeme_dimension(id) = g.chunk
            AND doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s) OFFSET 0
    ) AS c WHERE g.place > 2 * %(bm25_top_k)s AND g.most >= coalesce(
        (SELECT score * slack FROM leaders, asked ORDER BY score DESC OFFSET %(bm25_top_k)s - 1 LIMIT 1), 0)
), best AS (
    SELECT id, false AS changed, score FROM leaders UNION ALL SELECT id, false, score FROM rest UNION ALL
    SELECT id, true, -(bm25_weights <#> (SELECT terms FROM asked)) FROM golive.changed_chunks
    WHERE release_id = %(release_id)s
), bm25_hits AS MATERIALIZED (
    SELECT id, changed, row_number() OVER (ORDER BY score DESC, id) AS bm25_rank FROM best WHERE score > 0
    ORDER BY score DESC, id LIMIT %(bm25_top_k)s
), nearest AS MATERIALIZED (
    SELECT id, embedding <=> %(embedding)s::vector AS distance FROM {table}
    WHERE doc_id NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
    ORDER BY embedding <=> %(embedding)s::vector LIMIT %(vector_top_k)s
), nearest_changed AS MATERIALIZED (
    SELECT id, embedding <=> (SELECT embedding FROM asked) AS distance FROM golive.changed_chunks
    WHERE release_id = %(release_id)s ORDER BY distance, id LIMIT %(vector_top_k)s
), vector_hits AS MATERIALIZED (
    SELECT id, changed, row_number() OVER (ORDER BY distance, id) AS vector_rank
    FROM (SELECT id, false AS changed, distance FROM nearest UNION ALL SELECT id, true, distance FROM nearest_changed) AS found
    ORDER BY distance, id LIMIT %(vector_top_k)s
)
SELECT c.id AS chunk_id, c.doc_id, c.span_start, c.span_end, c.bm25_text, c.embedding_text, c.embedding_token_count,
    c.bm25_token_count, c.doc_sha256, coalesce(kept.duplicates, c.duplicates) AS duplicates, h.vector_rank, h.bm25_rank,
    1 - (c.embedding <=> (SELECT embedding FROM asked)) AS similarity,
    coalesce(-(c.bm25_weights <#> (SELECT terms FROM asked)), 0) AS bm25_score
FROM (SELECT * FROM vector_hits FULL JOIN bm25_hits USING (id, changed)) AS h CROSS JOIN LATERAL (
    SELECT id, doc_id, span_start, span_end, bm25_text, embedding_text, embedding_token_count, bm25_token_count, doc_sha256,
        duplicates, embedding, bm25_weights FROM {table} WHERE NOT h.changed AND id = h.id
    UNION ALL
    SELECT id, doc_id, span_start, span_end, bm25_text, embedding_text, embedding_token_count, bm25_token_count, doc_sha256,
        duplicates, embedding, bm25_weights FROM golive.changed_chunks
    WHERE h.changed AND id = h.id AND release_id = %(release_id)s
) AS c LEFT JOIN LATERAL ( -- what a sealed chunk stands for as a near-duplicate, without the documents that have changed
    SELECT coalesce(jsonb_agg(entry ORDER BY place), '[]') AS duplicates
    FROM jsonb_array_elements(c.duplicates) WITH ORDINALITY AS e (entry, place)
    WHERE entry ->> 'doc_id' NOT IN (SELECT doc_id FROM golive.superseded WHERE release_id = %(release_id)s)
) AS kept ON NOT h.changed AND c.duplicates <> '[]'
