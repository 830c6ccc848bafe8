-- Claim: what a worker takes.

CREATE OR REPLACE FUNCTION @internal@.require_worker_id(worker_id text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF worker_id IS NULL OR length(worker_id) < 4 THEN
        RAISE EXCEPTION 'INVALID_WORKER_ID' USING ERRCODE = 'JB001',
            DETAIL = format('The worker id is %s.', coalesce(quote_literal(worker_id), 'NULL')),
            HINT = 'A worker id has at least 4 characters.';
    END IF;
END
$$;

-- Takes the row of a named queue without waiting; false when somebody else has it. A NULL name is no queue.
CREATE OR REPLACE FUNCTION @internal@.lock_queue(name text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF name IS NULL THEN
        RETURN true;
    END IF;
    PERFORM FROM @extschema@.job_queues q WHERE q.queue_name = name FOR UPDATE SKIP LOCKED;
    RETURN FOUND OR NOT EXISTS (SELECT FROM @extschema@.job_queues q WHERE q.queue_name = name);
END
$$;

-- Claims up to max_jobs due jobs, at most one per named queue; the returned rows come in no particular order.
--
-- It looks in one of two ways:
--
--   deep   from the beginning of every priority, at expired locks too. Exact, and what get_job does. While some
--          transaction keeps an old snapshot open, it walks over the dead index entries of every job done since.
--   else   from where the caller's last look ended, which costs the same however many dead entries lie behind. It
--          cannot see a priority the caller does not know, nor a row behind its position: a late commit, a run_at in
--          the past, a job whose queue was busy. The caller looks deep now and then, and before it goes to sleep.
--
-- instance: the process that claims; NULL is one without a lease. epochs: random numbers that name the claims, from a
-- source fit for secrets; drawn here for jobs beyond its end, at 0.9 us each, ten times what an array's element costs.
-- The sign bit is not used. Each epoch is drawn for its claim alone: a function can't tell from its token what
-- completes another job. task_identifiers: only these tasks; NULL is any. excluded_tasks: not these; NULL is none.
-- after_*: three arrays, one element per priority: where the last look ended. free_queues: queues that the caller has
-- just freed, whose next job lies behind those positions. Both are for looks that are not deep.
--
-- A queue's row is locked before its head is chosen: whoever gets it may run a job of the queue, everybody else skips
-- the queue without waiting. Row locks recheck their condition on the newest version, so two workers never run one
-- queue. A lock that has expired still counts while the function that has the job may call back.
--
-- The settings: statistics taken of an empty or a huge table must not lead to another plan than the one the indexes
-- were made for, and compiling the plan takes longer than running it. The claim's trigger may wait for a queue's row
-- that a producer holds: then the claim gives up after 100 ms (55P03) and is tried again.
CREATE OR REPLACE FUNCTION @internal@.claim_instance_jobs(
    instance uuid, worker_id text, epochs bigint[], task_identifiers text[], max_jobs int, job_expiry interval,
    excluded_tasks text[] DEFAULT NULL, deep boolean DEFAULT true, after_priorities int[] DEFAULT NULL,
    after_run_ats timestamptz[] DEFAULT NULL, after_ids bigint[] DEFAULT NULL, free_queues text[] DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off SET lock_timeout = '100ms'
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stale timestamptz := now() - coalesce(job_expiry, interval '4 hours');
    busy text[];
    expired bigint[] := '{}';
    heads bigint[] := '{}';
    free bigint[];
    queued bigint[];
    seen bigint;
    woken boolean;
    -- Workers fail what is past its deadline. When nobody has done so, there is none, and its lock is as any other's.
    swept timestamptz := now() - interval '1 minute';
    claimed bigint[];
BEGIN
    PERFORM @internal@.require_worker_id(worker_id);

    -- Queues that run a job now, read once, from an index as small as the number of running jobs: without it a look
    -- would try the queue's row for every job that waits in a busy queue.
    busy := ARRAY(SELECT DISTINCT r.queue_name FROM @extschema@.jobs r
                   WHERE r.queue_name IS NOT NULL AND coalesce(r.locked_at, '-infinity') > '-infinity'
                     AND (coalesce(r.locked_at, '-infinity') >= stale OR r.deadline >= swept));

    -- Two statements of one text: a single one for both takes 10 us a claim more, where a look that finds nothing takes
    -- 45 in all.
    IF deep THEN
        -- A range of the index on locked_at that is empty as long as nothing hangs.
        expired := ARRAY(
            SELECT j.id FROM @extschema@.jobs j
             WHERE j.locked_at IS NOT NULL AND j.locked_at < stale AND j.attempts < j.max_attempts AND j.run_at <= now()
               AND (j.deadline IS NULL OR j.deadline < swept)
               AND @takes(j.task_identifier)@
               AND (j.queue_name IS NULL
                    OR j.queue_name NOT IN (SELECT unnest(busy)) AND @lock_free_queue(j.queue_name)@)
             ORDER BY j.priority, j.run_at, j.id LIMIT max_jobs FOR UPDATE OF j SKIP LOCKED);
        WITH RECURSIVE @priorities()@
        @due_jobs(true)@
    ELSE
        IF cardinality(free_queues) > 0 THEN
            heads := ARRAY(
                SELECT h.id
                  FROM unnest(free_queues) AS f (name) CROSS JOIN LATERAL (
                       SELECT e.id FROM @extschema@.jobs e
                        WHERE e.queue_name = f.name AND e.queue_name IS NOT NULL
                          AND e.locked_at IS NULL AND e.attempts < e.max_attempts AND e.run_at <= now()
                          AND @takes(e.task_identifier)@
                          AND @lock_free_queue(e.queue_name)@
                        ORDER BY e.priority, e.run_at, e.id LIMIT 1 FOR UPDATE OF e SKIP LOCKED) h
                 WHERE f.name <> ALL (busy) LIMIT max_jobs);
        END IF;
        WITH priorities (priority, run_at, id) AS (SELECT * FROM unnest(after_priorities, after_run_ats, after_ids))
        @due_jobs((j.run_at, j.id) > (l.run_at, l.id))@
    END IF;

    IF cardinality(expired) + cardinality(heads) > 0 THEN
        -- They compete with the others by the same order.
        SELECT array_agg(c.id) FILTER (WHERE c.queue_name IS NULL),
               array_agg(c.id) FILTER (WHERE c.queue_name IS NOT NULL), max(c.seen)
          INTO free, queued, seen
          FROM (SELECT n.id, n.queue_name, count(*) OVER () AS seen FROM @extschema@.jobs n
                 WHERE n.id = ANY (expired || heads || free || queued)
                 ORDER BY n.priority, n.run_at, n.id LIMIT max_jobs) c;
        IF seen > max_jobs THEN
            -- Another worker may have passed by those that are not taken, and gone to sleep.
            woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
        END IF;
    END IF;
    IF queued IS NOT NULL THEN
        -- The rows above were read one after the other: a queue's row that was held when its first job came by may have
        -- been free for a later one. Now that it is ours, nobody else moves the queue: its head is the one to run.
        queued := ARRAY(
            SELECT coalesce((
                       SELECT e.id FROM @extschema@.jobs e
                        WHERE e.queue_name = n.queue_name AND e.queue_name IS NOT NULL
                          AND e.locked_at IS NULL AND e.attempts < e.max_attempts AND e.run_at <= now()
                          AND @takes(e.task_identifier)@
                          AND (e.priority, e.run_at, e.id) < (n.priority, n.run_at, n.id)
                        ORDER BY e.priority, e.run_at, e.id LIMIT 1 FOR UPDATE SKIP LOCKED), n.id)
              FROM (SELECT DISTINCT ON (c.queue_name) c.* FROM @extschema@.jobs c WHERE c.id = ANY (queued)
                     ORDER BY c.queue_name, c.priority, c.run_at, c.id) n);
    END IF;
    IF free IS NULL AND queued IS NULL THEN
        RETURN;
    END IF;
    claimed := free || queued;
    RETURN QUERY
    UPDATE @extschema@.jobs j
       SET attempts = j.attempts + 1, locked_by = worker_id, locked_at = now(), updated_at = clock_timestamp(),
           epoch = coalesce(c.epoch, hashtextextended(gen_random_uuid()::text, 0::bigint)) & 9223372036854775807,
           instance = claim_instance_jobs.instance, accepted = false, deadline = NULL
      FROM unnest(claimed, epochs[:cardinality(claimed)]) AS c (id, epoch)
     WHERE j.id = c.id
    RETURNING j.*;
END
$$;

-- A claim without an instance, as get_job makes it.
CREATE OR REPLACE FUNCTION @internal@.claim_jobs(
    worker_id text, task_identifiers text[], max_jobs int, job_expiry interval,
    excluded_tasks text[] DEFAULT NULL, deep boolean DEFAULT true, after_priorities int[] DEFAULT NULL,
    after_run_ats timestamptz[] DEFAULT NULL, after_ids bigint[] DEFAULT NULL, free_queues text[] DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT * FROM @internal@.claim_instance_jobs(
        NULL, worker_id, NULL, task_identifiers, max_jobs, job_expiry, excluded_tasks, deep, after_priorities,
        after_run_ats, after_ids, free_queues);
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.get_job(
    worker_id text, task_identifiers text[] DEFAULT NULL, job_expiry interval DEFAULT '4 hours'
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    SELECT * INTO job FROM @internal@.claim_jobs(worker_id, task_identifiers, 1, job_expiry);
    RETURN job;
END
$$;

COMMENT ON FUNCTION @extschema@.get_job(text, text[], interval) IS
    'Claims one due job for a worker; a row of NULLs when there is none.';

-- When the next job is due that waits for its time, within the given time; NULL when none is. One index probe per
-- priority in use, and with a filter at most the jobs that are due within that time.
--
-- plpgsql keeps its plan: an SQL function with settings is planned at every call, which takes 110 us of 140.
CREATE OR REPLACE FUNCTION @internal@.next_run_at(task_identifiers text[], excluded_tasks text[], within interval)
RETURNS timestamptz
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        WITH RECURSIVE @priorities()@
        SELECT min((SELECT j.run_at FROM @extschema@.jobs j
                     WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority = p.priority
                       AND j.run_at > now() AND j.run_at <= now() + within
                       AND @takes(j.task_identifier)@
                     ORDER BY j.run_at LIMIT 1))
          FROM priorities p);
END
$$;
