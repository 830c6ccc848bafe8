-- Claim: what a worker takes.

CREATE OR REPLACE FUNCTION @internal@.require_worker_id(worker_id text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF worker_id IS NULL OR length(worker_id) < 4 THEN
        RAISE EXCEPTION 'INVALID_WORKER_ID' USING ERRCODE = 'JB001',
            DETAIL = format('The worker id is %s.', coalesce(quote_literal(worker_id), 'NULL')),
            HINT = 'A worker id has at least 4 characters.';
    END IF;
END
$$;

-- Claims up to max_jobs due jobs; the returned rows come in no particular order. It looks in one of two ways:
--
--   deep   from the beginning, at expired locks and at what has become due, too. Exact, and what get_job does. While
--          some transaction keeps an old snapshot open, it walks over the dead index entries of every job done since.
--   else   from where the caller's last look ended, which costs the same however many dead entries lie behind. It
--          cannot see a priority the caller does not know, nor a row behind its position: a late commit, a run_at in
--          the past, a job whose gate was closed. The caller looks deep now and then, and before it goes to sleep.
--
-- instance: the process that claims; NULL is one without a lease. epochs: random numbers that name the claims, from a
-- source fit for secrets; drawn here for jobs beyond its end, at 0.9 us each, ten times what an array's element costs.
-- The sign bit is not used. Each epoch is drawn for its claim alone: a function can't tell from its token what
-- completes another job. task_identifiers: only these tasks; NULL is any. excluded_tasks: not these; NULL is none.
-- after_*: three arrays, one element per priority: where the last look ended. A NULL behind the priorities says that
-- the last one stands for all later ones. free_gates: gates of which the caller has just ended a job. Both are for
-- looks that are not deep, which look at no other gates. after_gate: where the last look ended that went gate by gate;
-- that is told in the setting jobs.last_gate.
--
-- Jobs without a gate are claimed in their order. Of those with one, the first max_jobs + 200 are looked at, whatever
-- their gates. When those are not enough, the first job of each gate is, 100 to 1,000 gates at a time, until something
-- is found or 20 times as many have been looked at, by a worker for 5 ms. Each of these gates is locked without
-- waiting: an advisory lock, so that no row is written by every job of a gate. What runs is counted in a later
-- statement, which sees what all who had the lock before have committed: no limit is ever exceeded.
--
-- While tenants are served fairly, every job has a gate, and every look goes gate by gate: fair_gates says whose turn
-- it is. So each of them deals with expired locks and with what has become due, too.
--
-- What stands where it does not belong (written by replication or with triggers off, or before its gate was set) is
-- put in its place when a claim comes by.
--
-- The settings: statistics taken of an empty or a huge table must not lead to another plan than the one the indexes
-- were made for, and compiling the plan takes longer than running it.
CREATE OR REPLACE FUNCTION @internal@.claim_instance_jobs(
    instance uuid, worker_id text, epochs bigint[], task_identifiers text[], max_jobs int, job_expiry interval,
    excluded_tasks text[] DEFAULT NULL, deep boolean DEFAULT true, after_priorities int[] DEFAULT NULL,
    after_run_ats timestamptz[] DEFAULT NULL, after_ids bigint[] DEFAULT NULL, free_gates text[] DEFAULT NULL,
    after_gate text DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_sort = off SET plan_cache_mode = force_generic_plan SET jit = off
SET lock_timeout = '100ms' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stale timestamptz := now() - coalesce(job_expiry, interval '4 hours');
    -- Workers fail what is past its deadline. When nobody has done so, there is none, and its lock is as any other's.
    swept timestamptz := now() - interval '1 minute';
    -- now() may be long ago: a job that is due by the clock is not put behind others of its queue.
    moment timestamptz := clock_timestamp();
    began CONSTANT timestamptz := moment;
    -- All jobs of each queue have the same gates. Where they have not, a look that sees some of them may take a later
    -- job before an earlier one: so it sees a thousand then.
    alike boolean;
    -- And nothing is set for gates.
    plain boolean;
    page_size int;
    -- Which kind of look it is: where one of another kind has ended is of no use to it. And where the last one ended.
    look text;
    from_gate text;
    -- Whether the look gate by gate has come to the last one, or begun with the first.
    around boolean;
    -- What has been looked at: by the walk, and gate by gate.
    walked_keys text[];
    walked_queues text[];
    walked_tasks text[];
    walked_tenants uuid[];
    before int;
    -- What is set for gates. task_gates and tenant_gates: which of them have one.
    ruled boolean;
    stopped boolean := false;
    hosts_ruled boolean := false;
    task_gates text := 'none';
    tenant_gates text := 'none';
    -- What fair_gates says of the gates.
    priorities int[];
    run_ats timestamptz[];
    firsts bigint[];
    starts float8[];
    costs float8[];
    lifts float8[];
    clock float8;
    free bigint[];
    misplaced bigint[];
    last_one CONSTANT int := array_position(after_priorities, NULL) - 1;
    wanted int := max_jobs;
    walk CONSTANT int := max_jobs + 200;
    behind int := 200;
    walked bigint;
    last_gate text;
    keys text[];
    queues text[];
    tasks text[];
    tenants uuid[];
    gated bigint[];
    skipped boolean;
    moved boolean := false;
    placed boolean := false;
    startable bigint[];
    claimed bigint[];
    due bigint[];
    -- A worker whose last claim was refused sees to it that the others run (changeable_jobs).
    careful boolean := coalesce(current_setting('jobs.careful', true) = 'on', false);
    refused bigint[];
BEGIN
    PERFORM @internal@.require_worker_id(worker_id);
    IF careful THEN
        refused := ARRAY(SELECT r.job_id FROM @extschema@.refused_jobs r WHERE r.refused_until > now());
    END IF;
    -- Whoever sets a limit waits for the claims under way, which do not know of it, and new ones come back after it.
    IF NOT pg_try_advisory_xact_lock_shared(@limits_lock()@) THEN
        PERFORM set_config('jobs.gate_skipped', 'on', true);
        RETURN;
    END IF;
    SELECT EXISTS (SELECT FROM @extschema@.gates),
           NOT EXISTS (SELECT FROM @extschema@.jobs j
                        WHERE j.queue_name IS NOT NULL AND j.gate_key > 'run_at' AND @waits(j)@)
      INTO ruled, alike;
    plain := alike AND NOT ruled;
    IF ruled THEN
        -- Each by the index: there may be a row for every tenant.
        SELECT EXISTS (SELECT FROM @extschema@.gates g
                        WHERE g.kind = 'all' AND g.paused_at IS NOT NULL AND coalesce(g.paused_until > now(), true)),
               CASE WHEN EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'task' AND g.name = '*') THEN 'all'
                    WHEN EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'task') THEN 'some' ELSE 'none' END,
               coalesce((SELECT CASE WHEN g.fair THEN 'fair' ELSE 'all' END FROM @extschema@.gates g
                          WHERE g.kind = 'tenant' AND g.name = '*' AND @gate_asks(g)@),
                        CASE WHEN EXISTS (SELECT FROM @extschema@.gates g
                                           WHERE g.kind = 'tenant' AND g.name <> '*' AND @gate_asks(g)@)
                             THEN 'some' ELSE 'none' END),
               EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'host')
          INTO stopped, task_gates, tenant_gates, hosts_ruled;
    END IF;
    IF stopped THEN
        RETURN;
    END IF;
    IF hosts_ruled OR deep AND EXISTS (SELECT FROM @extschema@.host_failures) THEN
        PERFORM set_config('jobs.hosts', @internal@.host_news(), true);
    END IF;
    IF EXISTS (SELECT FROM @extschema@.attempts_to_return) THEN
        PERFORM @internal@.return_attempts();
    END IF;
    page_size := CASE WHEN epochs IS NULL OR max_jobs = 1 OR NOT alike THEN 1000
                      ELSE least(greatest(max_jobs + max_jobs / 4, 100), 1000) END;
    look := CASE WHEN tenant_gates = 'fair' THEN 'fair ' WHEN alike THEN 'alike ' ELSE 'all ' END;
    from_gate := CASE WHEN starts_with(after_gate, look) THEN substr(after_gate, length(look) + 1) END;
    around := from_gate IS NULL;
    IF tenant_gates = 'fair' AND epochs IS NOT NULL THEN
        -- Whose turn it is shows when all have been put in their place.
        behind := 2000;
    END IF;

    -- Ranges of indexes that are empty as long as nothing hangs, and nothing has become due.
    IF (deep OR tenant_gates = 'fair')
       AND EXISTS (SELECT FROM @extschema@.jobs j WHERE j.locked_at IS NOT NULL AND j.locked_at < stale)
    THEN
        due := ARRAY(
            SELECT e.id FROM @extschema@.jobs e
             WHERE e.locked_at IS NOT NULL AND e.locked_at < stale AND e.attempts < e.max_attempts
               AND e.run_at <= now() AND (e.deadline IS NULL OR e.deadline < swept) AND @takes(e.task_identifier)@
               AND @not_refused(e)@
             ORDER BY e.locked_at LIMIT max_jobs FOR UPDATE SKIP LOCKED);
        IF careful THEN
            due := @internal@.changeable_jobs(due);
        END IF;
        UPDATE @extschema@.jobs j SET @unlocked()@ WHERE j.id = ANY (due);
    END IF;
    IF (deep OR tenant_gates = 'fair' OR cardinality(free_gates) > 0)
       AND EXISTS (SELECT FROM @extschema@.jobs j WHERE j.gate_key = 'run_at' AND @waits(j)@ AND j.run_at <= moment)
    THEN
        -- A transaction of get_job may stay open: it moves no more than it may take, and those of queues, of which none
        -- may start before one that comes first.
        due := ARRAY(
            SELECT f.id FROM @extschema@.jobs f
             WHERE @waits(f)@ AND f.id = ANY (ARRAY(
                SELECT d.id FROM (
                    SELECT o.id, o.queue_name, row_number() OVER (ORDER BY o.priority, o.run_at, o.id) AS n
                      FROM (SELECT w.id, w.queue_name, w.priority, w.run_at FROM @extschema@.jobs w
                             WHERE w.gate_key = 'run_at' AND @waits(w)@ AND w.run_at <= moment AND @not_refused(w)@
                             ORDER BY w.run_at LIMIT max_jobs + 1000) o) d
                 WHERE d.n <= max_jobs OR epochs IS NOT NULL OR d.queue_name IS NOT NULL))
               FOR UPDATE SKIP LOCKED);
        IF careful THEN
            due := @internal@.changeable_jobs(due);
        END IF;
        PERFORM set_config('jobs.placing', 'on', true);
        UPDATE @extschema@.jobs j
           SET gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id),
               updated_at = clock_timestamp()
         WHERE j.id = ANY (due);
        PERFORM set_config('jobs.placing', '', true);
    END IF;

    FOR turn IN 1 .. 3 LOOP
        placed := placed OR moved OR misplaced IS NOT NULL;
        gated := NULL;
        skipped := false;
        moved := false;
        IF tenant_gates = 'fair' THEN
            SELECT f.keys, f.queues, f.tasks, f.tenants, f.priorities, f.run_ats, f.ids, f.starts, f.costs, f.lifts,
                   f.clock, f.last_gate
              INTO keys, queues, tasks, tenants, priorities, run_ats, firsts, starts, costs, lifts, clock, last_gate
              FROM @internal@.fair_gates(from_gate, max_jobs, task_identifiers, excluded_tasks,
                                         epochs IS NOT NULL) f;
            PERFORM set_config('jobs.last_gate', coalesce(look || last_gate, ''), true);
        ELSIF deep THEN
            SELECT array_agg(k.gate_key), array_agg(k.queue_name), array_agg(k.task), array_agg(k.tenant),
                   sum(k.jobs)
              INTO keys, queues, tasks, tenants, walked
              FROM (SELECT w.gate_key, w.queue_name, count(*) AS jobs,
                           min(w.task_identifier) FILTER (
                               WHERE w.gate_key > 'run_at'
                                 AND strpos(w.gate_key, 'task' || quote_literal(w.task_identifier)) > 0) AS task,
                           (min(w.database_id::text) FILTER (
                               WHERE w.gate_key > 'run_at'
                                 AND strpos(w.gate_key, 'tenant' || quote_literal(w.database_id)) > 0))::uuid AS tenant
                      FROM (SELECT g.*, row_number() OVER () AS n
                              FROM (SELECT j.gate_key, j.queue_name, j.task_identifier, j.database_id
                                      FROM @extschema@.jobs j
                                     WHERE j.gate_key <> 'run_at' AND @waits(j)@ AND @takes(j.task_identifier)@
                                       AND @not_refused(j)@
                                     ORDER BY j.priority, j.run_at, j.id LIMIT walk) g) w
                     GROUP BY w.gate_key, w.queue_name ORDER BY min(w.n)) k;
        ELSIF cardinality(free_gates) > 0 AND plain
              AND NOT EXISTS (SELECT FROM unnest(free_gates) AS f (gate_key) WHERE f.gate_key NOT LIKE 'queue''%')
        THEN
            -- The gates of queues alone. Their names stand in the keys, as quote_literal writes them.
            SELECT q.ids, q.skipped INTO gated, skipped
              FROM (SELECT array_agg(f.gate_key) AS keys,
                           array_agg(replace(substr(f.gate_key, 7, length(f.gate_key) - 7), '''''', '''')) AS queues
                      FROM (SELECT DISTINCT g.gate_key FROM unnest(free_gates) AS g (gate_key)) f) k
             CROSS JOIN LATERAL @internal@.open_queues(k.keys, k.queues, max_jobs, stale, task_identifiers,
                                                       excluded_tasks, true) q;
        ELSIF cardinality(free_gates) > 0 THEN
            SELECT array_agg(h.gate_key), array_agg(h.queue_name), array_agg(h.task_identifier),
                   array_agg(h.database_id)
              INTO keys, queues, tasks, tenants
              FROM (SELECT DISTINCT f.gate_key FROM unnest(free_gates) AS f (gate_key)) f CROSS JOIN LATERAL (
                   SELECT j.gate_key, j.queue_name, j.task_identifier, j.database_id, j.priority, j.run_at, j.id
                     FROM @extschema@.jobs j
                    WHERE j.gate_key = f.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@
                    ORDER BY j.priority, j.run_at, j.id LIMIT 1) h
             -- Where jobs of the queue have other gates, an earlier one may stand elsewhere: a deep look finds it. Its
             -- first hundred tell, without reading all of a queue whose jobs have one gate.
             WHERE NOT EXISTS (
                   SELECT FROM (
                       SELECT j.gate_key FROM @extschema@.jobs j
                        WHERE j.queue_name = h.queue_name AND j.gate_key > 'run_at' AND @waits(j)@
                        ORDER BY j.priority, j.run_at, j.id LIMIT 100) w WHERE w.gate_key <> h.gate_key)
               AND (h.gate_key < 'run_at' OR NOT EXISTS (
                   SELECT FROM @extschema@.jobs j
                    WHERE j.gate_key = 'queue' || quote_literal(h.queue_name) AND j.gate_key <> 'run_at'
                      AND @waits(j)@));
        END IF;
        IF keys IS NOT NULL THEN
            SELECT g.ids, coalesce(g.skipped, false), coalesce(g.moved, false) INTO gated, skipped, moved
              FROM @internal@.open_gates(keys, queues, tasks, tenants, task_gates, tenant_gates, ruled, max_jobs, stale,
                                         task_identifiers, excluded_tasks, priorities, run_ats, firsts, starts, costs,
                                         lifts, clock) g;
        END IF;
        walked_keys := keys;
        walked_queues := queues;
        walked_tasks := tasks;
        walked_tenants := tenants;
        -- The first job of each gate, gate by gate, a page of gates at a time. A worker comes back for the others.
        FOR page IN 1 .. 20 LOOP
            EXIT WHEN walked IS DISTINCT FROM walk OR coalesce(cardinality(gated), 0) >= max_jobs;
            IF page > 1 AND last_gate IS NULL THEN
                -- From the first gate on as well.
                EXIT WHEN around;
                around := true;
            ELSE
                EXIT WHEN page > 1 AND (gated IS NOT NULL OR epochs IS NOT NULL
                                        AND clock_timestamp() > began + interval '5 milliseconds');
            END IF;
            SELECT g.* INTO keys, queues, tasks, tenants, last_gate
              FROM @internal@.gates_behind(coalesce(last_gate, CASE WHEN NOT around THEN from_gate END, ''), page_size,
                                           walked_keys, task_identifiers, excluded_tasks) g;
            -- The next claim goes on with the gates behind these.
            PERFORM set_config('jobs.last_gate', coalesce(look || last_gate, ''), true);
            CONTINUE WHEN keys IS NULL;
            before := cardinality(walked_keys);
            walked_keys := walked_keys || keys;
            walked_queues := walked_queues || queues;
            walked_tasks := walked_tasks || tasks;
            walked_tenants := walked_tenants || tenants;
            IF NOT alike OR gated IS NOT NULL OR skipped OR moved THEN
                -- Those that come first count together with the others. No later job of a queue starts before one whose
                -- gate another claim has for a moment, that is just being put in its place, or whose queue is just free
                -- again.
                SELECT array_agg(w.key), array_agg(w.queue), array_agg(w.task), array_agg(w.tenant)
                  INTO keys, queues, tasks, tenants
                  FROM unnest(walked_keys, walked_queues, walked_tasks, walked_tenants) WITH ORDINALITY
                       AS w (key, queue, task, tenant, n)
                 WHERE w.n > before OR gated IS NOT NULL OR skipped OR moved
                       OR w.queue IN (SELECT u.queue FROM unnest(queues) AS u (queue));
            END IF;
            SELECT coalesce(g.ids, gated), skipped OR coalesce(g.left_out, false), moved OR coalesce(g.placed, false)
              INTO gated, skipped, moved
              FROM @internal@.open_gates(keys, queues, tasks, tenants, task_gates, tenant_gates, ruled, max_jobs, stale,
                                         task_identifiers, excluded_tasks) AS g (ids, left_out, placed);
        END LOOP;
        IF walked = walk AND page_size < 1000 AND gated IS NOT NULL AND EXISTS (
               SELECT FROM @extschema@.jobs j WHERE j.queue_name IS NOT NULL AND j.gate_key > 'run_at' AND @waits(j)@)
        THEN
            -- Somebody has just put jobs of a queue in their place, out of sight.
            gated := ARRAY(SELECT j.id FROM @extschema@.jobs j WHERE j.id = ANY (gated) AND j.queue_name IS NULL);
            gated := nullif(gated, '{}');
            skipped := true;
        END IF;
        wanted := max_jobs;
        startable := gated;
        -- Two statements of one text each: a single one for both takes 10 us a claim more, where a look that finds
        -- nothing takes 45 in all.
        IF tenant_gates = 'fair' THEN
            NULL; -- Those without a gate have not been put in their place yet.
        ELSIF cardinality(gated) <= max_jobs
              AND NOT (CASE WHEN deep THEN EXISTS (@first_jobs()@) ELSE EXISTS (@next_jobs()@) END)
        THEN
            wanted := 0;
        ELSIF gated IS NOT NULL AND deep THEN
            SELECT count(*) FILTER (WHERE NOT m.gated), array_agg(m.id) FILTER (WHERE m.gated) INTO wanted, gated
              FROM (SELECT f.id, f.priority, f.run_at, false AS gated FROM (@first_jobs()@) f
                    UNION ALL
                    SELECT g.id, g.priority, g.run_at, true FROM @extschema@.jobs g WHERE g.id = ANY (gated)
                     ORDER BY priority, run_at, id LIMIT max_jobs) m;
        ELSIF gated IS NOT NULL THEN
            SELECT count(*) FILTER (WHERE NOT m.gated), array_agg(m.id) FILTER (WHERE m.gated) INTO wanted, gated
              FROM (SELECT f.id, f.priority, f.run_at, false AS gated FROM (@next_jobs()@) f
                    UNION ALL
                    SELECT g.id, g.priority, g.run_at, true FROM @extschema@.jobs g WHERE g.id = ANY (gated)
                     ORDER BY priority, run_at, id LIMIT max_jobs) m;
        END IF;
        IF tenant_gates = 'fair' THEN
            -- Writes put their jobs in their place. The look for others passes the dead entries of those, and is made
            -- for a twentieth of the time.
            moment := clock_timestamp();
            free := NULL;
            misplaced := NULL;
            IF gated IS NULL OR extract(epoch FROM moment) >= coalesce(
                   nullif(current_setting('jobs.placing_at', true), ''), '0')::float8 THEN
                misplaced := ARRAY(SELECT d.id FROM (@first_jobs(FOR UPDATE SKIP LOCKED)@) d);
                misplaced := nullif(misplaced, '{}');
                PERFORM set_config('jobs.placing_at', extract(
                    epoch FROM clock_timestamp() + 20 * (clock_timestamp() - moment))::text, false);
            END IF;
        ELSIF deep THEN
            SELECT array_agg(d.id) FILTER (WHERE NOT d.misplaced), array_agg(d.id) FILTER (WHERE d.misplaced)
              INTO free, misplaced FROM (@first_jobs(FOR UPDATE SKIP LOCKED)@) d;
        ELSE
            SELECT array_agg(d.id) FILTER (WHERE NOT d.misplaced), array_agg(d.id) FILTER (WHERE d.misplaced)
              INTO free, misplaced FROM (@next_jobs(FOR UPDATE SKIP LOCKED)@) d;
        END IF;
        EXIT WHEN misplaced IS NULL AND (moved IS NOT TRUE OR free IS NOT NULL OR gated IS NOT NULL);
        -- Some of those behind them as well: each turn looks at everything anew.
        due := misplaced || ARRAY(
            SELECT b.id FROM @extschema@.jobs b
             WHERE misplaced IS NOT NULL AND b.gate_key IS NULL AND @waits(b)@
               AND b.id = ANY (ARRAY(SELECT f.id FROM (@first_jobs(+ behind)@) f WHERE f.misplaced))
               FOR UPDATE SKIP LOCKED);
        IF careful THEN
            due := @internal@.changeable_jobs(due);
        END IF;
        PERFORM set_config('jobs.placing', 'on', true);
        UPDATE @extschema@.jobs j
           SET gate_key = CASE WHEN j.run_at > clock_timestamp() THEN 'run_at'
                               ELSE @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id) END,
               updated_at = clock_timestamp()
         WHERE j.id = ANY (due);
        PERFORM set_config('jobs.placing', '', true);
        -- The next claim goes on with it, unless a job of a queue may come before one that has been found.
        EXIT WHEN epochs IS NOT NULL AND max_jobs > 1 AND tenant_gates <> 'fair'
              AND NOT EXISTS (SELECT FROM @extschema@.jobs j WHERE j.id = ANY (due) AND j.queue_name IS NOT NULL)
              AND coalesce(cardinality(free), 0) + coalesce(cardinality(startable), 0) >= max_jobs;
    END LOOP;

    IF coalesce(cardinality(free), 0) < wanted AND cardinality(startable) > coalesce(cardinality(gated), 0) THEN
        -- Others hold some of those without a gate: what was left for them starts.
        gated := gated || (ARRAY(
            SELECT j.id FROM @extschema@.jobs j WHERE j.id = ANY (startable) AND j.id <> ALL (coalesce(gated, '{}'))
             ORDER BY j.priority, j.run_at, j.id))[:wanted - coalesce(cardinality(free), 0)];
    END IF;
    IF placed OR moved OR misplaced IS NOT NULL THEN
        -- There may be more of it: the worker looks again before it sleeps.
        PERFORM set_config('jobs.placed', 'on', true);
    END IF;
    -- There is more to put in its place, or there are gates that nobody has looked at.
    IF skipped OR misplaced IS NOT NULL OR last_gate IS NOT NULL THEN
        -- next_run_at says when to look again.
        PERFORM set_config('jobs.gate_skipped', 'on', true);
    END IF;
    claimed := free || gated;
    IF careful THEN
        claimed := @internal@.changeable_jobs(claimed);
        gated := ARRAY(SELECT g.id FROM unnest(gated) AS g (id) WHERE g.id = ANY (claimed));
    END IF;
    IF claimed IS NULL OR claimed = '{}' THEN
        RETURN;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- An error of serialization (40001) when a limit was set after the snapshot was taken: by the first statement
        -- for the first limit there is, which has made the row, and by the second for others, which have changed it.
        INSERT INTO @extschema@.gate_tokens (kind, name, full_at) VALUES ('all', '', '-infinity')
        ON CONFLICT DO NOTHING;
        PERFORM FROM @extschema@.gate_tokens t WHERE t.kind = 'all' AND t.name = '' FOR SHARE;
    END IF;
    IF ruled AND gated IS NOT NULL THEN
        PERFORM @internal@.spend_tokens(gated);
    END IF;
    RETURN QUERY
    UPDATE @extschema@.jobs j
       SET attempts = j.attempts + 1, locked_by = worker_id, locked_at = now(), updated_at = clock_timestamp(),
           epoch = coalesce(c.epoch, hashtextextended(gen_random_uuid()::text, 0::bigint)) & 9223372036854775807,
           instance = claim_instance_jobs.instance, accepted = false, deadline = NULL
      FROM unnest(claimed, epochs[:cardinality(claimed)]) AS c (id, epoch)
     WHERE j.id = c.id
    RETURNING j.*;
END
$$;
