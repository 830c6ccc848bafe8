-- Release: a claim is given back.

-- Locks the jobs that these workers hold, all together, and returns their ids. Where somebody else holds some of them,
-- the locks are given up and tried again for half a second, as a settler may need them. Then those are left alone, and
-- a WARNING names them.
CREATE OR REPLACE FUNCTION @internal@.lock_claimed_jobs(worker_ids text[]) RETURNS bigint[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until timestamptz := clock_timestamp() + interval '500 ms';
    locked bigint[];
    held bigint[];
BEGIN
    LOOP
        BEGIN
            locked := ARRAY(SELECT j.id FROM @extschema@.jobs j
                             WHERE j.locked_at IS NOT NULL AND j.locked_by = ANY (worker_ids)
                             ORDER BY j.id FOR UPDATE SKIP LOCKED);
            held := ARRAY(SELECT j.id FROM @extschema@.jobs j
                           WHERE j.locked_at IS NOT NULL AND j.locked_by = ANY (worker_ids)
                          EXCEPT SELECT unnest(locked) ORDER BY 1);
            EXIT WHEN held = '{}' OR clock_timestamp() > until;
            RAISE lock_not_available;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > until THEN
                RAISE;
            END IF;
        END;
        PERFORM pg_sleep(0.05);
    END LOOP;
    PERFORM @internal@.warn_of_held_jobs(held);
    RETURN locked;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.release_jobs(worker_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claimed bigint[] := @internal@.lock_claimed_jobs(ARRAY[worker_id]);
BEGIN
    UPDATE @extschema@.jobs j
       SET @unlocked()@,
           attempts = CASE WHEN j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
     WHERE j.id = ANY (claimed);
END
$$;

COMMENT ON FUNCTION @extschema@.release_jobs(text) IS
    'Unlocks all jobs of a worker and gives the attempts back. '
    'Warns of jobs that another transaction holds.';

-- Gives back the listed claims of an instance as if they had not been made. Their jobs have not begun, so no settler
-- waits for them.
CREATE OR REPLACE FUNCTION @internal@.release_held_jobs(instance uuid, job_ids bigint[], epochs bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- They have used nothing of their tenants' shares.
    PERFORM set_config('jobs.run_times', (SELECT jsonb_object_agg(i.id, 0) FROM unnest(job_ids) AS i (id))::text, true);
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT h.id FROM unnest(job_ids, epochs) AS r (job_id, epoch)
          JOIN @extschema@.jobs h ON h.id = r.job_id AND h.epoch = r.epoch AND h.instance = release_held_jobs.instance
         ORDER BY h.id FOR UPDATE OF h)
    UPDATE @extschema@.jobs j
       SET @unlocked()@,
           attempts = CASE WHEN j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
      FROM held WHERE j.id = held.id
    RETURNING j.id;
    PERFORM set_config('jobs.run_times', '', true);
END
$$;

-- For workers that are gone for good: whatever they hold starts again at once, and the attempts that they began count.
CREATE OR REPLACE FUNCTION @extschema@.force_unlock_workers(worker_ids text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claimed bigint[] := @internal@.lock_claimed_jobs(worker_ids);
BEGIN
    UPDATE @extschema@.jobs j SET locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
     WHERE j.id = ANY (claimed);
END
$$;

COMMENT ON FUNCTION @extschema@.force_unlock_workers(text[]) IS
    'Gives up all jobs that these workers hold: they start again at once. For workers that are gone for good. '
    'Warns of jobs that another transaction holds.';
