-- Fairness: who waits is served by the least measured run time per weight (start-time fair queuing).
--
-- Each tenant stands at a virtual time: the seconds that its jobs have run, each divided by the weight of then, and
-- those that run now. Its first waiting job has its turn there, the next one what a job of it takes further on, and the
-- least turns of all are taken. Who was idle comes in where the least of those stands who are served: it has saved up
-- nothing. Who waited behind a gate of its own has saved up ten seconds and a hundred jobs at most.
--
-- A trigger on jobs logs what starts and ends, an entry for each tenant of a statement, whoever wrote it. An entry is
-- inserted and never changed, so nobody waits for anybody. Claims add up what has been logged: the sums are those of
-- all transactions before upto, but for those that were open then. So a look reads what came after, wherever the dead
-- entries are that somebody's old snapshot keeps. What runs now is known from the sums, too, and recounted now and
-- then, as triggers can be off.

CREATE OR REPLACE FUNCTION @internal@.add_up_usage() RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = on SET plan_cache_mode = force_generic_plan
SET jit = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last @extschema@.gate_usage;
    upto xid8;
    unended xid8[];
    me CONSTANT xid8 := pg_current_xact_id();
BEGIN
    -- Who has the lock sees in its next statement what all who had it before have committed.
    IF current_setting('transaction_isolation') <> 'read committed'
       OR NOT pg_try_advisory_xact_lock(@gate_lock('usage', '*')@)
    THEN
        RETURN;
    END IF;
    SELECT * INTO last FROM @extschema@.gate_usage u WHERE u.name = '*' ORDER BY u.number DESC LIMIT 1;
    upto := @internal@.added_upto(last.upto);
    unended := last.unended;
    IF coalesce(last.recounted_at < clock_timestamp() - interval '1 minute', true) THEN
        PERFORM @internal@.recount_usage(upto, unended);
        DELETE FROM @extschema@.gate_usage u
         WHERE u.name <> '*' AND u.running = 0 AND u.served < last.served AND u.ended_at < now() - interval '1 hour';
        last.recounted_at := clock_timestamp();
    END IF;
    WITH added AS MATERIALIZED (
        DELETE FROM @extschema@.gate_usage_log d
         USING (@usage_log(l.ctid)@) l WHERE d.ctid = l.ctid
        RETURNING d.*),
    sums AS MATERIALIZED (
        SELECT a.name, sum(a.seconds) AS seconds, sum(a.ended) AS ended, sum(a.running) AS running,
               sum(a.since) AS since, max(a.ended_at) AS ended_at, max(a.served) AS served
          FROM added a GROUP BY a.name),
    clock AS MATERIALIZED (
        SELECT greatest(last.served, (SELECT s.served FROM sums s WHERE s.name = '*'), 0) AS served,
               @mean_time(m)@ AS mean
          FROM (SELECT last.mean, 1 AS others, sum(s.seconds) AS seconds, sum(s.ended) AS ended FROM sums s) m),
    before AS MATERIALIZED (
        SELECT s.name, u.number, u.served, u.mean, u.running, u.since, u.ended_at
          FROM sums s LEFT JOIN LATERAL (
               SELECT * FROM @extschema@.gate_usage u WHERE u.name = s.name ORDER BY u.number DESC LIMIT 1) u ON true
         WHERE s.name <> '*'),
    gone AS (
        DELETE FROM @extschema@.gate_usage u USING (
            SELECT b.name, b.number FROM before b UNION ALL SELECT '*', last.number) b
         WHERE u.name = b.name AND u.number = b.number)
    INSERT INTO @extschema@.gate_usage
        (name, number, served, mean, running, since, ended_at, upto, unended, recounted_at)
    SELECT s.name, coalesce(last.number, 0) + 1,
           greatest(coalesce(b.served, last.served, 0), s.served) + s.seconds / @internal@.tenant_weight(s.name),
           @mean_time(m)@, coalesce(b.running, 0) + s.running,
           coalesce(b.since, 0) + s.since, greatest(b.ended_at, s.ended_at), NULL::xid8, NULL::xid8[], NULL::timestamptz
      FROM sums s JOIN before b ON b.name = s.name CROSS JOIN clock c
     CROSS JOIN LATERAL (SELECT b.mean, c.mean AS others, s.seconds, s.ended) m
    UNION ALL
    SELECT '*', coalesce(last.number, 0) + 1, c.served, c.mean, 0, 0, clock_timestamp(),
           pg_snapshot_xmax(pg_current_snapshot()),
           ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())) || me, last.recounted_at
      FROM clock c;
END
$$;

-- Up to which transaction what was logged is in the sums, and whether that can be: after a restore it may be one that
-- this server has not reached.
CREATE OR REPLACE FUNCTION @internal@.added_upto(upto xid8) RETURNS xid8
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN upto <= pg_snapshot_xmax(pg_current_snapshot()) THEN upto ELSE '0'::xid8 END;
END
$$;

CREATE OR REPLACE FUNCTION @internal@.tenant_weight(tenant text) RETURNS float8
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce((
        SELECT g.weight::float8 FROM @extschema@.gates g
         WHERE g.kind = 'tenant' AND g.name IN (tenant, '*') AND g.weight IS NOT NULL
         ORDER BY g.name = '*' LIMIT 1), 1);
END
$$;

-- Logs by how much the sums differ from what runs.
CREATE OR REPLACE FUNCTION @internal@.recount_usage(upto xid8, unended xid8[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = on SET plan_cache_mode = force_generic_plan
SET jit = off SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH counted AS (
        SELECT DISTINCT ON (u.name) u.name, u.running, u.since FROM @extschema@.gate_usage u
         WHERE u.name <> '*' ORDER BY u.name, u.number DESC)
    INSERT INTO @extschema@.gate_usage_log (name, running, since)
    SELECT d.name, sum(d.running), sum(d.since)
      FROM (SELECT coalesce(r.database_id::text, '') AS name, 1 AS running, @milliseconds(r.locked_at)@ AS since
              FROM @extschema@.jobs r WHERE r.locked_at IS NOT NULL AND r.gate_key >= 'tenant'
            UNION ALL
            SELECT c.name, -c.running, -c.since FROM counted c WHERE c.running <> 0 OR c.since <> 0
            UNION ALL
            SELECT l.name, -l.running, -l.since FROM (@usage_log(l.*)@) l WHERE l.running <> 0 OR l.since <> 0) d
     GROUP BY d.name HAVING sum(d.running) <> 0 OR sum(d.since) <> 0;
END
$$;

-- The gates of tenants with jobs that wait, in the order of their turns. Of each: its first job, where its tenant
-- stands, what one of its jobs costs, and, when it was idle, to where it is lifted before what is logged is added.
-- clock: where the least of those who are served stands.
--
-- 250 to 1,000 gates at most, from after_gate on and around; without that from where the session's last look ended.
-- last_gate: the last of them, when there are more. brief: the caller's transaction ends at once, so that it may have
-- the lock of those who add up.
CREATE OR REPLACE FUNCTION @internal@.fair_gates(
    after_gate text, max_jobs int, task_identifiers text[], excluded_tasks text[], brief boolean, OUT keys text[],
    OUT queues text[], OUT tasks text[], OUT tenants uuid[], OUT priorities int[], OUT run_ats timestamptz[],
    OUT ids bigint[], OUT starts float8[], OUT costs float8[], OUT lifts float8[], OUT clock float8, OUT last_gate text
)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_nestloop = off
SET enable_hashjoin = on SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most CONSTANT int := least(greatest(2 * max_jobs, 250), 1000);
    after text := coalesce(after_gate, nullif(current_setting('jobs.fair_gate', true), ''));
    first text := coalesce(after || E'\x01', '');
    seen int := 0;
    page record;
    last @extschema@.gate_usage;
    upto xid8;
    unended xid8[];
    entries bigint;
    usual float8;
BEGIN
    FOR pass IN 1 .. 2 LOOP
        WITH RECURSIVE gates (gate_key, queue_name, task, tenant, priority, run_at, id, n) AS (
            SELECT h.*, seen + 1 FROM (
                SELECT j.gate_key, j.queue_name, j.task_identifier, j.database_id, j.priority, j.run_at, j.id
                  FROM @extschema@.jobs j
                 WHERE j.gate_key <> 'run_at' AND @waits(j)@ AND j.gate_key >= first
                 ORDER BY j.gate_key, j.priority, j.run_at, j.id LIMIT 1) h
             WHERE pass = 1 OR h.gate_key <= after
            UNION ALL
            SELECT h.*, g.n + 1
              FROM gates g CROSS JOIN LATERAL (
                   SELECT j.gate_key, j.queue_name, j.task_identifier, j.database_id, j.priority, j.run_at, j.id
                     FROM @extschema@.jobs j
                    WHERE j.gate_key <> 'run_at' AND @waits(j)@ AND j.gate_key > g.gate_key
                    ORDER BY j.gate_key, j.priority, j.run_at, j.id LIMIT 1) h
             WHERE g.n < most AND (pass = 1 OR h.gate_key <= after))
        SELECT array_agg(k.gate_key) FILTER (WHERE k.taken) AS keys,
               array_agg(k.queue_name) FILTER (WHERE k.taken) AS queues,
               array_agg(k.task) FILTER (WHERE k.taken) AS tasks,
               array_agg(k.tenant) FILTER (WHERE k.taken) AS tenants,
               array_agg(k.priority) FILTER (WHERE k.taken) AS priorities,
               array_agg(k.run_at) FILTER (WHERE k.taken) AS run_ats,
               array_agg(k.id) FILTER (WHERE k.taken) AS ids,
               count(*) AS seen, max(k.gate_key) FILTER (WHERE k.n = most) AS last_gate
          INTO page
          FROM (SELECT g.*, @takes(g.task)@
                            OR EXISTS (SELECT FROM @extschema@.jobs j
                                        WHERE j.gate_key BETWEEN g.gate_key AND g.gate_key AND j.gate_key <> 'run_at'
                                          AND @waits(j)@ AND @takes(j.task_identifier)@
                                        ORDER BY j.gate_key, j.priority, j.run_at, j.id LIMIT 1) AS taken
                  FROM gates g) k;
        keys := keys || page.keys;
        queues := queues || page.queues;
        tasks := tasks || page.tasks;
        tenants := tenants || page.tenants;
        priorities := priorities || page.priorities;
        run_ats := run_ats || page.run_ats;
        ids := ids || page.ids;
        seen := seen + page.seen;
        last_gate := page.last_gate;
        EXIT WHEN seen >= most OR first = '';
        first := '';
    END LOOP;
    IF last_gate IS DISTINCT FROM after AND (last_gate IS NOT NULL OR after_gate IS NULL) THEN
        PERFORM set_config('jobs.fair_gate', coalesce(last_gate, ''), false);
    END IF;
    IF keys IS NULL THEN
        RETURN;
    END IF;

    SELECT * INTO last FROM @extschema@.gate_usage u WHERE u.name = '*' ORDER BY u.number DESC LIMIT 1;
    upto := @internal@.added_upto(last.upto);
    unended := last.unended;
    usual := @internal@.tenant_weight('*');
    WITH logged AS MATERIALIZED (
        SELECT l.name, sum(l.seconds) AS seconds, sum(l.ended) AS ended, sum(l.running) AS running,
               sum(l.since) AS since, max(l.ended_at) AS ended_at, max(l.served) AS served, count(*) AS entries
          FROM (@usage_log(l.*)@) l GROUP BY l.name),
    heads AS MATERIALIZED (
        SELECT h.*, coalesce(h.tenant::text, '') AS name,
               row_number() OVER (PARTITION BY h.tenant ORDER BY h.priority, h.run_at, h.id) - 1 AS before
          FROM unnest(keys, queues, tasks, tenants, priorities, run_ats, ids)
               AS h (key, queue, task, tenant, priority, run_at, id)),
    served AS MATERIALIZED (
        SELECT greatest(last.served, (SELECT l.served FROM logged l WHERE l.name = '*'), 0) AS served),
    states AS MATERIALIZED (
        SELECT t.name, w.weight, coalesce(l.seconds, 0) / w.weight AS logged,
               greatest(coalesce(u.served, last.served, 0), l.served) + coalesce(l.seconds, 0) / w.weight AS served,
               greatest(coalesce(u.running, 0) + coalesce(l.running, 0), 0) AS running,
               -- What runs longer than jobs may wait in a worker for a slot.
               greatest((coalesce(u.running, 0) + coalesce(l.running, 0))
                        * (extract(epoch FROM clock_timestamp()) - 1600000000.25)
                        - (coalesce(u.since, 0) + coalesce(l.since, 0)) / 1000.0, 0)::float8 AS runs,
               @mean_time(m)@ AS mean,
               coalesce(t.due > greatest(u.ended_at, l.ended_at), true) AS comes
          FROM (SELECT h.name, min(h.run_at) AS due FROM heads h GROUP BY h.name) t
          LEFT JOIN LATERAL (
               SELECT * FROM @extschema@.gate_usage u WHERE u.name = t.name ORDER BY u.number DESC LIMIT 1) u ON true
          LEFT JOIN logged l ON l.name = t.name
         CROSS JOIN LATERAL (
               SELECT coalesce((SELECT g.weight::float8 FROM @extschema@.gates g
                                 WHERE g.kind = 'tenant' AND g.name = t.name), usual) AS weight OFFSET 0) w
         CROSS JOIN LATERAL (SELECT u.mean, last.mean AS others, l.seconds, l.ended) m),
    clock AS MATERIALIZED (
        SELECT greatest(s.served, (
            SELECT coalesce(min(t.served + t.runs / t.weight) FILTER (WHERE t.running > 0 OR NOT t.comes),
                            min(t.served + t.runs / t.weight)) FROM states t)) AS served FROM served s),
    turns AS MATERIALIZED (
        -- Who comes is next, before the least of those who are served.
        SELECT t.name, greatest(t.served, l.lift)
                       + CASE WHEN t.running = 0 AND t.comes THEN -t.mean ELSE greatest(t.running * t.mean, t.runs) END
                         / t.weight AS start,
               t.mean / t.weight AS cost, l.lift - t.logged AS lift
          FROM states t CROSS JOIN clock c
         CROSS JOIN LATERAL (
               SELECT CASE WHEN t.served < a.least THEN a.least END AS lift
                 FROM (SELECT CASE WHEN t.running = 0 AND t.comes THEN c.served
                                   ELSE c.served - (10 + 100 * t.mean) / t.weight END AS least) a) l)
    SELECT array_agg(o.key), array_agg(o.queue), array_agg(o.task), array_agg(o.tenant), array_agg(o.priority),
           array_agg(o.run_at), array_agg(o.id), array_agg(o.start), array_agg(o.cost), array_agg(o.lift),
           (SELECT c.served FROM clock c), (SELECT sum(l.entries) FROM logged l)
      INTO keys, queues, tasks, tenants, priorities, run_ats, ids, starts, costs, lifts, clock, entries
      FROM (SELECT h.key, h.queue, h.task, h.tenant, h.priority, h.run_at, h.id, t.start, t.cost, t.lift
              FROM heads h JOIN turns t ON t.name = h.name
             -- No job of a queue comes before an earlier one of it, whose ever that is.
             ORDER BY max(t.start + t.cost * h.before) OVER (
                          PARTITION BY h.queue, CASE WHEN h.queue IS NULL THEN h.key END
                          ORDER BY h.priority, h.run_at, h.id),
                      h.priority, h.run_at, h.id) o;
    -- Who may keep its transaction open adds up what nobody else does.
    IF brief AND entries > 200 OR entries > 0 AND coalesce(
           last.ended_at < clock_timestamp() - CASE WHEN brief THEN interval '1 second' ELSE '10 seconds' END,
           brief OR entries > 1000)
    THEN
        PERFORM @internal@.add_up_usage();
    END IF;
END
$$;

-- How many jobs each of the open gates is to give, so that the max_jobs jobs with the least turns are among them.
-- before and given: what it was last, and the tenants of the jobs that were found. Who has fewer than its share leaves
-- the rest of it to the others. NULL: nobody has more.
CREATE OR REPLACE FUNCTION @internal@.fair_shares(
    max_jobs int, names text[], starts float8[], costs float8[], before int[], given text[]
) RETURNS int[]
LANGUAGE plpgsql IMMUTABLE SET enable_nestloop = off SET enable_hashjoin = on
SET plan_cache_mode = force_generic_plan SET jit = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shares int[];
BEGIN
    -- level: up to where all stand when so many jobs are given: of the first, the first two, …, up to the one that the
    -- next does not reach.
    WITH t AS MATERIALIZED (
        SELECT n.name, min(n.start) - starts[1] AS start, min(n.cost) AS cost,
               CASE WHEN coalesce(g.jobs, 0) < min(n.before) THEN coalesce(g.jobs, 0) END AS most
          FROM unnest(names, starts, costs, before) AS n (name, start, cost, before)
          LEFT JOIN (SELECT u.name, count(*) AS jobs FROM unnest(given) AS u (name) GROUP BY u.name) g
            ON g.name = n.name
         GROUP BY n.name, g.jobs),
    level AS MATERIALIZED (
        SELECT l.level FROM (
            SELECT (max_jobs - (SELECT coalesce(sum(m.most), 0) FROM t m) + sum(t.start / t.cost) OVER w)
                   / sum(1 / t.cost) OVER w AS level,
                   lead(t.start) OVER (ORDER BY t.start, t.name) AS next, t.start, t.name
              FROM t WHERE t.most IS NULL WINDOW w AS (ORDER BY t.start, t.name)) l
         WHERE l.next IS NULL OR l.level <= l.next ORDER BY l.start, l.name LIMIT 1)
    SELECT array_agg(coalesce(t.most, greatest(ceil((l.level - t.start) / t.cost), 0)::int) ORDER BY n.i) INTO shares
      FROM unnest(names) WITH ORDINALITY AS n (name, i) JOIN t ON t.name = n.name CROSS JOIN level l;
    RETURN shares;
END
$$;
