-- Claim, complete, fail, release: the way of a job through a worker. Queue locks and wake-ups follow by trigger.

CREATE FUNCTION @extschema@.require_worker_id(worker_id text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF worker_id IS NULL OR length(worker_id) < 4 THEN
        RAISE EXCEPTION 'INVALID_WORKER_ID' USING ERRCODE = 'JB001',
            DETAIL = format('The worker id is %s.', coalesce(quote_literal(worker_id), 'NULL')),
            HINT = 'A worker id has at least 4 characters.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.require_worker_id(text) FROM PUBLIC;

-- Claims up to max_jobs due jobs, in the order priority, run_at, id; at most one per named queue. The returned rows
-- come in no particular order.
--
-- The queue condition locks the queue's row: whoever gets it may run a job of the queue, everybody else skips the
-- queue without waiting. Row locks recheck their condition on the newest version, so two workers never run one queue.
CREATE FUNCTION @extschema@.claim_jobs(worker_id text, task_identifiers text[], max_jobs int, job_expiry interval)
RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    stale timestamptz := now() - coalesce(job_expiry, interval '4 hours');
    ids bigint[];
    busy text[];
    level int;
    -- bigint: one past the greatest priority is a valid bound.
    lowest bigint := -2147483648;
BEGIN
    PERFORM @extschema@.require_worker_id(worker_id);

    -- Queues that run a job now, read once, from an index as small as the number of running jobs: without it a look would
    -- try the queue's row for every job that waits in a busy queue.
    busy := ARRAY(SELECT DISTINCT r.queue_name FROM @extschema@.jobs r
                   WHERE r.queue_name IS NOT NULL AND r.locked_at IS NOT NULL AND r.locked_at >= stale);

    -- Locks that expired: a range of the index on locked_at that is empty as long as nothing hangs. They are looked for
    -- first because they compete with the free jobs by the same order.
    ids := ARRAY(
        SELECT j.id FROM @extschema@.jobs j
         WHERE j.locked_at IS NOT NULL AND j.locked_at < stale AND j.attempts < j.max_attempts AND j.run_at <= now()
           AND (task_identifiers IS NULL OR j.task_identifier = ANY (task_identifiers))
           AND (j.queue_name IS NULL OR j.queue_name NOT IN (SELECT unnest(busy)) AND EXISTS (
                SELECT FROM @extschema@.job_queues q
                 WHERE q.queue_name = j.queue_name AND (q.locked_at IS NULL OR q.locked_at < stale)
                   FOR UPDATE SKIP LOCKED))
         ORDER BY j.priority, j.run_at, j.id LIMIT max_jobs FOR UPDATE OF j SKIP LOCKED);

    -- Free jobs, one priority after the other: within one, run_at bounds the scan, so that jobs of the future are never
    -- touched however many there are.
    LOOP
        SELECT j.priority INTO level FROM @extschema@.jobs j
         WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority >= lowest
         ORDER BY j.priority LIMIT 1;
        EXIT WHEN NOT FOUND;
        ids := ids || ARRAY(
            SELECT j.id FROM @extschema@.jobs j
             WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority = level AND j.run_at <= now()
               AND (task_identifiers IS NULL OR j.task_identifier = ANY (task_identifiers))
               AND (j.queue_name IS NULL OR j.queue_name NOT IN (SELECT unnest(busy)) AND EXISTS (
                    SELECT FROM @extschema@.job_queues q
                     WHERE q.queue_name = j.queue_name AND (q.locked_at IS NULL OR q.locked_at < stale)
                       FOR UPDATE SKIP LOCKED))
             ORDER BY j.run_at, j.id LIMIT max_jobs FOR UPDATE OF j SKIP LOCKED);
        EXIT WHEN cardinality(ids) >= max_jobs;
        lowest := level::bigint + 1;
    END LOOP;

    IF cardinality(ids) = 0 THEN
        RETURN;
    END IF;
    -- The rows above were read one after the other: a queue's row that was held when its first job came by may have been
    -- free for a later one. Now that it is ours, nobody else moves the queue: its head is the one to run.
    ids := ARRAY(
        SELECT coalesce((
                   SELECT e.id FROM @extschema@.jobs e
                    WHERE e.queue_name = n.queue_name AND e.queue_name IS NOT NULL
                      AND e.locked_at IS NULL AND e.attempts < e.max_attempts AND e.run_at <= now()
                      AND (task_identifiers IS NULL OR e.task_identifier = ANY (task_identifiers))
                      AND (e.priority, e.run_at, e.id) < (n.priority, n.run_at, n.id)
                    ORDER BY e.priority, e.run_at, e.id LIMIT 1 FOR UPDATE SKIP LOCKED), n.id)
          FROM @extschema@.jobs n WHERE n.id = ANY (ids));
    RETURN QUERY
    UPDATE @extschema@.jobs j
       SET attempts = j.attempts + 1, locked_by = worker_id, locked_at = now(), updated_at = clock_timestamp()
      FROM (SELECT c.id
              FROM (SELECT n.id, n.priority, n.run_at, n.queue_name,
                           row_number() OVER (PARTITION BY n.queue_name ORDER BY n.priority, n.run_at, n.id) AS nth
                      FROM @extschema@.jobs n WHERE n.id = ANY (ids)) c
             WHERE c.queue_name IS NULL OR c.nth = 1
             ORDER BY c.priority, c.run_at, c.id LIMIT max_jobs) picked
     WHERE j.id = picked.id
    RETURNING j.*;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.claim_jobs(text, text[], int, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.get_job(
    worker_id text, task_identifiers text[] DEFAULT NULL, job_expiry interval DEFAULT '4 hours'
) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    SELECT * INTO job FROM @extschema@.claim_jobs(worker_id, task_identifiers, 1, job_expiry);
    RETURN job;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.get_job(text, text[], interval) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.get_job(text, text[], interval) IS
    'Claims one due job for a worker; a row of NULLs when there is none.';

-- When the next job that waits for its time is due; NULL when none does. One index probe per priority in use.
CREATE FUNCTION @extschema@.next_run_at(task_identifiers text[]) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    soonest timestamptz;
    candidate timestamptz;
    level int;
    lowest bigint := -2147483648;
BEGIN
    LOOP
        SELECT j.priority INTO level FROM @extschema@.jobs j
         WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority >= lowest
         ORDER BY j.priority LIMIT 1;
        EXIT WHEN NOT FOUND;
        SELECT j.run_at INTO candidate FROM @extschema@.jobs j
         WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority = level AND j.run_at > now()
           AND (task_identifiers IS NULL OR j.task_identifier = ANY (task_identifiers))
         ORDER BY j.run_at LIMIT 1;
        soonest := least(soonest, candidate);
        lowest := level::bigint + 1;
    END LOOP;
    RETURN soonest;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.next_run_at(text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.complete_job(worker_id text, job_id bigint) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    DELETE FROM @extschema@.jobs j WHERE j.id = job_id AND j.locked_by = worker_id RETURNING j.* INTO job;
    RETURN job;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.complete_job(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.complete_job(text, bigint) IS
    'Removes a finished job; a row of NULLs, and nothing changed, when that worker does not hold it.';

-- When an attempt that failed is tried again: e^attempts seconds, about 6 hours at most.
CREATE FUNCTION @extschema@.retry_at(run_at timestamptz, attempts int) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT greatest(now(), run_at) + exp(least(attempts, 10)) * interval '1 second'
$$;
REVOKE ALL ON FUNCTION @extschema@.retry_at(timestamptz, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.fail_job(worker_id text, job_id bigint, error_message text) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    UPDATE @extschema@.jobs j
       SET last_error = coalesce(error_message, 'UNKNOWN_ERROR'), run_at = @extschema@.retry_at(j.run_at, j.attempts),
           locked_by = NULL, locked_at = NULL, updated_at = clock_timestamp()
     WHERE j.id = job_id AND j.locked_by = worker_id
    RETURNING j.* INTO job;
    RETURN job;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.fail_job(text, bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.fail_job(text, bigint, text) IS
    'Unlocks a job whose attempt failed, to be tried again later; a row of NULLs, and nothing changed, when that worker does not hold it.';

-- Complete and fail for many jobs at once, each with the worker that holds it. A producer's open transaction can hold the
-- row of a queue, or of a job whose key it replaces: the batch does not wait for it (SQLSTATE 55P03), so that one such
-- job does not hold up the others. The caller tries the rest again one by one.
CREATE FUNCTION @extschema@.complete_claimed_jobs(job_ids bigint[], worker_ids text[])
RETURNS TABLE (job_id bigint, worker_id text)
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY
    DELETE FROM @extschema@.jobs j USING unnest(job_ids, worker_ids) AS d (job_id, worker_id)
     WHERE j.id = d.job_id AND j.locked_by = d.worker_id
    RETURNING d.job_id, d.worker_id;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.complete_claimed_jobs(bigint[], text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.fail_claimed_jobs(job_ids bigint[], worker_ids text[], error_messages text[])
RETURNS TABLE (job_id bigint, worker_id text)
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
    RETURN QUERY
    UPDATE @extschema@.jobs j
       SET last_error = d.message, run_at = @extschema@.retry_at(j.run_at, j.attempts),
           locked_by = NULL, locked_at = NULL, updated_at = clock_timestamp()
      FROM unnest(job_ids, worker_ids, error_messages) AS d (job_id, worker_id, message)
     WHERE j.id = d.job_id AND j.locked_by = d.worker_id
    RETURNING d.job_id, d.worker_id;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.fail_claimed_jobs(bigint[], text[], text[]) FROM PUBLIC;

-- Gives jobs back as if they had not been claimed: those listed, or with NULL everything the worker holds.
CREATE FUNCTION @extschema@.release_claimed_jobs(worker_id text, job_ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql AS $$
    WITH held AS MATERIALIZED (
        SELECT h.id FROM @extschema@.jobs h
         WHERE h.locked_at IS NOT NULL AND h.locked_by = worker_id AND (job_ids IS NULL OR h.id = ANY (job_ids))
         ORDER BY h.id FOR UPDATE)
    UPDATE @extschema@.jobs j
       SET locked_by = NULL, locked_at = NULL, updated_at = clock_timestamp(),
           attempts = CASE WHEN j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
      FROM held WHERE j.id = held.id
    RETURNING j.id
$$;
REVOKE ALL ON FUNCTION @extschema@.release_claimed_jobs(text, bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.release_jobs(worker_id text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @extschema@.release_claimed_jobs(worker_id, NULL);
    -- A queue lock set by hand has no job to follow. A row that another session holds is being derived anew there;
    -- waiting for it could end in a deadlock.
    UPDATE @extschema@.job_queues q SET locked_by = NULL, locked_at = NULL
     WHERE q.queue_name IN (SELECT h.queue_name FROM @extschema@.job_queues h WHERE h.locked_by = worker_id
                               FOR UPDATE SKIP LOCKED);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.release_jobs(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.release_jobs(text) IS 'Unlocks all jobs and queues of a worker and gives the attempts back.';
