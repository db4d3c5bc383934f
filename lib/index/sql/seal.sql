-- Refuses every later write to a table. Locks: SHARE ROW EXCLUSIVE on it.
CREATE OR REPLACE TRIGGER sealed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION golive.refuse_write()
