-- Who sees which rows. docs/roles.md explains the roles, and grants.sql gives them their rights.

-- Lets a role, or 'public', see all tenants' rows, as far as it has rights to the tables. Nothing happens, and no lock
-- is taken, when it does already; otherwise it waits 5 s at most for transactions that use the tables.
CREATE OR REPLACE FUNCTION @extschema@.show_all_tenants_to(role_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    relation regclass;
    added text := CASE role_name WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(role_name) END;
    named text[];
BEGIN
    FOREACH relation IN ARRAY
        ARRAY['@extschema@.jobs', '@extschema@.scheduled_jobs']::regclass[]
    LOOP
        SELECT array_agg(CASE r.role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.role)) END) INTO named
          FROM pg_policy p CROSS JOIN unnest(p.polroles) AS r (role)
         WHERE p.polrelid = relation AND p.polname = 'all_tenants';
        IF named IS NULL THEN
            EXECUTE format('CREATE POLICY all_tenants ON %s TO %s USING (true)', relation, added);
        ELSIF added <> ALL (named) AND 'PUBLIC' <> ALL (named) THEN
            EXECUTE format('ALTER POLICY all_tenants ON %s TO %s', relation, array_to_string(named || added, ', '));
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION @extschema@.show_all_tenants_to(text) IS
    'For the owner: lets a role see the rows of all tenants in the tables it has rights to.';
