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

-- SKIP LOCKED can wait. A claim that meets a queue's row while its writer commits follows the row to its next version, and if
-- that one is being written already it waits for this second writer, whatever was asked for ("while locking updated version"
-- in the server's log). The second writer may in turn wait for a queue that the claim holds. The claim gives up (55P03) and
-- is tried again long before deadlock_timeout, so that no enqueue is ever the victim.
ALTER FUNCTION @extschema@.claim_jobs(
    text, text[], int, interval, text[], boolean, int[], timestamptz[], bigint[], text[]) SET lock_timeout = '100ms';

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
                                                WHERE j.queue_name = h.queue_name AND j.locked_at IS NOT NULL)
                               FOR UPDATE SKIP LOCKED);
END
$$;
