-- The table of a weighed table's postings; fill_terms.sql fills it. Locks: none on other tables.
--
-- A lexeme's postings are cut into segments by falling weight: 64, then 64, 128, 256, … chunks. high is a segment's largest
-- weight, and so a bound for every chunk that is in this segment or in a later one. A chunk stands here by its number,
-- golive.lexeme_dimension(id), which a chunk may share with another one: the search tells them apart.
CREATE TABLE {terms} (
    dimension  integer NOT NULL,
    segment    integer NOT NULL,
    high       real NOT NULL,
    size       integer NOT NULL,
    chunks     integer[] NOT NULL,
    weights    real[] NOT NULL
);
ALTER TABLE {terms} ALTER chunks SET STORAGE EXTERNAL, ALTER weights SET STORAGE EXTERNAL
