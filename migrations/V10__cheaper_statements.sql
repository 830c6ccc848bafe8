-- What statements cost beside their rows; and two rare conflicts of a claim or a release with those who write the same queues.

-- As in V9, but without a query of its own for pg_notify: an expression is evaluated in place.
CREATE OR REPLACE FUNCTION @extschema@.wake_workers(on_demand boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    lock bigint;
BEGIN
    IF on_demand THEN
        lock := hashtextextended('@extschema@.waiter', pg_backend_pid() % 8);
        IF (CASE WHEN pg_try_advisory_lock(lock) THEN pg_advisory_unlock(lock) ELSE false END) THEN
            RETURN false;
        END IF;
    END IF;
    RETURN pg_notify('jobs:insert', '') IS NOT NULL;
END
$$;

-- A look from the beginning takes 1 ms for every 100,000 to 300,000 rows that are dead since the last vacuum. By the default, a
-- fifth of the table, those are 2 million beside 10 million jobs that wait for their time, and 7 to 20 ms.
ALTER TABLE @extschema@.jobs SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- As in V6, but in a language that keeps its plan: an SQL function with settings is planned at every call, which took
-- 110 µs of the 140 of a look that finds nothing.
CREATE OR REPLACE FUNCTION @extschema@.next_run_at(task_identifiers text[], excluded_tasks text[], within interval)
RETURNS timestamptz
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off AS $$
BEGIN
    RETURN (
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
          FROM levels l);
END
$$;

-- The running jobs of a named queue, with a condition that only these queries have. As long as the indexes on running jobs
-- are a page each, which is what a connection of a quiet moment plans for, the planner took the index on locked_at for
-- them, too: it has every running job, and an entry for each that ran since the last vacuum, and was walked once per queue.
-- Draining 100,000 jobs of 10,000 queues took 14 s, and takes 4 s.
--
-- A transaction that stands in the way ends the migration rather than hold up everybody who comes after it.
SET LOCAL lock_timeout = '5s';
DROP INDEX @extschema@.jobs_queue_locked_idx;
CREATE INDEX jobs_queue_locked_idx ON @extschema@.jobs (queue_name)
    WHERE queue_name IS NOT NULL AND coalesce(locked_at, '-infinity') > '-infinity';
SET LOCAL lock_timeout = DEFAULT;

CREATE OR REPLACE FUNCTION @extschema@.sync_queues(names text[], deltas int[], relock text[]) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    freed boolean;
BEGIN
    -- One pass in one order locks the rows there are and makes those there are not.
    INSERT INTO @extschema@.job_queues AS q (queue_name, job_count)
    SELECT c.name, sum(c.delta)
      FROM (SELECT n.name, n.delta FROM unnest(names, deltas) AS n (name, delta)
            UNION ALL
            SELECT r.name, 0 FROM unnest(relock) AS r (name)) c
     GROUP BY c.name ORDER BY c.name
    ON CONFLICT (queue_name) DO UPDATE SET job_count = q.job_count + excluded.job_count;

    IF cardinality(relock) > 0 THEN
        UPDATE @extschema@.job_queues q
           SET (locked_at, locked_by) = (
               SELECT j.locked_at, j.locked_by FROM @extschema@.jobs j
                WHERE j.queue_name = q.queue_name AND coalesce(j.locked_at, '-infinity') > '-infinity'
                ORDER BY j.locked_at DESC LIMIT 1)
         WHERE q.queue_name = ANY (relock);
    END IF;

    DELETE FROM @extschema@.job_queues q WHERE q.queue_name = ANY (names || relock) AND q.job_count <= 0;

    SELECT EXISTS (SELECT FROM @extschema@.job_queues q WHERE q.queue_name = ANY (relock) AND q.locked_at IS NULL)
      INTO freed;
    RETURN freed;
END
$$;

-- As in V6, but for the condition of busy queues, and for the time it waits.
--
-- SKIP LOCKED can wait. A claim that meets a queue's row while its writer commits follows the row to its next version, and if
-- that one is being written already it waits for this second writer, whatever was asked for ("while locking updated version"
-- in the server's log). The second writer may in turn wait for a queue that the claim holds. The claim gives up (55P03) and
-- is tried again long before deadlock_timeout, so that no enqueue is the victim.
CREATE OR REPLACE FUNCTION @extschema@.claim_jobs(
    worker_id text, task_identifiers text[], max_jobs int, job_expiry interval,
    excluded_tasks text[] DEFAULT NULL, deep boolean DEFAULT true, after_priorities int[] DEFAULT NULL,
    after_run_ats timestamptz[] DEFAULT NULL, after_ids bigint[] DEFAULT NULL, free_queues text[] DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET lock_timeout = '100ms' AS $$
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
    busy := ARRAY(SELECT DISTINCT r.queue_name FROM @extschema@.jobs r
                   WHERE r.queue_name IS NOT NULL AND coalesce(r.locked_at, '-infinity') > '-infinity'
                     AND coalesce(r.locked_at, '-infinity') >= stale);

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

-- Only locks of queues that were set by hand: the others were freed with their jobs, and may have been taken for another
-- job of this worker since.
CREATE OR REPLACE FUNCTION @extschema@.release_jobs(worker_id text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @extschema@.release_claimed_jobs(worker_id, NULL);
    -- A row that another session holds is being derived anew there; waiting for it could end in a deadlock.
    UPDATE @extschema@.job_queues q SET locked_by = NULL, locked_at = NULL
     WHERE q.queue_name IN (SELECT h.queue_name FROM @extschema@.job_queues h
                             WHERE h.locked_by = worker_id
                               AND NOT EXISTS (SELECT FROM @extschema@.jobs j
                                                WHERE j.queue_name = h.queue_name
                                                  AND coalesce(j.locked_at, '-infinity') > '-infinity')
                               FOR UPDATE SKIP LOCKED);
END
$$;
