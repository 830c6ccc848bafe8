-- Cancel: an operator ends jobs for good, whether they wait or run.

-- A job that waits, runs or was accepted by a function is removed, and its attempt ends as cancelled: whatever its
-- worker or its function says of it afterwards is stale. The process that runs it is told by a row of
-- cancelled_attempts, which has the reason, and by the channel jobs:cancel. One that cannot listen looks for rows of
-- its own while it runs something. A job that has failed for good is left: it has ended, and tells why.
--
-- As in the other functions for operators, what another transaction holds is left alone and told, once it has been held
-- for half a second. A claim holds its jobs for a moment, a handler's own transaction to its end.
CREATE OR REPLACE FUNCTION @extschema@.cancel_jobs(job_ids bigint[], reason text DEFAULT NULL)
RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch bigint[];
    todo bigint[] := job_ids;
    locked bigint[];
    held bigint[];
    failed bigint[];
    until CONSTANT timestamptz := clock_timestamp() + interval '500 ms';
    waited boolean := false;
BEGIN
    IF length(reason) > 1000 THEN
        RAISE EXCEPTION 'reason has % characters, and 1000 are allowed', length(reason)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a shorter reason.';
    END IF;
    -- While it waits for what others hold, it holds nothing itself: an error ends the subtransaction and its locks.
    LOOP
        BEGIN
            locked := '{}';
            FOR batch IN SELECT b.ids FROM @internal@.id_batches(todo) AS b (ids) LOOP
                locked := locked || ARRAY(
                    SELECT j.id FROM @extschema@.jobs j
                     WHERE j.id = ANY (batch) AND @cancellable(j)@ ORDER BY j.id FOR UPDATE SKIP LOCKED);
            END LOOP;
            held := ARRAY(
                SELECT j.id FROM @extschema@.jobs j WHERE j.id = ANY (todo) AND @cancellable(j)@
                EXCEPT SELECT l.id FROM unnest(locked) AS l (id) ORDER BY id);
            EXIT WHEN todo IS NOT DISTINCT FROM job_ids AND (held = '{}' OR waited);
            RAISE SQLSTATE 'JB005';
        EXCEPTION WHEN SQLSTATE 'JB005' THEN
            waited := held = '{}' OR clock_timestamp() > until;
            todo := CASE WHEN waited THEN job_ids ELSE held END;
        END;
        IF NOT waited THEN
            PERFORM pg_sleep(0.02);
        END IF;
    END LOOP;

    -- Claims go on meanwhile, and each holds some for a moment: for those it waits 50 ms at most.
    FOR look IN 0 .. 10 LOOP
        IF look > 0 THEN
            EXIT WHEN held = '{}';
            PERFORM pg_sleep(0.005);
            locked := ARRAY(
                SELECT j.id FROM @extschema@.jobs j
                 WHERE j.id = ANY (held) AND @cancellable(j)@ ORDER BY j.id FOR UPDATE SKIP LOCKED);
            held := ARRAY(
                SELECT j.id FROM @extschema@.jobs j WHERE j.id = ANY (held) AND @cancellable(j)@
                EXCEPT SELECT l.id FROM unnest(locked) AS l (id) ORDER BY id);
        END IF;
        FOR batch IN SELECT b.ids FROM @internal@.id_batches(locked) AS b (ids) LOOP
            RETURN QUERY
            WITH cancelled AS (
                DELETE FROM @extschema@.jobs j WHERE j.id = ANY (batch) RETURNING j.*),
            told AS (
                INSERT INTO @extschema@.cancelled_attempts (instance, job_id, epoch, reason)
                SELECT c.instance, c.id, c.epoch, cancel_jobs.reason FROM cancelled c
                 WHERE c.instance IS NOT NULL AND c.epoch IS NOT NULL AND NOT c.accepted
                -- However many rows there are, one notification is sent.
                RETURNING pg_notify('jobs:cancel', ''))
            SELECT c.* FROM cancelled c;
        END LOOP;
    END LOOP;

    failed := ARRAY(SELECT j.id FROM @extschema@.jobs j
                     WHERE j.id = ANY (job_ids) AND j.locked_at IS NULL AND j.attempts >= j.max_attempts ORDER BY j.id);
    IF cardinality(failed) > 0 THEN
        RAISE WARNING USING
            MESSAGE = format('jobs that have failed for good were left alone: %s in all, of them %s',
                             cardinality(failed), array_to_string(failed[1:10], ', ')),
            HINT = 'They will not run again. complete_jobs removes them.';
    END IF;
    PERFORM @internal@.warn_of_held_jobs(held);
END
$$;

COMMENT ON FUNCTION @extschema@.cancel_jobs(bigint[], text) IS
    E'@behavior -*\nEnds jobs for good: waiting ones are removed, and of those that run the attempt ends and is not '
    'tried again. '
    'Returns the jobs it removed. Warns of jobs that another transaction holds, and of those that have failed already.';
