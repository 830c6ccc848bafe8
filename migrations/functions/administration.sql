-- For operators. What a call leaves alone, and what it changes without effect, is told in a WARNING with a HINT. The
-- result is that of the original: callers rely on it.
--
-- They leave alone what runs: jobs that are locked, unless for more than 4 hours, and jobs whose function may still
-- call back. They lock rows in the order of id, so that two calls with overlapping ids take turns.

-- What an operator's function has to tell: which of the jobs that it has changed have no attempts left, and which jobs
-- it has left alone, because they run. It looks after the change: a job that has begun or ended meanwhile is told as it
-- is now.
CREATE OR REPLACE FUNCTION @internal@.warn_of_jobs(job_ids bigint[], changed bigint[], exhausted bigint[] DEFAULT '{}')
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    running bigint[] := ARRAY(
        SELECT j.id FROM @extschema@.jobs j
         WHERE j.id = ANY (job_ids) AND NOT EXISTS (SELECT FROM unnest(changed) AS c (id) WHERE c.id = j.id)
         ORDER BY j.id);
BEGIN
    IF cardinality(exhausted) > 0 THEN
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
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.complete_jobs(job_ids bigint[]) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
    removed bigint[] := '{}';
BEGIN
    FOR job IN
        WITH @idle_jobs()@
        DELETE FROM @extschema@.jobs j USING chosen WHERE j.id = chosen.id
        RETURNING j.*
    LOOP
        removed := removed || job.id;
        RETURN NEXT job;
    END LOOP;
    PERFORM @internal@.warn_of_jobs(job_ids, removed);
END
$$;

COMMENT ON FUNCTION @extschema@.complete_jobs(bigint[]) IS
    'Removes jobs as done. Returns the jobs it removed. Warns of jobs that run.';

CREATE OR REPLACE FUNCTION @extschema@.permanently_fail_jobs(job_ids bigint[], error_message text DEFAULT NULL)
RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
    changed bigint[] := '{}';
BEGIN
    FOR job IN
        WITH @idle_jobs()@
        UPDATE @extschema@.jobs j
           SET last_error = coalesce(error_message, 'Manually marked as failed'), attempts = j.max_attempts,
               locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
          FROM chosen WHERE j.id = chosen.id
        RETURNING j.*
    LOOP
        changed := changed || job.id;
        RETURN NEXT job;
    END LOOP;
    PERFORM @internal@.warn_of_jobs(job_ids, changed);
END
$$;

COMMENT ON FUNCTION @extschema@.permanently_fail_jobs(bigint[], text) IS
    'Marks jobs as failed for good: they stay, and are not tried again. Returns the jobs it changed. '
    'Warns of jobs that run.';

CREATE OR REPLACE FUNCTION @extschema@.reschedule_jobs(
    job_ids bigint[], run_at timestamptz DEFAULT NULL, priority int DEFAULT NULL, attempts int DEFAULT NULL,
    max_attempts int DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
    changed bigint[] := '{}';
    exhausted bigint[] := '{}';
BEGIN
    FOR job IN
        WITH @idle_jobs()@
        UPDATE @extschema@.jobs j
           SET run_at = coalesce(reschedule_jobs.run_at, j.run_at),
               priority = coalesce(reschedule_jobs.priority, j.priority),
               attempts = coalesce(reschedule_jobs.attempts, j.attempts),
               max_attempts = coalesce(reschedule_jobs.max_attempts, j.max_attempts),
               -- Whoever gives attempts anew wants the job to run after all.
               superseded = j.superseded AND reschedule_jobs.attempts IS NULL,
               locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
          FROM chosen WHERE j.id = chosen.id
        RETURNING j.*
    LOOP
        changed := changed || job.id;
        IF job.attempts >= job.max_attempts THEN
            exhausted := exhausted || job.id;
        END IF;
        RETURN NEXT job;
    END LOOP;
    PERFORM @internal@.warn_of_jobs(job_ids, changed, exhausted);
END
$$;

COMMENT ON FUNCTION @extschema@.reschedule_jobs(bigint[], timestamptz, int, int, int) IS
    'Changes when and how jobs run; NULL keeps a value. Returns the jobs it changed. '
    'Warns of jobs that run or have no attempts left.';

-- Takes the job with this key out of the queue and returns it: one that waits is removed; one that runs loses its key,
-- goes on, and is not tried again. A row of NULLs when no job has the key.
CREATE OR REPLACE FUNCTION @extschema@.remove_job(job_key text) RETURNS @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
END
$$;

COMMENT ON FUNCTION @extschema@.remove_job(text) IS
    'Removes the job with this key; one that runs goes on without it and is not tried again. '
    'Returns the job, or a row of NULLs.';
