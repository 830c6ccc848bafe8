-- What newer versions of the original and what surrounds it expect.

-- As in V13, and what add_job takes in a payload is taken here, too. To read an object's other values, PostgreSQL turns all its escapes
-- into characters, and fails at those which stand for none ("\u0000", half a surrogate pair). So those are hidden meanwhile.
CREATE OR REPLACE FUNCTION @extschema@.add_jobs(jobs json) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] :=
        '{identifier,payload,job_key,queue_name,run_at,max_attempts,priority,db_id}';
    elements json[];
    -- What the elements are read from without their payloads; the same, where nothing is hidden.
    readable json[];
    marks text[];
    hidden text;
    position bigint;
    name text;
    message text;
    state text;
    identifiers text[];
    payloads json[];
    job_keys text[];
    queue_names text[];
    run_ats timestamptz[];
    attempt_limits int[];
    priorities int[];
    db_ids uuid[];
BEGIN
    IF json_typeof(jobs) <> 'array' THEN
        RAISE EXCEPTION 'jobs is no JSON array but of type %', json_typeof(jobs) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give an array of objects: [{"identifier": "email:send_email", "payload": {…}}, …].';
    END IF;
    IF jobs::text ~ '\\(u0000|u[dD][89a-fA-F])' THEN
        -- Two characters that the text does not have stand for a backslash of such an escape, and for two that are one.
        marks := ARRAY(SELECT m.mark FROM (SELECT chr(n) AS mark FROM generate_series(57344, 63743) AS n) m
                        WHERE strpos(jobs::text, m.mark) = 0 LIMIT 2);
        IF cardinality(marks) < 2 THEN
            RAISE EXCEPTION 'the text uses all characters from U+E000 to U+F8FF, and has escapes that stand for no character'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Enqueue these jobs in several calls.';
        END IF;
        hidden := regexp_replace(replace(jobs::text, '\\', marks[2]), '\\(u0000|u[dD][89a-fA-F])', marks[1] || '\1', 'g');
        elements := ARRAY(SELECT e.value FROM json_array_elements(hidden::json) AS e (value));
    ELSE
        elements := ARRAY(SELECT e.value FROM json_array_elements(jobs) AS e (value));
    END IF;
    SELECT e.n INTO position FROM unnest(elements) WITH ORDINALITY AS e (value, n)
     WHERE json_typeof(e.value) <> 'object' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job %: not an object but of type %', position, json_typeof(elements[position])
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT e.n, k.key INTO position, name
      FROM unnest(elements) WITH ORDINALITY AS e (value, n) CROSS JOIN LATERAL json_object_keys(e.value) AS k (key)
     WHERE k.key <> ALL (known) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job %: unknown key %', position, coalesce(replace(replace(to_json(name)::text, marks[1], '\'), marks[2], '\\'), to_json(name)::text) USING ERRCODE = 'invalid_parameter_value',
            HINT = format('A job has these keys: %s.', array_to_string(known, ', '));
    END IF;
    readable := elements;
    IF marks IS NOT NULL THEN
        payloads := ARRAY(SELECT replace(replace((e.value -> 'payload')::text, marks[1], '\'), marks[2], '\\')::json
                            FROM unnest(elements) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
        readable := ARRAY(
            SELECT (SELECT coalesce('{' || string_agg(to_json(k.key) || ':'
                                    || replace(replace(k.value::text, marks[1], '\'), marks[2], '\\'), ',' ORDER BY k.n) || '}', '{}')::json
                      FROM json_each(e.value) WITH ORDINALITY AS k (key, value, n) WHERE k.key <> 'payload')
              FROM unnest(elements) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
    END IF;
    BEGIN
        SELECT array_agg(r.identifier), coalesce(payloads, array_agg(e.value -> 'payload')), array_agg(r.job_key), array_agg(r.queue_name),
               array_agg(r.run_at), array_agg(r.max_attempts), array_agg(r.priority), array_agg(r.db_id)
          INTO identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids
          FROM unnest(readable) AS e (value)
         CROSS JOIN LATERAL json_to_record(e.value) AS r (
               identifier text, job_key text, queue_name text, run_at timestamptz, max_attempts int, priority int,
               db_id uuid);
    EXCEPTION WHEN data_exception THEN
        BEGIN
            FOR i IN 1 .. cardinality(elements) LOOP
                position := i;
                PERFORM FROM json_to_record(readable[i]) AS r (
                    identifier text, job_key text, queue_name text, run_at timestamptz, max_attempts int, priority int,
                    db_id uuid);
            END LOOP;
        EXCEPTION WHEN data_exception THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
            RAISE EXCEPTION USING MESSAGE = format('job %s: %s', position, message), ERRCODE = state;
        END;
        RAISE;
    END;
    IF cardinality(elements) > 0 THEN
        RETURN QUERY SELECT a.id FROM @extschema@.add_jobs(
            identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids) AS a (id);
    END IF;
END
$$;

-- Takes the job with this key out of the queue and returns it: one that waits is removed; one that runs loses its key, goes on, and is
-- not tried again. A row of NULLs when no job has the key.
CREATE FUNCTION @extschema@.remove_job(job_key text) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    -- Locked first: a job that begins or ends meanwhile is one or the other, and not missed between the two.
    SELECT * INTO job FROM @extschema@.jobs j WHERE j.key = job_key FOR UPDATE;
    IF job.locked_at IS NULL THEN
        DELETE FROM @extschema@.jobs j WHERE j.id = job.id;
    ELSE
        UPDATE @extschema@.jobs j
           SET key = NULL, attempts = j.max_attempts, superseded = true, updated_at = clock_timestamp()
         WHERE j.id = job.id
        RETURNING * INTO job;
    END IF;
    RETURN job;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.remove_job(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.remove_job(text) IS
    'Removes the job with this key; one that runs goes on without it and is not tried again. Returns the job, or a row of NULLs.';

-- For workers that are gone for good: whatever they hold starts again at once, and the attempts that they began count.
CREATE FUNCTION @extschema@.force_unlock_workers(worker_ids text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @extschema@.jobs j SET locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
     WHERE j.id IN (SELECT h.id FROM @extschema@.jobs h
                     WHERE h.locked_at IS NOT NULL AND h.locked_by = ANY (worker_ids) ORDER BY h.id FOR UPDATE);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.force_unlock_workers(text[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.force_unlock_workers(text[]) IS
    'Gives up all jobs that these workers hold: they start again at once. For workers that are gone for good.';

-- INSERT … ON CONFLICT (key) on schedules, as on a column that is unique. Not on jobs: there the index would have an entry for every
-- job without a key, which makes a bulk enqueue 10 to 15 % slower; ON CONFLICT (key) WHERE key IS NOT NULL is the form there.
SET LOCAL lock_timeout = '5s';
ALTER TABLE @extschema@.scheduled_jobs ADD CONSTRAINT scheduled_jobs_key_unique UNIQUE (key);
DROP INDEX @extschema@.scheduled_jobs_key_idx;
SET LOCAL lock_timeout = DEFAULT;

-- PostGraphile, which makes a GraphQL API of what a role may call. It leaves out functions of which there are several forms, so that
-- these two stand for add_job and add_scheduled_job, under their names. They run as their caller, who needs the right to those.
CREATE FUNCTION @extschema@.graphql_add_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, max_attempts int DEFAULT NULL, priority int DEFAULT NULL
) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
BEGIN
    RETURN @extschema@.add_job(db_id, identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.graphql_add_job(uuid, text, json, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.graphql_add_job(uuid, text, json, text, text, timestamptz, int, int) IS
    E'@name add_job\nEnqueues a job: add_job, as PostGraphile shows it.';

CREATE FUNCTION @extschema@.graphql_add_scheduled_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT NULL, priority int DEFAULT NULL
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
BEGIN
    RETURN @extschema@.add_scheduled_job(db_id, identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.graphql_add_scheduled_job(uuid, text, json, json, text, text, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.graphql_add_scheduled_job(uuid, text, json, json, text, text, int, int) IS
    E'@name add_scheduled_job\nAdds a schedule: add_scheduled_job, as PostGraphile shows it.';

-- What else it shows: the original's functions and tables. What is not for applications says so at the beginning of its comment.
-- A function of a later migration that is not for them gets the line "@behavior -*" there, too. They are named here: the schema may
-- hold functions and tables of others.
DO $hidden$
DECLARE
    functions CONSTANT text[] := '{
        accept_held_jobs, add_job, add_job_for_any_tenant, add_jobs, add_jobs_for_any_tenant,
        add_jobs_for_own_tenant, add_scheduled_job, add_scheduled_job_for_any_tenant, claim_instance_jobs,
        claim_jobs, claim_scheduled_jobs, claim_schedules, claim_uuid, complete_held_jobs,
        complete_in_transaction, cron_fault, end_held_jobs, ended_instances, enqueue, enqueue_all,
        enqueue_all_for_any_tenant, enqueue_all_for_own_tenant, enqueue_for_any_tenant, enqueue_for_own_tenant,
        enqueue_job, enqueue_jobs, enqueue_keyed_job, enqueue_scheduled_job, extend_job, fail_held_jobs,
        fire_schedule, fire_schedules, forget_worker, has_trusted_json, heartbeat, instance_lock,
        interrupt_jobs, json_expression, leave_scheduler, lock_queue, mark_schedules,
        materialise_scheduled_jobs, next_run_at, own_uuid, positions_left, prune_schedule_fires,
        refuse_large_payload, refuse_other_table, refuse_untyped_db_id, register_waiter, release_claimed_jobs,
        release_held_jobs, release_schedules, require_element_per_job, require_worker_id, retry_at,
        row_expression, rule_json, run_at_of, schedule_digest, schedule_fault, scheduler_heartbeat,
        set_max_payload, set_notify, show_all_tenants_to, sync_queues, take_back_jobs, tg_add_job_with_row,
        tg_add_job_with_row_id, tg_job_queues_derived, tg_jobs_deleted, tg_jobs_inserted, tg_jobs_touch,
        tg_jobs_truncated, tg_jobs_updated, tg_payload_bounded, tg_schedule_bounded, tg_scheduled_jobs_changed,
        tg_scheduled_jobs_checked, tg_scheduled_jobs_notify, tg_scheduled_jobs_renewed, trigger_job_with_fields,
        trigger_task, unregister_waiter, waiter_horizon, waiter_horizon_passed, waiter_lock, wake_workers,
        warn_of_jobs, write_jobs}';
    object record;
BEGIN
    FOR object IN
        SELECT 'FUNCTION ' || p.oid::regprocedure AS name, obj_description(p.oid, 'pg_proc') AS told
          FROM pg_proc p
         WHERE p.pronamespace = '@extschema@'::regnamespace AND p.prokind = 'f' AND p.proname = ANY (functions)
           AND pg_has_role(p.proowner, 'USAGE')
        UNION ALL
        SELECT 'TABLE ' || c.oid::regclass, obj_description(c.oid, 'pg_class')
          FROM pg_class c
         WHERE c.relnamespace = '@extschema@'::regnamespace AND c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE')
           AND c.relname = ANY ('{limits,schedulers,schema_history,settings,workers}')
    LOOP
        EXECUTE format('COMMENT ON %s IS %L', object.name, concat_ws(E'\n', '@behavior -*', object.told));
    END LOOP;
    EXECUTE format('COMMENT ON TABLE @extschema@.jobs IS %L',
                   E'@unique key\n' || obj_description('@extschema@.jobs'::regclass, 'pg_class'));
    EXECUTE format('COMMENT ON TABLE @extschema@.schedule_fires IS %L',
                   E'@behavior -insert -update -delete\n' || obj_description('@extschema@.schedule_fires'::regclass, 'pg_class'));
END
$hidden$;
