-- Enqueue at the price of an insert: add_job without a detour for the plain case, and add_jobs for many at once.

-- The forms below with typed arguments write a job without a key themselves: one function call, one INSERT. Claims are
-- looked at by what they cost: a setting that is not there, or empty, never gets as far as claim_uuid.
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    IF job_key IS NULL AND identifier <> '' THEN
        INSERT INTO @extschema@.jobs
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        VALUES
            (CASE WHEN current_setting('jwt.claims.database_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.database_id') END,
             CASE WHEN current_setting('jwt.claims.user_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.user_id') END,
             identifier, coalesce(payload, '{}'), queue_name, coalesce(run_at, now()), coalesce(max_attempts, 25),
             coalesce(priority, 0))
        RETURNING * INTO job;
        RETURN job;
    END IF;
    RETURN @extschema@.enqueue_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.add_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    IF job_key IS NULL AND identifier <> '' THEN
        INSERT INTO @extschema@.jobs
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        VALUES
            (CASE WHEN db_id IS NOT NULL THEN db_id
                  WHEN current_setting('jwt.claims.database_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.database_id') END,
             CASE WHEN current_setting('jwt.claims.user_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.user_id') END,
             identifier, coalesce(payload, '{}'), queue_name, coalesce(run_at, now()), coalesce(max_attempts, 25),
             coalesce(priority, 0))
        RETURNING * INTO job;
        RETURN job;
    END IF;
    RETURN @extschema@.enqueue_job(
        coalesce(db_id, @extschema@.claim_uuid('jwt.claims.database_id')), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

-- The forms for untyped literals go on to enqueue_job, which costs one call more.
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload text, job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- No task of fewer than 32 characters is a uuid.
    IF length(identifier) >= 32 THEN
        PERFORM @extschema@.refuse_untyped_db_id(identifier);
    END IF;
    RETURN @extschema@.enqueue_job(
        CASE WHEN current_setting('jwt.claims.database_id', true) <> ''
             THEN @extschema@.claim_uuid('jwt.claims.database_id') END,
        CASE WHEN current_setting('jwt.claims.user_id', true) <> ''
             THEN @extschema@.claim_uuid('jwt.claims.user_id') END,
        identifier, payload::json, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

-- Many jobs as arrays; the i-th element of each array belongs to the i-th job, an array that is NULL gives add_job's
-- default. Returns the ids in the order of the arrays.
--
-- Without keys this is one INSERT … SELECT. With keys it is one upsert, of which those are repeated that found another
-- session's, or a running, job in their way. Ids are drawn beforehand and rows are written in the order of their keys: the
-- jobs of a queue keep the order of the batch, and two batches with the same keys do not deadlock.
--
-- Planned anew for every batch: a plan for ten rows takes the square of a batch's size.
CREATE FUNCTION @extschema@.write_jobs(
    tenant uuid, actor uuid, identifiers text[], payloads json[], job_keys text[], queue_names text[],
    run_ats timestamptz[], attempt_limits int[], priorities int[], db_ids uuid[]
) RETURNS SETOF bigint
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    ids bigint[];
    pending text[] := ARRAY(SELECT DISTINCT k.key FROM unnest(job_keys) AS k (key) WHERE k.key IS NOT NULL);
    keyless boolean := true;
    keys text[];
    key_ids bigint[];
    written_keys text[] := '{}';
    written_ids bigint[] := '{}';
BEGIN
    IF array_position(identifiers, '') IS NOT NULL OR array_position(identifiers, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF cardinality(pending) = 0 THEN
        RETURN QUERY
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        SELECT coalesce(i.db_id, tenant), actor, i.identifier, coalesce(i.payload, '{}'), i.queue_name,
               coalesce(i.run_at, now()), coalesce(i.attempt_limit, 25), coalesce(i.priority, 0)
          FROM unnest(identifiers, payloads, queue_names, run_ats, attempt_limits, priorities, db_ids)
               AS i (identifier, payload, queue_name, run_at, attempt_limit, priority, db_id)
        RETURNING j.id;
        RETURN;
    END IF;

    -- Within the batch, too, a key belongs to one tenant.
    IF EXISTS (SELECT FROM unnest(job_keys, db_ids) AS i (key, db_id) WHERE i.key IS NOT NULL GROUP BY i.key
               HAVING count(DISTINCT coalesce(i.db_id, tenant)) + bool_or(coalesce(i.db_id, tenant) IS NULL)::int > 1)
    THEN
        RAISE EXCEPTION 'a job key is given under two database ids' USING ERRCODE = 'unique_violation';
    END IF;
    ids := ARRAY(SELECT nextval('@extschema@.jobs_id_seq') FROM generate_series(1, cardinality(identifiers)));
    LOOP
        -- A key that is given twice: the last values under the first id, as one call after the other would leave it.
        WITH given AS (
            SELECT i.*, min(i.id) OVER same AS first_id, max(i.n) OVER same AS last_n
              FROM unnest(identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids, ids)
                   WITH ORDINALITY
                   AS i (identifier, payload, key, queue_name, run_at, attempt_limit, priority, db_id, id, n)
             WHERE i.key = ANY (pending) OR i.key IS NULL AND keyless
            WINDOW same AS (PARTITION BY i.key, CASE WHEN i.key IS NULL THEN i.n END)),
        written AS (
            INSERT INTO @extschema@.jobs AS j
                (id, database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
            SELECT g.first_id, coalesce(g.db_id, tenant), actor, g.identifier, coalesce(g.payload, '{}'), g.queue_name,
                   coalesce(g.run_at, now()), coalesce(g.attempt_limit, 25), coalesce(g.priority, 0), g.key
              FROM given g WHERE g.n = g.last_n ORDER BY g.key, g.n
            ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
                actor_id = excluded.actor_id, task_identifier = excluded.task_identifier, payload = excluded.payload,
                queue_name = excluded.queue_name, run_at = excluded.run_at, max_attempts = excluded.max_attempts,
                priority = excluded.priority, attempts = 0, last_error = NULL, updated_at = clock_timestamp()
            WHERE j.locked_at IS NULL AND j.database_id IS NOT DISTINCT FROM excluded.database_id
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
        -- Running jobs go on, but newer ones take their places.
        UPDATE @extschema@.jobs j
           SET key = NULL, attempts = j.max_attempts, superseded = true, updated_at = clock_timestamp()
         WHERE j.key = ANY (pending) AND j.locked_at IS NOT NULL;
    END LOOP;
    RETURN QUERY
    SELECT coalesce(w.id, i.id)
      FROM unnest(ids, job_keys) WITH ORDINALITY AS i (id, key, n)
      LEFT JOIN unnest(written_ids, written_keys) AS w (id, key) ON w.key = i.key
     ORDER BY i.n;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.write_jobs(
    uuid, uuid, text[], json[], text[], text[], timestamptz[], int[], int[], uuid[]) FROM PUBLIC;

-- write_jobs with the transaction's claims, and with errors that say which job is at fault. The batch is checked by
-- nothing but the table; only when it is refused are its jobs tried one after the other, until one is refused again.
CREATE FUNCTION @extschema@.enqueue_jobs(
    identifiers text[], payloads json[], job_keys text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[], first_position bigint
) RETURNS SETOF bigint
LANGUAGE plpgsql AS $$
DECLARE
    actor uuid := @extschema@.claim_uuid('jwt.claims.user_id');
    -- A db_id wins over the claim, even over a broken one.
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
    RETURN QUERY SELECT w.id FROM @extschema@.write_jobs(
        tenant, actor, identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids) AS w (id);
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    BEGIN
        FOR i IN 1 .. cardinality(identifiers) LOOP
            failed := i;
            PERFORM @extschema@.enqueue_job(
                coalesce(db_ids[i], tenant), actor, identifiers[i], payloads[i], job_keys[i], queue_names[i], run_ats[i],
                attempt_limits[i], priorities[i]);
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
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint) FROM PUBLIC;

-- For libraries. The payloads have no default: a call with one argument is the other form's.
CREATE FUNCTION @extschema@.add_jobs(
    identifiers text[], payloads json[], job_keys text[] DEFAULT NULL, queue_names text[] DEFAULT NULL,
    run_ats timestamptz[] DEFAULT NULL, max_attempts int[] DEFAULT NULL, priorities int[] DEFAULT NULL,
    db_ids uuid[] DEFAULT NULL, first_position bigint DEFAULT 1
) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs int := cardinality(identifiers);
    odd text;
BEGIN
    SELECT format('%s has %s elements for %s identifiers', a.name, a.elements, coalesce(jobs, 0)) INTO odd
      FROM (VALUES ('payloads', cardinality(payloads)), ('job_keys', cardinality(job_keys)),
                   ('queue_names', cardinality(queue_names)), ('run_ats', cardinality(run_ats)),
                   ('max_attempts', cardinality(max_attempts)), ('priorities', cardinality(priorities)),
                   ('db_ids', cardinality(db_ids))) AS a (name, elements)
     WHERE a.elements <> coalesce(jobs, 0) LIMIT 1;
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION '%', odd USING ERRCODE = 'array_subscript_error',
            HINT = 'Give one element a job, NULL for the default, or NULL for the whole array.';
    END IF;
    IF jobs > 0 THEN
        RETURN QUERY SELECT e.id FROM @extschema@.enqueue_jobs(
            identifiers, payloads, job_keys, queue_names, run_ats, max_attempts, priorities, db_ids,
            coalesce(first_position, 1)) AS e (id);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_jobs(
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_jobs(
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint) IS
    'Enqueues many jobs given as arrays; returns their ids in that order. first_position numbers the first one in errors.';

-- For people, and for languages whose arrays are no pleasure. The only form with one argument, so that an untyped
-- literal is JSON. json, not jsonb: a payload arrives as it was written.
CREATE FUNCTION @extschema@.add_jobs(jobs json) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] :=
        '{identifier,payload,job_key,queue_name,run_at,max_attempts,priority,db_id}';
    elements json[];
    position bigint;
    name text;
    message text;
    state text;
    identifiers text[];
    payloads json[];
    job_keys text[];
    queue_names text[];
    run_ats timestamptz[];
    attempt_limits int[];
    priorities int[];
    db_ids uuid[];
BEGIN
    IF json_typeof(jobs) <> 'array' THEN
        RAISE EXCEPTION 'jobs is no JSON array but of type %', json_typeof(jobs) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give an array of objects: [{"identifier": "email:send_email", "payload": {…}}, …].';
    END IF;
    elements := ARRAY(SELECT e.value FROM json_array_elements(jobs) AS e (value));
    SELECT e.n INTO position FROM unnest(elements) WITH ORDINALITY AS e (value, n)
     WHERE json_typeof(e.value) <> 'object' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job %: not an object but of type %', position, json_typeof(elements[position])
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT e.n, k.key INTO position, name
      FROM unnest(elements) WITH ORDINALITY AS e (value, n) CROSS JOIN LATERAL json_object_keys(e.value) AS k (key)
     WHERE k.key <> ALL (known) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job %: unknown key %', position, to_json(name) USING ERRCODE = 'invalid_parameter_value',
            HINT = format('A job has these keys: %s.', array_to_string(known, ', '));
    END IF;
    BEGIN
        SELECT array_agg(r.identifier), array_agg(e.value -> 'payload'), array_agg(r.job_key), array_agg(r.queue_name),
               array_agg(r.run_at), array_agg(r.max_attempts), array_agg(r.priority), array_agg(r.db_id)
          INTO identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids
          FROM unnest(elements) AS e (value)
         CROSS JOIN LATERAL json_to_record(e.value) AS r (
               identifier text, job_key text, queue_name text, run_at timestamptz, max_attempts int, priority int,
               db_id uuid);
    EXCEPTION WHEN data_exception THEN
        BEGIN
            FOR i IN 1 .. cardinality(elements) LOOP
                position := i;
                PERFORM FROM json_to_record(elements[i]) AS r (
                    identifier text, job_key text, queue_name text, run_at timestamptz, max_attempts int, priority int,
                    db_id uuid);
            END LOOP;
        EXCEPTION WHEN data_exception THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
            RAISE EXCEPTION USING MESSAGE = format('job %s: %s', position, message), ERRCODE = state;
        END;
        RAISE;
    END;
    IF cardinality(elements) > 0 THEN
        RETURN QUERY SELECT e.id FROM @extschema@.enqueue_jobs(
            identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids, 1) AS e (id);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_jobs(json) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_jobs(json) IS
    'Enqueues many jobs, [{"identifier": …, "payload": …, "job_key", "queue_name", "run_at", "max_attempts", "priority", "db_id": …}, …]; returns their ids in that order.';
