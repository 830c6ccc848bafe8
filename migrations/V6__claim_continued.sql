-- Claiming in batches that cost the same whatever else is in the table.
--
-- claim_jobs looks in one of two ways:
--
--   deep   from the beginning of every priority, at expired locks too. Exact, and what get_job does. While some
--          transaction keeps an old snapshot open, it walks over the dead index entries of every job done since.
--   else   from where the caller's last look ended, which costs the same however many dead entries lie behind. It cannot see
--          a priority the caller does not know, nor a row behind its position: a late commit, a run_at in the past, a
--          job whose queue was busy. The caller looks deep now and then, and before it goes to sleep.
--
-- Settings of the table stay as they are. A fillfactor of 85 or 60 changed nothing beyond the noise in drains of 100,000 jobs:
-- a claim is never a HOT update, as locked_at is in the condition of every index.

DROP FUNCTION @extschema@.claim_jobs(text, text[], int, interval);

-- Claims up to max_jobs due jobs, at most one per named queue; the returned rows come in no particular order.
--
-- task_identifiers: only these tasks; NULL is any. excluded_tasks: not these; NULL is none.
-- after_*: three arrays, one element per priority: where the last look ended. free_queues: queues that the caller has
-- just freed, whose next job lies behind those positions. Both are for looks that are not deep.
--
-- A queue's row is locked before its head is chosen: whoever gets it may run a job of the queue, everybody else skips the
-- queue without waiting. Row locks recheck their condition on the newest version, so two workers never run one queue.
--
-- The settings: statistics taken of an empty or a huge table must not lead to another plan than the one the indexes were
-- made for, and compiling the plan takes longer than running it.
CREATE FUNCTION @extschema@.claim_jobs(
    worker_id text, task_identifiers text[], max_jobs int, job_expiry interval,
    excluded_tasks text[] DEFAULT NULL, deep boolean DEFAULT true, after_priorities int[] DEFAULT NULL,
    after_run_ats timestamptz[] DEFAULT NULL, after_ids bigint[] DEFAULT NULL, free_queues text[] DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    stale timestamptz := now() - coalesce(job_expiry, interval '4 hours');
    busy text[];
    expired bigint[] := '{}';
    heads bigint[] := '{}';
    free bigint[];
    queued bigint[];
BEGIN
    PERFORM @extschema@.require_worker_id(worker_id);

    -- Queues that run a job now, read once, from an index as small as the number of running jobs: without it a look would
    -- try the queue's row for every job that waits in a busy queue.
    -- The sum keeps the planner from the index on locked_at, which has every running job.
    busy := ARRAY(SELECT DISTINCT r.queue_name FROM @extschema@.jobs r
                   WHERE r.queue_name IS NOT NULL AND r.locked_at IS NOT NULL AND r.locked_at + interval '0' >= stale);

    IF deep THEN
        -- A range of the index on locked_at that is empty as long as nothing hangs.
        expired := ARRAY(
            SELECT j.id FROM @extschema@.jobs j
             WHERE j.locked_at IS NOT NULL AND j.locked_at < stale AND j.attempts < j.max_attempts AND j.run_at <= now()
               AND (task_identifiers IS NULL OR j.task_identifier = ANY (task_identifiers))
               AND (excluded_tasks IS NULL OR j.task_identifier <> ALL (excluded_tasks))
               AND (j.queue_name IS NULL OR j.queue_name NOT IN (SELECT unnest(busy)) AND EXISTS (
                    SELECT FROM @extschema@.job_queues q
                     WHERE q.queue_name = j.queue_name AND (q.locked_at IS NULL OR q.locked_at < stale)
                       FOR UPDATE SKIP LOCKED))
             ORDER BY j.priority, j.run_at, j.id LIMIT max_jobs FOR UPDATE OF j SKIP LOCKED);

        -- One priority after the other, each bounded by run_at: jobs of the future are never touched however many there
        -- are. The next priority is looked for only when the ones before did not fill the batch.
        WITH RECURSIVE levels (priority) AS (
            (SELECT j.priority FROM @extschema@.jobs j
              WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts ORDER BY j.priority LIMIT 1)
            UNION ALL
            SELECT (SELECT j.priority FROM @extschema@.jobs j
                     WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority > l.priority
                     ORDER BY j.priority LIMIT 1)
              FROM levels l WHERE l.priority IS NOT NULL)
        SELECT array_agg(d.id) FILTER (WHERE d.queue_name IS NULL), array_agg(d.id) FILTER (WHERE d.queue_name IS NOT NULL)
          INTO free, queued
          FROM (SELECT due.id, due.queue_name
                  FROM levels l CROSS JOIN LATERAL (
                       SELECT j.id, j.queue_name FROM @extschema@.jobs j
                        WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts
                          AND j.priority = l.priority AND j.run_at <= now()
                          AND (task_identifiers IS NULL OR j.task_identifier = ANY (task_identifiers))
                          AND (excluded_tasks IS NULL OR j.task_identifier <> ALL (excluded_tasks))
                          AND (j.queue_name IS NULL OR j.queue_name NOT IN (SELECT unnest(busy)) AND EXISTS (
                               SELECT FROM @extschema@.job_queues q
                                WHERE q.queue_name = j.queue_name AND (q.locked_at IS NULL OR q.locked_at < stale)
                                  FOR UPDATE SKIP LOCKED))
                        ORDER BY j.run_at, j.id LIMIT max_jobs FOR UPDATE OF j SKIP LOCKED) due
                 LIMIT max_jobs) d;
    ELSE
        IF cardinality(free_queues) > 0 THEN
            heads := ARRAY(
                SELECT h.id
                  FROM unnest(free_queues) AS f (name) CROSS JOIN LATERAL (
                       SELECT e.id FROM @extschema@.jobs e
                        WHERE e.queue_name = f.name AND e.queue_name IS NOT NULL
                          AND e.locked_at IS NULL AND e.attempts < e.max_attempts AND e.run_at <= now()
                          AND (task_identifiers IS NULL OR e.task_identifier = ANY (task_identifiers))
                          AND (excluded_tasks IS NULL OR e.task_identifier <> ALL (excluded_tasks))
                          AND EXISTS (
                              SELECT FROM @extschema@.job_queues q
                               WHERE q.queue_name = e.queue_name AND (q.locked_at IS NULL OR q.locked_at < stale)
                                 FOR UPDATE SKIP LOCKED)
                        ORDER BY e.priority, e.run_at, e.id LIMIT 1 FOR UPDATE OF e SKIP LOCKED) h
                 LIMIT max_jobs);
        END IF;
        SELECT array_agg(d.id) FILTER (WHERE d.queue_name IS NULL), array_agg(d.id) FILTER (WHERE d.queue_name IS NOT NULL)
          INTO free, queued
          FROM (SELECT due.id, due.queue_name
                  FROM unnest(after_priorities, after_run_ats, after_ids) AS l (priority, run_at, id)
                 CROSS JOIN LATERAL (
                       SELECT j.id, j.queue_name FROM @extschema@.jobs j
                        WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts
                          AND j.priority = l.priority AND (j.run_at, j.id) > (l.run_at, l.id) AND j.run_at <= now()
                          AND (task_identifiers IS NULL OR j.task_identifier = ANY (task_identifiers))
                          AND (excluded_tasks IS NULL OR j.task_identifier <> ALL (excluded_tasks))
                          AND (j.queue_name IS NULL OR j.queue_name NOT IN (SELECT unnest(busy)) AND EXISTS (
                               SELECT FROM @extschema@.job_queues q
                                WHERE q.queue_name = j.queue_name AND (q.locked_at IS NULL OR q.locked_at < stale)
                                  FOR UPDATE SKIP LOCKED))
                        ORDER BY j.run_at, j.id LIMIT max_jobs FOR UPDATE OF j SKIP LOCKED) due
                 LIMIT max_jobs) d;
    END IF;

    IF cardinality(expired) + cardinality(heads) > 0 THEN
        -- They compete with the others by the same order.
        SELECT array_agg(c.id) FILTER (WHERE c.queue_name IS NULL), array_agg(c.id) FILTER (WHERE c.queue_name IS NOT NULL)
          INTO free, queued
          FROM (SELECT n.id, n.queue_name FROM @extschema@.jobs n WHERE n.id = ANY (expired || heads || free || queued)
                 ORDER BY n.priority, n.run_at, n.id LIMIT max_jobs) c;
    END IF;
    IF queued IS NOT NULL THEN
        -- The rows above were read one after the other: a queue's row that was held when its first job came by may have
        -- been free for a later one. Now that it is ours, nobody else moves the queue: its head is the one to run.
        queued := ARRAY(
            SELECT coalesce((
                       SELECT e.id FROM @extschema@.jobs e
                        WHERE e.queue_name = n.queue_name AND e.queue_name IS NOT NULL
                          AND e.locked_at IS NULL AND e.attempts < e.max_attempts AND e.run_at <= now()
                          AND (task_identifiers IS NULL OR e.task_identifier = ANY (task_identifiers))
                          AND (excluded_tasks IS NULL OR e.task_identifier <> ALL (excluded_tasks))
                          AND (e.priority, e.run_at, e.id) < (n.priority, n.run_at, n.id)
                        ORDER BY e.priority, e.run_at, e.id LIMIT 1 FOR UPDATE SKIP LOCKED), n.id)
              FROM (SELECT DISTINCT ON (c.queue_name) c.* FROM @extschema@.jobs c WHERE c.id = ANY (queued)
                     ORDER BY c.queue_name, c.priority, c.run_at, c.id) n);
    END IF;
    IF free IS NULL AND queued IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    UPDATE @extschema@.jobs j
       SET attempts = j.attempts + 1, locked_by = worker_id, locked_at = now(), updated_at = clock_timestamp()
     WHERE j.id = ANY (free || queued)
    RETURNING j.*;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.claim_jobs(
    text, text[], int, interval, text[], boolean, int[], timestamptz[], bigint[], text[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION @extschema@.get_job(
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

-- When the next job is due that waits for its time, within the given time; NULL when none is. One index probe per priority
-- in use, and with a filter at most the jobs that are due within that time.
CREATE FUNCTION @extschema@.next_run_at(task_identifiers text[], excluded_tasks text[], within interval) RETURNS timestamptz
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
    WITH RECURSIVE levels (priority) AS (
        (SELECT j.priority FROM @extschema@.jobs j
          WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts ORDER BY j.priority LIMIT 1)
        UNION ALL
        SELECT (SELECT j.priority FROM @extschema@.jobs j
                 WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority > l.priority
                 ORDER BY j.priority LIMIT 1)
          FROM levels l WHERE l.priority IS NOT NULL)
    SELECT min((SELECT j.run_at FROM @extschema@.jobs j
                 WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority = l.priority
                   AND j.run_at > now() AND j.run_at <= now() + within
                   AND (task_identifiers IS NULL OR j.task_identifier = ANY (task_identifiers))
                   AND (excluded_tasks IS NULL OR j.task_identifier <> ALL (excluded_tasks))
                 ORDER BY j.run_at LIMIT 1))
      FROM levels l
$$;
REVOKE ALL ON FUNCTION @extschema@.next_run_at(text[], text[], interval) FROM PUBLIC;

-- complete_claimed_jobs and fail_claimed_jobs with less to send back. The older ones stay, and so does next_run_at(text[]):
-- workers of the version before go on while the schema is migrated.
--
-- Complete and fail for many jobs at once, each with the worker that holds it; they return the positions, from 1, of those
-- that were not held: as a rule none, so that a batch costs no row on the way back. A producer's open transaction can
-- hold the row of a queue, or of a job whose key it replaces: the batch does not wait for it (SQLSTATE 55P03), so that one
-- such job does not hold up the others. The caller tries the rest again one by one.
CREATE FUNCTION @extschema@.complete_held_jobs(job_ids bigint[], worker_ids text[]) RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    held bigint[];
BEGIN
    WITH done AS (
        DELETE FROM @extschema@.jobs j USING unnest(job_ids, worker_ids) WITH ORDINALITY AS d (job_id, worker_id, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id
        RETURNING d.position)
    SELECT array_agg(position) INTO held FROM done;
    RETURN @extschema@.positions_left(cardinality(job_ids), held);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.complete_held_jobs(bigint[], text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.fail_held_jobs(job_ids bigint[], worker_ids text[], error_messages text[]) RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    held bigint[];
BEGIN
    WITH done AS (
        UPDATE @extschema@.jobs j
           SET last_error = d.message, run_at = @extschema@.retry_at(j.run_at, j.attempts),
               locked_by = NULL, locked_at = NULL, updated_at = clock_timestamp()
          FROM unnest(job_ids, worker_ids, error_messages) WITH ORDINALITY AS d (job_id, worker_id, message, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id
        RETURNING d.position)
    SELECT array_agg(position) INTO held FROM done;
    RETURN @extschema@.positions_left(cardinality(job_ids), held);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.fail_held_jobs(bigint[], text[], text[]) FROM PUBLIC;

-- The numbers from 1 to total that are not in positions.
CREATE FUNCTION @extschema@.positions_left(total int, positions bigint[]) RETURNS int[]
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF cardinality(positions) = total THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT n FROM generate_series(1, total) n WHERE n <> ALL (coalesce(positions, '{}')));
END
$$;
REVOKE ALL ON FUNCTION @extschema@.positions_left(int, bigint[]) FROM PUBLIC;
