-- Refused: jobs whose rows the application does not let change, among those that a claim wants.

-- Those of some jobs, locked by the caller, that can be claimed. A trigger, a constraint or a domain of the
-- application's can refuse any change of a row; one such row would make every claim fail that meets it. When a try for
-- all fails, each is tried alone, for a second at most. Those that are refused are left out for a minute, with the
-- reason in last_error where the row takes that. The tries are rolled back (JB004).
CREATE OR REPLACE FUNCTION @internal@.changeable_jobs(ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + interval '1 second';
    next_try CONSTANT timestamptz := now() + interval '1 minute';
    found bigint[] := '{}';
    refused bigint[] := '{}';
    state text;
    reason text;
    batch bigint[] := ids;
    n int := 0;
BEGIN
    WHILE cardinality(batch) > 0 LOOP
        state := NULL;
        BEGIN
            UPDATE @extschema@.jobs j
               SET @unlocked()@, gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id)
             WHERE j.id = ANY (batch);
            UPDATE @extschema@.jobs j
               SET attempts = j.attempts + 1, locked_by = 'worker', locked_at = now(), epoch = 0,
                   instance = '00000000-0000-0000-0000-000000000000', updated_at = clock_timestamp()
             WHERE j.id = ANY (batch);
            -- What is put off to the commit.
            SET CONSTRAINTS ALL IMMEDIATE;
            RAISE 'a try' USING ERRCODE = 'JB004';
        EXCEPTION
            WHEN SQLSTATE 'JB004' THEN
                found := found || batch;
            WHEN lock_not_available THEN
                NULL; -- left for the next claim
            WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, reason = MESSAGE_TEXT;
        END;
        EXIT WHEN n = 0 AND state IS NULL;
        IF n > 0 AND state IS NOT NULL THEN
            refused := refused || batch;
            INSERT INTO @extschema@.refused_jobs AS r (job_id, refused_until, sql_state, message)
            VALUES (ids[n], next_try, state, left(reason, 1000))
            ON CONFLICT ON CONSTRAINT refused_jobs_pkey DO UPDATE
               SET refused_until = excluded.refused_until, sql_state = excluded.sql_state, message = excluded.message;
            BEGIN
                UPDATE @extschema@.jobs j
                   SET run_at = greatest(j.run_at, next_try), last_error = left('cannot be claimed: ' || reason, 2000),
                       updated_at = clock_timestamp()
                 WHERE j.id = ids[n] AND j.locked_at IS NULL;
            EXCEPTION WHEN OTHERS THEN
                NULL; -- not even that
            END;
        END IF;
        EXIT WHEN n = cardinality(ids) OR clock_timestamp() > until;
        n := n + 1;
        batch := ARRAY[ids[n]];
    END LOOP;
    IF cardinality(refused) > 0 THEN
        -- There may be others behind them.
        PERFORM set_config('jobs.gate_skipped', 'on', true);
        RAISE WARNING 'jobs % (% in all) cannot be claimed: %', refused[1:10], cardinality(refused), reason;
    END IF;
    RETURN found;
END
$$;
