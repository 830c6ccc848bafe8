-- For operators. All three leave alone what runs: jobs that are locked, unless for more than 4 hours. They lock rows in
-- the order of id, so that two calls with overlapping ids take turns.

CREATE FUNCTION @extschema@.reschedule_jobs(
    job_ids bigint[], run_at timestamptz DEFAULT NULL, priority int DEFAULT NULL, attempts int DEFAULT NULL,
    max_attempts int DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE sql AS $$
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM @extschema@.jobs c
         WHERE c.id = ANY (job_ids) AND (c.locked_at IS NULL OR c.locked_at < now() - interval '4 hours')
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
REVOKE ALL ON FUNCTION @extschema@.reschedule_jobs(bigint[], timestamptz, int, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.reschedule_jobs(bigint[], timestamptz, int, int, int) IS
    'Changes when and how jobs run; NULL keeps a value. Returns the jobs it changed.';

CREATE FUNCTION @extschema@.permanently_fail_jobs(job_ids bigint[], error_message text DEFAULT NULL)
RETURNS SETOF @extschema@.jobs
LANGUAGE sql AS $$
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM @extschema@.jobs c
         WHERE c.id = ANY (job_ids) AND (c.locked_at IS NULL OR c.locked_at < now() - interval '4 hours')
         ORDER BY c.id FOR UPDATE)
    UPDATE @extschema@.jobs j
       SET last_error = coalesce(error_message, 'Manually marked as failed'), attempts = j.max_attempts,
           locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
      FROM chosen WHERE j.id = chosen.id
    RETURNING j.*
$$;
REVOKE ALL ON FUNCTION @extschema@.permanently_fail_jobs(bigint[], text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.permanently_fail_jobs(bigint[], text) IS
    'Marks jobs as failed for good: they stay, and are not tried again. Returns the jobs it changed.';

CREATE FUNCTION @extschema@.complete_jobs(job_ids bigint[]) RETURNS SETOF @extschema@.jobs
LANGUAGE sql AS $$
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM @extschema@.jobs c
         WHERE c.id = ANY (job_ids) AND (c.locked_at IS NULL OR c.locked_at < now() - interval '4 hours')
         ORDER BY c.id FOR UPDATE)
    DELETE FROM @extschema@.jobs j USING chosen WHERE j.id = chosen.id
    RETURNING j.*
$$;
REVOKE ALL ON FUNCTION @extschema@.complete_jobs(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.complete_jobs(bigint[]) IS 'Removes jobs as done. Returns the jobs it removed.';
