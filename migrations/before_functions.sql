-- Run before the functions are installed, in the same transaction: makes the schema of the internal ones, and remembers
-- which functions there are. CREATE OR REPLACE would put one of ours in the place of one of the application's that has
-- the same arguments; after_functions.sql refuses that.
SET LOCAL search_path = pg_catalog, pg_temp;

DO $internal$
DECLARE
    -- By it a schema is known that was left behind when the jobs schema was dropped.
    mark CONSTANT text := 'Internals of the schema @extschema@: call nothing here, and put nothing here.';
    owner oid;
    comment text;
    left_over text;
BEGIN
    SELECT n.nspowner, obj_description(n.oid, 'pg_namespace') INTO owner, comment FROM pg_namespace n
     WHERE n.oid = to_regnamespace('@internal@');
    IF NOT FOUND THEN
        CREATE SCHEMA @internal@;
        EXECUTE format('COMMENT ON SCHEMA @internal@ IS %L', mark);
        RETURN;
    END IF;
    -- Whoever owns a schema can put another function in the place of one in it, which would run as our owner.
    IF NOT EXISTS (
        SELECT FROM pg_roles r
         WHERE r.oid = owner
           AND (r.rolsuper OR r.rolname = current_user
                OR r.oid = (SELECT c.relowner FROM pg_class c WHERE c.oid = '@extschema@.jobs'::regclass)))
    THEN
        RAISE EXCEPTION 'the schema @internal@ belongs to %, and functions of this jobs schema go there', owner::regrole
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('ALTER SCHEMA @internal@ OWNER TO %I, or install into another schema (JOBS_SCHEMA).',
                                current_user);
    END IF;
    IF comment IS DISTINCT FROM mark THEN
        -- administrator and jobs_runtime may use what is ours: an application's own schema must not become that.
        IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = '@internal@'::regnamespace)
           OR EXISTS (SELECT FROM pg_proc p
                       WHERE p.pronamespace = '@internal@'::regnamespace
                         AND p.oid::regprocedure::text NOT IN (SELECT f.signature FROM @extschema@.schema_functions f))
        THEN
            RAISE EXCEPTION 'the schema @internal@ is in the way: it holds something, and internal functions go there'
                USING ERRCODE = 'duplicate_schema', HINT = 'Rename it, or install into another schema (JOBS_SCHEMA).';
        END IF;
        EXECUTE format('COMMENT ON SCHEMA @internal@ IS %L', mark);
    ELSE
        -- In one statement: one of them may stand in the default of another's argument.
        left_over := (SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid) FROM pg_proc p
                       WHERE p.pronamespace = '@internal@'::regnamespace
                         AND p.oid::regprocedure::text NOT IN (SELECT f.signature FROM @extschema@.schema_functions f));
        IF left_over IS NOT NULL THEN
            EXECUTE 'DROP FUNCTION ' || left_over;
        END IF;
    END IF;
END
$internal$;

SELECT set_config('jobs.functions_before', coalesce(
    (SELECT string_agg(p.oid::text, ' ') FROM pg_proc p
      WHERE p.pronamespace IN ('@extschema@'::regnamespace, '@internal@'::regnamespace)
        AND p.oid::regprocedure::text NOT IN (SELECT f.signature FROM @extschema@.schema_functions f)), ''), true);

-- What is installed now has the same xmin as this one, within a savepoint as well.
CREATE FUNCTION @extschema@.schema_marker() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
