-- Run after every migration: the roles administrator, jobs_runtime and jobs_producer and what each may do
-- (docs/roles.md). Roles belong to the whole server, so they are shared by all its databases and jobs schemas. Without
-- the right to create one, the migration goes on without it and says so; whoever creates it later runs migrate again.
DO $grants$
DECLARE
    role_name text;
    routine record;
    -- What each of the roles may call, by name: all forms of it. A function that is in no list is for the owner and for
    -- what runs as the owner. What a function calls that runs as its caller, its caller must be allowed to call: so
    -- those of the producer call no internal function. No trigger functions: whoever may call one can put it on a table
    -- of his own.
    producer CONSTANT text[] := '{
        add_job, add_jobs, add_scheduled_job, enqueue, enqueue_all, enqueue_all_for_own_tenant, enqueue_for_own_tenant,
        graphql_add_job, graphql_add_scheduled_job}';
    runtime CONSTANT text[] := '{
        add_job, add_job_for_any_tenant, add_jobs, complete_in_transaction, enqueue, enqueue_all,
        enqueue_all_for_any_tenant, enqueue_all_for_own_tenant, enqueue_for_any_tenant, enqueue_for_own_tenant,
        graphql_add_job, refuse_large_payload,

        accept_held_jobs, cancel_jobs, changeable_jobs, claim_instance_jobs, claim_jobs, close_host,
        complete_and_claim_next, complete_held_jobs, complete_job, complete_jobs,
        end_held_jobs, ended_instances, exhausted_jobs, extend_job, fail_job, force_unlock_workers, forget_worker,
        free_jobs, gate_key, gate_room, get_job, heartbeat, host_asked, host_failed, host_news,
        host_succeeded, id_batches, instance_lock, interrupt_jobs, jobs_held_elsewhere, lock_claimed_jobs,
        lock_idle_jobs, next_run_at, open_gates, open_queues, open_ruled_gates, permanently_fail_jobs,
        positions_left, register_waiter, release_held_jobs, release_jobs, remove_job, require_worker_id,
        reschedule_jobs, retry_at, return_attempts, spend_tokens, sweep, sweep_hosts, take_back_jobs,
        tell_task_hosts, unregister_waiter, waiter_horizon, waiter_horizon_passed, waiter_lock, wake_workers,
        warn_of_held_jobs, warn_operator,

        add_up_usage, added_upto, fair_gates, fair_shares, gates_behind, recount_usage, tenant_weight,

        claim_scheduled_jobs, claim_schedules, enqueue_from_schedule, enqueue_job, fire_schedule, fire_schedules,
        get_scheduled_job, leave_scheduler, lock_free_schedules, mark_schedules, prune_schedule_fires,
        release_scheduled_jobs, release_schedules, run_scheduled_job, schedule_digest, scheduler_heartbeat}';
    administrators CONSTANT text[] := runtime || '{
        add_scheduled_job, add_scheduled_job_for_any_tenant, gate_name, graphql_add_scheduled_job, lock_limits, pause,
        refuse_held_gate, resume, set_fair, set_limit, set_max_payload, set_notify, set_weight}';
BEGIN
    -- Whoever may use a table's row type can have a column of it, and then no column can be added to the table. Not in
    -- an extension: pg_dump does not know rights to the row types of its tables, and warns of each.
    IF NOT EXISTS (SELECT FROM pg_extension e
                    WHERE e.extname = 'pgpm-database-jobs' AND e.extnamespace = '@extschema@'::regnamespace)
    THEN
        REVOKE USAGE ON TYPE @extschema@.jobs, @extschema@.scheduled_jobs, @extschema@.settings, @extschema@.gates,
            @extschema@.gate_tokens, @extschema@.host_failures, @extschema@.attempts_to_return, @extschema@.task_hosts,
            @extschema@.refused_jobs, @extschema@.cancelled_attempts, @extschema@.limits, @extschema@.workers,
            @extschema@.schedulers, @extschema@.schedule_fires FROM PUBLIC;
        REVOKE USAGE ON TYPE @extschema@.gate_usage, @extschema@.gate_usage_log FROM PUBLIC;
    END IF;

    -- PUBLIC may call every function again where rights were left out of a dump, or of a restore (--no-acl).
    FOR routine IN
        SELECT p.oid::regprocedure AS signature FROM pg_proc p
         WHERE p.pronamespace IN ('@extschema@'::regnamespace, '@internal@'::regnamespace)
           AND pg_has_role(p.proowner, 'USAGE')
           AND p.oid::regprocedure::text IN (SELECT f.signature FROM @extschema@.schema_functions f)
           AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
    LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine.signature);
    END LOOP;

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
        IF role_name <> 'jobs_producer' THEN
            EXECUTE format('GRANT USAGE ON SCHEMA @internal@ TO %I', role_name);
        END IF;

        IF role_name = 'administrator' THEN
            GRANT SELECT ON @extschema@.job_queues TO administrator;
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.gate_usage, @extschema@.gate_usage_log TO administrator;
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.gates, @extschema@.gate_tokens,
                @extschema@.host_failures, @extschema@.attempts_to_return, @extschema@.task_hosts,
                @extschema@.refused_jobs, @extschema@.cancelled_attempts, @extschema@.jobs,
                @extschema@.scheduled_jobs, @extschema@.settings, @extschema@.limits, @extschema@.workers,
                @extschema@.schedulers, @extschema@.schedule_fires TO administrator;
            GRANT USAGE, SELECT ON SEQUENCE @extschema@.jobs_id_seq, @extschema@.scheduled_jobs_id_seq TO administrator;
        ELSIF role_name = 'jobs_runtime' THEN
            -- INSERT into jobs: a schedule makes one. Schedules are watched and marked, never made or removed.
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.jobs, @extschema@.workers, @extschema@.schedulers
                TO jobs_runtime;
            GRANT SELECT ON @extschema@.gates, @extschema@.job_queues TO jobs_runtime;
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.gate_tokens, @extschema@.host_failures,
                @extschema@.attempts_to_return, @extschema@.task_hosts, @extschema@.refused_jobs,
                @extschema@.cancelled_attempts TO jobs_runtime;
            GRANT SELECT, INSERT, DELETE ON @extschema@.gate_usage, @extschema@.gate_usage_log TO jobs_runtime;
            REVOKE UPDATE ON @extschema@.scheduled_jobs FROM jobs_runtime;
            GRANT SELECT, UPDATE (locked_at, locked_by, instance, owed_since, released_at, fired_until, ended_at,
                last_error, last_scheduled, last_scheduled_id) ON @extschema@.scheduled_jobs TO jobs_runtime;
            -- UPDATE is what locking a row takes.
            GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.schedule_fires TO jobs_runtime;
            GRANT SELECT ON @extschema@.settings TO jobs_runtime;
        END IF;
        IF role_name <> 'jobs_producer' THEN
            PERFORM @extschema@.show_all_tenants_to(role_name);
        END IF;

        FOR routine IN
            SELECT p.oid::regprocedure AS signature, p.proname = ANY (CASE role_name
                       WHEN 'administrator' THEN administrators WHEN 'jobs_runtime' THEN runtime
                       ELSE producer END) AS given,
                   EXISTS (SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee = role_name::regrole) AS had
              FROM pg_proc p
             -- An application's own functions keep the rights that it gave them.
             WHERE p.pronamespace IN ('@extschema@'::regnamespace, '@internal@'::regnamespace)
               AND pg_has_role(p.proowner, 'USAGE')
               AND p.oid::regprocedure::text IN (SELECT f.signature FROM @extschema@.schema_functions f)
        LOOP
            IF routine.given THEN
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', routine.signature, role_name);
            ELSIF routine.had THEN
                EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM %I', routine.signature, role_name);
            END IF;
        END LOOP;
    END LOOP;
END
$grants$;
