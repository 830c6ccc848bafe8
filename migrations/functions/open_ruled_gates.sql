-- Opening gates for which something is set: which jobs of the gates that a claim has found may start.

-- As open_gates, for whatever keys.
--
-- What stands among the jobs of a gate and has another one, since somebody has set something for its task, is put in
-- its place (moved), and the caller looks again. What stands among such jobs waits until they have been.
--
-- priorities to clock: what fair_gates says of the gates, whose order is that of turns then. Not more than max_jobs are
-- chosen, those whose turn it is.
CREATE OR REPLACE FUNCTION @internal@.open_ruled_gates(
    keys text[], queues text[], tasks text[], tenants uuid[], task_gates text, tenant_gates text, max_jobs int,
    stale timestamptz, task_identifiers text[], excluded_tasks text[], priorities int[] DEFAULT NULL,
    run_ats timestamptz[] DEFAULT NULL, firsts bigint[] DEFAULT NULL, starts float8[] DEFAULT NULL,
    costs float8[] DEFAULT NULL, lifts float8[] DEFAULT NULL, clock float8 DEFAULT NULL, OUT ids bigint[],
    OUT skipped boolean, OUT moved boolean
)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_sort = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    swept timestamptz := now() - interval '1 minute';
    fair CONSTANT boolean := starts IS NOT NULL;
    hosts_ruled CONSTANT boolean := EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'host');
    queues_ruled CONSTANT boolean := EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'queue');
    -- Of the next keys those that no pause stops and no closed host; the names of the gates that they pass, NULL for
    -- none; and for which of them a row says something.
    looked_at int[];
    by_tenant text[];
    by_task text[];
    by_host text[];
    ruled_tenants boolean[];
    ruled_queues boolean[];
    -- The last of the keys that has been looked at, the last of those that are, and one of those.
    last int := 0;
    next int;
    i int;
    -- So many gates are opened, and more when somebody holds the first jobs of those.
    most int := max_jobs;
    more boolean;
    -- The queue of the last key that is open, how many of its keys are, and how many of its jobs may start: so many of
    -- its keys, which stand in the order of their first jobs, are opened.
    of_queue text;
    opened_of_queue int;
    room_of_queue int;
    -- The others are left: from which key on and up to which, for each queue. Where a job of those would be passed by,
    -- they are looked at a second time (again), all of them.
    left_from int[] := '{}';
    left_to int[] := '{}';
    again_from int[];
    again_to int[];
    again int := 0;
    gave_queues text[];
    -- Keys of queues with a gate that another claim has for a moment.
    busy_keys int[] := '{}';
    -- Of how many of the gates that are open a job could be locked.
    gave bigint;
    opened int[] := '{}';
    written boolean := pg_current_xact_id_if_assigned() IS NOT NULL;
    misplaced bigint[];
    kinds CONSTANT text[] := '{tenant,task,queue,host}';
    -- In which order they are looked at: a closed one is not locked, nor are those behind it.
    looks CONSTANT int[] := '{4,1,2,3}';
    k int;
    -- What is known of gates: kind and name, and how many jobs each lets start; -1: another claim has it.
    names text[] := '{}';
    rooms int[] := '{}';
    -- Of the key that is looked at: the names of its gates, NULL for none, and where they stand in rooms.
    passed text[];
    places int[] := '{}';
    open boolean;
    place int;
    room int;
    plain boolean;
    -- The gates of those that are open.
    of_tasks text[] := '{}';
    of_tenants text[] := '{}';
    queue_rooms int[] := '{}';
    plain_queues boolean[] := '{}';
    task_rooms int[] := '{}';
    tenant_rooms int[] := '{}';
    of_hosts text[] := '{}';
    host_rooms int[] := '{}';
    -- Whose turn that is (none: its jobs have not been put in their place), what fair_gates says of them, and how many
    -- jobs each is to give. given: whose jobs were chosen.
    payers text[];
    starts_of float8[];
    costs_of float8[];
    shares int[];
    given text[];
    -- As in claim_instance_jobs.
    careful boolean := coalesce(current_setting('jobs.careful', true) = 'on', false);
    refused bigint[];
BEGIN
    IF careful THEN
        refused := ARRAY(SELECT r.job_id FROM @extschema@.refused_jobs r WHERE r.refused_until > now());
    END IF;
    skipped := false;
    IF cardinality(keys) > 1
       AND (SELECT count(u.queue) > count(DISTINCT u.queue COLLATE "C") FROM unnest(queues) AS u (queue))
    THEN
        -- The keys of a queue stand together, and are looked at in one statement: what holds back one of them holds
        -- back the others.
        SELECT array_agg(o.key), array_agg(o.queue), array_agg(o.task), array_agg(o.tenant), array_agg(o.priority),
               array_agg(o.run_at), array_agg(o.id), array_agg(o.start), array_agg(o.cost), array_agg(o.lift)
          INTO keys, queues, tasks, tenants, priorities, run_ats, firsts, starts, costs, lifts
          FROM (SELECT a.* FROM (
                    SELECT u.*, CASE WHEN u.queue IS NULL THEN u.n ELSE min(u.n) OVER (
                               PARTITION BY u.queue COLLATE "C") END AS first
                      FROM unnest(keys, queues, tasks, tenants, priorities, run_ats, firsts, starts, costs, lifts)
                           WITH ORDINALITY
                           AS u (key, queue, task, tenant, priority, run_at, id, start, cost, lift, n)) a
                 ORDER BY a.first, a.n) o;
    END IF;
    LOOP
        WHILE last < cardinality(keys) AND (cardinality(opened) < most OR queues[last + 1] = of_queue) LOOP
            next := least(last + greatest(most - cardinality(opened), 50), cardinality(keys));
            WHILE queues[next] = queues[next + 1] LOOP
                next := next + 1;
            END LOOP;
            SELECT array_agg(l.n), array_agg(l.tenant), array_agg(l.task), array_agg(l.host),
                   array_agg(EXISTS (
                       SELECT FROM @extschema@.gates g
                        WHERE l.tenant <> '' AND g.kind = 'tenant' AND g.name IN (l.tenant, '*') AND @gate_holds(g)@)),
                   array_agg(l.ruled_queue)
              INTO looked_at, by_tenant, by_task, by_host, ruled_tenants, ruled_queues
              FROM (SELECT k.n, k.tenant, k.task, k.host, k.ruled_queue
                      FROM (SELECT u.n, u.queue, h.host,
                                   queues_ruled AND EXISTS (
                                       SELECT FROM @extschema@.gates g
                                        WHERE g.kind = 'queue' AND g.name IN (u.queue, '*')) AS ruled_queue,
                                   CASE WHEN tenant_gates <> 'none'
                                             AND strpos(u.key, 'tenant' || quote_literal(
                                                     coalesce(u.tenant::text, ''))) > 0
                                        THEN coalesce(u.tenant::text, '') END AS tenant,
                                   CASE WHEN u.stands_there
                                             AND (h.host IS NOT NULL OR task_gates <> 'none' AND EXISTS (
                                                  SELECT FROM @extschema@.gates g
                                                   WHERE g.kind = 'task' AND g.name IN (u.task, '*')))
                                        THEN u.task END AS task
                              FROM (SELECT *, strpos(a.key, 'task' || quote_literal(a.task)) > 0 AS stands_there
                                      FROM unnest(keys[last + 1:next], queues[last + 1:next], tasks[last + 1:next],
                                                  tenants[last + 1:next]) WITH ORDINALITY
                                           AS a (key, queue, task, tenant, n)) u
                              LEFT JOIN LATERAL (
                                   SELECT t.host FROM @extschema@.task_hosts t
                                    WHERE hosts_ruled AND u.stands_there AND t.task = u.task AND EXISTS (
                                          SELECT FROM @extschema@.gates g
                                           WHERE g.kind = 'host' AND g.name IN (t.host, '*'))) h ON true
                            OFFSET 0) k
                     WHERE NOT EXISTS (
                           SELECT FROM (VALUES ('host', k.host), ('tenant', nullif(k.tenant, '')),
                                               ('task', CASE WHEN task_gates <> 'none' THEN k.task END),
                                               ('queue', CASE WHEN k.ruled_queue THEN k.queue END)) AS v (kind, name)
                            CROSS JOIN LATERAL (
                                  SELECT * FROM @extschema@.gates o
                                   WHERE v.name IS NOT NULL AND o.kind = v.kind AND o.name IN (v.name, '*')
                                     AND @gate_holds(o)@ ORDER BY o.name = '*' LIMIT 1) g
                            WHERE @gate_stops(g)@)
                       AND (k.queue IS NULL OR k.ruled_queue OR NOT EXISTS (
                           SELECT FROM @extschema@.jobs r
                            WHERE r.queue_name = k.queue AND @runs(r.queue_name IS NOT NULL)@))
                     ORDER BY k.n) l;
            FOR n IN 1 .. coalesce(cardinality(looked_at), 0) LOOP
                i := last + looked_at[n];
                IF (queues[i] = of_queue) IS NOT TRUE THEN
                    IF cardinality(opened) >= most THEN
                        next := i - 1;
                        EXIT;
                    END IF;
                ELSIF opened_of_queue >= room_of_queue AND i > again THEN
                    IF queues[left_from[cardinality(left_from)]] = of_queue THEN
                        left_to[cardinality(left_to)] := i;
                    ELSE
                        left_from := left_from || i;
                        left_to := left_to || i;
                    END IF;
                    CONTINUE;
                END IF;
                place := array_position(names, 'queue' || queues[i]);
                -- It is full, or another claim has it.
                CONTINUE WHEN rooms[place] <= 0;
                passed := ARRAY[by_tenant[n], by_task[n], queues[i], by_host[n]];
                open := true;
                places := '{}';
                FOREACH k IN ARRAY looks LOOP
                    CONTINUE WHEN passed[k] IS NULL OR NOT open;
                    -- A turn needs no lock.
                    CONTINUE WHEN k = 1 AND NOT ruled_tenants[n];
                    place := array_position(names, kinds[k] || passed[k]);
                    IF place IS NULL THEN
                        plain := k = 3 AND NOT ruled_queues[n];
                        -- Looked at before the lock as well: a full gate is not locked, so that nobody comes again for
                        -- it. Whether a queue for which nothing is set runs something is asked as its job is chosen.
                        room := 1;
                        IF NOT plain THEN
                            room := @internal@.gate_room(kinds[k], passed[k], CASE k WHEN 3 THEN 1 END, stale);
                        END IF;
                        IF coalesce(room > 0, true) AND NOT pg_try_advisory_xact_lock(@gate_lock(kinds[k], passed[k])@)
                        THEN
                            room := -1;
                            skipped := true;
                        ELSIF coalesce(room > 0, true) AND NOT plain THEN
                            room := @internal@.gate_room(kinds[k], passed[k], CASE k WHEN 3 THEN 1 END, stale);
                        END IF;
                        names := names || (kinds[k] || passed[k]);
                        rooms := rooms || coalesce(room, max_jobs);
                        place := cardinality(rooms);
                    END IF;
                    places[k] := place;
                    open := rooms[place] > 0;
                    IF rooms[place] < 0 AND k <> 3 AND queues[i] IS NOT NULL THEN
                        busy_keys := busy_keys || i;
                    END IF;
                END LOOP;
                IF open THEN
                    opened := opened || i;
                    opened_of_queue := CASE WHEN queues[i] = of_queue THEN opened_of_queue ELSE 0 END + 1;
                    room_of_queue := rooms[places[3]];
                    of_queue := queues[i];
                    of_tenants := of_tenants || passed[1];
                    of_tasks := of_tasks || passed[2];
                    tenant_rooms := tenant_rooms || CASE WHEN passed[1] IS NOT NULL THEN rooms[places[1]] END;
                    task_rooms := task_rooms || CASE WHEN passed[2] IS NOT NULL THEN rooms[places[2]] END;
                    of_hosts := of_hosts || passed[4];
                    host_rooms := host_rooms || CASE WHEN passed[4] IS NOT NULL THEN rooms[places[4]] END;
                    queue_rooms := queue_rooms || CASE WHEN passed[3] IS NOT NULL THEN rooms[places[3]] END;
                    plain_queues := plain_queues || (passed[3] IS NOT NULL AND NOT ruled_queues[n]);
                END IF;
            END LOOP;
            last := next;
        END LOOP;
        more := last < cardinality(keys);
        EXIT WHEN opened = '{}';
        IF names <> '{}' AND @snapshot_is_old(written)@ THEN
            skipped := true;
            RETURN;
        END IF;
        IF fair THEN
            shares := NULL;
            given := NULL;
            SELECT array_agg(coalesce(o.tenant, 'none')), array_agg(starts[o.n]), array_agg(costs[o.n])
              INTO payers, starts_of, costs_of FROM unnest(opened, of_tenants) AS o (n, tenant);
        END IF;
        FOR round IN 1 .. 2 LOOP
            IF fair THEN
                shares := @internal@.fair_shares(max_jobs, payers, starts_of, costs_of, shares, given);
                EXIT WHEN shares IS NULL;
            END IF;
            -- Not gate_key = …: then the index of all gates has the order, too, and is taken without statistics. With
            -- them, to sort all of it may seem cheaper: so sorts are dear here (enable_sort). Before a gate's first job
            -- there are but dead entries.
            WITH k AS MATERIALIZED (
                SELECT o.n, keys[o.n] AS gate_key, queues[o.n] AS queue_name, o.task, o.tenant, o.queue_room,
                       o.task_room, o.tenant_room, o.host, o.host_room, o.share, o.start, o.cost,
                       coalesce(priorities[o.n], -2147483648) AS priority,
                       coalesce(run_ats[o.n], '-infinity') AS run_at,
                       coalesce(firsts[o.n], -9223372036854775808) AS id
                  FROM unnest(opened, of_tasks, of_tenants, queue_rooms, task_rooms, tenant_rooms, of_hosts,
                              host_rooms, shares, starts_of, costs_of, plain_queues)
                       AS o (n, task, tenant, queue_room, task_room, tenant_room, host, host_room, share, start, cost,
                             plain)
                 WHERE NOT (o.plain AND EXISTS (
                       SELECT FROM @extschema@.jobs r
                        WHERE r.queue_name = queues[o.n] AND @runs(r.queue_name IS NOT NULL)@))),
            heads AS MATERIALIZED (
                SELECT h.*, k.n, k.queue_name, k.queue_room, k.task, k.task_room, k.tenant, k.tenant_room, k.host,
                       k.host_room, k.start, k.cost
                  FROM k
                 CROSS JOIN LATERAL (
                       SELECT j.id, j.priority, j.run_at,
                              j.gate_key IS DISTINCT FROM @key_of(j)@
                              AND j.gate_key IS DISTINCT FROM
                                  @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id) AS misplaced,
                              j.task_identifier <> k.task OR k.task IS NULL AND @has_task_gate(j)@
                              OR coalesce(j.database_id::text, '') IS DISTINCT FROM k.tenant
                                 AND (k.tenant IS NOT NULL OR @has_tenant_gate(j)@) AS among_others
                         FROM @extschema@.jobs j
                        WHERE (j.gate_key, j.priority, j.run_at, j.id) >= (k.gate_key, k.priority, k.run_at, k.id)
                          AND j.gate_key <= k.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@
                          AND j.run_at <= clock_timestamp()
                          AND j.queue_name IS NOT DISTINCT FROM k.queue_name AND @takes(j.task_identifier)@
                          AND @not_refused(j)@
                        ORDER BY j.gate_key, j.priority, j.run_at, j.id
                        LIMIT least(max_jobs, k.queue_room, k.task_room, k.tenant_room, k.host_room,
                                    CASE WHEN k.queue_name IS NULL THEN k.share END) FOR UPDATE SKIP LOCKED) h),
            candidates AS (
                SELECT h.*,
                       row_number() OVER (PARTITION BY h.queue_name ORDER BY h.priority, h.run_at, h.id) AS in_queue,
                       row_number() OVER (PARTITION BY h.task ORDER BY h.priority, h.run_at, h.id) AS in_task,
                       row_number() OVER (PARTITION BY h.tenant ORDER BY h.priority, h.run_at, h.id) AS in_tenant,
                       row_number() OVER (PARTITION BY h.host ORDER BY h.priority, h.run_at, h.id) AS in_host
                  FROM (SELECT a.*, bool_or(a.aside) OVER (PARTITION BY a.queue_name
                                                           ORDER BY a.priority, a.run_at, a.id) AS behind
                          FROM (SELECT m.*, m.misplaced OR m.among_others IS TRUE AS aside FROM heads m) a) h
                 -- Of a queue none starts before one that is only being put in its place.
                 WHERE NOT CASE WHEN h.queue_name IS NULL THEN h.aside ELSE h.behind END),
            startable AS (
                SELECT c.* FROM candidates c
                 WHERE (c.queue_name IS NULL OR c.in_queue <= c.queue_room)
                   AND (c.task_room IS NULL OR c.in_task <= c.task_room)
                   AND (c.tenant_room IS NULL OR c.in_tenant <= c.tenant_room)
                   AND (c.host_room IS NULL OR c.in_host <= c.host_room)
                   -- A claim that has a gate for a moment is no reason to take a later job of the queue.
                   AND NOT EXISTS (
                       SELECT FROM unnest(busy_keys) AS b (n)
                        WHERE queues[b.n] = c.queue_name AND EXISTS (
                              SELECT FROM @extschema@.jobs j
                               WHERE (j.gate_key, j.priority, j.run_at, j.id) < (keys[b.n], c.priority, c.run_at, c.id)
                                 AND j.gate_key >= keys[b.n] AND j.gate_key <> 'run_at' AND @waits(j)@
                                 AND j.run_at <= clock_timestamp() AND @takes(j.task_identifier)@
                                 AND @not_refused(j)@))),
            turns AS (
                SELECT s.*, s.start + s.cost * row_number() OVER (
                           PARTITION BY s.tenant ORDER BY s.priority, s.run_at, s.id) AS turn
                  FROM startable s WHERE fair),
            chosen AS MATERIALIZED (
                SELECT s.id, 'none' AS tenant FROM startable s WHERE NOT fair
                UNION ALL
                SELECT o.id, o.tenant FROM (
                    -- No job of a queue has its turn before an earlier one of it, whose ever that is.
                    SELECT t.id, coalesce(t.tenant, 'none') AS tenant FROM turns t
                     ORDER BY max(t.turn) OVER (
                                  PARTITION BY t.queue_name, CASE WHEN t.queue_name IS NULL THEN t.id END
                                  ORDER BY t.priority, t.run_at, t.id),
                              t.priority, t.run_at, t.id
                     LIMIT max_jobs) o)
            SELECT c.ids, c.tenants, (SELECT array_agg(h.id) FROM heads h WHERE h.misplaced),
                   (SELECT count(DISTINCT h.n) FROM heads h),
                   CASE WHEN left_from <> '{}' THEN (SELECT array_agg(h.queue_name) FROM heads h) END
              INTO ids, given, misplaced, gave, gave_queues
              FROM (SELECT array_agg(c.id) AS ids, array_agg(c.tenant) AS tenants FROM chosen c) c;
            EXIT WHEN NOT fair OR misplaced IS NOT NULL OR cardinality(ids) >= max_jobs;
        END LOOP;
        IF left_from <> '{}' THEN
            -- Somebody holds the first jobs of the keys that are open, or what came first there is gone.
            -- Those of queues without a chosen job stay: when the others give none, one of theirs may be chosen yet.
            SELECT array_agg(a.first ORDER BY a.first) FILTER (WHERE a.again),
                   array_agg(a.last ORDER BY a.first) FILTER (WHERE a.again),
                   sum(a.last - a.first + 1) FILTER (WHERE a.again),
                   coalesce(array_agg(a.first ORDER BY a.first) FILTER (WHERE NOT a.again), '{}'),
                   coalesce(array_agg(a.last ORDER BY a.first) FILTER (WHERE NOT a.again), '{}')
              INTO again_from, again_to, again, left_from, left_to
              FROM (SELECT l.first, l.last,
                           coalesce(queues[l.first] <> ALL (gave_queues), true)
                           OR EXISTS (
                               SELECT FROM generate_series(l.first, l.last) AS g (n) CROSS JOIN LATERAL (
                                      SELECT FROM @extschema@.jobs j
                                       WHERE (j.gate_key, j.priority, j.run_at, j.id)
                                             < (keys[g.n], c.priority, c.run_at, c.id)
                                         AND j.gate_key >= keys[g.n] AND j.gate_key <> 'run_at' AND @waits(j)@
                                         AND j.run_at <= clock_timestamp() AND @takes(j.task_identifier)@
                                         AND @not_refused(j)@
                                       LIMIT 1) e) AS again
                      FROM unnest(left_from, left_to) AS l (first, last)
                      LEFT JOIN LATERAL (
                           SELECT j.priority, j.run_at, j.id FROM @extschema@.jobs j
                            WHERE j.id = ANY (ids) AND j.queue_name = queues[l.first]
                            ORDER BY j.priority DESC, j.run_at DESC, j.id DESC LIMIT 1) c ON true) a;
            IF again_from IS NOT NULL THEN
                SELECT array_agg(o.key), array_agg(o.queue), array_agg(o.task), array_agg(o.tenant),
                       array_agg(o.priority), array_agg(o.run_at), array_agg(o.id), array_agg(o.start),
                       array_agg(o.cost), array_agg(o.lift)
                  INTO keys, queues, tasks, tenants, priorities, run_ats, firsts, starts, costs, lifts
                  FROM (SELECT u.* FROM unnest(keys, queues, tasks, tenants, priorities, run_ats, firsts, starts, costs,
                                               lifts) WITH ORDINALITY
                                        AS u (key, queue, task, tenant, priority, run_at, id, start, cost, lift, n)
                         CROSS JOIN LATERAL (
                               SELECT u.n > last AS behind, false AS repeated
                               UNION ALL
                               SELECT false, true FROM unnest(again_from, again_to) AS a (first, last)
                                WHERE u.n BETWEEN a.first AND a.last) p
                         ORDER BY p.behind, p.repeated, u.n) o;
                most := cardinality(opened) + again;
                again := last + again;
                CONTINUE;
            END IF;
            again := 0;
        END IF;
        EXIT WHEN NOT more OR cardinality(ids) >= max_jobs OR misplaced IS NOT NULL OR gave >= cardinality(opened);
        most := 4 * most;
    END LOOP;
    IF fair AND ids IS NOT NULL THEN
        INSERT INTO @extschema@.gate_usage_log (name, served)
        SELECT o.tenant, max(lifts[o.n]) FROM unnest(opened, of_tenants) AS o (n, tenant)
         WHERE lifts[o.n] IS NOT NULL AND o.tenant = ANY (given) GROUP BY o.tenant
        UNION ALL
        SELECT '*', clock;
    END IF;
    IF misplaced IS NOT NULL THEN
        skipped := true;
        moved := true;
        misplaced := misplaced || ARRAY(
            -- And those behind them: all that waited for a host that is back, for example.
            SELECT b.id FROM @extschema@.jobs b
             WHERE b.gate_key IS DISTINCT FROM @internal@.gate_key(b.task_identifier, b.queue_name, b.database_id)
               AND @waits(b)@ AND @not_refused(b)@ AND b.id = ANY (ARRAY(
                   SELECT n.id FROM @extschema@.jobs n
                    WHERE n.gate_key = (SELECT m.gate_key FROM @extschema@.jobs m WHERE m.id = misplaced[1])
                      AND n.gate_key <> 'run_at' AND @waits(n)@
                    ORDER BY n.priority, n.run_at, n.id LIMIT max_jobs + 200))
               FOR UPDATE SKIP LOCKED);
        IF careful THEN
            misplaced := @internal@.changeable_jobs(misplaced);
        END IF;
        PERFORM set_config('jobs.placing', 'on', true);
        UPDATE @extschema@.jobs j
           SET gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id),
               updated_at = clock_timestamp()
         WHERE j.id = ANY (misplaced);
        PERFORM set_config('jobs.placing', '', true);
    END IF;
END
$$;
