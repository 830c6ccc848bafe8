-- Run after every migration: the role administrator may use the schema, its tables and its functions. Without the right
-- to create the role, the migration goes on and says so.
DO $grants$
DECLARE
    routine regprocedure;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'administrator') THEN
        IF NOT (SELECT r.rolcreaterole OR r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
            RAISE NOTICE 'role administrator does not exist and % may not create it: no grants were made', current_user;
            RETURN;
        END IF;
        BEGIN
            CREATE ROLE administrator NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- a migration of another database of this cluster was faster
        END;
    END IF;
    GRANT USAGE ON SCHEMA @extschema@ TO administrator;
    GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.jobs, @extschema@.job_queues, @extschema@.scheduled_jobs,
        @extschema@.settings, @extschema@.workers TO administrator;
    GRANT USAGE, SELECT ON SEQUENCE @extschema@.jobs_id_seq, @extschema@.scheduled_jobs_id_seq TO administrator;
    FOR routine IN
        SELECT p.oid::regprocedure FROM pg_proc p
         WHERE p.pronamespace = '@extschema@'::regnamespace AND pg_has_role(p.proowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO administrator', routine);
    END LOOP;
END
$grants$;
