-- Batches, where a trigger of the application's keeps rows out (V20).

-- As in V18, but that the upsert writes to whatever holds the key, as in V20. A job that a trigger kept out has an id of NULL. Where the table has such a trigger, ids are
-- drawn beforehand without keys, too, so that it can be said which one was kept out.
CREATE OR REPLACE FUNCTION @extschema@.write_jobs(
    tenant uuid, actor uuid, identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[],
    run_ats timestamptz[], attempt_limits int[], priorities int[], db_ids uuid[], actor_ids uuid[]
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    ids bigint[];
    pending text[] := ARRAY(SELECT DISTINCT k.key FROM unnest(job_keys) AS k (key) WHERE k.key IS NOT NULL);
    -- The plans are custom ones, in which = ANY of an array is a look into a hash.
    preserving text[] := ARRAY(SELECT DISTINCT k.key FROM unnest(job_keys, key_modes) AS k (key, mode) WHERE k.mode = 'preserve_run_at' AND k.key IS NOT NULL);
    ignoring text[] := ARRAY(SELECT DISTINCT k.key FROM unnest(job_keys, key_modes) AS k (key, mode) WHERE k.mode = 'ignore' AND k.key IS NOT NULL);
    unknown text := (SELECT m.mode FROM unnest(key_modes) AS m (mode) WHERE m.mode NOT IN ('replace', 'preserve_run_at', 'ignore') LIMIT 1);
    foreign_key text;
    superseded bigint;
    keys text[];
    key_ids bigint[];
    written_keys text[] := '{}';
    written_ids bigint[] := '{}';
    staying_keys text[] := '{}';
    staying_ids bigint[] := '{}';
BEGIN
    IF array_position(identifiers, '') IS NOT NULL OR array_position(identifiers, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'the key mode % is none', quote_literal(unknown) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A key mode is replace, preserve_run_at or ignore.';
    END IF;
    -- 7: before the statement, for each row, on INSERT.
    IF cardinality(pending) = 0 AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger t
         WHERE t.tgrelid = '@extschema@.jobs'::regclass AND t.tgtype & 7 = 7 AND t.tgenabled <> 'D')
    THEN
        RETURN QUERY
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        SELECT coalesce(i.db_id, tenant), coalesce(i.actor_id, actor), i.identifier, coalesce(i.payload, '{}'),
               nullif(i.queue_name, ''), coalesce(i.run_at, now()), coalesce(i.attempt_limit, 25), coalesce(i.priority, 0)
          FROM unnest(identifiers, payloads, queue_names, run_ats, attempt_limits, priorities, db_ids, actor_ids)
               AS i (identifier, payload, queue_name, run_at, attempt_limit, priority, db_id, actor_id)
        RETURNING j.id, false;
        RETURN;
    END IF;

    -- Within the batch, too, a key belongs to one tenant.
    IF EXISTS (SELECT FROM unnest(job_keys, db_ids) AS i (key, db_id) WHERE i.key IS NOT NULL GROUP BY i.key
               HAVING count(DISTINCT coalesce(i.db_id, tenant)) + bool_or(coalesce(i.db_id, tenant) IS NULL)::int > 1)
    THEN
        RAISE EXCEPTION 'a job key is given under two database ids' USING ERRCODE = 'unique_violation';
    END IF;
    IF EXISTS (SELECT FROM unnest(job_keys, key_modes) AS i (key, mode) WHERE i.key IS NOT NULL GROUP BY i.key
               HAVING count(DISTINCT coalesce(i.mode, 'replace')) > 1)
    THEN
        -- A key that is given with two modes: what the first makes of it is what the second finds.
        FOR n IN 1 .. cardinality(identifiers) LOOP
            RETURN QUERY SELECT e.id, e.kept FROM @extschema@.enqueue_keyed_job(
                coalesce(db_ids[n], tenant), coalesce(actor_ids[n], actor), identifiers[n], payloads[n], job_keys[n],
                key_modes[n], queue_names[n], run_ats[n], attempt_limits[n], priorities[n]) AS e;
        END LOOP;
        RETURN;
    END IF;
    PERFORM @extschema@.refuse_large_payload('jobs', max(octet_length(p.payload::text)))
       FROM unnest(payloads) AS p (payload) WHERE pg_column_size(p.payload) > 65536 HAVING count(*) > 0;
    ids := ARRAY(SELECT nextval('@extschema@.jobs_id_seq') FROM generate_series(1, cardinality(identifiers)));
    FOR turn IN 1 .. 100 LOOP
        IF cardinality(ignoring) > 0 AND current_setting('transaction_isolation') = 'read committed' THEN
            -- What runs stays, without a lock, as in enqueue_keyed_job.
            SELECT coalesce(array_agg(h.key), '{}'), coalesce(array_agg(h.id), '{}') INTO keys, key_ids
              FROM (SELECT DISTINCT j.key, j.id FROM @extschema@.jobs j JOIN unnest(job_keys, db_ids) AS i (key, db_id) ON i.key = j.key
                     WHERE j.key = ANY (pending) AND j.key = ANY (ignoring) AND j.locked_at IS NOT NULL
                       AND j.database_id IS NOT DISTINCT FROM coalesce(i.db_id, tenant)) AS h;
            staying_keys := staying_keys || keys;
            staying_ids := staying_ids || key_ids;
            pending := ARRAY(SELECT p.key FROM unnest(pending) AS p (key) EXCEPT SELECT w.key FROM unnest(keys) AS w (key));
        END IF;
        WITH given AS (
            SELECT i.*, min(i.id) OVER same AS first_id, first_value(i.run_at) OVER (same ORDER BY i.n) AS first_run_at,
                   CASE WHEN i.key = ANY (ignoring) THEN min(i.n) OVER same ELSE max(i.n) OVER same END AS chosen
              FROM unnest(identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids, actor_ids, ids)
                   WITH ORDINALITY
                   AS i (identifier, payload, key, queue_name, run_at, attempt_limit, priority, db_id, actor_id, id, n)
             WHERE i.key = ANY (pending) OR i.key IS NULL AND turn = 1
            WINDOW same AS (PARTITION BY i.key, CASE WHEN i.key IS NULL THEN i.n END)),
        written AS (
            INSERT INTO @extschema@.jobs AS j
                (id, database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
            SELECT g.first_id, coalesce(g.db_id, tenant), coalesce(g.actor_id, actor), g.identifier, coalesce(g.payload, '{}'),
                   nullif(g.queue_name, ''),
                   coalesce(CASE WHEN g.key = ANY (preserving) THEN g.first_run_at ELSE g.run_at END, now()),
                   coalesce(g.attempt_limit, 25), coalesce(g.priority, 0), g.key
              FROM given g WHERE g.n = g.chosen ORDER BY g.key, g.n
            ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
                actor_id = CASE WHEN j.locked_at IS NULL THEN excluded.actor_id ELSE j.actor_id END,
                task_identifier = CASE WHEN j.locked_at IS NULL THEN excluded.task_identifier ELSE j.task_identifier END,
                payload = CASE WHEN j.locked_at IS NULL THEN excluded.payload ELSE j.payload END,
                queue_name = CASE WHEN j.locked_at IS NULL THEN excluded.queue_name ELSE j.queue_name END,
                run_at = CASE WHEN j.locked_at IS NOT NULL OR excluded.key = ANY (preserving) AND j.attempts = 0
                              THEN j.run_at ELSE excluded.run_at END,
                max_attempts = CASE WHEN j.locked_at IS NULL THEN excluded.max_attempts ELSE j.max_attempts END,
                priority = CASE WHEN j.locked_at IS NULL THEN excluded.priority ELSE j.priority END,
                attempts = CASE WHEN j.locked_at IS NULL THEN 0 ELSE j.max_attempts END,
                last_error = CASE WHEN j.locked_at IS NOT NULL THEN j.last_error END,
                superseded = j.locked_at IS NOT NULL OR j.database_id IS DISTINCT FROM excluded.database_id,
                key = CASE WHEN j.locked_at IS NULL OR j.database_id IS DISTINCT FROM excluded.database_id THEN j.key END,
                updated_at = clock_timestamp()
            WHERE NOT excluded.key = ANY (ignoring) OR j.locked_at IS NULL AND j.attempts >= j.max_attempts
               OR j.database_id IS DISTINCT FROM excluded.database_id
            RETURNING j.id, j.key, j.superseded)
        SELECT coalesce(array_agg(w.key) FILTER (WHERE NOT w.superseded), '{}'),
               coalesce(array_agg(w.id) FILTER (WHERE NOT w.superseded), '{}'),
               count(*) FILTER (WHERE w.superseded), min(w.key) FILTER (WHERE w.superseded)
          INTO keys, key_ids, superseded, foreign_key FROM written w;
        IF foreign_key IS NOT NULL THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(foreign_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        written_keys := written_keys || keys;
        written_ids := written_ids || key_ids;
        pending := ARRAY(SELECT p.key FROM unnest(pending) AS p (key) EXCEPT SELECT w.key FROM unnest(keys) AS w (key));
        EXIT WHEN superseded = 0;
        IF turn = 100 THEN
            RAISE EXCEPTION 'job keys were taken by others, whose jobs began to run, 100 times in a row'
                USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
        END IF;
    END LOOP;
    IF cardinality(pending) > 0 AND cardinality(ignoring) > 0 THEN
        -- They wait, and the upsert has locked them; whoever is not here was kept out by a trigger.
        SELECT staying_keys || coalesce(array_agg(h.key), '{}'), staying_ids || coalesce(array_agg(h.id), '{}')
          INTO staying_keys, staying_ids
          FROM (SELECT j.key, j.id FROM @extschema@.jobs j
                 WHERE j.key = ANY (pending) AND j.key = ANY (ignoring) AND (j.locked_at IS NOT NULL OR j.attempts < j.max_attempts)
                 ORDER BY j.key FOR UPDATE) AS h;
    END IF;
    RETURN QUERY
    SELECT coalesce(s.id, w.id, CASE WHEN i.id = ANY (written_ids) THEN i.id END),
           s.id IS NOT NULL OR w.id IS NOT NULL AND i.key = ANY (ignoring)
                               AND row_number() OVER (PARTITION BY i.key ORDER BY i.n) > 1
      FROM unnest(ids, job_keys) WITH ORDINALITY AS i (id, key, n)
      LEFT JOIN unnest(written_ids, written_keys) AS w (id, key) ON w.key = i.key
      LEFT JOIN unnest(staying_ids, staying_keys) AS s (id, key) ON s.key = i.key
     ORDER BY i.n;
END
$$;
