-- Batches with key modes and actors, in one statement as those of add_jobs: until now they were written row by row, each with its
-- key and its queue, so that two batches, or a batch and a single job, that met the same ones in different orders could deadlock.

-- One job in any of the key's modes. They say what becomes of the job that has the key already:
--
--   replace          one that waits becomes the new job; one that runs goes on without its key. What add_job does.
--   preserve_run_at  the same, but one that waits for its first attempt keeps its time: calls in a row do not put it off for ever.
--   ignore           it stays as it is, waiting or running, and no job is made. Only one that has failed for good is replaced: it
--                    would hold the key until somebody looks. One that waits is kept from starting until the transaction ends, so
--                    that it sees what the transaction wrote. One that runs is not waited for, and may have read before that.
--
-- kept: that nothing was made, and id is the job that stays.
CREATE OR REPLACE FUNCTION @extschema@.enqueue_keyed_job(
    tenant uuid, actor uuid, identifier text, payload json, job_key text, key_mode text, queue_name text,
    run_at timestamptz, max_attempts int, priority int, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    mode text := coalesce(key_mode, 'replace');
    holder @extschema@.jobs;
BEGIN
    kept := false;
    IF mode NOT IN ('replace', 'preserve_run_at', 'ignore') THEN
        RAISE EXCEPTION 'the key mode % is none', quote_literal(mode) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A key mode is replace, preserve_run_at or ignore.';
    END IF;
    IF job_key IS NULL OR mode = 'replace' OR coalesce(identifier, '') = '' THEN
        id := (@extschema@.enqueue_job(
            tenant, actor, identifier, payload, job_key, queue_name, run_at, max_attempts, priority)).id;
        RETURN;
    END IF;
    -- As in enqueue_job: each turn writes the row, makes room for it, or finds the one that stays.
    LOOP
        IF mode = 'ignore' AND current_setting('transaction_isolation') = 'read committed' THEN
            -- Without a lock, which would hold up the end of the attempt until the caller's transaction ends. At a higher isolation
            -- level the statement would see a job run that has ended since the transaction began.
            SELECT j.id INTO id FROM @extschema@.jobs j
             WHERE j.key = job_key AND j.locked_at IS NOT NULL AND j.database_id IS NOT DISTINCT FROM tenant;
            IF FOUND THEN
                kept := true;
                RETURN;
            END IF;
        END IF;
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
        VALUES
            (tenant, actor, identifier, coalesce(payload, '{}'), enqueue_keyed_job.queue_name,
             coalesce(enqueue_keyed_job.run_at, now()), coalesce(enqueue_keyed_job.max_attempts, 25),
             coalesce(enqueue_keyed_job.priority, 0), job_key)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = excluded.actor_id, task_identifier = excluded.task_identifier, payload = excluded.payload,
            queue_name = excluded.queue_name, max_attempts = excluded.max_attempts, priority = excluded.priority,
            run_at = CASE WHEN mode = 'preserve_run_at' AND j.attempts = 0 THEN j.run_at ELSE excluded.run_at END,
            attempts = 0, last_error = NULL, updated_at = clock_timestamp()
        WHERE j.locked_at IS NULL AND j.database_id IS NOT DISTINCT FROM excluded.database_id
          AND (mode <> 'ignore' OR j.attempts >= j.max_attempts)
        RETURNING j.id INTO enqueue_keyed_job.id;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT * INTO holder FROM @extschema@.jobs j WHERE j.key = job_key FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF holder.database_id IS DISTINCT FROM tenant THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        IF mode = 'ignore' AND (holder.locked_at IS NOT NULL OR holder.attempts < holder.max_attempts) THEN
            id := holder.id;
            kept := true;
            RETURN;
        END IF;
        -- The running job goes on, but a newer one takes its place.
        UPDATE @extschema@.jobs j
           SET key = NULL, attempts = j.max_attempts, superseded = true, updated_at = clock_timestamp()
         WHERE j.id = holder.id AND j.locked_at IS NOT NULL;
    END LOOP;
END
$$;

-- As in V8, with key modes and actors. A key that is given twice is as one call after the other would leave it: the last values
-- under the first id, with the first time in mode preserve_run_at; in mode ignore the first.
DROP FUNCTION @extschema@.write_jobs(
    uuid, uuid, text[], json[], text[], text[], timestamptz[], int[], int[], uuid[]);
CREATE FUNCTION @extschema@.write_jobs(
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
    keyless boolean := true;
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
    IF cardinality(pending) = 0 THEN
        RETURN QUERY
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        SELECT coalesce(i.db_id, tenant), coalesce(i.actor_id, actor), i.identifier, coalesce(i.payload, '{}'), i.queue_name,
               coalesce(i.run_at, now()), coalesce(i.attempt_limit, 25), coalesce(i.priority, 0)
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
    ids := ARRAY(SELECT nextval('@extschema@.jobs_id_seq') FROM generate_series(1, cardinality(identifiers)));
    LOOP
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
             WHERE i.key = ANY (pending) OR i.key IS NULL AND keyless
            WINDOW same AS (PARTITION BY i.key, CASE WHEN i.key IS NULL THEN i.n END)),
        written AS (
            INSERT INTO @extschema@.jobs AS j
                (id, database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
            SELECT g.first_id, coalesce(g.db_id, tenant), coalesce(g.actor_id, actor), g.identifier, coalesce(g.payload, '{}'),
                   g.queue_name, coalesce(CASE WHEN g.key = ANY (preserving) THEN g.first_run_at ELSE g.run_at END, now()),
                   coalesce(g.attempt_limit, 25), coalesce(g.priority, 0), g.key
              FROM given g WHERE g.n = g.chosen ORDER BY g.key, g.n
            ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
                actor_id = excluded.actor_id, task_identifier = excluded.task_identifier, payload = excluded.payload,
                queue_name = excluded.queue_name, max_attempts = excluded.max_attempts, priority = excluded.priority,
                run_at = CASE WHEN excluded.key = ANY (preserving) AND j.attempts = 0 THEN j.run_at ELSE excluded.run_at END,
                attempts = 0, last_error = NULL, updated_at = clock_timestamp()
            WHERE j.locked_at IS NULL AND j.database_id IS NOT DISTINCT FROM excluded.database_id
              AND (j.attempts >= j.max_attempts OR NOT excluded.key = ANY (ignoring))
            RETURNING j.id, j.key)
        SELECT coalesce(array_agg(w.key), '{}'), coalesce(array_agg(w.id), '{}') INTO keys, key_ids
          FROM written w WHERE w.key IS NOT NULL;
        keyless := false;
        written_keys := written_keys || keys;
        written_ids := written_ids || key_ids;
        pending := ARRAY(SELECT p.key FROM unnest(pending) AS p (key) EXCEPT SELECT w.key FROM unnest(keys) AS w (key));
        EXIT WHEN cardinality(pending) = 0;
        PERFORM FROM @extschema@.jobs j WHERE j.key = ANY (pending) ORDER BY j.key FOR UPDATE;
        IF EXISTS (
            SELECT FROM @extschema@.jobs j JOIN unnest(job_keys, db_ids) AS i (key, db_id) ON i.key = j.key
             WHERE j.key = ANY (pending) AND j.database_id IS DISTINCT FROM coalesce(i.db_id, tenant)
        ) THEN
            RAISE EXCEPTION 'a job key is in use under another database_id' USING ERRCODE = 'unique_violation';
        END IF;
        IF cardinality(ignoring) > 0 THEN
            SELECT coalesce(array_agg(j.key), '{}'), coalesce(array_agg(j.id), '{}') INTO keys, key_ids
              FROM @extschema@.jobs j
             WHERE j.key = ANY (pending) AND j.key = ANY (ignoring) AND (j.locked_at IS NOT NULL OR j.attempts < j.max_attempts);
            staying_keys := staying_keys || keys;
            staying_ids := staying_ids || key_ids;
            pending := ARRAY(SELECT p.key FROM unnest(pending) AS p (key) EXCEPT SELECT w.key FROM unnest(keys) AS w (key));
            EXIT WHEN cardinality(pending) = 0;
        END IF;
        -- Running jobs go on, but newer ones take their places.
        UPDATE @extschema@.jobs j
           SET key = NULL, attempts = j.max_attempts, superseded = true, updated_at = clock_timestamp()
         WHERE j.key = ANY (pending) AND j.locked_at IS NOT NULL;
    END LOOP;
    RETURN QUERY
    SELECT coalesce(s.id, w.id, i.id),
           s.id IS NOT NULL OR i.key IS NOT NULL AND i.key = ANY (ignoring) AND row_number() OVER (PARTITION BY i.key ORDER BY i.n) > 1
      FROM unnest(ids, job_keys) WITH ORDINALITY AS i (id, key, n)
      LEFT JOIN unnest(written_ids, written_keys) AS w (id, key) ON w.key = i.key
      LEFT JOIN unnest(staying_ids, staying_keys) AS s (id, key) ON s.key = i.key
     ORDER BY i.n;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.write_jobs(
    uuid, uuid, text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[]) FROM PUBLIC;

-- As in V8, with key modes and actors.
DROP FUNCTION @extschema@.enqueue_jobs(
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint);
CREATE FUNCTION @extschema@.enqueue_jobs(
    identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[], actor_ids uuid[], first_position bigint
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql AS $$
DECLARE
    -- What is given wins over the claim, even over a broken one.
    actor uuid := CASE WHEN actor_ids IS NULL OR array_position(actor_ids, NULL) IS NOT NULL
                       THEN @extschema@.claim_uuid('jwt.claims.user_id') END;
    tenant uuid := CASE WHEN db_ids IS NULL OR array_position(db_ids, NULL) IS NOT NULL
                        THEN @extschema@.claim_uuid('jwt.claims.database_id') END;
    failed bigint;
    message text;
    details text;
    advice text;
    state text;
    constraint_at text;
    table_at text;
BEGIN
    RETURN QUERY SELECT w.id, w.kept FROM @extschema@.write_jobs(
        tenant, actor, identifiers, payloads, job_keys, key_modes, queue_names, run_ats, attempt_limits, priorities, db_ids,
        actor_ids) AS w;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    BEGIN
        FOR i IN 1 .. cardinality(identifiers) LOOP
            failed := i;
            PERFORM @extschema@.enqueue_keyed_job(
                coalesce(db_ids[i], tenant), coalesce(actor_ids[i], actor), identifiers[i], payloads[i], job_keys[i],
                key_modes[i], queue_names[i], run_ats[i], attempt_limits[i], priorities[i]);
        END LOOP;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, details = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT,
            state = RETURNED_SQLSTATE, constraint_at = CONSTRAINT_NAME, table_at = TABLE_NAME;
        RAISE EXCEPTION USING MESSAGE = format('job %s: %s', failed + first_position - 1, message), ERRCODE = state,
            DETAIL = details, CONSTRAINT = constraint_at, TABLE = table_at,
            HINT = coalesce(nullif(advice, ''), 'Nothing of the batch was enqueued.');
    END;
    -- None is refused any more: what the batch ran into is the answer.
    RAISE;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_jobs(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[], bigint) FROM PUBLIC;

CREATE OR REPLACE FUNCTION @extschema@.add_jobs_for_any_tenant(
    identifiers text[], payloads json[], job_keys text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[], first_position bigint
) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.require_element_per_job(
        identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids);
    IF cardinality(identifiers) > 0 THEN
        RETURN QUERY SELECT e.id FROM @extschema@.enqueue_jobs(
            identifiers, payloads, job_keys, NULL, queue_names, run_ats, attempt_limits, priorities, db_ids, NULL,
            coalesce(first_position, 1)) AS e;
    END IF;
END
$$;
CREATE OR REPLACE FUNCTION @extschema@.add_jobs_for_own_tenant(
    identifiers text[], payloads json[], job_keys text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], first_position bigint
) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.require_element_per_job(
        identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, NULL);
    IF cardinality(identifiers) > 0 THEN
        RETURN QUERY SELECT e.id FROM @extschema@.enqueue_jobs(
            identifiers, payloads, job_keys, NULL, queue_names, run_ats, attempt_limits, priorities, NULL, NULL,
            coalesce(first_position, 1)) AS e;
    END IF;
END
$$;

-- As enqueue, for many: PostgreSQL decides between these two whether the caller may name tenants and actors.
CREATE FUNCTION @extschema@.enqueue_all_for_own_tenant(
    identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], first_position bigint
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT e.id, e.kept FROM @extschema@.enqueue_jobs(
        identifiers, payloads, job_keys, key_modes, queue_names, run_ats, attempt_limits, priorities, NULL, NULL,
        first_position) AS e;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_all_for_own_tenant(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], bigint) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.enqueue_all_for_own_tenant(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], bigint) IS
    'What enqueue_all calls when it names neither tenants nor actors but those in jwt.claims.database_id and jwt.claims.user_id.';

CREATE FUNCTION @extschema@.enqueue_all_for_any_tenant(
    identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[], actor_ids uuid[], first_position bigint
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT e.id, e.kept FROM @extschema@.enqueue_jobs(
        identifiers, payloads, job_keys, key_modes, queue_names, run_ats, attempt_limits, priorities, db_ids, actor_ids,
        first_position) AS e;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_all_for_any_tenant(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[], bigint) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.enqueue_all_for_any_tenant(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[], bigint) IS
    'What enqueue_all calls when a tenant or an actor is not the caller''s own: EXECUTE is the right to name any.';

CREATE OR REPLACE FUNCTION @extschema@.enqueue_all(
    identifiers text[], payloads json[], job_keys text[] DEFAULT NULL, key_modes text[] DEFAULT NULL,
    queue_names text[] DEFAULT NULL, run_ats timestamptz[] DEFAULT NULL, max_attempts int[] DEFAULT NULL,
    priorities int[] DEFAULT NULL, db_ids uuid[] DEFAULT NULL, actor_ids uuid[] DEFAULT NULL,
    first_position bigint DEFAULT 1
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs int := coalesce(cardinality(identifiers), 0);
    tenant uuid := @extschema@.own_uuid('jwt.claims.database_id');
    actor uuid := @extschema@.own_uuid('jwt.claims.user_id');
    odd text;
    foreign_one bigint;
    message text;
BEGIN
    SELECT format('%s has %s elements for %s identifiers', a.name, a.elements, jobs) INTO odd
      FROM (VALUES ('payloads', cardinality(payloads)), ('job_keys', cardinality(job_keys)),
                   ('key_modes', cardinality(key_modes)), ('queue_names', cardinality(queue_names)),
                   ('run_ats', cardinality(run_ats)), ('max_attempts', cardinality(max_attempts)),
                   ('priorities', cardinality(priorities)), ('db_ids', cardinality(db_ids)),
                   ('actor_ids', cardinality(actor_ids))) AS a (name, elements)
     WHERE a.elements <> jobs LIMIT 1;
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION '%', odd USING ERRCODE = 'array_subscript_error',
            HINT = 'Give one element a job, NULL for the default, or NULL for the whole array.';
    END IF;
    IF jobs = 0 THEN
        RETURN;
    END IF;
    foreign_one := (SELECT i.n FROM unnest(db_ids, actor_ids) WITH ORDINALITY AS i (db_id, actor_id, n)
                     WHERE i.db_id IS NOT NULL AND i.db_id IS DISTINCT FROM tenant
                        OR i.actor_id IS NOT NULL AND i.actor_id IS DISTINCT FROM actor
                     ORDER BY i.n LIMIT 1);
    IF foreign_one IS NOT NULL THEN
        RETURN QUERY SELECT e.id, e.kept FROM @extschema@.enqueue_all_for_any_tenant(
            identifiers, payloads, job_keys, key_modes, queue_names, run_ats, max_attempts, priorities, db_ids, actor_ids,
            coalesce(first_position, 1)) AS e;
    ELSE
        RETURN QUERY SELECT e.id, e.kept FROM @extschema@.enqueue_all_for_own_tenant(
            identifiers, payloads, job_keys, key_modes, queue_names, run_ats, max_attempts, priorities,
            coalesce(first_position, 1)) AS e;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    IF foreign_one IS NULL THEN
        RAISE;
    END IF;
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
    RAISE EXCEPTION 'job %: %', foreign_one + coalesce(first_position, 1) - 1, message USING ERRCODE = 'insufficient_privilege';
END
$$;

-- Rights that were given by hand keep their meaning.
DO $rights$
DECLARE
    was record;
BEGIN
    FOR was IN
        SELECT f.needed, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
          FROM (VALUES
            ('enqueue_for_own_tenant(text,json,text,text,text,timestamptz,int,int)',
             'enqueue_all_for_own_tenant(text[],json[],text[],text[],text[],timestamptz[],int[],int[],bigint)'),
            ('enqueue_for_any_tenant(uuid,uuid,text,json,text,text,text,timestamptz,int,int)',
             'enqueue_all_for_any_tenant(text[],json[],text[],text[],text[],timestamptz[],int[],int[],uuid[],uuid[],bigint)')
          ) AS f (called, needed)
          JOIN pg_proc p ON p.oid = ('@extschema@.' || f.called)::regprocedure
         CROSS JOIN LATERAL aclexplode(p.proacl) AS a
         WHERE a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.%s TO %s', was.needed, was.grantee);
    END LOOP;
END
$rights$;
