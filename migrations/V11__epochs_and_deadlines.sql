-- Epochs and deadlines: who may end an attempt, and until when. V12 has the leases: who takes over when nobody does.
--
--   epoch     names a claim. Random, because a counter repeats: attempts after a release, a sequence after a crash that
--             lost the claim that drew from it. An outcome counts only for the claim it carries the epoch of.
--   instance  the process that claimed. Its heartbeat keeps all it holds; others take that over when the lease has passed
--             without one. NULL: claimed by somebody who never registered (get_job): only job_expiry frees the job.
--   accepted  a function has taken the job and will call back. It holds the job now, so the end of the worker means nothing to it.
--   deadline  until when the callback may come. A function that asks for more time before it has answered has one, too: then
--             its worker may end, and the job is left to it until the deadline.
--
-- A transaction that stands in the way ends the migration rather than hold up everybody who comes after it.
SET LOCAL lock_timeout = '5s';
ALTER TABLE @extschema@.jobs
    ADD COLUMN epoch bigint,
    ADD COLUMN instance uuid,
    ADD COLUMN interruptions int NOT NULL DEFAULT 0,
    ADD COLUMN accepted boolean NOT NULL DEFAULT false,
    ADD COLUMN deadline timestamptz;
COMMENT ON COLUMN @extschema@.jobs.epoch IS 'Names the claim that holds the job; new at every claim.';
COMMENT ON COLUMN @extschema@.jobs.instance IS 'The worker process that holds the job; NULL for one without a lease.';
COMMENT ON COLUMN @extschema@.jobs.interruptions IS 'How often the job''s worker ended or went silent while it ran.';
COMMENT ON COLUMN @extschema@.jobs.accepted IS 'A function has taken the job and will call back.';
COMMENT ON COLUMN @extschema@.jobs.deadline IS 'Until when the callback of the function may come that has the job.';

-- As small as the number of accepted jobs; an attempt that a function ends within a fraction of a second is never in it.
CREATE INDEX jobs_deadline_idx ON @extschema@.jobs (deadline) WHERE deadline IS NOT NULL;
SET LOCAL lock_timeout = DEFAULT;

-- As in V1; and a lock that is set or lifted by hand, which shows by the epoch that stays, is nobody's claim.
DROP TRIGGER jobs_touch ON @extschema@.jobs;
CREATE TRIGGER jobs_touch BEFORE UPDATE ON @extschema@.jobs FOR EACH ROW
    WHEN (NEW.updated_at IS NULL OR NEW.updated_at <= OLD.updated_at OR NEW.created_at IS DISTINCT FROM OLD.created_at
          OR NEW.locked_by IS DISTINCT FROM OLD.locked_by AND NEW.epoch IS NOT DISTINCT FROM OLD.epoch)
    EXECUTE FUNCTION @extschema@.tg_jobs_touch();
CREATE OR REPLACE FUNCTION @extschema@.tg_jobs_touch() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.created_at := OLD.created_at;
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    IF NEW.locked_by IS DISTINCT FROM OLD.locked_by AND NEW.epoch IS NOT DISTINCT FROM OLD.epoch THEN
        NEW.epoch := NULL;
        NEW.instance := NULL;
        NEW.accepted := false;
        NEW.deadline := NULL;
    END IF;
    RETURN NEW;
END
$$;

-- claim_jobs as in V10, with the claim's epoch and instance. A lock that has expired still counts while the function that has
-- the job may call back.
CREATE FUNCTION @extschema@.claim_instance_jobs(
    instance uuid, worker_id text, task_identifiers text[], max_jobs int, job_expiry interval,
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
    seen bigint;
    woken boolean;
    -- Workers fail what is past its deadline. When nobody has done so, there is none, and its lock is as any other's.
    swept timestamptz := now() - interval '1 minute';
    -- One random number a call; with the job's id it makes the epoch of each claim.
    salt bigint := hashtextextended(gen_random_uuid()::text, 0);
BEGIN
    PERFORM @extschema@.require_worker_id(worker_id);

    -- Queues that run a job now, read once, from an index as small as the number of running jobs: without it a look would
    -- try the queue's row for every job that waits in a busy queue.
    busy := ARRAY(SELECT DISTINCT r.queue_name FROM @extschema@.jobs r
                   WHERE r.queue_name IS NOT NULL AND coalesce(r.locked_at, '-infinity') > '-infinity'
                     AND (coalesce(r.locked_at, '-infinity') >= stale OR r.deadline >= swept));

    IF deep THEN
        -- A range of the index on locked_at that is empty as long as nothing hangs.
        expired := ARRAY(
            SELECT j.id FROM @extschema@.jobs j
             WHERE j.locked_at IS NOT NULL AND j.locked_at < stale AND j.attempts < j.max_attempts AND j.run_at <= now()
               AND (j.deadline IS NULL OR j.deadline < swept)
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
                 WHERE f.name <> ALL (busy) LIMIT max_jobs);
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
        SELECT array_agg(c.id) FILTER (WHERE c.queue_name IS NULL), array_agg(c.id) FILTER (WHERE c.queue_name IS NOT NULL),
               max(c.seen)
          INTO free, queued, seen
          FROM (SELECT n.id, n.queue_name, count(*) OVER () AS seen FROM @extschema@.jobs n
                 WHERE n.id = ANY (expired || heads || free || queued)
                 ORDER BY n.priority, n.run_at, n.id LIMIT max_jobs) c;
        IF seen > max_jobs THEN
            -- Another worker may have passed by those that are not taken, and gone to sleep.
            woken := @extschema@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
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
       SET attempts = j.attempts + 1, locked_by = worker_id, locked_at = now(), updated_at = clock_timestamp(),
           epoch = (salt # j.id) & 9223372036854775807, instance = claim_instance_jobs.instance, accepted = false,
           deadline = NULL
     WHERE j.id = ANY (free || queued)
    RETURNING j.*;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.claim_instance_jobs(
    uuid, text, text[], int, interval, text[], boolean, int[], timestamptz[], bigint[], text[]) FROM PUBLIC;

-- A claim without an instance: get_job's, and that of workers of the version before.
CREATE OR REPLACE FUNCTION @extschema@.claim_jobs(
    worker_id text, task_identifiers text[], max_jobs int, job_expiry interval,
    excluded_tasks text[] DEFAULT NULL, deep boolean DEFAULT true, after_priorities int[] DEFAULT NULL,
    after_run_ats timestamptz[] DEFAULT NULL, after_ids bigint[] DEFAULT NULL, free_queues text[] DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT * FROM @extschema@.claim_instance_jobs(
        NULL, worker_id, task_identifiers, max_jobs, job_expiry, excluded_tasks, deep, after_priorities, after_run_ats,
        after_ids, free_queues);
END
$$;

-- Nobody has called these since V6.
DROP FUNCTION @extschema@.complete_claimed_jobs(bigint[], text[]);
DROP FUNCTION @extschema@.fail_claimed_jobs(bigint[], text[], text[]);
DROP FUNCTION @extschema@.next_run_at(text[]);

-- As in V6, for the claim with the given epoch; NULL is whatever claim the worker holds, as in complete_job and fail_job. Those
-- of V6 stay for workers of the version before.
CREATE FUNCTION @extschema@.complete_held_jobs(job_ids bigint[], worker_ids text[], epochs bigint[]) RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    held bigint[];
BEGIN
    WITH done AS (
        DELETE FROM @extschema@.jobs j
         USING unnest(job_ids, worker_ids, epochs) WITH ORDINALITY AS d (job_id, worker_id, epoch, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id AND (d.epoch IS NULL OR j.epoch = d.epoch)
        RETURNING d.position)
    SELECT array_agg(position) INTO held FROM done;
    RETURN @extschema@.positions_left(cardinality(job_ids), held);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.complete_held_jobs(bigint[], text[], bigint[]) FROM PUBLIC;

-- counted: whether the attempt counts as one; if not, it is given back. delays: how many seconds to wait at least, or for an
-- attempt that does not count, exactly; NULL is the usual wait.
CREATE FUNCTION @extschema@.fail_held_jobs(
    job_ids bigint[], worker_ids text[], epochs bigint[], error_messages text[], delays float8[], counted boolean[]
) RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    held bigint[];
BEGIN
    WITH done AS (
        UPDATE @extschema@.jobs j
           SET last_error = d.message, locked_by = NULL, locked_at = NULL, epoch = NULL, instance = NULL, accepted = false, deadline = NULL,
               updated_at = clock_timestamp(),
               run_at = CASE WHEN d.counted THEN
                            greatest(@extschema@.retry_at(j.run_at, j.attempts), now() + make_interval(secs => d.delay))
                        ELSE coalesce(now() + make_interval(secs => d.delay), @extschema@.retry_at(j.run_at, j.attempts)) END,
               attempts = CASE WHEN d.counted OR j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
          FROM unnest(job_ids, worker_ids, epochs, error_messages, delays, counted) WITH ORDINALITY
               AS d (job_id, worker_id, epoch, message, delay, counted, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id AND (d.epoch IS NULL OR j.epoch = d.epoch)
        RETURNING d.position)
    SELECT array_agg(position) INTO held FROM done;
    RETURN @extschema@.positions_left(cardinality(job_ids), held);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.fail_held_jobs(bigint[], text[], bigint[], text[], float8[], boolean[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION @extschema@.fail_job(worker_id text, job_id bigint, error_message text) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    UPDATE @extschema@.jobs j
       SET last_error = coalesce(error_message, 'UNKNOWN_ERROR'), run_at = @extschema@.retry_at(j.run_at, j.attempts),
           locked_by = NULL, locked_at = NULL, epoch = NULL, instance = NULL, accepted = false, deadline = NULL,
           updated_at = clock_timestamp()
     WHERE j.id = job_id AND j.locked_by = worker_id
    RETURNING j.* INTO job;
    RETURN job;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.release_claimed_jobs(worker_id text, job_ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql AS $$
    WITH held AS MATERIALIZED (
        SELECT h.id FROM @extschema@.jobs h
         WHERE h.locked_at IS NOT NULL AND h.locked_by = worker_id AND (job_ids IS NULL OR h.id = ANY (job_ids))
         ORDER BY h.id FOR UPDATE)
    UPDATE @extschema@.jobs j
       SET locked_by = NULL, locked_at = NULL, epoch = NULL, instance = NULL, accepted = false, deadline = NULL,
           updated_at = clock_timestamp(),
           attempts = CASE WHEN j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
      FROM held WHERE j.id = held.id
    RETURNING j.id
$$;

-- Gives back the listed claims of an instance as if they had not been made.
CREATE FUNCTION @extschema@.release_held_jobs(instance uuid, job_ids bigint[], epochs bigint[]) RETURNS SETOF bigint
LANGUAGE sql AS $$
    WITH held AS MATERIALIZED (
        SELECT h.id FROM unnest(job_ids, epochs) AS r (job_id, epoch)
          JOIN @extschema@.jobs h ON h.id = r.job_id AND h.epoch = r.epoch AND h.instance = release_held_jobs.instance
         ORDER BY h.id FOR UPDATE OF h)
    UPDATE @extschema@.jobs j
       SET locked_by = NULL, locked_at = NULL, epoch = NULL, instance = NULL, accepted = false, deadline = NULL,
           updated_at = clock_timestamp(),
           attempts = CASE WHEN j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
      FROM held WHERE j.id = held.id
    RETURNING j.id
$$;
REVOKE ALL ON FUNCTION @extschema@.release_held_jobs(uuid, bigint[], bigint[]) FROM PUBLIC;

-- Functions have accepted these jobs: sets until when their callbacks may come, never earlier than it is set already. Returns
-- the ids of claims that still stand and could not be changed, because somebody holds the row at this moment.
--
-- The epoch says that a row is locked. A condition on locked_at as well would have the planner walk the index of locked rows
-- once for every claim: 2 s for 2000 of 3000.
CREATE FUNCTION @extschema@.accept_held_jobs(job_ids bigint[], epochs bigint[], callback_timeout interval)
RETURNS SETOF bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
BEGIN
    WITH held AS MATERIALIZED (
        SELECT j.id FROM unnest(job_ids, epochs) AS a (job_id, epoch)
          JOIN @extschema@.jobs j ON j.id = a.job_id AND j.epoch = a.epoch
           FOR UPDATE OF j SKIP LOCKED)
    UPDATE @extschema@.jobs j
       SET accepted = true, deadline = greatest(j.deadline, now() + callback_timeout), updated_at = clock_timestamp()
      FROM held h WHERE j.id = h.id;
    RETURN QUERY
    SELECT j.id FROM unnest(job_ids, epochs) AS a (job_id, epoch)
      JOIN @extschema@.jobs j ON j.id = a.job_id AND j.epoch = a.epoch AND NOT j.accepted;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.accept_held_jobs(bigint[], bigint[], interval) FROM PUBLIC;

-- A function needs more time: its callback may come until then at least. False, and nothing changed, when that claim does not
-- stand; epoch NULL is whatever claim the worker holds. A row that somebody holds is not waited for (55P03).
CREATE FUNCTION @extschema@.extend_job(worker_id text, job_id bigint, epoch bigint, extension interval) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
    UPDATE @extschema@.jobs j
       SET deadline = greatest(j.deadline, now() + extension), updated_at = clock_timestamp()
     WHERE j.id = extend_job.job_id AND j.locked_by = extend_job.worker_id
       AND (extend_job.epoch IS NULL OR j.epoch = extend_job.epoch);
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.extend_job(text, bigint, bigint, interval) FROM PUBLIC;

-- As in V5. A job whose function may call back runs, however old its lock is.
CREATE OR REPLACE FUNCTION @extschema@.reschedule_jobs(
    job_ids bigint[], run_at timestamptz DEFAULT NULL, priority int DEFAULT NULL, attempts int DEFAULT NULL,
    max_attempts int DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE sql AS $$
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM @extschema@.jobs c
         WHERE c.id = ANY (job_ids) AND (c.locked_at IS NULL OR c.locked_at < now() - interval '4 hours' AND coalesce(c.deadline < now(), true))
         ORDER BY c.id FOR UPDATE)
    UPDATE @extschema@.jobs j
       SET run_at = coalesce(reschedule_jobs.run_at, j.run_at), priority = coalesce(reschedule_jobs.priority, j.priority),
           attempts = coalesce(reschedule_jobs.attempts, j.attempts),
           max_attempts = coalesce(reschedule_jobs.max_attempts, j.max_attempts),
           -- Whoever gives attempts anew wants the job to run after all.
           superseded = j.superseded AND reschedule_jobs.attempts IS NULL,
           locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
      FROM chosen WHERE j.id = chosen.id
    RETURNING j.*
$$;

CREATE OR REPLACE FUNCTION @extschema@.permanently_fail_jobs(job_ids bigint[], error_message text DEFAULT NULL)
RETURNS SETOF @extschema@.jobs
LANGUAGE sql AS $$
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM @extschema@.jobs c
         WHERE c.id = ANY (job_ids) AND (c.locked_at IS NULL OR c.locked_at < now() - interval '4 hours' AND coalesce(c.deadline < now(), true))
         ORDER BY c.id FOR UPDATE)
    UPDATE @extschema@.jobs j
       SET last_error = coalesce(error_message, 'Manually marked as failed'), attempts = j.max_attempts,
           locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
      FROM chosen WHERE j.id = chosen.id
    RETURNING j.*
$$;

CREATE OR REPLACE FUNCTION @extschema@.complete_jobs(job_ids bigint[]) RETURNS SETOF @extschema@.jobs
LANGUAGE sql AS $$
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM @extschema@.jobs c
         WHERE c.id = ANY (job_ids) AND (c.locked_at IS NULL OR c.locked_at < now() - interval '4 hours' AND coalesce(c.deadline < now(), true))
         ORDER BY c.id FOR UPDATE)
    DELETE FROM @extschema@.jobs j USING chosen WHERE j.id = chosen.id
    RETURNING j.*
$$;
