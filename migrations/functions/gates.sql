-- Gates: which of the jobs that have one may start.

-- Which gates a job has to pass when it is due, as gate_key has it: its tenant and its task when somebody has set
-- something for them, and its queue. NULL for none.
CREATE OR REPLACE FUNCTION @internal@.gate_key(task text, queue text, tenant uuid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN nullif(concat_ws(' ',
        CASE WHEN tenant IS NOT NULL AND EXISTS (
                 SELECT FROM @extschema@.gates g WHERE g.kind = 'tenant' AND g.name IN (tenant::text, '*'))
             THEN 'tenant' || quote_literal(tenant::text) END,
        CASE WHEN EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'task' AND g.name IN (task, '*'))
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
    swept timestamptz := now() - interval '1 minute';
BEGIN
    SELECT * INTO gate FROM @extschema@.gates g
     WHERE g.kind = gate_kind AND g.name IN (gate_name, '*') ORDER BY g.name = '*' LIMIT 1;
    IF gate.paused_at IS NOT NULL AND coalesce(gate.paused_until > now(), true) OR gate.closed_until > now() THEN
        RETURN 0;
    END IF;
    room := coalesce(gate.max_running, most);
    IF room IS NOT NULL THEN
        IF gate_kind <> 'queue' AND (gate.set_at > now() - interval '10 seconds'
                                     OR gate.set_xid >= pg_snapshot_xmin(pg_current_snapshot())) THEN
            -- Jobs that a claim has started which did not see the gate yet count as well: they get its key. One that
            -- somebody holds counts all the same.
            UPDATE @extschema@.jobs j
               SET gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id),
                   updated_at = clock_timestamp()
             WHERE j.id = ANY (ARRAY(
                SELECT r.id FROM @extschema@.jobs r
                 WHERE r.locked_at IS NOT NULL AND coalesce(r.gate_key, '') < 'run_at'
                   AND CASE gate_kind WHEN 'task' THEN r.task_identifier = gate_name
                                      ELSE r.database_id = gate_name::uuid END
                   FOR UPDATE SKIP LOCKED));
            room := room - (
                SELECT count(*) FROM @extschema@.jobs r
                 WHERE r.locked_at IS NOT NULL AND coalesce(r.gate_key, '') < 'run_at'
                   AND CASE gate_kind WHEN 'task' THEN r.task_identifier = gate_name
                                      ELSE r.database_id = gate_name::uuid END);
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
        room := least(coalesce(room, 2147483647), greatest(floor(tokens + 1e-6), 0)::int);
    END IF;
    RETURN room;
END
$$;

-- Takes the tokens of the rates that the jobs pass, one a job.
CREATE OR REPLACE FUNCTION @internal@.spend_tokens(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO @extschema@.gate_tokens AS t (kind, name, full_at)
    SELECT s.kind, s.name, now() + s.jobs * g.per / g.rate
      FROM (SELECT k.kind, k.name, count(*) AS jobs
              FROM @extschema@.jobs j
             CROSS JOIN LATERAL (VALUES ('queue', j.queue_name), ('task', j.task_identifier),
                                        ('tenant', j.database_id::text)) AS k (kind, name)
             WHERE j.id = ANY (job_ids) AND k.name IS NOT NULL GROUP BY k.kind, k.name) s
     CROSS JOIN LATERAL (
           SELECT o.rate, o.per FROM @extschema@.gates o WHERE o.kind = s.kind AND o.name IN (s.name, '*')
            ORDER BY o.name = '*' LIMIT 1) g
     WHERE g.rate IS NOT NULL ORDER BY s.kind, s.name
    ON CONFLICT ON CONSTRAINT gate_tokens_pkey DO UPDATE
       SET full_at = greatest(t.full_at, now()) + (excluded.full_at - now());
END
$$;

-- Of gates that a claim has found, locks those that are free to be locked and chooses which jobs may start; the caller
-- claims up to max_jobs of them in order. skipped: another claim holds a gate that may be open.
--
-- What stands among the jobs of a gate and has another one, since somebody has set something for its task, is put in
-- its place, and looked at by the next claim.
CREATE OR REPLACE FUNCTION @internal@.open_gates(
    keys text[], queues text[], tasks text[], tenants uuid[], set_tasks text[], set_tenants text[], ruled boolean,
    max_jobs int, stale timestamptz, task_identifiers text[], excluded_tasks text[], OUT ids bigint[],
    OUT skipped boolean
)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    swept timestamptz := now() - interval '1 minute';
    set_queues text[];
    opened int[];
    written boolean := pg_current_xact_id_if_assigned() IS NOT NULL;
    misplaced bigint[];
BEGIN
    IF ruled THEN
        set_queues := ARRAY(SELECT g.name FROM @extschema@.gates g WHERE g.kind = 'queue');
    END IF;
    -- The first that are not known to be full.
    SELECT array_agg(o.n) FILTER (WHERE o.locked), coalesce(bool_or(NOT o.locked), false) INTO opened, skipped
      FROM (SELECT l.n, l.locked FROM (
                SELECT k.n,
                       CASE WHEN k.queue IS NOT NULL AND NOT coalesce(ARRAY[k.queue, '*'] && set_queues, false)
                                 AND EXISTS (SELECT FROM @extschema@.jobs r
                                              WHERE r.queue_name = k.queue AND @runs(r.queue_name IS NOT NULL)@)
                            THEN NULL
                            WHEN k.queue IS NOT NULL
                                 AND NOT pg_try_advisory_xact_lock(@gate_lock('queue', k.queue)@) THEN false
                            WHEN ARRAY[k.task, '*'] && set_tasks
                                 AND NOT pg_try_advisory_xact_lock(@gate_lock('task', k.task)@) THEN false
                            WHEN k.tenant IS NOT NULL AND ARRAY[k.tenant::text, '*'] && set_tenants
                                 AND NOT pg_try_advisory_xact_lock(@gate_lock('tenant', k.tenant)@) THEN false
                            ELSE true END AS locked
                  FROM unnest(queues, tasks, tenants) WITH ORDINALITY AS k (queue, task, tenant, n)) l
             WHERE l.locked IS NOT NULL LIMIT max_jobs) o;
    IF opened IS NULL THEN
        RETURN;
    END IF;
    -- Above READ COMMITTED a later statement sees no more than the first. What has been committed since is not missed
    -- when the first id drawn under the locks is the next one after the snapshot, in which nobody was writing.
    IF current_setting('transaction_isolation') <> 'read committed'
       AND (written OR pg_current_xact_id() <> pg_snapshot_xmax(pg_current_snapshot())
            OR EXISTS (SELECT FROM pg_snapshot_xip(pg_current_snapshot())))
    THEN
        skipped := true;
        RETURN;
    END IF;
    IF NOT ruled THEN
        ids := ARRAY(
            SELECT DISTINCT ON (k.queue_name) h.id
              FROM unnest(opened) AS o (n)
             CROSS JOIN LATERAL (SELECT keys[o.n] AS gate_key, queues[o.n] AS queue_name) k
             CROSS JOIN LATERAL (
                   SELECT j.id, j.priority, j.run_at FROM @extschema@.jobs j
                    WHERE j.gate_key = k.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@ AND j.run_at <= now()
                      AND j.queue_name = k.queue_name AND @takes(j.task_identifier)@
                    ORDER BY j.priority, j.run_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) h
             WHERE NOT EXISTS (SELECT FROM @extschema@.jobs r
                                             WHERE r.queue_name = k.queue_name AND @runs(r.queue_name IS NOT NULL)@)
             ORDER BY k.queue_name, h.priority, h.run_at, h.id);
        RETURN;
    END IF;
    WITH k AS MATERIALIZED (
        SELECT keys[o.n] AS gate_key, queues[o.n] AS queue_name,
               CASE WHEN ARRAY[tasks[o.n], '*'] && set_tasks THEN tasks[o.n] END AS task,
               CASE WHEN ARRAY[tenants[o.n]::text, '*'] && set_tenants THEN tenants[o.n]::text END AS tenant
          FROM unnest(opened) AS o (n)),
    queue_rooms AS MATERIALIZED (
        SELECT d.queue_name,
               CASE WHEN ARRAY[d.queue_name, '*'] && set_queues
                    THEN @internal@.gate_room('queue', d.queue_name, 1, stale)
                    WHEN EXISTS (SELECT FROM @extschema@.jobs r
                                  WHERE r.queue_name = d.queue_name AND @runs(r.queue_name IS NOT NULL)@) THEN 0
                    ELSE 1 END AS room
          FROM (SELECT DISTINCT k.queue_name FROM k WHERE k.queue_name IS NOT NULL) d),
    task_rooms AS MATERIALIZED (
        SELECT d.task, coalesce(@internal@.gate_room('task', d.task, NULL, stale), max_jobs) AS room
          FROM (SELECT DISTINCT k.task FROM k WHERE k.task IS NOT NULL) d),
    tenant_rooms AS MATERIALIZED (
        SELECT d.tenant, coalesce(@internal@.gate_room('tenant', d.tenant, NULL, stale), max_jobs) AS room
          FROM (SELECT DISTINCT k.tenant FROM k WHERE k.tenant IS NOT NULL) d),
    heads AS MATERIALIZED (
        SELECT h.*, k.queue_name, q.room AS queue_room, k.task, t.room AS task_room, k.tenant, n.room AS tenant_room
          FROM k
          LEFT JOIN queue_rooms q ON q.queue_name = k.queue_name
          LEFT JOIN task_rooms t ON t.task = k.task
          LEFT JOIN tenant_rooms n ON n.tenant = k.tenant
         CROSS JOIN LATERAL (
               SELECT j.id, j.priority, j.run_at,
                      j.queue_name IS DISTINCT FROM k.queue_name OR j.gate_key IS DISTINCT FROM
                      @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id) AS misplaced
                 FROM @extschema@.jobs j
                WHERE j.gate_key = k.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@ AND j.run_at <= now()
                  AND @takes(j.task_identifier)@
                ORDER BY j.priority, j.run_at, j.id
                LIMIT least(max_jobs, q.room, t.room, n.room) FOR UPDATE SKIP LOCKED) h),
    candidates AS (
        SELECT h.*, row_number() OVER (PARTITION BY h.queue_name ORDER BY h.priority, h.run_at, h.id) AS in_queue,
               row_number() OVER (PARTITION BY h.task ORDER BY h.priority, h.run_at, h.id) AS in_task,
               row_number() OVER (PARTITION BY h.tenant ORDER BY h.priority, h.run_at, h.id) AS in_tenant
          FROM heads h WHERE NOT h.misplaced)
    SELECT (SELECT array_agg(c.id) FROM candidates c
             WHERE (c.queue_name IS NULL OR c.in_queue <= c.queue_room)
               AND (c.task IS NULL OR c.in_task <= c.task_room)
               AND (c.tenant IS NULL OR c.in_tenant <= c.tenant_room)),
           (SELECT array_agg(h.id) FROM heads h WHERE h.misplaced)
      INTO ids, misplaced;
    IF misplaced IS NOT NULL THEN
        skipped := true;
        UPDATE @extschema@.jobs j
           SET gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id),
               updated_at = clock_timestamp()
         WHERE j.id = ANY (misplaced);
    END IF;
END
$$;
