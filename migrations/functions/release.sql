-- Release: a claim is given back.

CREATE OR REPLACE FUNCTION @extschema@.release_jobs(worker_id text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @internal@.release_claimed_jobs(worker_id, NULL);
END
$$;

COMMENT ON FUNCTION @extschema@.release_jobs(text) IS
    'Unlocks all jobs of a worker and gives the attempts back.';

CREATE OR REPLACE FUNCTION @internal@.release_claimed_jobs(worker_id text, job_ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT h.id FROM @extschema@.jobs h
         WHERE h.locked_at IS NOT NULL AND h.locked_by = worker_id AND (job_ids IS NULL OR h.id = ANY (job_ids))
         ORDER BY h.id FOR UPDATE)
    UPDATE @extschema@.jobs j
       SET @unlocked()@,
           attempts = CASE WHEN j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
      FROM held WHERE j.id = held.id
    RETURNING j.id;
END
$$;

-- Gives back the listed claims of an instance as if they had not been made.
CREATE OR REPLACE FUNCTION @internal@.release_held_jobs(instance uuid, job_ids bigint[], epochs bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
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
END
$$;

-- For workers that are gone for good: whatever they hold starts again at once, and the attempts that they began count.
CREATE OR REPLACE FUNCTION @extschema@.force_unlock_workers(worker_ids text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.jobs j SET locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
     WHERE j.id IN (SELECT h.id FROM @extschema@.jobs h
                     WHERE h.locked_at IS NOT NULL AND h.locked_by = ANY (worker_ids) ORDER BY h.id FOR UPDATE);
END
$$;

COMMENT ON FUNCTION @extschema@.force_unlock_workers(text[]) IS
    'Gives up all jobs that these workers hold: they start again at once. For workers that are gone for good.';
