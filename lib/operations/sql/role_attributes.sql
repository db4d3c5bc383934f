-- The roles of these names as they are, and who of them is a member of whom. Locks: none.
SELECT r.rolname::text AS name, r.rolcanlogin AS logs_in, r.rolsuper OR r.rolbypassrls OR r.rolcreaterole AS is_mighty,
    array(SELECT o.rolname::text FROM pg_roles o WHERE o.rolname = ANY(%(names)s) AND o.oid <> r.oid
        AND pg_has_role(r.oid, o.oid, 'MEMBER')) AS member_of,
    pg_has_role(r.oid, 'USAGE') AS is_mine
FROM pg_roles r WHERE r.rolname = ANY(%(names)s)
