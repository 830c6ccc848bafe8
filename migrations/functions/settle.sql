-- Settle: how an attempt ends. Locks of queues and wake-ups follow by trigger.

-- When an attempt that failed is tried again: e^attempts seconds, about 6 hours at most. A run_at at the end of time,
-- which anybody who may write it can give a job that runs, stays as it is: a wait added to it would be an error.
CREATE OR REPLACE FUNCTION @internal@.retry_at(run_at timestamptz, attempts int) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN run_at > timestamptz '290000-01-01 00:00:00+00' THEN run_at
                ELSE greatest(now(), run_at) + exp(least(attempts, 10)::float8) * interval '1 second' END
$$;

CREATE OR REPLACE FUNCTION @extschema@.complete_job(worker_id text, job_id bigint) RETURNS @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    DELETE FROM @extschema@.jobs j WHERE j.id = job_id AND j.locked_by = worker_id RETURNING j.* INTO job;
    RETURN job;
END
$$;

COMMENT ON FUNCTION @extschema@.complete_job(text, bigint) IS
    'Removes a finished job; a row of NULLs, and nothing changed, when that worker does not hold it.';

CREATE OR REPLACE FUNCTION @extschema@.fail_job(worker_id text, job_id bigint, error_message text)
RETURNS @extschema@.jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    UPDATE @extschema@.jobs j
       SET last_error = coalesce(error_message, 'UNKNOWN_ERROR'), run_at = @internal@.retry_at(j.run_at, j.attempts),
           @unlocked()@
     WHERE j.id = job_id AND j.locked_by = worker_id
    RETURNING j.* INTO job;
    RETURN job;
END
$$;

COMMENT ON FUNCTION @extschema@.fail_job(text, bigint, text) IS
    'Unlocks a job whose attempt failed, to be tried again later; '
    'a row of NULLs, and nothing changed, when that worker does not hold it.';

-- Complete and fail for many jobs at once, each with the worker that holds it and the epoch of its claim (NULL:
-- whatever claim the worker holds, as in complete_job and fail_job). They return the positions, from 1, of those that
-- were not held: as a rule none, so that a batch costs no row on the way back. A producer's open transaction can hold
-- the row of a queue, or of a job whose key it replaces: the batch does not wait for it (SQLSTATE 55P03), so that one
-- such job does not hold up the others. The caller tries the rest again one by one.
CREATE OR REPLACE FUNCTION @internal@.complete_held_jobs(job_ids bigint[], worker_ids text[], epochs bigint[])
RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held bigint[];
BEGIN
    WITH done AS (
        DELETE FROM @extschema@.jobs j
         USING unnest(job_ids, worker_ids, epochs) WITH ORDINALITY AS d (job_id, worker_id, epoch, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id AND (d.epoch IS NULL OR j.epoch = d.epoch)
        RETURNING d.position)
    SELECT array_agg(position) INTO held FROM done;
    RETURN @internal@.positions_left(cardinality(job_ids), held);
END
$$;

-- Retry, Discard, Snooze and Release for many jobs at once. delays: the wait in seconds before the next attempt; NULL:
-- the usual one. A run_at that somebody has put further ahead meanwhile stays. counted: whether the attempt counts.
-- discarded: no attempt follows. A message that is NULL leaves last_error as it is.
CREATE OR REPLACE FUNCTION @internal@.end_held_jobs(
    job_ids bigint[], worker_ids text[], epochs bigint[], error_messages text[], delays float8[], counted boolean[],
    discarded boolean[]
) RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held bigint[];
BEGIN
    WITH done AS (
        UPDATE @extschema@.jobs j
           SET last_error = coalesce(d.message, j.last_error), @unlocked()@,
               run_at = CASE WHEN d.discarded THEN j.run_at
                             WHEN d.delay IS NULL THEN @internal@.retry_at(j.run_at, j.attempts)
                             ELSE greatest(j.run_at, now() + make_interval(secs => d.delay)) END,
               attempts = CASE WHEN d.discarded THEN j.max_attempts
                               WHEN d.counted OR j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
          FROM unnest(job_ids, worker_ids, epochs, error_messages, delays, counted, discarded) WITH ORDINALITY
               AS d (job_id, worker_id, epoch, message, delay, counted, discarded, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id AND (d.epoch IS NULL OR j.epoch = d.epoch)
        RETURNING d.position)
    SELECT array_agg(position) INTO held FROM done;
    RETURN @internal@.positions_left(cardinality(job_ids), held);
END
$$;

-- The positions, from 1, of the claims whose jobs somebody else holds at this moment. The caller settles the others.
CREATE OR REPLACE FUNCTION @internal@.jobs_held_elsewhere(job_ids bigint[], epochs bigint[]) RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    free bigint[] := ARRAY(
        SELECT j.id FROM unnest(job_ids) AS d (job_id) JOIN @extschema@.jobs j ON j.id = d.job_id
           FOR UPDATE OF j SKIP LOCKED);
BEGIN
    RETURN ARRAY(
        SELECT d.position FROM unnest(job_ids, epochs) WITH ORDINALITY AS d (job_id, epoch, position)
          JOIN @extschema@.jobs j ON j.id = d.job_id
         WHERE d.job_id <> ALL (free) AND (d.epoch IS NULL OR j.epoch = d.epoch));
END
$$;

-- Functions have accepted these jobs: sets until when their callbacks may come, never earlier than it is set already.
-- Returns the ids of claims that still stand and could not be changed, because somebody holds the row at this moment.
--
-- The epoch says that a row is locked. A condition on locked_at as well would have the planner walk the index of locked
-- rows once for every claim: 2 s for 2000 of 3000.
CREATE OR REPLACE FUNCTION @internal@.accept_held_jobs(job_ids bigint[], epochs bigint[], callback_timeout interval)
RETURNS SETOF bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
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

-- A function needs more time: its callback may come until then at least. False, and nothing changed, when that claim
-- does not stand; epoch NULL is whatever claim the worker holds. A row that somebody holds is not waited for (55P03).
CREATE OR REPLACE FUNCTION @internal@.extend_job(worker_id text, job_id bigint, epoch bigint, extension interval)
RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '250ms' SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.jobs j
       SET deadline = greatest(j.deadline, now() + extension), updated_at = clock_timestamp()
     WHERE j.id = extend_job.job_id AND j.locked_by = extend_job.worker_id
       AND (extend_job.epoch IS NULL OR j.epoch = extend_job.epoch);
    RETURN FOUND;
END
$$;

-- Completes a job in the transaction that does its work: both are committed or neither is. The token names the attempt:
-- its job's id and its epoch, as X-Job-Token brings them. When that attempt is no longer live, because the job has been
-- completed, taken over by another worker or started again, this raises an error, and the transaction with its work has
-- to be rolled back.
--
-- Tokens cannot be guessed from outside, but jobs that were claimed together have tokens from which each other's
-- follow: whoever may call this is trusted with all jobs, but for those of another tenant than its own claim.
CREATE OR REPLACE FUNCTION @extschema@.complete_in_transaction(token text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts text[] := regexp_match(token, '^([0-9]{1,18})\.([0-9]{1,19})$');
    own uuid := @internal@.claim_uuid('jwt.claims.database_id');
BEGIN
    IF parts IS NULL THEN
        RAISE EXCEPTION 'the token % does not name an attempt', coalesce(quote_literal(token), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass the value of the header X-Job-Token as it came.';
    END IF;
    DELETE FROM @extschema@.jobs j
     WHERE j.id = parts[1]::bigint AND j.epoch = parts[2]::numeric AND j.locked_at IS NOT NULL
       AND (own IS NULL OR j.database_id IS NULL OR j.database_id = own);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the attempt of job % is no longer live', parts[1]
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'The job has been completed, taken over or started again, or it is another tenant''s.',
                  HINT = 'Roll back: another attempt does the work, or has done it.';
    END IF;
END
$$;

COMMENT ON FUNCTION @extschema@.complete_in_transaction(text) IS
    'Completes the job that X-Job-Token names in the caller''s transaction; '
    'an error when that attempt is no longer live.';
