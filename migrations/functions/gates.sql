-- Gates: which of the jobs that have one may start.

-- Which gates a job has to pass when it is due, as gate_key has it: its tenant and its task when somebody has set
-- something for them, and its queue. NULL for none. The gate of a host is one of its tasks'. While tenants are served
-- fairly, a job without one has the gate of an empty name.
CREATE OR REPLACE FUNCTION @internal@.gate_key(task text, queue text, tenant uuid) RETURNS text
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN nullif(concat_ws(' ',
        CASE WHEN @fair()@
               OR tenant IS NOT NULL AND EXISTS (
                 SELECT FROM @extschema@.gates g
                  WHERE g.kind = 'tenant' AND g.name IN (tenant::text, '*') AND @gate_asks(g)@)
             THEN 'tenant' || quote_literal(coalesce(tenant::text, '')) END,
        CASE WHEN EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'task' AND g.name IN (task, '*'))
               OR EXISTS (SELECT FROM @extschema@.task_hosts t
                            JOIN @extschema@.gates g ON g.kind = 'host' AND g.name IN (t.host, '*')
                           WHERE t.task = gate_key.task)
             THEN 'task' || quote_literal(task) END,
        'queue' || quote_literal(queue)), '');
END
$$;

-- How many more jobs a gate lets start now: by its row, else by that of the name *, and without either by most (NULL:
-- any number). The caller holds the gate's lock, and this runs in a later statement: so it sees what all who held the
-- lock before have committed.
CREATE OR REPLACE FUNCTION @internal@.gate_room(gate_kind text, gate_name text, most int, stale timestamptz)
RETURNS int
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan SET jit = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gate @extschema@.gates;
    room int;
    tokens float8;
    moment float8;
    swept timestamptz := now() - interval '1 minute';
BEGIN
    SELECT * INTO gate FROM @extschema@.gates g
     WHERE g.kind = gate_kind AND g.name IN (gate_name, '*') AND @gate_holds(g)@ ORDER BY g.name = '*' LIMIT 1;
    IF @gate_stops(gate)@ THEN
        RETURN 0;
    END IF;
    room := coalesce(gate.max_running, most);
    IF room IS NOT NULL THEN
        IF gate_kind <> 'queue' AND gate.set_at > now() - interval '10 seconds' THEN
            -- The triggers of gates give what runs the gate's key, but for rows that somebody holds. Those get it here,
            -- and one that somebody holds counts all the same.
            UPDATE @extschema@.jobs j
               SET gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id),
                   updated_at = clock_timestamp()
             WHERE j.id = ANY (ARRAY(
                SELECT r.id FROM @extschema@.jobs r
                 WHERE r.locked_at IS NOT NULL AND coalesce(r.gate_key, '') < 'run_at'
                   AND @passes(r)@
                   FOR UPDATE SKIP LOCKED));
            room := room - (
                SELECT count(*) FROM @extschema@.jobs r
                 WHERE r.locked_at IS NOT NULL AND coalesce(r.gate_key, '') < 'run_at'
                   AND @passes(r)@);
        END IF;
        room := room - CASE gate_kind
            WHEN 'queue' THEN (
                SELECT count(*) FROM (
                    SELECT FROM @extschema@.jobs r WHERE r.queue_name = gate_name AND @runs(r.queue_name IS NOT NULL)@
                     LIMIT greatest(room, 0)) c)
            WHEN 'task' THEN (
                SELECT count(*) FROM (
                    SELECT FROM @extschema@.jobs r WHERE r.task_identifier = gate_name AND @runs(r.gate_key > 'run_at')@
                     LIMIT greatest(room, 0)) c)
            WHEN 'host' THEN (
                SELECT count(*) FROM (
                    SELECT FROM @extschema@.task_hosts t
                     CROSS JOIN LATERAL (
                           SELECT FROM @extschema@.jobs r
                            WHERE r.task_identifier = t.task AND @runs(r.gate_key > 'run_at')@) j
                     WHERE t.host = gate_name LIMIT greatest(room, 0)) c)
            ELSE (
                SELECT count(*) FROM (
                    SELECT FROM @extschema@.jobs r
                     WHERE r.database_id = gate_name::uuid AND @runs(r.gate_key > 'run_at')@
                     LIMIT greatest(room, 0)) c) END;
    END IF;
    IF gate.rate IS NOT NULL THEN
        -- Every name has a bucket of its own, whether its rate is set for itself or for *.
        tokens := gate.burst - extract(epoch FROM greatest(coalesce(
            (SELECT t.full_at FROM @extschema@.gate_tokens t WHERE t.kind = gate_kind AND t.name = gate_name), now()),
            now()) - now()) * gate.rate / extract(epoch FROM gate.per);
        room := least(coalesce(room, 2147483647), greatest(floor(tokens + 1e-9), 0)::int);
        IF tokens < 1 THEN
            -- For next_run_at.
            moment := extract(epoch FROM now() + (1 - tokens) * gate.per / gate.rate);
            PERFORM set_config('jobs.next_token', least(moment, coalesce(
                nullif(current_setting('jobs.next_token', true), '')::float8, 'infinity'))::text, true);
        END IF;
    END IF;
    -- Of a host that may be back one job finds out, whatever runs still.
    RETURN CASE WHEN gate.probe_pause IS NULL THEN room ELSE least(coalesce(room, 1), 1) END;
END
$$;

-- Takes the tokens of the rates that the jobs pass, one a job. Of a host that may be back it takes the turn: while its
-- job finds out, and when that is never heard of again, no other starts before closed_until.
CREATE OR REPLACE FUNCTION @internal@.spend_tokens(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- gate_room says what there was at now(), which may be earlier: so a job counts both at now(), its locked_at, and
    -- at the time when it starts.
    moment CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'host' AND g.probe_pause IS NOT NULL) THEN
        PERFORM @internal@.close_host(p.name, clock_timestamp() + p.probe_pause, p.closed_reason,
                                      least(p.probe_pause * 2, interval '1 minute'))
           FROM (SELECT DISTINCT g.name, g.probe_pause, g.closed_reason
                   FROM @extschema@.jobs j
                   JOIN @extschema@.task_hosts t ON t.task = j.task_identifier
                   JOIN @extschema@.gates g ON g.kind = 'host' AND g.name = t.host AND g.probe_pause IS NOT NULL
                  WHERE j.id = ANY (job_ids) ORDER BY g.name) p;
    END IF;
    IF NOT EXISTS (SELECT FROM @extschema@.gates g WHERE g.rate IS NOT NULL) THEN
        RETURN;
    END IF;
    INSERT INTO @extschema@.gate_tokens AS t (kind, name, full_at)
    SELECT s.kind, s.name,
           -- Rounded up: a bucket gives no more than its rate.
           moment + ceil(s.jobs * extract(epoch FROM g.per) * 1000000 / g.rate)::float8 * interval '1 microsecond'
      FROM (SELECT k.kind, k.name, count(*) AS jobs
              FROM @extschema@.jobs j
             CROSS JOIN LATERAL (VALUES ('queue', j.queue_name), ('task', j.task_identifier),
                                        ('tenant', j.database_id::text),
                                        ('host', (SELECT h.host FROM @extschema@.task_hosts h
                                                   WHERE h.task = j.task_identifier))) AS k (kind, name)
             WHERE j.id = ANY (job_ids) AND k.name IS NOT NULL GROUP BY k.kind, k.name) s
     CROSS JOIN LATERAL (
           SELECT o.rate, o.per FROM @extschema@.gates o
            WHERE o.kind = s.kind AND o.name IN (s.name, '*') AND @gate_holds(o)@ ORDER BY o.name = '*' LIMIT 1) g
     WHERE g.rate IS NOT NULL ORDER BY s.kind, s.name
    ON CONFLICT ON CONSTRAINT gate_tokens_pkey DO UPDATE
       SET full_at = greatest(t.full_at, moment) + (excluded.full_at - moment);
END
$$;

-- The next gates with jobs that wait, behind a gate in the order of their keys: page_size at most, and of those the
-- ones with a job that the caller takes, in the order of their first jobs. Not those in seen. last_gate: the last one
-- that was looked at, when there are more.
CREATE OR REPLACE FUNCTION @internal@.gates_behind(
    after_gate text, page_size int, seen text[], task_identifiers text[], excluded_tasks text[], OUT keys text[],
    OUT queues text[], OUT tasks text[], OUT tenants uuid[], OUT last_gate text
)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_sort = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH RECURSIVE gates (gate_key, queue_name, task, tenant, priority, run_at, id, n) AS (
        SELECT h.*, 1 FROM (
            SELECT j.gate_key, j.queue_name, j.task_identifier, j.database_id, j.priority, j.run_at, j.id
              FROM @extschema@.jobs j
             WHERE j.gate_key <> 'run_at' AND @waits(j)@ AND j.gate_key > after_gate
             ORDER BY j.gate_key, j.priority, j.run_at, j.id LIMIT 1) h
        UNION ALL
        SELECT h.*, g.n + 1
          FROM gates g CROSS JOIN LATERAL (
               SELECT j.gate_key, j.queue_name, j.task_identifier, j.database_id, j.priority, j.run_at, j.id
                 FROM @extschema@.jobs j
                WHERE j.gate_key <> 'run_at' AND @waits(j)@ AND j.gate_key > g.gate_key
                ORDER BY j.gate_key, j.priority, j.run_at, j.id LIMIT 1) h
         WHERE g.n < page_size)
    SELECT array_agg(k.gate_key) FILTER (WHERE k.taken), array_agg(k.queue_name) FILTER (WHERE k.taken),
           array_agg(k.task) FILTER (WHERE k.taken), array_agg(k.tenant) FILTER (WHERE k.taken),
           max(k.gate_key) FILTER (WHERE k.n = page_size)
      INTO keys, queues, tasks, tenants, last_gate
      FROM (SELECT g.*, g.gate_key NOT IN (SELECT l.key FROM unnest(seen) AS l (key))
                        AND (@takes(g.task)@
                             OR EXISTS (SELECT FROM @extschema@.jobs j
                                         WHERE j.gate_key = g.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@
                                           AND @takes(j.task_identifier)@)) AS taken
              FROM gates g
             ORDER BY g.priority, g.run_at, g.id) k;
END
$$;
