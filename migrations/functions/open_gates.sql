-- Opening gates: which jobs of the gates that a claim has found may start.

-- Of gates that a claim has found, locks those that are free to be locked and chooses which jobs may start; the caller
-- claims up to max_jobs of them in order. skipped: another claim holds a gate that may be open. moved: jobs were put in
-- their place, and the caller looks again. The arguments from priorities on are of open_ruled_gates.
CREATE OR REPLACE FUNCTION @internal@.open_gates(
    keys text[], queues text[], tasks text[], tenants uuid[], task_gates text, tenant_gates text, ruled boolean,
    max_jobs int, stale timestamptz, task_identifiers text[], excluded_tasks text[], priorities int[] DEFAULT NULL,
    run_ats timestamptz[] DEFAULT NULL, firsts bigint[] DEFAULT NULL, starts float8[] DEFAULT NULL,
    costs float8[] DEFAULT NULL, lifts float8[] DEFAULT NULL, clock float8 DEFAULT NULL, OUT ids bigint[],
    OUT skipped boolean, OUT moved boolean
)
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hosts_ruled boolean;
    -- Of the keys those of queues whose jobs pass nothing else, and what may start of them.
    plain_keys text[];
    plain_queues text[];
    of_queues bigint[];
    queue_skipped boolean := false;
    others int[];
BEGIN
    IF starts IS NULL AND NOT EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'queue') THEN
        -- None when some jobs of a queue pass other gates as well: those stand in its order, too.
        SELECT array_agg(u.key) FILTER (WHERE u.plain), array_agg(u.queue) FILTER (WHERE u.plain),
               array_agg(u.n) FILTER (WHERE NOT u.plain)
          INTO plain_keys, plain_queues, others
          FROM (SELECT a.*, NOT ruled AND a.queue IS NOT NULL
                            OR a.key = concat('queue', quote_literal(a.queue)) AS plain
                  FROM unnest(keys, queues) WITH ORDINALITY AS a (key, queue, n)) u
        HAVING NOT bool_or(NOT u.plain AND u.queue IS NOT NULL);
    END IF;
    IF plain_keys IS NOT NULL THEN
        SELECT q.ids, q.skipped INTO of_queues, queue_skipped
          FROM @internal@.open_queues(plain_keys, plain_queues, max_jobs, stale, task_identifiers, excluded_tasks) q;
        hosts_ruled := ruled AND EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'host');
        IF ruled AND EXISTS (SELECT FROM @extschema@.jobs j
                              WHERE j.id = ANY (of_queues) AND j.gate_key IS DISTINCT FROM @key_of(j)@)
        THEN
            -- Somebody has set something for one of them.
            of_queues := NULL;
        ELSIF others IS NULL THEN
            ids := of_queues;
            skipped := queue_skipped;
            RETURN;
        ELSE
            SELECT array_agg(u.key), array_agg(u.task), array_agg(u.tenant) INTO keys, tasks, tenants
              FROM unnest(keys, tasks, tenants) WITH ORDINALITY AS u (key, task, tenant, n)
             WHERE u.n = ANY (others);
            queues := array_fill(NULL::text, ARRAY[cardinality(keys)]);
        END IF;
    END IF;
    SELECT g.ids, g.skipped, g.moved INTO ids, skipped, moved
      FROM @internal@.open_ruled_gates(keys, queues, tasks, tenants, task_gates, tenant_gates, max_jobs, stale,
                                       task_identifiers, excluded_tasks, priorities, run_ats, firsts, starts, costs,
                                       lifts, clock) g;
    ids := of_queues || ids;
    skipped := skipped OR queue_skipped;
END
$$;
