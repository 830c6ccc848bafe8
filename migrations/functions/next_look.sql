-- When a worker that found nothing looks again.

-- When to look again at the latest, within the given time; NULL when nothing is known: when the next job is due that
-- waits for its time, a gate opens by itself or has its next token, or at once when another claim held a gate.
--
-- plpgsql keeps its plan: an SQL function with settings is planned at every call, which takes 110 us of 140.
CREATE OR REPLACE FUNCTION @internal@.next_run_at(task_identifiers text[], excluded_tasks text[], within interval)
RETURNS timestamptz
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
SET jit = off SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('jobs.gate_skipped', true) = 'on' THEN
        RETURN now() + interval '2 milliseconds';
    END IF;
    RETURN least(
        -- Somebody holds what is due already.
        (SELECT CASE WHEN j.run_at > now() THEN j.run_at ELSE now() + interval '50 milliseconds' END
           FROM @extschema@.jobs j
          WHERE j.gate_key = 'run_at' AND @waits(j)@ AND j.run_at <= now() + within AND @takes(j.task_identifier)@
          ORDER BY j.run_at LIMIT 1),
        (SELECT g.paused_until FROM @extschema@.gates g
          WHERE g.paused_until > now() AND g.paused_until <= now() + within ORDER BY g.paused_until LIMIT 1),
        (SELECT g.closed_until FROM @extschema@.gates g
          WHERE g.closed_until > now() AND g.closed_until <= now() + within ORDER BY g.closed_until LIMIT 1),
        -- Of the gates that the claim has looked at (gate_room).
        (SELECT t.at FROM (SELECT to_timestamp(nullif(current_setting('jobs.next_token', true), '')::float8) AS at) t
          WHERE t.at > now() AND t.at <= now() + within));
END
$$;
