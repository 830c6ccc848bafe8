-- Run after the functions have been installed, and the triggers that call them, in the same transaction: they are
-- nobody's until grants.sql gives them, and those that are no longer among the files, or where they were, are dropped.
DO $installed$
DECLARE
    -- What PostGraphile shows of the jobs schema; @behavior -* hides the rest. A function with several forms it leaves
    -- out by itself.
    shown CONSTANT text[] := '{
        complete_job, complete_jobs, fail_job, force_unlock_workers, get_job, get_scheduled_job, graphql_add_job,
        graphql_add_scheduled_job, permanently_fail_jobs, release_jobs, release_scheduled_jobs, remove_job,
        reschedule_jobs, run_scheduled_job}';
    before oid[] := string_to_array(current_setting('jobs.functions_before'), ' ');
    marker CONSTANT regprocedure := '@extschema@.schema_marker()';
    signatures text[] := '{}';
    routine record;
    dropped boolean := true;
    kept text[];
    reasons text[];
    -- Functions of the interface run as the tables' owner and call internal ones. So those are the owner's, too, where
    -- a superuser or a member of the owner migrates.
    owner regrole := (SELECT c.relowner FROM pg_class c WHERE c.oid = '@extschema@.jobs'::regclass);
    me oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);
BEGIN
    IF owner <> me AND me = (SELECT n.nspowner FROM pg_namespace n WHERE n.oid = '@internal@'::regnamespace) THEN
        EXECUTE format('ALTER SCHEMA @internal@ OWNER TO %s', owner);
    END IF;
    -- Whatever was written together with the marker is what the files hold.
    FOR routine IN
        SELECT p.oid, p.oid::regprocedure::text AS signature, p.proname, p.proowner,
               obj_description(p.oid, 'pg_proc') AS told, p.pronamespace = '@internal@'::regnamespace AS internal
          FROM pg_proc p
         WHERE p.pronamespace IN ('@extschema@'::regnamespace, '@internal@'::regnamespace) AND p.oid <> marker
           AND p.xmin = (SELECT m.xmin FROM pg_proc m WHERE m.oid = marker)
    LOOP
        IF routine.oid = ANY (before) THEN
            RAISE EXCEPTION 'the function % is in the way: it is none of this schema''s', routine.signature
                USING ERRCODE = 'duplicate_function', HINT = 'Rename it, or install into another schema (JOBS_SCHEMA).';
        END IF;
        signatures := signatures || routine.signature;
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', routine.signature);
        IF routine.proowner = me AND owner <> me THEN
            EXECUTE format('ALTER FUNCTION %s OWNER TO %s', routine.signature, owner);
        END IF;
        IF NOT routine.internal AND routine.proname <> ALL (shown) AND coalesce(routine.told, '') !~ '^@behavior' THEN
            EXECUTE format('COMMENT ON FUNCTION %s IS %L', routine.signature,
                           concat_ws(E'\n', '@behavior -*', routine.told));
        END IF;
    END LOOP;
    IF cardinality(signatures) = 0 THEN
        RAISE EXCEPTION 'no function was installed';
    END IF;
    EXECUTE format('DROP FUNCTION %s', marker);
    -- Again and again: one of them may stand in the default of another's argument, which has to go first.
    WHILE dropped LOOP
        dropped := false;
        kept := '{}';
        reasons := '{}';
        FOR routine IN
            SELECT f.signature FROM @extschema@.schema_functions f
             WHERE f.signature <> ALL (signatures) AND to_regprocedure(f.signature) IS NOT NULL
             ORDER BY f.signature
        LOOP
            BEGIN
                EXECUTE format('DROP ROUTINE %s', routine.signature);
                dropped := true;
            EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
                kept := kept || routine.signature;
                reasons := reasons || SQLERRM;
            END;
        END LOOP;
    END LOOP;
    -- Whoever may call a function can have a view of it. It is tried again the next time.
    FOR i IN 1 .. cardinality(kept) LOOP
        RAISE WARNING 'the function % is no longer in use, and stays: %', kept[i], reasons[i];
    END LOOP;
    signatures := signatures || kept;
    -- refinery's, which makes it by itself.
    IF to_regclass('@extschema@.schema_history') IS NOT NULL THEN
        COMMENT ON TABLE @extschema@.schema_history IS E'@behavior -*\nWhich migrations this schema has.';
    END IF;
    DELETE FROM @extschema@.schema_functions;
    INSERT INTO @extschema@.schema_functions (signature) SELECT s.signature FROM unnest(signatures) AS s (signature);
    INSERT INTO @extschema@.schema_state (part, version, digest) VALUES ('functions', @version@, '@digest@')
    ON CONFLICT (part) DO UPDATE SET version = excluded.version, digest = excluded.digest;
END
$installed$;
