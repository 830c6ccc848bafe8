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
    lost text;
    remedy text;
    doomed oid[];
    reason text;
    holders text;
BEGIN
    -- What functions are made with. The types of arguments before_migrations.sql has looked for.
    SELECT n.name, n.remedy INTO lost, remedy
      FROM (VALUES ('fire_outcome', 'CREATE TYPE @extschema@.fire_outcome AS '
                                    '(outcome text, job_id bigint, sql_state text, message text)'),
                   ('jobs', NULL), ('scheduled_jobs', NULL), ('workers', NULL), ('schedulers', NULL),
                   ('schedule_fires', NULL), ('settings', NULL), ('limits', NULL)) AS n (name, remedy)
     WHERE to_regtype('@extschema@.' || n.name) IS NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '@extschema@.% is missing, which a migration has made', lost
            USING ERRCODE = 'undefined_object', DETAIL = 'Somebody has dropped it. Nothing was changed.',
                  HINT = coalesce(remedy || ', as the owner of the tables, and migrate again.',
                                  'Restore it from a dump, and migrate again.');
    END IF;

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
        IF EXISTS (
            SELECT FROM pg_depend d
             WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = '@internal@'::regnamespace
               AND d.deptype = 'n'
               AND NOT (d.classid = 'pg_proc'::regclass
                        AND d.objid::regprocedure::text IN (SELECT f.signature FROM @extschema@.schema_functions f)))
        THEN
            RAISE EXCEPTION 'the schema @internal@ is in the way: it holds something, and internal functions go there'
                USING ERRCODE = 'duplicate_schema', HINT = 'Rename it, or install into another schema (JOBS_SCHEMA).';
        END IF;
        EXECUTE format('COMMENT ON SCHEMA @internal@ IS %L', mark);
    END IF;
    -- Functions that are left over, and whatever else can be called and stands in the place of one of ours.
    doomed := ARRAY(
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = '@internal@'::regnamespace
           AND p.oid::regprocedure::text NOT IN (SELECT f.signature FROM @extschema@.schema_functions f)
        UNION
        SELECT p.oid FROM @extschema@.schema_functions f JOIN pg_proc p ON p.oid = to_regprocedure(f.signature)
         WHERE p.prokind <> 'f');
    IF cardinality(doomed) > 0 THEN
        BEGIN
            -- In one statement: one of them may stand in the default of another's argument.
            EXECUTE (SELECT 'DROP ROUTINE ' || string_agg(d.routine::regprocedure::text, ', ')
                       FROM unnest(doomed) AS d (routine));
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
            reason := SQLERRM;
            -- A view, a default and their like are told by their relation. Of what the first superuser owns there is no
            -- row in pg_shdepend.
            SELECT string_agg(DISTINCT format('%s, of %s', pg_describe_object(h.classid, h.objid, 0),
                                              coalesce(s.refobjid, 10)::regrole), '; ')
              INTO holders
              FROM (SELECT 'pg_proc'::regclass::oid, p.oid FROM pg_proc p
                     WHERE p.oid = ANY (doomed) AND NOT pg_has_role(p.proowner, 'USAGE')
                    UNION
                    SELECT CASE WHEN r.relation IS NULL THEN d.classid ELSE 'pg_class'::regclass END,
                           coalesce(r.relation, d.objid)
                      FROM pg_depend d
                     CROSS JOIN LATERAL (SELECT CASE d.classid::regclass::text
                           WHEN 'pg_rewrite' THEN (SELECT w.ev_class FROM pg_rewrite w WHERE w.oid = d.objid)
                           WHEN 'pg_attrdef' THEN (SELECT a.adrelid FROM pg_attrdef a WHERE a.oid = d.objid)
                           WHEN 'pg_trigger' THEN (SELECT t.tgrelid FROM pg_trigger t WHERE t.oid = d.objid)
                           WHEN 'pg_constraint' THEN
                               (SELECT nullif(c.conrelid, 0) FROM pg_constraint c WHERE c.oid = d.objid)
                           END) AS r (relation)
                     WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = ANY (doomed)
                       AND NOT (d.classid = 'pg_proc'::regclass AND d.objid = ANY (doomed))) AS h (classid, objid)
              LEFT JOIN pg_shdepend s ON s.classid = h.classid AND s.objid = h.objid AND s.deptype = 'o'
               AND s.dbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database());
            RAISE EXCEPTION 'routines that are none of this version''s cannot be dropped: %', reason
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Nothing was changed.',
                      HINT = format('In the way: %s. Drop that as its owner, and migrate again.', holders);
        END;
    END IF;
END
$internal$;

SELECT set_config('jobs.functions_before', coalesce(
    (SELECT string_agg(p.oid::text, ' ') FROM pg_proc p
      WHERE p.pronamespace IN ('@extschema@'::regnamespace, '@internal@'::regnamespace)
        AND p.oid::regprocedure::text NOT IN (SELECT f.signature FROM @extschema@.schema_functions f)), ''), true);

-- What is installed now has the same xmin as this one, within a savepoint as well.
CREATE FUNCTION @extschema@.schema_marker() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
