-- Fires: the jobs that schedules make. Each is in the ledger, in the transaction that makes its job, so it is made
-- once.

-- The job of a fire.
CREATE OR REPLACE FUNCTION @internal@.enqueue_from_schedule(schedule @extschema@.scheduled_jobs)
RETURNS @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (@internal@.enqueue_job(
        schedule.database_id, schedule.actor_id, schedule.task_identifier, schedule.payload, schedule.key,
        schedule.queue_name, now(), schedule.max_attempts, schedule.priority, 'replace', schedule.entity_id,
        schedule.organization_id)).job;
END
$$;

-- By hand, and what the original's scheduler calls: then the fires until now are dealt with. It leaves no row in the
-- ledger.
CREATE OR REPLACE FUNCTION @extschema@.run_scheduled_job(id bigint, job_expiry interval DEFAULT '1 hours')
RETURNS @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
            DETAIL = format('Job %s of schedule %s is still waiting or running.',
                            schedule.last_scheduled_id, schedule.id);
    END IF;
    job := @internal@.enqueue_from_schedule(schedule);
    UPDATE @extschema@.scheduled_jobs s
       SET last_scheduled = now(), last_scheduled_id = job.id,
           fired_until = CASE WHEN schedule.locked_by IS NOT NULL AND schedule.instance IS NULL
                              THEN clock_timestamp() ELSE s.fired_until END
     WHERE s.id = schedule.id;
    RETURN job;
END
$$;

COMMENT ON FUNCTION @extschema@.run_scheduled_job(bigint, interval) IS
    'Makes one job from a schedule; error ALREADY_SCHEDULED (SQLSTATE JB002) while the previous one waits or runs; '
    'a row of NULLs when there is no such schedule.';

-- One fire: its job and its row of the ledger, or why there is none. Where a trigger keeps a job out, its fire is
-- skipped, with the reason and SQLSTATE 02000, and the schedule goes on.
CREATE OR REPLACE FUNCTION @internal@.fire_schedule(
    scheduler_id text, instance uuid, schedule_id bigint, digest bigint, fire_at timestamptz, overlap boolean
) RETURNS @extschema@.fire_outcome
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    job @extschema@.jobs;
    result @extschema@.fire_outcome;
BEGIN
    -- All fires of a schedule take turns here.
    SELECT * INTO schedule FROM @extschema@.scheduled_jobs s WHERE s.id = schedule_id FOR UPDATE SKIP LOCKED;
    result.outcome := CASE
        WHEN schedule.id IS NULL AND EXISTS (SELECT FROM @extschema@.scheduled_jobs s WHERE s.id = schedule_id)
             THEN 'blocked'
        WHEN schedule.id IS NULL OR schedule.locked_at IS NULL OR schedule.paused_at IS NOT NULL
             OR schedule.instance IS DISTINCT FROM fire_schedule.instance
             OR schedule.locked_by IS DISTINCT FROM fire_schedule.scheduler_id
             OR @internal@.schedule_digest(schedule) <> digest THEN 'lost'
        WHEN fire_at > clock_timestamp() THEN 'early'
        WHEN fire_at <= schedule.fired_until
             OR EXISTS (SELECT FROM @extschema@.schedule_fires f
                         WHERE f.schedule_id = fire_schedule.schedule_id AND f.fire_at = fire_schedule.fire_at)
             THEN 'known'
        -- As in run_scheduled_job.
        WHEN NOT overlap AND EXISTS (
            SELECT FROM @extschema@.jobs j
             WHERE j.id = schedule.last_scheduled_id
               AND CASE WHEN j.locked_at IS NULL THEN j.attempts < j.max_attempts
                        ELSE j.locked_at >= now() - interval '1 hour' END) THEN 'skipped'
        ELSE 'made' END;
    IF result.outcome = 'made' THEN
        job := @internal@.enqueue_from_schedule(schedule);
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
        result.message := CASE WHEN result.outcome = 'blocked' THEN 'another transaction holds the schedule' END;
        RETURN result;
    END IF;
    INSERT INTO @extschema@.schedule_fires (schedule_id, fire_at, outcome, job_id, reason, scheduler_id)
    VALUES (schedule_id, fire_at, result.outcome, result.job_id, result.message, scheduler_id);
    RETURN result;
END
$$;

-- The scheduler's own call: fires that are due, in one transaction, with what became of each, in the order given.
--
-- All together first, which costs no subtransactions; when one raises an error, one by one, so that it harms no other.
-- What PostgreSQL may take a little later (a lock that was waited for in vain, a deadlock, no room) has outcome
-- blocked, too. The call ends with the first of those, because the rows of the fires before it are locked meanwhile:
-- what was not tried has no row in the answer.
CREATE OR REPLACE FUNCTION @internal@.fire_schedules(
    scheduler_id text, instance uuid, schedule_ids bigint[], digests bigint[], fire_ats timestamptz[],
    overlapping boolean[]
) RETURNS SETOF @extschema@.fire_outcome
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET jit = off SET lock_timeout = '250ms'
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    results @extschema@.fire_outcome[] := '{}';
    result @extschema@.fire_outcome;
    -- Schedules with a fire that is blocked: a later one must not overtake it.
    stuck bigint[] := '{}';
BEGIN
    BEGIN
        FOR i IN 1 .. coalesce(cardinality(schedule_ids), 0) LOOP
            IF schedule_ids[i] = ANY (stuck) THEN
                result := ('blocked', NULL, NULL, 'a fire before it is blocked');
            ELSE
                result := @internal@.fire_schedule(
                    scheduler_id, instance, schedule_ids[i], digests[i], fire_ats[i], overlapping[i]);
            END IF;
            IF result.outcome = 'blocked' THEN
                stuck := stuck || schedule_ids[i];
            END IF;
            results[i] := result;
        END LOOP;
        RETURN QUERY SELECT r.* FROM unnest(results) AS r;
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    stuck := '{}';
    FOR i IN 1 .. cardinality(schedule_ids) LOOP
        IF schedule_ids[i] = ANY (stuck) THEN
            RETURN NEXT ('blocked', NULL, NULL, 'a fire before it is blocked')::@extschema@.fire_outcome;
            CONTINUE;
        END IF;
        BEGIN
            result := @internal@.fire_schedule(
                scheduler_id, instance, schedule_ids[i], digests[i], fire_ats[i], overlapping[i]);
        EXCEPTION WHEN OTHERS THEN
            result := (CASE WHEN SQLSTATE ~ '^(08|40|53|57P)' OR SQLSTATE IN ('55P03', '55006') THEN 'blocked'
                       ELSE 'failed' END, NULL, SQLSTATE, SQLERRM);
        END;
        IF result.outcome = 'failed' THEN
            BEGIN
                UPDATE @extschema@.scheduled_jobs s SET fired_until = fire_ats[i] WHERE s.id = schedule_ids[i];
                INSERT INTO @extschema@.schedule_fires (schedule_id, fire_at, outcome, reason, scheduler_id)
                VALUES (schedule_ids[i], fire_ats[i], 'failed', format('%s (%s)', result.message, result.sql_state),
                        scheduler_id)
                ON CONFLICT ON CONSTRAINT schedule_fires_pkey DO NOTHING;
            EXCEPTION WHEN lock_not_available THEN
                result := ('blocked', NULL, SQLSTATE, SQLERRM);
            END;
        END IF;
        RETURN NEXT result;
        IF result.outcome = 'blocked' THEN
            stuck := stuck || schedule_ids[i];
        END IF;
        EXIT WHEN result.outcome = 'blocked' AND result.sql_state IS NOT NULL;
    END LOOP;
END
$$;

-- Writes down what a scheduler has found out about schedules that it holds: what is wrong with the rule (NULL:
-- nothing), that it has no fire left, and which fire was the last of those that were missed (NULL: none). Schedules
-- that are no longer those it knows are left alone, and so are those that another transaction has locked. Returns those
-- whose marks are written.
CREATE OR REPLACE FUNCTION @internal@.mark_schedules(
    scheduler_id text, instance uuid, schedule_ids bigint[], digests bigint[], errors text[], ended boolean[],
    missed_ats timestamptz[], missed_reasons text[]
) RETURNS SETOF bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET jit = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id bigint;
    found_digest bigint;
BEGIN
    FOR i IN 1 .. coalesce(cardinality(schedule_ids), 0) LOOP
        SELECT s.id, @internal@.schedule_digest(s) INTO found_id, found_digest FROM @extschema@.scheduled_jobs s
         WHERE s.id = schedule_ids[i] AND s.instance = mark_schedules.instance FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN found_id IS NULL OR found_digest <> digests[i];
        UPDATE @extschema@.scheduled_jobs s
           SET last_error = errors[i], fired_until = greatest(s.fired_until, missed_ats[i]),
               ended_at = CASE WHEN ended[i] THEN clock_timestamp() END,
               locked_by = CASE WHEN NOT ended[i] THEN s.locked_by END,
               locked_at = CASE WHEN NOT ended[i] THEN s.locked_at END,
               instance = CASE WHEN NOT ended[i] THEN s.instance END
         WHERE s.id = found_id;
        IF missed_ats[i] IS NOT NULL THEN
            INSERT INTO @extschema@.schedule_fires (schedule_id, fire_at, outcome, reason, scheduler_id)
            VALUES (found_id, missed_ats[i], 'missed', missed_reasons[i], mark_schedules.scheduler_id)
            ON CONFLICT ON CONSTRAINT schedule_fires_pkey DO NOTHING;
        END IF;
        RETURN NEXT found_id;
    END LOOP;
END
$$;

-- Removes rows of the ledger by age, the oldest first; returns how many. A fire is not made again for that: fired_until
-- tells.
CREATE OR REPLACE FUNCTION @internal@.prune_schedule_fires(older_than interval, max_rows int) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed int;
BEGIN
    DELETE FROM @extschema@.schedule_fires f
     WHERE f.ctid = ANY (ARRAY(
        SELECT o.ctid FROM @extschema@.schedule_fires o WHERE o.fire_at < now() - older_than
         ORDER BY o.fire_at LIMIT max_rows FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;
