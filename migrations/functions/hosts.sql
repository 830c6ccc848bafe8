-- Hosts: where the jobs of tasks go, and hosts that are down. The database knows no URLs; workers tell what they meet.

-- What a worker has to know of hosts, a line each, of which the first letter says: g, it has a gate; a, its gate is
-- closed because the host asked for it; c, because it is down; u, so it is, and there was no connection; s, nothing is
-- closed, but some worker could not use it. The name is behind a space. NULL: nothing.
CREATE OR REPLACE FUNCTION @internal@.host_news() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT string_agg(concat(
                   CASE WHEN g.probe_pause IS NOT NULL AND f.unreachable THEN 'u'
                        WHEN g.probe_pause IS NOT NULL THEN 'c'
                        WHEN g.closed_until > clock_timestamp() THEN 'a'
                        WHEN g.name IS NOT NULL THEN 'g' ELSE 's' END, ' ', coalesce(g.name, f.host)), E'\n')
          FROM (SELECT * FROM @extschema@.gates w WHERE w.kind = 'host') g
          FULL JOIN @extschema@.host_failures f ON f.host = g.name);
END
$$;

-- Where the jobs of these tasks are sent to. It waits for whoever sets a limit, so that either that one counts the
-- tasks' jobs, or the worker that calls this hears of the limit before it sends the first. Returns host_news.
CREATE OR REPLACE FUNCTION @internal@.tell_task_hosts(tasks text[], hosts text[]) RETURNS text
LANGUAGE plpgsql SET lock_timeout = '3s' SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(@limits_lock()@);
    INSERT INTO @extschema@.task_hosts AS t (task, host)
    SELECT n.task, min(n.host) FROM unnest(tasks, hosts) AS n (task, host)
     WHERE NOT EXISTS (SELECT FROM @extschema@.task_hosts o WHERE o.task = n.task AND o.host = n.host)
     GROUP BY n.task ORDER BY n.task
    ON CONFLICT ON CONSTRAINT task_hosts_pkey DO UPDATE SET host = excluded.host;
    RETURN @internal@.host_news();
END
$$;

-- Closes a host's gate until then, or opens it (until NULL). pause: how long it stays closed while the first job that
-- starts then finds out; NULL: as it was, and it opens by itself when there was none. SECURITY DEFINER: who runs jobs
-- may set no gates, but close the one of a host, for an hour at most.
CREATE OR REPLACE FUNCTION @internal@.close_host(host text, until timestamptz, reason text, pause interval)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    woken boolean;
BEGIN
    IF host = '*' OR @internal@.gate_name('host', host) <> host THEN
        RAISE EXCEPTION 'host is %', quote_literal(host) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give the name that workers give it, such as http://functions:8080.';
    END IF;
    IF until IS NULL THEN
        UPDATE @extschema@.gates g SET closed_until = NULL, closed_reason = NULL, probe_pause = NULL
         WHERE g.kind = 'host' AND g.name = host;
        DELETE FROM @extschema@.gates g WHERE g.kind = 'host' AND g.name = host AND NOT @gate_says(g)@;
        woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
        RETURN;
    END IF;
    INSERT INTO @extschema@.gates AS g (kind, name, closed_until, closed_reason, probe_pause)
    VALUES ('host', host, least(until, clock_timestamp() + interval '1 hour'), left(reason, 500),
            CASE WHEN pause > interval '1 minute' THEN interval '1 minute' ELSE pause END)
    ON CONFLICT ON CONSTRAINT gates_pkey DO UPDATE
       SET closed_until = greatest(g.closed_until, excluded.closed_until), closed_reason = excluded.closed_reason,
           probe_pause = coalesce(excluded.probe_pause, g.probe_pause);
END
$$;

-- Removes the rows of hosts that say nothing any more, such as those of hosts that had asked to wait: with a row, jobs
-- of the host's tasks are claimed gate by gate. So does that of one that is down and that nobody has tried for an hour:
-- it has no jobs, or they could not start, and the first that do find out anew. SECURITY DEFINER, as close_host.
CREATE OR REPLACE FUNCTION @internal@.sweep_hosts() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.gates d
     WHERE d.kind = 'host' AND d.name = ANY (ARRAY(
        SELECT g.name FROM @extschema@.gates g WHERE g.kind = 'host' AND @gate_over(g)@ FOR UPDATE SKIP LOCKED));
END
$$;

-- A host has asked all to wait (Retry-After): for an hour at most.
CREATE OR REPLACE FUNCTION @internal@.host_asked(host text, wait interval, reason text) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '1s' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + least(wait, interval '1 hour');
BEGIN
    -- Those that were sent together are all answered so.
    IF NOT EXISTS (SELECT FROM @extschema@.gates g
                    WHERE g.kind = 'host' AND g.name = host AND g.closed_until > until - interval '500 ms')
    THEN
        PERFORM @internal@.close_host(host, until, reason, NULL);
    END IF;
END
$$;

-- Gives back the attempts of jobs that have failed because their host is down, each once, as far as nobody has changed
-- the jobs since. The run_at of one that has been changed more than 5 s after that was told stays: an operator has put
-- the job off. What is just being written, or has not been yet, is left for the next call.
CREATE OR REPLACE FUNCTION @internal@.return_attempts() RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- Its snapshot may be older than the outcomes: who calls get_job so gets no error for what is not its own.
        RETURN;
    END IF;
    WITH told AS (
        SELECT r.job_id, max(r.attempt) AS attempt, count(*)::int AS failures, min(r.run_at) AS run_at,
               max(r.told_at) AS told_at, (array_agg(r.error ORDER BY r.attempt DESC))[1] AS error
          FROM @extschema@.attempts_to_return r GROUP BY r.job_id),
    ended AS (
        SELECT w.id, t.attempt, t.failures, t.run_at, w.updated_at > t.told_at + interval '5 seconds' AS put_off,
               NOT w.superseded AND w.last_error = t.error AND w.attempts IN (t.attempt, w.max_attempts)
                   AND w.attempts >= t.attempt AS unchanged
          FROM told t JOIN @extschema@.jobs w ON w.id = t.job_id
         WHERE w.locked_at IS NULL
           FOR UPDATE OF w SKIP LOCKED),
    back AS (
        UPDATE @extschema@.jobs j
           SET attempts = greatest(e.attempt - e.failures, 0), updated_at = clock_timestamp(),
               run_at = CASE WHEN e.put_off THEN j.run_at ELSE least(j.run_at, e.run_at) END
          FROM ended e WHERE j.id = e.id AND e.unchanged)
    DELETE FROM @extschema@.attempts_to_return d
     WHERE d.ctid = ANY (ARRAY(
        SELECT r.ctid FROM @extschema@.attempts_to_return r
         WHERE r.job_id IN (SELECT e.id FROM ended e)
            OR NOT EXISTS (SELECT FROM @extschema@.jobs j WHERE j.id = r.job_id)
           FOR UPDATE SKIP LOCKED));
END
$$;

-- A request to a host has failed in a way that says that the host is down. Five such failures in a row, of two jobs at
-- least and none five minutes after the one before, close its gate; what is answered says how the attempt ends:
--
--   counted   it has failed
--   closed    the gate is closed, and the attempt is not counted
--   reached   another worker has used the host in the last minute: this one cannot reach it, and closes it for nobody
--
-- unreachable: there was no connection. anew: since its last failure this worker has used the host. The job's number of
-- the attempt, message and run_at are those by which the attempts that closed the gate are given back.
CREATE OR REPLACE FUNCTION @internal@.host_failed(
    worker_id text, failed_host text, unreachable boolean, anew boolean, job_id bigint, attempt int, error text,
    run_at timestamptz
) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET lock_timeout = '1s' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    seen @extschema@.host_failures;
    closed boolean;
BEGIN
    INSERT INTO @extschema@.host_failures (host, failed_at, failed_by) VALUES (failed_host, moment, worker_id)
    ON CONFLICT ON CONSTRAINT host_failures_pkey DO NOTHING;
    SELECT * INTO seen FROM @extschema@.host_failures f WHERE f.host = failed_host FOR UPDATE;
    IF NOT FOUND THEN
        -- Somebody has just used it.
        RETURN 'counted';
    END IF;
    closed := EXISTS (SELECT FROM @extschema@.gates g
                       WHERE g.kind = 'host' AND g.name = failed_host AND g.probe_pause IS NOT NULL);
    IF NOT closed AND seen.reached_by <> worker_id AND seen.reached_at > moment - interval '1 minute' THEN
        UPDATE @extschema@.host_failures f SET failed_at = moment, failed_by = worker_id WHERE f.host = failed_host;
        RETURN 'reached';
    END IF;
    IF NOT closed THEN
        IF anew OR seen.failed_at < moment - interval '5 minutes' THEN
            seen.job_ids := '{}';
            seen.attempts := '{}';
            seen.errors := '{}';
            seen.run_ats := '{}';
            seen.told_ats := '{}';
        END IF;
        closed := cardinality(seen.job_ids) >= 4 AND EXISTS (SELECT FROM unnest(seen.job_ids) AS o (id)
                                                              WHERE o.id <> job_id);
        IF closed THEN
            PERFORM @internal@.close_host(failed_host, moment + interval '1 second', error, interval '2 seconds');
            INSERT INTO @extschema@.attempts_to_return (job_id, attempt, error, run_at, told_at)
            SELECT * FROM unnest(seen.job_ids, seen.attempts, seen.errors, seen.run_ats, seen.told_ats);
            seen.job_ids := '{}';
            seen.attempts := '{}';
            seen.errors := '{}';
            seen.run_ats := '{}';
            seen.told_ats := '{}';
        ELSE
            -- Of a single job that fails again and again the last ones are kept.
            seen.job_ids := (seen.job_ids || job_id)[greatest(cardinality(seen.job_ids) - 3, 1):];
            seen.attempts := (seen.attempts || attempt)[greatest(cardinality(seen.attempts) - 3, 1):];
            seen.errors := (seen.errors || error)[greatest(cardinality(seen.errors) - 3, 1):];
            seen.run_ats := (seen.run_ats || run_at)[greatest(cardinality(seen.run_ats) - 3, 1):];
            seen.told_ats := (seen.told_ats || moment)[greatest(cardinality(seen.told_ats) - 3, 1):];
        END IF;
    END IF;
    UPDATE @extschema@.host_failures f
       SET job_ids = seen.job_ids, attempts = seen.attempts, errors = seen.errors, run_ats = seen.run_ats,
           told_ats = seen.told_ats, unreachable = host_failed.unreachable, failed_at = moment,
           failed_by = worker_id, reached_at = NULL, reached_by = NULL
     WHERE f.host = failed_host;
    IF closed THEN
        PERFORM @internal@.return_attempts();
    END IF;
    RETURN CASE WHEN closed THEN 'closed' ELSE 'counted' END;
END
$$;

-- A worker has used a host that is closed, or that some worker could not use: it is up. Returns whether that opens it.
CREATE OR REPLACE FUNCTION @internal@.host_succeeded(worker_id text, used_host text) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '1s' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
BEGIN
    PERFORM FROM @extschema@.host_failures f WHERE f.host = used_host FOR UPDATE;
    PERFORM @internal@.return_attempts();
    DELETE FROM @extschema@.host_failures f
     WHERE f.host = used_host AND (f.failed_by = worker_id OR f.failed_at < moment - interval '1 minute');
    UPDATE @extschema@.host_failures f
       SET job_ids = '{}', attempts = '{}', errors = '{}', run_ats = '{}', told_ats = '{}', reached_at = moment,
           reached_by = worker_id
     WHERE f.host = used_host;
    IF EXISTS (SELECT FROM @extschema@.gates g
                WHERE g.kind = 'host' AND g.name = used_host AND g.probe_pause IS NOT NULL)
    THEN
        PERFORM @internal@.close_host(used_host, NULL, NULL, NULL);
        RETURN true;
    END IF;
    RETURN false;
END
$$;
