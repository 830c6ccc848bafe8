-- Bounds of enqueueing: a trigger that keeps rows out ends no call in a loop, and what is stored has a size.

-- Sizes. A payload has 16 MiB at most, unless set_max_payload says otherwise: a worker holds those of the jobs it runs in memory, and
-- what is larger belongs elsewhere, with a reference in the payload. A rule of a schedule has 64 KiB: a scheduler reads all of them.
--
-- Inserts into jobs are looked at once per statement, along with what is counted there anyhow: the condition of a trigger for each
-- row would be read anew by each statement, at 5 us and more. Updates that name the payload have such a trigger. With a key the
-- functions look as well, as a payload may be given that is not stored. Only what is beyond 64 KiB is measured exactly. Rows that
-- exist stay as they are, and their other columns can be updated.
CREATE TABLE @extschema@.limits (
    name text PRIMARY KEY,
    bytes int NOT NULL,
    CONSTRAINT limits_known CHECK (name = 'payload' AND bytes BETWEEN 65536 AND 536870912)
);
COMMENT ON TABLE @extschema@.limits IS 'Limits of the schema that are not the default; set_max_payload changes them.';

-- An error when a payload of so many bytes is beyond the limit. SECURITY DEFINER: whoever may enqueue needs no right to the limits.
CREATE FUNCTION @extschema@.refuse_large_payload(relation text, size bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed int := coalesce((SELECT l.bytes FROM @extschema@.limits l WHERE l.name = 'payload'), 16777216);
BEGIN
    IF size > allowed THEN
        RAISE EXCEPTION 'the payload has % bytes, and % are allowed', size, allowed
            USING ERRCODE = 'check_violation', TABLE = relation, CONSTRAINT = relation || '_payload_size',
                  HINT = 'Store the content elsewhere and put a reference into the payload, or raise the limit: SELECT @extschema@.set_max_payload(…).';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.refuse_large_payload(text, bigint) FROM PUBLIC;

-- A role that was given a right to enqueue_job by hand needs this one, too.
DO $rights$
DECLARE
    was record;
BEGIN
    FOR was IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
          FROM pg_proc p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
         WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proname = 'enqueue_job' AND a.privilege_type = 'EXECUTE'
           AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.refuse_large_payload(text, bigint) TO %s', was.grantee);
    END LOOP;
END
$rights$;

-- A BEFORE INSERT trigger of the application's may return NULL, because the row goes elsewhere. Then a job's row is not written
-- and nothing holds its key, which until now looked like another session being faster: the call tried again without end.
--
-- The upserts below tell one from the other. They write to whatever holds the key: a job that runs loses its key there and then,
-- superseded, and one of another tenant is marked superseded with its key, by which the call sees whose it is and raises an
-- error, which undoes it. So no row at all means that a trigger kept it out. The result is a row of NULLs.
--
-- Another turn follows only when a running job has lost its key. A bound ends what should end by itself.

-- One row from given values; the rule of keys. Every way to make a job ends here. As in V2, but for the above, and an empty queue
-- name is none.
CREATE OR REPLACE FUNCTION @extschema@.enqueue_job(
    new_database_id uuid, new_actor_id uuid, identifier text, new_payload json, job_key text, new_queue_name text,
    new_run_at timestamptz, new_max_attempts int, new_priority int
) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    IF coalesce(identifier, '') = '' THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the task: add_job(identifier := ''email:send_email'', …).';
    END IF;
    IF new_max_attempts < 1 THEN
        RAISE EXCEPTION 'max_attempts is %, and a job has at least one attempt', new_max_attempts
            USING ERRCODE = 'check_violation', TABLE = 'jobs', CONSTRAINT = 'jobs_max_attempts_positive',
                  HINT = 'Leave max_attempts out for the default, 25; 1 is a single attempt without a retry.';
    END IF;
    IF job_key IS NULL THEN
        INSERT INTO @extschema@.jobs
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        VALUES
            (new_database_id, new_actor_id, identifier, coalesce(new_payload, '{}'), nullif(new_queue_name, ''),
             coalesce(new_run_at, now()), coalesce(new_max_attempts, 25), coalesce(new_priority, 0))
        RETURNING * INTO job;
        RETURN job;
    END IF;
    IF pg_column_size(new_payload) > 65536 THEN
        PERFORM @extschema@.refuse_large_payload('jobs', octet_length(new_payload::text));
    END IF;
    FOR turn IN 1 .. 100 LOOP
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
        VALUES
            (new_database_id, new_actor_id, identifier, coalesce(new_payload, '{}'), nullif(new_queue_name, ''),
             coalesce(new_run_at, now()), coalesce(new_max_attempts, 25), coalesce(new_priority, 0), job_key)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = CASE WHEN j.locked_at IS NULL THEN excluded.actor_id ELSE j.actor_id END,
            task_identifier = CASE WHEN j.locked_at IS NULL THEN excluded.task_identifier ELSE j.task_identifier END,
            payload = CASE WHEN j.locked_at IS NULL THEN excluded.payload ELSE j.payload END,
            queue_name = CASE WHEN j.locked_at IS NULL THEN excluded.queue_name ELSE j.queue_name END,
            run_at = CASE WHEN j.locked_at IS NULL THEN excluded.run_at ELSE j.run_at END,
            max_attempts = CASE WHEN j.locked_at IS NULL THEN excluded.max_attempts ELSE j.max_attempts END,
            priority = CASE WHEN j.locked_at IS NULL THEN excluded.priority ELSE j.priority END,
            attempts = CASE WHEN j.locked_at IS NULL THEN 0 ELSE j.max_attempts END,
            last_error = CASE WHEN j.locked_at IS NOT NULL THEN j.last_error END,
            superseded = j.locked_at IS NOT NULL OR j.database_id IS DISTINCT FROM excluded.database_id,
            key = CASE WHEN j.locked_at IS NULL OR j.database_id IS DISTINCT FROM excluded.database_id THEN j.key END,
            updated_at = clock_timestamp()
        RETURNING * INTO job;
        IF NOT FOUND THEN
            RETURN NULL;
        ELSIF NOT job.superseded THEN
            RETURN job;
        ELSIF job.key IS NOT NULL THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        -- A running job has lost its key and goes on; a newer one takes its place.
    END LOOP;
    RAISE EXCEPTION 'the job key % was taken by others, whose jobs began to run, 100 times in a row', quote_literal(job_key)
        USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
END
$$;

-- As in V18.
CREATE OR REPLACE FUNCTION @extschema@.enqueue_keyed_job(
    tenant uuid, actor uuid, identifier text, payload json, job_key text, key_mode text, queue_name text,
    run_at timestamptz, max_attempts int, priority int, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    mode text := coalesce(key_mode, 'replace');
    job @extschema@.jobs;
BEGIN
    kept := false;
    IF mode NOT IN ('replace', 'preserve_run_at', 'ignore') THEN
        RAISE EXCEPTION 'the key mode % is none', quote_literal(mode) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A key mode is replace, preserve_run_at or ignore.';
    END IF;
    IF job_key IS NULL OR mode = 'replace' OR coalesce(identifier, '') = '' OR max_attempts < 1 THEN
        id := (@extschema@.enqueue_job(
            tenant, actor, identifier, payload, job_key, queue_name, run_at, max_attempts, priority)).id;
        RETURN;
    END IF;
    IF pg_column_size(payload) > 65536 THEN
        PERFORM @extschema@.refuse_large_payload('jobs', octet_length(payload::text));
    END IF;
    FOR turn IN 1 .. 100 LOOP
        IF mode = 'ignore' AND current_setting('transaction_isolation') = 'read committed' THEN
            -- Without a lock, which would hold up the end of the attempt until the caller's transaction ends. At a higher isolation
            -- level the statement would see a job run that has ended since the transaction began.
            SELECT j.id INTO id FROM @extschema@.jobs j
             WHERE j.key = job_key AND j.locked_at IS NOT NULL AND j.database_id IS NOT DISTINCT FROM tenant;
            IF FOUND THEN
                kept := true;
                RETURN;
            END IF;
        END IF;
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
        VALUES
            (tenant, actor, identifier, coalesce(payload, '{}'), nullif(enqueue_keyed_job.queue_name, ''),
             coalesce(enqueue_keyed_job.run_at, now()), coalesce(enqueue_keyed_job.max_attempts, 25),
             coalesce(enqueue_keyed_job.priority, 0), job_key)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = CASE WHEN j.locked_at IS NULL THEN excluded.actor_id ELSE j.actor_id END,
            task_identifier = CASE WHEN j.locked_at IS NULL THEN excluded.task_identifier ELSE j.task_identifier END,
            payload = CASE WHEN j.locked_at IS NULL THEN excluded.payload ELSE j.payload END,
            queue_name = CASE WHEN j.locked_at IS NULL THEN excluded.queue_name ELSE j.queue_name END,
            run_at = CASE WHEN j.locked_at IS NOT NULL OR mode = 'preserve_run_at' AND j.attempts = 0
                          THEN j.run_at ELSE excluded.run_at END,
            max_attempts = CASE WHEN j.locked_at IS NULL THEN excluded.max_attempts ELSE j.max_attempts END,
            priority = CASE WHEN j.locked_at IS NULL THEN excluded.priority ELSE j.priority END,
            attempts = CASE WHEN j.locked_at IS NULL THEN 0 ELSE j.max_attempts END,
            last_error = CASE WHEN j.locked_at IS NOT NULL THEN j.last_error END,
            superseded = j.locked_at IS NOT NULL OR j.database_id IS DISTINCT FROM excluded.database_id,
            key = CASE WHEN j.locked_at IS NULL OR j.database_id IS DISTINCT FROM excluded.database_id THEN j.key END,
            updated_at = clock_timestamp()
        -- In mode ignore a job that waits or runs is locked, and not written.
        WHERE mode <> 'ignore' OR j.locked_at IS NULL AND j.attempts >= j.max_attempts
           OR j.database_id IS DISTINCT FROM excluded.database_id
        RETURNING * INTO job;
        IF NOT FOUND THEN
            SELECT j.id INTO id FROM @extschema@.jobs j
             WHERE mode = 'ignore' AND j.key = job_key AND (j.locked_at IS NOT NULL OR j.attempts < j.max_attempts)
               FOR UPDATE;
            kept := FOUND;
            RETURN;
        ELSIF NOT job.superseded THEN
            id := job.id;
            RETURN;
        ELSIF job.key IS NOT NULL THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the job key % was taken by others, whose jobs began to run, 100 times in a row', quote_literal(job_key)
        USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
END
$$;

-- As in V14, but for the above. A schedule is not lost to a trigger: where it would be removed without a new one, that is an error.
CREATE OR REPLACE FUNCTION @extschema@.enqueue_scheduled_job(
    new_database_id uuid, new_actor_id uuid, identifier text, new_payload json, new_schedule_info json, job_key text,
    new_queue_name text, new_max_attempts int, new_priority int
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    holder @extschema@.scheduled_jobs;
    removed @extschema@.scheduled_jobs;
BEGIN
    IF coalesce(identifier, '') = '' THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the task: add_scheduled_job(identifier := ''some-task'', …).';
    END IF;
    IF new_max_attempts < 1 THEN
        RAISE EXCEPTION 'max_attempts is %, and a job has at least one attempt', new_max_attempts
            USING ERRCODE = 'check_violation', TABLE = 'scheduled_jobs', CONSTRAINT = 'scheduled_jobs_max_attempts_positive',
                  HINT = 'Leave max_attempts out for the default, 25; 1 is a single attempt without a retry.';
    END IF;
    FOR turn IN 1 .. 100 LOOP
        -- Without a key the conflict clause never applies.
        INSERT INTO @extschema@.scheduled_jobs AS s
            (database_id, actor_id, task_identifier, payload, schedule_info, queue_name, max_attempts, priority, key,
             last_scheduled, last_scheduled_id, fired_until)
        VALUES
            (new_database_id, new_actor_id, identifier, coalesce(new_payload, '{}'), coalesce(new_schedule_info, '{}'),
             nullif(new_queue_name, ''), coalesce(new_max_attempts, 25), coalesce(new_priority, 0), job_key,
             removed.last_scheduled, removed.last_scheduled_id,
             CASE WHEN removed.task_identifier = identifier
                       AND removed.schedule_info::text = coalesce(new_schedule_info, '{}')::text
                  THEN removed.fired_until ELSE clock_timestamp() END)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = excluded.actor_id, task_identifier = excluded.task_identifier, payload = excluded.payload,
            schedule_info = excluded.schedule_info, queue_name = excluded.queue_name,
            max_attempts = excluded.max_attempts, priority = excluded.priority
        WHERE s.locked_at IS NULL AND s.database_id IS NOT DISTINCT FROM excluded.database_id
        RETURNING * INTO schedule;
        IF FOUND THEN
            RETURN schedule;
        END IF;
        -- The upsert has locked what stood in its way.
        SELECT * INTO holder FROM @extschema@.scheduled_jobs s
         WHERE s.key = job_key AND (s.locked_at IS NOT NULL OR s.database_id IS DISTINCT FROM new_database_id) FOR UPDATE;
        IF holder.id IS NULL AND removed.id IS NULL THEN
            RETURN NULL; -- a trigger keeps it out
        ELSIF holder.id IS NULL THEN
            RAISE EXCEPTION 'a trigger on the table scheduled_jobs keeps out the schedule with the key %', quote_literal(job_key)
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'A scheduler watches the one that has the key now. It is replaced by a new row, or stays as it is.',
                      HINT = 'Remove that schedule first, if it is to end.';
        ELSIF holder.database_id IS DISTINCT FROM new_database_id THEN
            RAISE EXCEPTION 'the schedule key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        -- A scheduler watches the row: a new one makes it take up the change.
        DELETE FROM @extschema@.scheduled_jobs s WHERE s.id = holder.id;
        removed := holder;
    END LOOP;
    RAISE EXCEPTION 'the schedule key % was taken by others 100 times in a row', quote_literal(job_key)
        USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
END
$$;

-- As in V15. Where a trigger keeps a job out, its fire is skipped, with the reason and SQLSTATE 02000, and the schedule goes on.
CREATE OR REPLACE FUNCTION @extschema@.fire_schedule(
    scheduler_id text, instance uuid, schedule_id bigint, digest bigint, fire_at timestamptz, overlap boolean
) RETURNS @extschema@.fire_outcome
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    job @extschema@.jobs;
    result @extschema@.fire_outcome;
BEGIN
    -- All fires of a schedule take turns here.
    SELECT * INTO schedule FROM @extschema@.scheduled_jobs s WHERE s.id = schedule_id FOR UPDATE SKIP LOCKED;
    result.outcome := CASE
        WHEN schedule.id IS NULL AND EXISTS (SELECT FROM @extschema@.scheduled_jobs s WHERE s.id = schedule_id) THEN 'blocked'
        WHEN schedule.id IS NULL OR schedule.locked_at IS NULL OR schedule.paused_at IS NOT NULL
             OR schedule.instance IS DISTINCT FROM fire_schedule.instance
             OR schedule.locked_by IS DISTINCT FROM fire_schedule.scheduler_id
             OR @extschema@.schedule_digest(schedule) <> digest THEN 'lost'
        WHEN fire_at > clock_timestamp() THEN 'early'
        WHEN fire_at <= schedule.fired_until
             OR EXISTS (SELECT FROM @extschema@.schedule_fires f
                         WHERE f.schedule_id = fire_schedule.schedule_id AND f.fire_at = fire_schedule.fire_at) THEN 'known'
        -- As in run_scheduled_job.
        WHEN NOT overlap AND EXISTS (
            SELECT FROM @extschema@.jobs j
             WHERE j.id = schedule.last_scheduled_id
               AND CASE WHEN j.locked_at IS NULL THEN j.attempts < j.max_attempts
                        ELSE j.locked_at >= now() - interval '1 hour' END) THEN 'skipped'
        WHEN NOT @extschema@.lock_queue(schedule.queue_name) THEN 'blocked'
        ELSE 'made' END;
    IF result.outcome = 'made' THEN
        job := @extschema@.enqueue_job(
            schedule.database_id, schedule.actor_id, schedule.task_identifier, schedule.payload, schedule.key,
            schedule.queue_name, now(), schedule.max_attempts, schedule.priority);
        result.job_id := job.id;
        IF job.id IS NULL THEN
            result := ('skipped', NULL, '02000', 'a trigger on the table jobs returned NULL: no job was made here');
        END IF;
        UPDATE @extschema@.scheduled_jobs s
           SET last_scheduled = now(), last_scheduled_id = job.id, fired_until = fire_schedule.fire_at
         WHERE s.id = schedule_id;
    ELSIF result.outcome = 'skipped' THEN
        result.message := format('ALREADY_SCHEDULED: job %s still waits or runs', schedule.last_scheduled_id);
        UPDATE @extschema@.scheduled_jobs s SET fired_until = fire_schedule.fire_at WHERE s.id = schedule_id;
    ELSE
        result.message := CASE WHEN result.outcome <> 'blocked' THEN NULL
                               WHEN schedule.id IS NULL THEN 'another transaction holds the schedule'
                               ELSE format('another transaction holds the queue %L', schedule.queue_name) END;
        RETURN result;
    END IF;
    INSERT INTO @extschema@.schedule_fires (schedule_id, fire_at, outcome, job_id, reason, scheduler_id)
    VALUES (schedule_id, fire_at, result.outcome, result.job_id, result.message, scheduler_id);
    RETURN result;
END
$$;
COMMENT ON COLUMN @extschema@.schedule_fires.outcome IS
    'made: job_id is its job. skipped (the previous one waits or runs, or a trigger kept the job out), failed: reason says why. missed: there was no scheduler or no database; the row stands for the earlier ones that reason tells of, too.';

-- As in V9, but for its own table only (V19), and with the largest payload. (What comes from another table, compressed there, is measured as it is stored.)
CREATE OR REPLACE FUNCTION @extschema@.tg_jobs_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs bigint;
    queued bigint;
    largest int;
    on_demand boolean;
    woken boolean;
BEGIN
    IF TG_RELID <> '@extschema@.jobs'::regclass THEN
        PERFORM @extschema@.refuse_other_table(TG_RELID);
    END IF;
    SELECT count(*), count(n.queue_name), max(pg_column_size(n.payload)), EXISTS (SELECT FROM @extschema@.settings)
      INTO jobs, queued, largest, on_demand FROM new_rows n;
    IF jobs = 0 THEN
        RETURN NULL;
    END IF;
    IF largest > 65536 THEN
        PERFORM @extschema@.refuse_large_payload('jobs', max(octet_length(n.payload::text)))
           FROM new_rows n WHERE pg_column_size(n.payload) > 65536;
    END IF;
    IF queued > 0 THEN
        PERFORM @extschema@.sync_queues(
            array_agg(c.queue_name), array_agg(c.jobs),
            coalesce(array_agg(c.queue_name) FILTER (WHERE c.locked), '{}'))
           FROM (SELECT n.queue_name, count(*)::int AS jobs, bool_or(n.locked_at IS NOT NULL) AS locked
                   FROM new_rows n WHERE n.queue_name IS NOT NULL GROUP BY n.queue_name) c;
    END IF;
    -- An assignment is evaluated in place; PERFORM would be a query of its own.
    woken := @extschema@.wake_workers(on_demand);
    RETURN NULL;
END
$$;

CREATE FUNCTION @extschema@.tg_payload_bounded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_RELID <> '@extschema@.jobs'::regclass THEN
        PERFORM @extschema@.refuse_other_table(TG_RELID);
    END IF;
    PERFORM @extschema@.refuse_large_payload('jobs', octet_length(NEW.payload::text));
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.tg_payload_bounded() FROM PUBLIC;

-- SECURITY DEFINER: whoever may write jobs needs no right to the limits.
CREATE FUNCTION @extschema@.tg_schedule_bounded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    size int;
BEGIN
    IF TG_RELID <> '@extschema@.scheduled_jobs'::regclass THEN
        RAISE EXCEPTION 'this trigger function is for the table scheduled_jobs of its schema only'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM @extschema@.refuse_large_payload('scheduled_jobs', octet_length(NEW.payload::text));
    size := octet_length(NEW.schedule_info::text);
    IF size > 65536 THEN
        RAISE EXCEPTION 'schedule_info has % bytes, and 65536 are allowed', size
            USING ERRCODE = 'check_violation', TABLE = 'scheduled_jobs', CONSTRAINT = 'scheduled_jobs_schedule_info_size',
                  HINT = 'Spread the times over several schedules.';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.tg_schedule_bounded() FROM PUBLIC;

-- A transaction that stands in the way ends the migration rather than hold up everybody who comes after it.
SET LOCAL lock_timeout = '5s';
CREATE TRIGGER jobs_bounded BEFORE UPDATE OF payload ON @extschema@.jobs FOR EACH ROW
    WHEN (pg_column_size(NEW.payload) > 65536 AND NEW.payload::text <> OLD.payload::text)
    EXECUTE FUNCTION @extschema@.tg_payload_bounded();
CREATE TRIGGER scheduled_jobs_bounded BEFORE INSERT ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (pg_column_size(NEW.payload) > 65536 OR pg_column_size(NEW.schedule_info) > 65536)
    EXECUTE FUNCTION @extschema@.tg_schedule_bounded();
CREATE TRIGGER scheduled_jobs_bounded_update BEFORE UPDATE OF payload, schedule_info ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (pg_column_size(NEW.payload) > 65536 AND NEW.payload::text <> OLD.payload::text
          OR pg_column_size(NEW.schedule_info) > 65536 AND NEW.schedule_info::text <> OLD.schedule_info::text)
    EXECUTE FUNCTION @extschema@.tg_schedule_bounded();
SET LOCAL lock_timeout = DEFAULT;

-- NULL is the default.
CREATE FUNCTION @extschema@.set_max_payload(bytes int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF bytes NOT BETWEEN 65536 AND 536870912 THEN
        RAISE EXCEPTION 'a limit of % bytes cannot be set', bytes USING ERRCODE = 'invalid_parameter_value',
            HINT = 'From 65536 (64 KiB) to 536870912 (512 MiB), or NULL for the default, 16777216 (16 MiB).';
    END IF;
    DELETE FROM @extschema@.limits WHERE name = 'payload';
    INSERT INTO @extschema@.limits (name, bytes) SELECT 'payload', set_max_payload.bytes WHERE set_max_payload.bytes IS NOT NULL;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.set_max_payload(int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.set_max_payload(int) IS
    'How many bytes a payload may have, in jobs and in schedules that are enqueued from now on; NULL for the default, 16 MiB.';
