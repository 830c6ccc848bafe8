-- Run after every migration: the roles administrator, jobs_runtime and jobs_producer and what each may do (docs/roles.md). Roles
-- belong to the whole server, so they are shared by all its databases and jobs schemas. Without the right to create one, the
-- migration goes on without it and says so; whoever creates it later runs migrate again.
DO $grants$
DECLARE
    role_name text;
    routine record;
BEGIN
    FOREACH role_name IN ARRAY '{administrator,jobs_runtime,jobs_producer}'::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name) THEN
            IF NOT (SELECT r.rolcreaterole OR r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
                RAISE NOTICE 'role % does not exist and % may not create it: it got no grants', role_name, current_user;
                CONTINUE;
            END IF;
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- a migration of another database of this cluster was faster
            END;
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA @extschema@ TO %I', role_name);

        IF role_name = 'administrator' THEN
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.jobs, @extschema@.job_queues, @extschema@.scheduled_jobs,
                @extschema@.settings, @extschema@.limits, @extschema@.workers, @extschema@.schedulers, @extschema@.schedule_fires TO administrator;
            GRANT USAGE, SELECT ON SEQUENCE @extschema@.jobs_id_seq, @extschema@.scheduled_jobs_id_seq TO administrator;
        ELSIF role_name = 'jobs_runtime' THEN
            -- INSERT into jobs: a schedule makes one. job_queues: UPDATE is what locking a row takes; rows come and go by
            -- triggers. Schedules are watched and marked, never made or removed.
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.jobs, @extschema@.workers, @extschema@.schedulers TO jobs_runtime;
            GRANT SELECT, UPDATE ON @extschema@.job_queues, @extschema@.scheduled_jobs TO jobs_runtime;
            -- UPDATE is what locking a row takes.
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.schedule_fires TO jobs_runtime;
            GRANT SELECT ON @extschema@.settings TO jobs_runtime;
        END IF;
        IF role_name <> 'jobs_producer' THEN
            PERFORM @extschema@.show_all_tenants_to(role_name);
        END IF;

        -- jobs_runtime: a function that runs as its caller gives no right that the tables do not; of those that run as their
        -- owner it gets the ones that make jobs, which it may do anyhow. Not add_scheduled_job.
        FOR routine IN
            SELECT p.oid::regprocedure AS signature FROM pg_proc p
             WHERE p.pronamespace = '@extschema@'::regnamespace AND pg_has_role(p.proowner, 'USAGE')
               AND CASE role_name
                   WHEN 'administrator' THEN true
                   WHEN 'jobs_runtime' THEN p.prorettype <> 'trigger'::regtype AND NOT p.prosecdef
                        OR p.proname IN ('add_job', 'add_job_for_any_tenant', 'add_jobs_for_own_tenant',
                                         'add_jobs_for_any_tenant', 'enqueue_for_own_tenant', 'enqueue_for_any_tenant',
                                         'enqueue_all_for_own_tenant', 'enqueue_all_for_any_tenant',
                                         'complete_in_transaction')
                   WHEN 'jobs_producer' THEN p.proname IN ('add_job', 'add_jobs', 'add_jobs_for_own_tenant', 'add_scheduled_job',
                                                           'enqueue', 'enqueue_all', 'enqueue_for_own_tenant',
                                                           'enqueue_all_for_own_tenant', 'own_uuid')
                   END
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', routine.signature, role_name);
        END LOOP;
    END LOOP;
END
$grants$;
