-- Claiming by a plain statement, without an instance that lives.

CREATE OR REPLACE FUNCTION @internal@.claim_jobs(
    worker_id text, task_identifiers text[], max_jobs int, job_expiry interval,
    excluded_tasks text[] DEFAULT NULL, deep boolean DEFAULT true, after_priorities int[] DEFAULT NULL,
    after_run_ats timestamptz[] DEFAULT NULL, after_ids bigint[] DEFAULT NULL, free_gates text[] DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT * FROM @internal@.claim_instance_jobs(
        NULL, worker_id, NULL, task_identifiers, max_jobs, job_expiry, excluded_tasks, deep, after_priorities,
        after_run_ats, after_ids, free_gates);
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
