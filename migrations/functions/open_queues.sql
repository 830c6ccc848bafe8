-- Queues, while nothing is set for any gate: each runs one job at a time.

-- Of queues that a claim has found, locks the first that run nothing and are free to be locked, and chooses their first
-- jobs; the caller claims up to max_jobs of them in order. skipped: another claim holds a queue that may be open.
-- freed: each of the queues is most likely free. Else one that runs something is not locked: nobody comes again for it.
CREATE OR REPLACE FUNCTION @internal@.open_queues(
    keys text[], queues text[], max_jobs int, stale timestamptz, task_identifiers text[], excluded_tasks text[],
    freed boolean DEFAULT false, OUT ids bigint[], OUT skipped boolean
)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_sort = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    swept timestamptz := now() - interval '1 minute';
    written boolean := pg_current_xact_id_if_assigned() IS NOT NULL;
    opened int[];
    -- So many queues are opened, and more when somebody holds the first jobs of those.
    most int := max_jobs;
    more boolean;
    -- As in claim_instance_jobs.
    careful boolean := coalesce(current_setting('jobs.careful', true) = 'on', false);
    refused bigint[];
BEGIN
    IF careful THEN
        refused := ARRAY(SELECT r.job_id FROM @extschema@.refused_jobs r WHERE r.refused_until > now());
    END IF;
    LOOP
        SELECT array_agg(o.n) FILTER (WHERE o.locked), coalesce(bool_or(NOT o.locked), false), count(*) = most
          INTO opened, skipped, more
          FROM (SELECT l.n, l.locked FROM (
                    SELECT k.n,
                           CASE WHEN NOT freed AND EXISTS (
                                         SELECT FROM @extschema@.jobs r
                                          WHERE r.queue_name = k.queue AND @runs(r.queue_name IS NOT NULL)@ OFFSET 0)
                                THEN NULL
                                ELSE pg_try_advisory_xact_lock(@gate_lock('queue', k.queue)@) END AS locked
                      FROM unnest(queues) WITH ORDINALITY AS k (queue, n)) l
                 WHERE l.locked IS NOT NULL LIMIT most) o;
        IF opened IS NOT NULL AND @snapshot_is_old(written)@ THEN
            skipped := true;
            RETURN;
        END IF;
        ids := ARRAY(
            SELECT DISTINCT ON (k.queue_name COLLATE "C") h.id
              FROM unnest(opened) AS o (n)
             CROSS JOIN LATERAL (SELECT keys[o.n] AS gate_key, queues[o.n] AS queue_name) k
             CROSS JOIN LATERAL (
                   SELECT j.id, j.priority, j.run_at FROM @extschema@.jobs j
                    WHERE j.gate_key = k.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@
                      AND j.run_at <= clock_timestamp()
                      AND j.queue_name = k.queue_name AND @takes(j.task_identifier)@ AND @not_refused(j)@
                    ORDER BY j.priority, j.run_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) h
             -- OFFSET 0: one probe for each, whatever statistics make of what runs. A join with all of it takes longer.
             WHERE NOT EXISTS (SELECT FROM @extschema@.jobs r
                                WHERE r.queue_name = k.queue_name AND @runs(r.queue_name IS NOT NULL)@ OFFSET 0)
             ORDER BY k.queue_name COLLATE "C", h.priority, h.run_at, h.id);
        EXIT WHEN NOT more OR cardinality(ids) >= max_jobs;
        most := 4 * most;
    END LOOP;
    ids := nullif(ids, '{}');
END
$$;
