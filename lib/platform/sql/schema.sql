-- Golive's own state (schema "golive") and the source of truth for what is indexed ("documents").
-- Locks: none on existing tables; everything is IF NOT EXISTS or CREATE OR REPLACE, under an advisory lock held by the caller.

CREATE SCHEMA IF NOT EXISTS golive;

CREATE TABLE IF NOT EXISTS documents (
    id          text PRIMARY KEY,
    source      text NOT NULL,
    path        text NOT NULL,
    title       text NOT NULL,
    sections    jsonb NOT NULL,
    content     text NOT NULL,
    sha256      text NOT NULL,
    metadata    jsonb NOT NULL DEFAULT '{}',
    updated_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (source, path)
);

CREATE TABLE IF NOT EXISTS golive.releases (
    release_id      text PRIMARY KEY,
    chunk_version   text NOT NULL UNIQUE,
    config_hash     text NOT NULL,
    config          jsonb NOT NULL,
    table_schema    text NOT NULL,
    table_name      text NOT NULL,
    state           text NOT NULL CHECK (state IN ('locked', 'building', 'sealed', 'live', 'retired', 'rolled_back')),
    corpus_digest   text,
    content_digest  text,
    row_count       bigint,
    ingest_stats    jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    sealed_at       timestamptz
);

-- The one row that says which release answers queries; generation makes every move a compare-and-set.
CREATE TABLE IF NOT EXISTS golive.pointer (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation  bigint NOT NULL,
    release_id  text REFERENCES golive.releases,
    moved_at    timestamptz NOT NULL DEFAULT now(),
    moved_by    text NOT NULL,
    reason      text NOT NULL
);
INSERT INTO golive.pointer (generation, moved_by, reason) VALUES (0, current_user, 'set up') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS golive.traffic (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    state       text NOT NULL CHECK (state IN ('open', 'stopped')),
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  text NOT NULL,
    reason      text NOT NULL
);
INSERT INTO golive.traffic (state, changed_by, reason) VALUES ('open', current_user, 'set up') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS golive.leases (
    name         text PRIMARY KEY,
    token        text NOT NULL,
    holder       text NOT NULL,
    acquired_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS golive.verdicts (
    verdict_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id      text NOT NULL REFERENCES golive.releases,
    verdict         text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'INCONCLUSIVE', 'ERROR')),
    config_hash     text NOT NULL,
    content_digest  text NOT NULL,
    cases_digest    text NOT NULL,
    gates_digest    text NOT NULL,
    metrics_digest  text NOT NULL,
    verdict_digest  text NOT NULL,
    baseline        text REFERENCES golive.releases,
    metrics         jsonb NOT NULL,
    decided_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS golive.backups (
    backup_id        text PRIMARY KEY,
    manifest_digest  text NOT NULL,
    location         text NOT NULL,
    restores         text REFERENCES golive.releases,
    digests          jsonb NOT NULL,
    created_at       timestamptz NOT NULL,
    proven_at        timestamptz NOT NULL
);

-- number and previous_digest chain the backups, so that one which is gone or was replaced is noticed; deleted_at: on purpose.
ALTER TABLE golive.backups ADD COLUMN IF NOT EXISTS number bigint, ADD COLUMN IF NOT EXISTS previous_digest text,
    ADD COLUMN IF NOT EXISTS deleted_at timestamptz;

-- What a backup is told by that was made of another database.
CREATE TABLE IF NOT EXISTS golive.identity (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_id   uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO golive.identity DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS golive.query_logs (
    query_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asked_at           timestamptz NOT NULL DEFAULT now(),
    release_id         text NOT NULL,
    query_sha256       text NOT NULL,
    snapshot_size      integer NOT NULL,
    context_size       integer NOT NULL,
    mean_rerank_score  double precision,
    latency_ms         double precision NOT NULL
);
CREATE INDEX IF NOT EXISTS query_logs_asked_at ON golive.query_logs (asked_at);

CREATE TABLE IF NOT EXISTS golive.audit_log (
    seq            bigint PRIMARY KEY,
    at             timestamptz NOT NULL,
    actor          text NOT NULL,
    action         text NOT NULL,
    subject        text NOT NULL,
    reason         text NOT NULL,
    from_digest    text,
    to_digest      text,
    previous_hash  text NOT NULL,
    hash           text NOT NULL
);

CREATE OR REPLACE FUNCTION golive.refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table %.% is sealed: % refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, lower(TG_OP)
        USING ERRCODE = 'GL003', HINT = 'a sealed table never changes; release a new one';
END $$;

CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON golive.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION golive.refuse_write();

-- role: the role that logged in, which the client cannot choose; NULL in entries of before it was recorded.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'golive.audit_log'::regclass AND attname = 'role') THEN
        ALTER TABLE golive.audit_log ADD COLUMN role text;
    END IF;
END $$;

-- What makes the log a chain: a hash over every field of an entry and over the hash of the entry before it. An entry without
-- a role is hashed without that field, as it was when it was written; no array of ten fields has the text of one of nine.
CREATE OR REPLACE FUNCTION golive.audit_hash(entry golive.audit_log) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT encode(sha256(convert_to((jsonb_build_array(
        entry.seq, to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), entry.actor, entry.action, entry.subject,
        entry.reason, entry.from_digest, entry.to_digest, entry.previous_hash)
        || CASE WHEN entry.role IS NULL THEN '[]' ELSE jsonb_build_array(entry.role) END)::text, 'UTF8')), 'hex')
$$;

-- Appends one entry, with the owner's rights: who may call it needs none on the log, and so cannot write it otherwise.
-- actor is what the client says of itself. Serialised by the table lock.
CREATE OR REPLACE FUNCTION golive.audit(
    actor text, action text, subject text, reason text, from_digest text, to_digest text
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last golive.audit_log;
    entry golive.audit_log;
BEGIN
    LOCK TABLE golive.audit_log IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO last FROM golive.audit_log ORDER BY seq DESC LIMIT 1;
    entry := (coalesce(last.seq, 0) + 1, date_trunc('microseconds', clock_timestamp()), actor, action, subject, reason,
              from_digest, to_digest, coalesce(last.hash, ''), '', session_user);
    entry.hash := golive.audit_hash(entry);
    INSERT INTO golive.audit_log SELECT entry.*;
    RETURN entry.seq;
END $$;
REVOKE EXECUTE ON FUNCTION golive.audit FROM PUBLIC;

-- The first entry that does not follow from the one before it; NULL where the chain is whole.
CREATE OR REPLACE FUNCTION golive.audit_break() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT min(seq) FROM (
        SELECT l.seq, l.hash <> golive.audit_hash(l) OR l.previous_hash <> lag(l.hash, 1, '') OVER chain
            OR l.seq <> lag(l.seq, 1, 0::bigint) OVER chain + 1 AS broken
        FROM golive.audit_log l WINDOW chain AS (ORDER BY l.seq)
    ) AS entries WHERE broken
$$;

-- The sparse dimension (1 to 1,000,000,000) that stands for a lexeme: 32 bits of its SHA-256. In a vocabulary of a million,
-- one lexeme in a thousand shares its dimension, and so its weight, with another.
CREATE OR REPLACE FUNCTION golive.lexeme_dimension(lexeme text) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT (('x' || encode(substring(sha256(convert_to(lexeme, 'UTF8')) FROM 1 FOR 4), 'hex'))::bit(32)::bigint % 1000000000)::integer + 1
$$;

-- What a query must read before it searches: release, table, config and embedder together, or why there is none. This is the
-- whole contract with clients (docs/serving.md): one call a request, nothing kept between requests.
-- request_id names the request; whoever splits traffic by it does so here and nowhere else. Today every request is "live".
CREATE OR REPLACE FUNCTION golive.route(request_id text)
RETURNS TABLE (
    release_id text, generation bigint, table_schema text, table_name text, embedder jsonb, config jsonb, arm text
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    stop golive.traffic;
BEGIN
    SELECT * INTO stop FROM golive.traffic;
    IF stop.state = 'stopped' THEN
        RAISE EXCEPTION 'queries are stopped since % by %: %',
            to_char(stop.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), stop.changed_by, stop.reason
            USING ERRCODE = 'GL001', HINT = 'scripts/resume_operations.py';
    END IF;
    RETURN QUERY SELECT r.release_id, p.generation, r.table_schema, r.table_name,
            jsonb_build_object(
                'name', r.config -> 'embedder_name', 'dimension', r.config -> 'embedder_dimension',
                'weights_hash', r.config -> 'embedder_weights_hash', 'query_prompt', r.config -> 'embedder_query_prompt'),
            r.config, 'live'
        FROM golive.pointer p JOIN golive.releases r USING (release_id);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no release is live yet' USING ERRCODE = 'GL002', HINT = 'make golive';
    END IF;
END $$;

-- The same for clients that name no request.
CREATE OR REPLACE FUNCTION golive.route()
RETURNS TABLE (release_id text, generation bigint, table_schema text, table_name text, config jsonb)
LANGUAGE sql STABLE AS $$
    SELECT release_id, generation, table_schema, table_name, config FROM golive.route(NULL)
$$;

-- What readers could read before a stop took it from them, and get back with the resume. grantee is PUBLIC, or a role's name;
-- column_name is empty for the whole table.
CREATE TABLE IF NOT EXISTS golive.stopped_grants (
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    column_name   text NOT NULL DEFAULT '',
    grantee       text NOT NULL,
    grantable     boolean NOT NULL,
    PRIMARY KEY (table_schema, table_name, column_name, grantee)
);

-- Every table that answers are read from: the releases' chunk tables and postings, and what changed since they were sealed.
CREATE OR REPLACE FUNCTION golive.answering_tables() RETURNS SETOF regclass LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_regclass('golive.changed_chunks')
    UNION SELECT t.made FROM golive.releases r CROSS JOIN unnest(ARRAY['', '_terms']) AS suffix
    CROSS JOIN to_regclass(format('%I.%I', r.table_schema, r.table_name || suffix)) AS t (made) WHERE t.made IS NOT NULL
$$;
REVOKE EXECUTE ON FUNCTION golive.answering_tables FROM PUBLIC;

-- Takes the right to read chunks from everybody but their owners and Golive's operators, for clients that do not ask
-- golive.route(). Called again, it does so for tables and grants made since. Returns the tables where it could not.
-- With the owner's rights, as it is the operator who stops. Locks: none that a query holds.
CREATE OR REPLACE FUNCTION golive.close_tables() RETURNS text[] LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    operators oid[] := '{}';
    taken record;
    left_open text[] := '{}';
BEGIN
    IF to_regclass('golive.roles') IS NOT NULL THEN
        EXECUTE $roles$SELECT coalesce(array_agg(p.oid), '{}') FROM golive.roles w JOIN pg_roles p ON p.rolname = w.name
            WHERE w.kind = 'operator'$roles$ INTO operators;
    END IF;
    FOR taken IN
        WITH tables AS (
            SELECT c.oid, c.relacl, c.relowner, n.nspname AS table_schema, c.relname AS table_name
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid IN (SELECT golive.answering_tables())
        ), grants AS (
            SELECT t.*, '' AS column_name, e.grantee, e.is_grantable FROM tables t, aclexplode(t.relacl) AS e
            WHERE e.privilege_type = 'SELECT'
            UNION ALL
            SELECT t.*, a.attname, e.grantee, e.is_grantable
            FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid, aclexplode(a.attacl) AS e WHERE e.privilege_type = 'SELECT'
        )
        SELECT g.table_schema, g.table_name, g.column_name, coalesce(p.rolname, 'PUBLIC') AS grantee,
            bool_or(g.is_grantable) AS grantable, -- roles are quoted below; PUBLIC is none, and no role can have that name
            CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE format('%I', p.rolname) END AS target,
            CASE WHEN g.column_name = '' THEN 'SELECT' ELSE format('SELECT (%I)', g.column_name) END AS privilege
        FROM grants g LEFT JOIN pg_roles p ON p.oid = g.grantee
        WHERE g.grantee <> g.relowner AND g.grantee <> ALL (operators)
        GROUP BY 1, 2, 3, 4, g.grantee, p.rolname ORDER BY 1, 2, 3, 4
    LOOP
        BEGIN
            EXECUTE format('REVOKE %s ON TABLE %I.%I FROM %s CASCADE',
                taken.privilege, taken.table_schema, taken.table_name, taken.target);
            INSERT INTO golive.stopped_grants VALUES
                (taken.table_schema, taken.table_name, taken.column_name, taken.grantee, taken.grantable)
                ON CONFLICT (table_schema, table_name, column_name, grantee) DO UPDATE SET grantable = excluded.grantable;
        -- the second: somebody grants at this moment; the third: or has locked the table, for longer than lock_timeout
        EXCEPTION WHEN insufficient_privilege OR internal_error OR lock_not_available THEN
            left_open := left_open || format('%I.%I', taken.table_schema, taken.table_name);
        END;
    END LOOP;
    RETURN left_open;
END $$;
REVOKE EXECUTE ON FUNCTION golive.close_tables FROM PUBLIC;

-- Gives back what close_tables() took, where table and role are still there.
CREATE OR REPLACE FUNCTION golive.open_tables() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given golive.stopped_grants;
BEGIN
    FOR given IN
        DELETE FROM golive.stopped_grants RETURNING *
    LOOP
        CONTINUE WHEN to_regclass(format('%I.%I', given.table_schema, given.table_name)) IS NULL
            OR (given.grantee <> 'PUBLIC' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = given.grantee));
        EXECUTE format('GRANT SELECT %s ON TABLE %I.%I TO %s %s',
            CASE WHEN given.column_name <> '' THEN format('(%I)', given.column_name) END, given.table_schema, given.table_name,
            CASE WHEN given.grantee = 'PUBLIC' THEN 'PUBLIC' ELSE format('%I', given.grantee) END,
            CASE WHEN given.grantable THEN 'WITH GRANT OPTION' END);
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION golive.open_tables FROM PUBLIC;

-- Every write to documents, by whomever. xid tells which entries a snapshot has not seen, however late they were committed.
-- doc_id is NULL for a TRUNCATE: all of them.
CREATE TABLE IF NOT EXISTS golive.document_changes (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    doc_id      text,
    operation   text NOT NULL,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Which version of which document a release answers from. sealed_digest is the version in its sealed table (NULL: not there),
-- doc_digest the one it answers from now (NULL: the document is gone); chunks counts the rows in changed_chunks where the
-- two differ.
CREATE TABLE IF NOT EXISTS golive.release_documents (
    release_id     text NOT NULL,
    doc_id         text NOT NULL,
    sealed_digest  bytea,
    doc_digest     bytea,
    chunks         integer NOT NULL DEFAULT 0,
    PRIMARY KEY (release_id, doc_id)
);

-- How a release's rows in release_documents came about (seal, rebuilt, derived), and the snapshot up to which it has caught up.
CREATE TABLE IF NOT EXISTS golive.coverage (
    release_id  text PRIMARY KEY,
    origin      text NOT NULL CHECK (origin IN ('seal', 'rebuilt', 'derived')),
    seen        pg_snapshot,
    seen_at     timestamptz
);

-- A sealed table never changes: documents changed since are hidden in it by superseded, and stand in changed_chunks.
-- A search of a release reads (sealed table without superseded) UNION ALL changed_chunks.
CREATE TABLE IF NOT EXISTS golive.superseded (
    release_id  text NOT NULL,
    doc_id      text NOT NULL,
    PRIMARY KEY (release_id, doc_id)
);

-- The columns of a chunk table, and instead_of: the sealed chunk, now superseded, that stood for this text as a near-duplicate.
CREATE TABLE IF NOT EXISTS golive.changed_chunks (
    release_id             text NOT NULL,
    id                     text NOT NULL,
    doc_id                 text NOT NULL,
    chunk_index            integer NOT NULL,
    embedding_text         text NOT NULL,
    bm25_text              text NOT NULL,
    embedding_token_count  integer NOT NULL,
    bm25_token_count       integer NOT NULL,
    chunk_version          text NOT NULL,
    ingest_run_id          text NOT NULL,
    created_at             timestamptz NOT NULL DEFAULT now(),
    span_start             integer NOT NULL,
    span_end               integer NOT NULL,
    doc_sha256             text NOT NULL,
    duplicates             jsonb NOT NULL DEFAULT '[]',
    embedding              vector NOT NULL,
    bm25_weights           sparsevec(1000000000),
    instead_of             text,
    PRIMARY KEY (release_id, id)
);
CREATE INDEX IF NOT EXISTS changed_chunks_doc_id ON golive.changed_chunks (release_id, doc_id);

-- A version of a document: everything that decides its chunks' texts, taken from the content itself.
CREATE OR REPLACE FUNCTION golive.document_digest(id text, title text, metadata jsonb, content text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to(jsonb_build_array(id, title, metadata)::text || E'\n' || content, 'UTF8'))
$$;

-- Owner's rights, so that a role that may write documents needs none here.
CREATE OR REPLACE FUNCTION golive.capture_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO golive.document_changes (doc_id, operation) VALUES (OLD.id, lower(TG_OP));
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.id <> OLD.id) THEN
        INSERT INTO golive.document_changes (doc_id, operation) VALUES (NEW.id, lower(TG_OP));
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION golive.announce_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO golive.document_changes (doc_id, operation) VALUES (NULL, 'truncate');
    END IF;
    PERFORM pg_notify('golive_documents', '');
    RETURN NULL;
END $$;

-- Made once: CREATE OR REPLACE would wait for every writer each time. ALWAYS: replicated writes count too.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'documents'::regclass AND tgname = 'golive_announce') THEN
        CREATE TRIGGER golive_capture AFTER INSERT OR UPDATE OR DELETE ON documents
            FOR EACH ROW EXECUTE FUNCTION golive.capture_change();
        CREATE TRIGGER golive_announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON documents
            FOR EACH STATEMENT EXECUTE FUNCTION golive.announce_change();
        ALTER TABLE documents ENABLE ALWAYS TRIGGER golive_capture, ENABLE ALWAYS TRIGGER golive_announce;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'golive.pointer'::regclass AND attname = 'previous') THEN
        ALTER TABLE golive.pointer ADD COLUMN previous text REFERENCES golive.releases;
    END IF;
END $$;

-- Vectors by content (lib/index/embedding_cache.py). What an embedder gave for a text, as little-endian float32, with a check.
CREATE TABLE IF NOT EXISTS golive.embedding_cache (
    identity     bytea NOT NULL,
    text_sha256  bytea NOT NULL,
    vector       bytea NOT NULL,
    check_bytes  bytea NOT NULL,
    last_used    date NOT NULL DEFAULT current_date,
    PRIMARY KEY (identity, text_sha256)
);

-- What a model that judges or reads replied to a prompt (lib/evaluation/judgements.py). The key is a digest of model, prompt
-- and repeat.
CREATE TABLE IF NOT EXISTS golive.judgements (
    judgement_key  text PRIMARY KEY,
    judge          jsonb NOT NULL,
    prompt_sha256  text NOT NULL,
    repeat         integer NOT NULL,
    reply          text NOT NULL,
    read_as        jsonb NOT NULL,
    input_tokens   integer,
    output_tokens  integer,
    judged_at      timestamptz NOT NULL DEFAULT now(),
    latency_ms     double precision,
    used_on        date NOT NULL DEFAULT current_date
);
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'golive.judgements'::regclass AND attname = 'used_on') THEN
        ALTER TABLE golive.judgements ADD COLUMN latency_ms double precision,
            ADD COLUMN used_on date NOT NULL DEFAULT current_date;
    END IF;
END $$;

-- Which roles scripts/database_roles.py has set up; without rows, whoever works here does so with rights of its own.
CREATE TABLE IF NOT EXISTS golive.roles (
    kind  text PRIMARY KEY CHECK (kind IN ('owner', 'operator', 'reader')),
    name  text NOT NULL UNIQUE
);

-- Hands a release's chunk table and postings to the owner, and gives the operator and the reader what they need of them: a
-- table that is made later is then as reachable as those before it. While queries are stopped, readers stay shut out.
-- With the rights of the caller, who made the tables. Locks: ACCESS EXCLUSIVE where the owner changes.
CREATE OR REPLACE FUNCTION golive.adopt(release text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made regclass;
    entitled record;
BEGIN
    FOR made IN
        SELECT c.oid FROM golive.releases r CROSS JOIN unnest(ARRAY['', '_terms']) AS suffix
        JOIN pg_class c ON c.oid = to_regclass(format('%I.%I', r.table_schema, r.table_name || suffix))
        WHERE r.release_id = release
    LOOP
        FOR entitled IN
            SELECT w.kind, w.name, p.oid FROM golive.roles w JOIN pg_roles p ON p.rolname = w.name
            ORDER BY w.kind = 'owner' -- the owner last: from then on the table is the caller's no more
        LOOP
            IF entitled.kind = 'owner' THEN
                IF (SELECT relowner FROM pg_class WHERE oid = made) <> entitled.oid THEN
                    EXECUTE format('ALTER TABLE %s OWNER TO %I', made, entitled.name);
                END IF;
            ELSIF entitled.kind = 'operator' OR (SELECT state FROM golive.traffic) = 'open' THEN
                EXECUTE format('GRANT SELECT ON %s TO %I', made, entitled.name);
            END IF;
        END LOOP;
    END LOOP;
END $$;

-- Gives the reader its right on the tables that were made while queries were stopped. With the owner's rights, as it is the
-- operator who resumes; does nothing while queries are stopped.
CREATE OR REPLACE FUNCTION golive.admit_readers() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reader text := (SELECT w.name FROM golive.roles w JOIN pg_roles p ON p.rolname = w.name WHERE w.kind = 'reader');
    made regclass;
BEGIN
    IF reader IS NULL OR (SELECT state FROM golive.traffic) <> 'open' THEN
        RETURN;
    END IF;
    FOR made IN
        SELECT t FROM golive.answering_tables() AS t WHERE NOT has_table_privilege(reader, t, 'SELECT')
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO %I', made, reader);
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION golive.admit_readers FROM PUBLIC;

-- Keeps a release's chunk table as it is until the transaction ends. With the owner's rights: a role that may only read the
-- table may not lock it against writers, and whoever moves the pointer must. Locks: SHARE on the table.
CREATE OR REPLACE FUNCTION golive.hold_table(release text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held record;
BEGIN
    SELECT table_schema, table_name INTO held FROM golive.releases WHERE release_id = release;
    IF to_regclass(format('%I.%I', held.table_schema, held.table_name)) IS NOT NULL THEN
        EXECUTE format('LOCK TABLE %I.%I IN SHARE MODE', held.table_schema, held.table_name);
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION golive.hold_table FROM PUBLIC;

CREATE TABLE IF NOT EXISTS golive.schema_version (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version integer NOT NULL);
INSERT INTO golive.schema_version (version) VALUES (6) ON CONFLICT (only_row) DO UPDATE SET version = excluded.version
    WHERE schema_version.version < excluded.version;
