-- For operators. What a call leaves alone, and what it changes without effect, is told in a WARNING with a HINT. The
-- result is that of the original: callers rely on it.
--
-- They leave alone what runs: jobs that are locked, unless for more than 4 hours, and jobs whose function may still
-- call back. They wait for no row that another transaction holds while they hold one that a settler may need.

-- The ids in batches, for lock_idle_jobs. The last come first: the first are those that workers claim next. A claim
-- walks over what is locked, so they are locked last, for the shortest time. A call has few batches: PostgreSQL knows
-- 64 subtransactions of a transaction at no cost for others.
CREATE OR REPLACE FUNCTION @internal@.id_batches(ids bigint[]) RETURNS SETOF bigint[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    size int := greatest(1000, cardinality(ids) / 40);
BEGIN
    RETURN QUERY
    SELECT array_agg(n.id)
      FROM (SELECT d.id, (row_number() OVER (ORDER BY d.id DESC) - 1) / size AS batch
              FROM (SELECT DISTINCT i.id FROM unnest(ids) AS i (id) WHERE i.id IS NOT NULL) d) n
     GROUP BY n.batch ORDER BY n.batch;
END
$$;

-- Locks those of job_ids that do not run and that nobody else holds. held: those that somebody else holds, and those
-- that have just ended. running: those that run.
--
-- No lock may be left on a job that runs: its outcome would wait for the whole transaction. A job can begin after the
-- snapshot by which it does not run. PostgreSQL then locks its newest version, finds that it runs, and keeps the lock.
-- So this raises JB003 when a job has begun meanwhile. The caller's subtransaction is rolled back, and tried again.
CREATE OR REPLACE FUNCTION @internal@.lock_idle_jobs(
    job_ids bigint[], OUT locked bigint[], OUT held bigint[], OUT running bigint[]
)
LANGUAGE plpgsql SET enable_seqscan = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    idle bigint[];
BEGIN
    SELECT coalesce(array_agg(j.id) FILTER (WHERE @idle(j)@), '{}'),
           coalesce(array_agg(j.id) FILTER (WHERE NOT @idle(j)@), '{}')
      INTO idle, running FROM @extschema@.jobs j WHERE j.id = ANY (job_ids);
    locked := ARRAY(SELECT j.id FROM @extschema@.jobs j WHERE j.id = ANY (idle) AND @idle(j)@
                     ORDER BY j.id DESC FOR UPDATE SKIP LOCKED);
    held := '{}';
    IF cardinality(locked) < cardinality(idle) THEN
        IF EXISTS (SELECT FROM @extschema@.jobs j WHERE j.id = ANY (idle) AND NOT @idle(j)@) THEN
            RAISE 'a job has begun' USING ERRCODE = 'JB003';
        END IF;
        held := ARRAY(SELECT unnest(idle) EXCEPT SELECT unnest(locked));
    END IF;
END
$$;

-- What an operator's function has to tell: which of the jobs that it has changed have no attempts left, and which jobs
-- it has left alone, because they run or because somebody holds their rows. It looks after the change: a job that has
-- begun or ended meanwhile is told as it is now.
CREATE OR REPLACE FUNCTION @internal@.warn_operator(exhausted bigint[], running bigint[], held bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT coalesce(array_agg(j.id ORDER BY j.id) FILTER (WHERE NOT @idle(j)@), '{}'),
           coalesce(array_agg(j.id ORDER BY j.id) FILTER (WHERE @idle(j)@), '{}')
      INTO running, held FROM @extschema@.jobs j WHERE j.id = ANY (running || held);
    IF cardinality(exhausted) > 0 THEN
        exhausted := ARRAY(SELECT e.id FROM unnest(exhausted) AS e (id) ORDER BY e.id);
        RAISE WARNING USING
            MESSAGE = format('jobs without attempts left, which will not run: %s in all, of them %s',
                             cardinality(exhausted), array_to_string(exhausted[1:10], ', ')),
            HINT = 'attempts := 0 starts them anew; a larger max_attempts lets them go on.';
    END IF;
    IF cardinality(running) > 0 THEN
        RAISE WARNING USING
            MESSAGE = format('jobs that run were left alone: %s in all, of them %s', cardinality(running),
                             array_to_string(running[1:10], ', ')),
            HINT = 'Call again when they have ended. One whose function is lost is started again by '
                || 'UPDATE @extschema@.jobs SET locked_at = NULL, locked_by = NULL WHERE id = ….';
    END IF;
    PERFORM @internal@.warn_of_held_jobs(held);
END
$$;

CREATE OR REPLACE FUNCTION @internal@.warn_of_held_jobs(held bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cardinality(held) > 0 THEN
        RAISE WARNING USING
            MESSAGE = format('jobs that another transaction holds were left alone: %s in all, of them %s',
                             cardinality(held), array_to_string(held[1:10], ', ')),
            HINT = 'Call again when it has ended. pg_stat_activity has the transactions that are open.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.complete_jobs(job_ids bigint[]) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    todo bigint[] := job_ids;
    batch bigint[];
    jobs record;
    running bigint[] := '{}';
    held bigint[];
    until timestamptz;
BEGIN
    @each_idle_batch(
        RETURN QUERY DELETE FROM @extschema@.jobs j WHERE j.id = ANY (jobs.locked) RETURNING j.*;)@
    PERFORM @internal@.warn_operator('{}', running, held);
END
$$;

COMMENT ON FUNCTION @extschema@.complete_jobs(bigint[]) IS
    'Removes jobs as done. Returns the jobs it removed. Warns of jobs that run or that another transaction holds.';

CREATE OR REPLACE FUNCTION @extschema@.permanently_fail_jobs(job_ids bigint[], error_message text DEFAULT NULL)
RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    todo bigint[] := job_ids;
    batch bigint[];
    jobs record;
    running bigint[] := '{}';
    held bigint[];
    until timestamptz;
BEGIN
    @each_idle_batch(
        RETURN QUERY
        UPDATE @extschema@.jobs j
           SET last_error = coalesce(error_message, 'Manually marked as failed'), attempts = j.max_attempts,
               locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
         WHERE j.id = ANY (jobs.locked)
        RETURNING j.*;)@
    PERFORM @internal@.warn_operator('{}', running, held);
END
$$;

COMMENT ON FUNCTION @extschema@.permanently_fail_jobs(bigint[], text) IS
    'Marks jobs as failed for good: they stay, and are not tried again. Returns the jobs it changed. '
    'Warns of jobs that run or that another transaction holds.';

CREATE OR REPLACE FUNCTION @extschema@.reschedule_jobs(
    job_ids bigint[], run_at timestamptz DEFAULT NULL, priority int DEFAULT NULL, attempts int DEFAULT NULL,
    max_attempts int DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    todo bigint[] := job_ids;
    batch bigint[];
    jobs record;
    running bigint[] := '{}';
    exhausted bigint[] := '{}';
    held bigint[];
    until timestamptz;
BEGIN
    @each_idle_batch(
        RETURN QUERY
        UPDATE @extschema@.jobs j
           SET run_at = coalesce(reschedule_jobs.run_at, j.run_at),
               priority = coalesce(reschedule_jobs.priority, j.priority),
               attempts = coalesce(reschedule_jobs.attempts, j.attempts),
               max_attempts = coalesce(reschedule_jobs.max_attempts, j.max_attempts),
               -- Whoever gives attempts anew wants the job to run after all.
               superseded = j.superseded AND reschedule_jobs.attempts IS NULL,
               locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
         WHERE j.id = ANY (jobs.locked)
        RETURNING j.*;
        exhausted := exhausted || ARRAY(SELECT j.id FROM @extschema@.jobs j
                                         WHERE j.id = ANY (jobs.locked) AND j.attempts >= j.max_attempts);)@
    PERFORM @internal@.warn_operator(exhausted, running, held);
END
$$;

COMMENT ON FUNCTION @extschema@.reschedule_jobs(bigint[], timestamptz, int, int, int) IS
    'Changes when and how jobs run; NULL keeps a value. Returns the jobs it changed. '
    'Warns of jobs that run, that another transaction holds, or that have no attempts left.';

-- Takes the job with this key out of the queue and returns it: one that waits is removed; one that runs loses its key,
-- goes on, and is not tried again. A row of NULLs when no job has the key.
CREATE OR REPLACE FUNCTION @extschema@.remove_job(job_key text) RETURNS @extschema@.jobs
LANGUAGE plpgsql SET lock_timeout = '2s' SET search_path = pg_catalog, pg_temp AS $$
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
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'another transaction holds the job with the key %', quote_literal(job_key)
        USING ERRCODE = 'lock_not_available', DETAIL = SQLERRM,
              HINT = 'Call again when it has ended. pg_stat_activity has the transactions that are open.';
END
$$;

COMMENT ON FUNCTION @extschema@.remove_job(text) IS
    'Removes the job with this key; one that runs goes on without it and is not tried again. '
    'Returns the job, or a row of NULLs.';
