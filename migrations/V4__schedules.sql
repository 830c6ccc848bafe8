-- Schedules: add, claim, release, and the job that a schedule makes.

CREATE FUNCTION @extschema@.enqueue_scheduled_job(
    new_database_id uuid, new_actor_id uuid, identifier text, new_payload json, new_schedule_info json, job_key text,
    new_queue_name text, new_max_attempts int, new_priority int
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    holder @extschema@.scheduled_jobs;
BEGIN
    IF coalesce(identifier, '') = '' THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the task: add_scheduled_job(identifier := ''some-task'', …).';
    END IF;
    -- Without a key the conflict clause never applies. Each turn either writes the row or makes room for it.
    LOOP
        INSERT INTO @extschema@.scheduled_jobs AS s
            (database_id, actor_id, task_identifier, payload, schedule_info, queue_name, max_attempts, priority, key)
        VALUES
            (new_database_id, new_actor_id, identifier, coalesce(new_payload, '{}'), coalesce(new_schedule_info, '{}'),
             new_queue_name, coalesce(new_max_attempts, 25), coalesce(new_priority, 0), job_key)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = excluded.actor_id, task_identifier = excluded.task_identifier, payload = excluded.payload,
            schedule_info = excluded.schedule_info, queue_name = excluded.queue_name,
            max_attempts = excluded.max_attempts, priority = excluded.priority
        WHERE s.locked_at IS NULL AND s.database_id IS NOT DISTINCT FROM excluded.database_id
        RETURNING * INTO schedule;
        IF FOUND THEN
            RETURN schedule;
        END IF;
        SELECT * INTO holder FROM @extschema@.scheduled_jobs s WHERE s.key = job_key FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF holder.database_id IS DISTINCT FROM new_database_id THEN
            RAISE EXCEPTION 'the schedule key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        -- A scheduler watches the row: a new one makes it take up the change.
        DELETE FROM @extschema@.scheduled_jobs s WHERE s.id = holder.id AND s.locked_at IS NOT NULL;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_scheduled_job(uuid, uuid, text, json, json, text, text, int, int) FROM PUBLIC;

-- The forms of add_scheduled_job mirror those of add_job, for the same reasons.
CREATE FUNCTION @extschema@.add_scheduled_job(
    identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @extschema@.enqueue_scheduled_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_scheduled_job(text, json, json, text, text, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_scheduled_job(text, json, json, text, text, int, int) IS
    'Adds a schedule; database_id and actor_id come from the settings jwt.claims.database_id and jwt.claims.user_id.';

CREATE FUNCTION @extschema@.add_scheduled_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @extschema@.enqueue_scheduled_job(
        coalesce(db_id, @extschema@.claim_uuid('jwt.claims.database_id')), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_scheduled_job(uuid, text, json, json, text, text, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_scheduled_job(uuid, text, json, json, text, text, int, int) IS
    'Adds a schedule of the given database_id, which wins over the setting jwt.claims.database_id.';

CREATE FUNCTION @extschema@.add_scheduled_job(
    identifier text, payload text, schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.enqueue_scheduled_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload::json, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_scheduled_job(text, text, json, text, text, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_scheduled_job(text, text, json, text, text, int, int) IS
    'Adds a schedule whose payload is given as text that holds JSON.';

CREATE FUNCTION @extschema@.add_scheduled_job(
    identifier text, payload text, schedule_info text, job_key text, queue_name text, max_attempts text,
    priority text DEFAULT NULL
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.enqueue_scheduled_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload::json, schedule_info::json, job_key, queue_name, max_attempts::int, priority::int);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_scheduled_job(text, text, text, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_scheduled_job(text, text, text, text, text, text, text) IS
    'Adds a schedule whose arguments are all given as untyped literals.';

-- Claims up to max_schedules schedules that no scheduler watches.
CREATE FUNCTION @extschema@.claim_scheduled_jobs(worker_id text, task_identifiers text[], max_schedules int)
RETURNS SETOF @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @extschema@.require_worker_id(worker_id);
    RETURN QUERY
    WITH free AS MATERIALIZED (
        SELECT s.id FROM @extschema@.scheduled_jobs s
         WHERE s.locked_at IS NULL AND (task_identifiers IS NULL OR s.task_identifier = ANY (task_identifiers))
         ORDER BY s.priority, s.id LIMIT max_schedules FOR UPDATE SKIP LOCKED)
    UPDATE @extschema@.scheduled_jobs s SET locked_by = worker_id, locked_at = now()
      FROM free WHERE s.id = free.id
    RETURNING s.*;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.claim_scheduled_jobs(text, text[], int) FROM PUBLIC;

CREATE FUNCTION @extschema@.get_scheduled_job(worker_id text, task_identifiers text[] DEFAULT NULL)
RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
BEGIN
    SELECT * INTO schedule FROM @extschema@.claim_scheduled_jobs(worker_id, task_identifiers, 1);
    RETURN schedule;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.get_scheduled_job(text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.get_scheduled_job(text, text[]) IS
    'Claims one schedule for a scheduler; a row of NULLs when there is none to take.';

CREATE FUNCTION @extschema@.release_scheduled_jobs(worker_id text, ids bigint[] DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
    UPDATE @extschema@.scheduled_jobs s SET locked_by = NULL, locked_at = NULL
     WHERE s.locked_by = worker_id AND (release_scheduled_jobs.ids IS NULL OR s.id = ANY (release_scheduled_jobs.ids))
$$;
REVOKE ALL ON FUNCTION @extschema@.release_scheduled_jobs(text, bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.release_scheduled_jobs(text, bigint[]) IS
    'Gives up the schedules of a scheduler: those listed, or all.';

CREATE FUNCTION @extschema@.run_scheduled_job(id bigint, job_expiry interval DEFAULT '1 hours')
RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    job @extschema@.jobs;
BEGIN
    -- The row lock makes two schedulers take turns: the second sees the job of the first.
    SELECT * INTO schedule FROM @extschema@.scheduled_jobs s WHERE s.id = run_scheduled_job.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM @extschema@.jobs j
         WHERE j.id = schedule.last_scheduled_id
           AND CASE WHEN j.locked_at IS NULL THEN j.attempts < j.max_attempts
                    ELSE j.locked_at >= now() - coalesce(job_expiry, interval '1 hour') END
    ) THEN
        RAISE EXCEPTION 'ALREADY_SCHEDULED' USING ERRCODE = 'JB002',
            DETAIL = format('Job %s of schedule %s is still waiting or running.', schedule.last_scheduled_id, schedule.id);
    END IF;
    job := @extschema@.enqueue_job(
        schedule.database_id, schedule.actor_id, schedule.task_identifier, schedule.payload, schedule.key,
        schedule.queue_name, now(), schedule.max_attempts, schedule.priority);
    UPDATE @extschema@.scheduled_jobs s SET last_scheduled = now(), last_scheduled_id = job.id WHERE s.id = schedule.id;
    RETURN job;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.run_scheduled_job(bigint, interval) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.run_scheduled_job(bigint, interval) IS
    'Makes one job from a schedule; error ALREADY_SCHEDULED (SQLSTATE JB002) while the previous one waits or runs; a row of NULLs when there is no such schedule.';

-- The scheduler's own call: a producer's open transaction can hold the row of the schedule's queue, and one such schedule
-- must not hold up the others (SQLSTATE 55P03 instead of waiting).
CREATE FUNCTION @extschema@.materialise_scheduled_job(id bigint) RETURNS @extschema@.jobs
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN @extschema@.run_scheduled_job(materialise_scheduled_job.id);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.materialise_scheduled_job(bigint) FROM PUBLIC;
