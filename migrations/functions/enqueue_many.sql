-- Enqueue: many jobs in one statement.

-- The numbers from 1 to total that are not in positions.
CREATE OR REPLACE FUNCTION @internal@.positions_left(total int, positions bigint[]) RETURNS int[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cardinality(positions) = total THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT n FROM generate_series(1, total) n WHERE n <> ALL (coalesce(positions, '{}')));
END
$$;

-- Many jobs as arrays; the i-th element of each array belongs to the i-th job, an array that is NULL gives add_job's
-- default. Returns the ids in the order of the arrays.
--
-- Without keys this is one INSERT ... SELECT. With keys it is one upsert, of which those are repeated that found a
-- running job in their way. Ids are drawn beforehand and rows are written in the order of their keys: the jobs of a
-- queue keep the order of the batch, and two batches with the same keys do not deadlock.
--
-- A job that a trigger of the application's kept out has an id of NULL. Where the table has such a trigger, ids are
-- drawn beforehand without keys, too, so that it can be said which one was kept out. A trigger may also give rows ids
-- of its own: those of jobs without a key are told apart by their order, as long as none was kept out.
--
-- Planned anew for every batch: a plan for ten rows takes the square of a batch's size.
CREATE OR REPLACE FUNCTION @internal@.write_jobs(
    tenant uuid, actor uuid, identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[],
    run_ats timestamptz[], attempt_limits int[], priorities int[], db_ids uuid[], actor_ids uuid[]
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    ids bigint[];
    pending text[] := ARRAY(SELECT DISTINCT k.key FROM unnest(job_keys) AS k (key) WHERE k.key IS NOT NULL);
    -- The plans are custom ones, in which = ANY of an array is a look into a hash.
    preserving text[] := ARRAY(SELECT DISTINCT k.key FROM unnest(job_keys, key_modes) AS k (key, mode)
                                WHERE k.mode = 'preserve_run_at' AND k.key IS NOT NULL);
    ignoring text[] := ARRAY(SELECT DISTINCT k.key FROM unnest(job_keys, key_modes) AS k (key, mode)
                              WHERE k.mode = 'ignore' AND k.key IS NOT NULL);
    unknown text := (SELECT m.mode FROM unnest(key_modes) AS m (mode)
                      WHERE m.mode NOT IN ('replace', 'preserve_run_at', 'ignore') LIMIT 1);
    foreign_key text;
    superseded bigint;
    keys text[];
    key_ids bigint[];
    written_keys text[] := '{}';
    written_ids bigint[] := '{}';
    staying_keys text[] := '{}';
    staying_ids bigint[] := '{}';
    -- Of the jobs without a key.
    unkeyed bigint[];
    unkeyed_whole boolean;
    entity uuid := @claim_setting('jwt.claims.entity_id')@;
    organization uuid := @claim_setting('jwt.claims.organization_id')@;
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
            (database_id, actor_id, entity_id, organization_id, task_identifier, payload, queue_name, run_at,
             max_attempts, priority)
        SELECT coalesce(i.db_id, tenant), coalesce(i.actor_id, actor), entity, organization, i.identifier,
               coalesce(i.payload, '{}'), nullif(i.queue_name, ''), coalesce(i.run_at, now()),
               coalesce(i.attempt_limit, 25), coalesce(i.priority, 0)
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
            RETURN QUERY SELECT (e.job).id, e.kept FROM @internal@.enqueue_job(
                coalesce(db_ids[n], tenant), coalesce(actor_ids[n], actor), identifiers[n], payloads[n], job_keys[n],
                queue_names[n], run_ats[n], attempt_limits[n], priorities[n], key_modes[n]) AS e;
        END LOOP;
        RETURN;
    END IF;
    PERFORM @internal@.refuse_large_payload('jobs', max(octet_length(p.payload::text)))
       FROM unnest(payloads) AS p (payload) WHERE pg_column_size(p.payload) > 65536 HAVING count(*) > 0;
    ids := ARRAY(SELECT nextval('@extschema@.jobs_id_seq') FROM generate_series(1, cardinality(identifiers)));
    FOR turn IN 1 .. 100 LOOP
        IF cardinality(ignoring) > 0 AND current_setting('transaction_isolation') = 'read committed' THEN
            -- What runs stays, without a lock, as in enqueue_job.
            SELECT coalesce(array_agg(h.key), '{}'), coalesce(array_agg(h.id), '{}') INTO keys, key_ids
              FROM (SELECT DISTINCT j.key, j.id
                      FROM @extschema@.jobs j JOIN unnest(job_keys, db_ids) AS i (key, db_id) ON i.key = j.key
                     WHERE j.key = ANY (pending) AND j.key = ANY (ignoring) AND j.locked_at IS NOT NULL
                       AND j.database_id IS NOT DISTINCT FROM coalesce(i.db_id, tenant)) AS h;
            staying_keys := staying_keys || keys;
            staying_ids := staying_ids || key_ids;
            pending := ARRAY(
                SELECT p.key FROM unnest(pending) AS p (key) EXCEPT SELECT w.key FROM unnest(keys) AS w (key));
        END IF;
        WITH given AS (
            SELECT i.*, min(i.id) OVER same AS first_id, first_value(i.run_at) OVER (same ORDER BY i.n) AS first_run_at,
                   CASE WHEN i.key = ANY (ignoring) THEN min(i.n) OVER same ELSE max(i.n) OVER same END AS chosen
              FROM unnest(identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids,
                          actor_ids, ids) WITH ORDINALITY
                   AS i (identifier, payload, key, queue_name, run_at, attempt_limit, priority, db_id, actor_id, id, n)
             WHERE i.key = ANY (pending) OR i.key IS NULL AND turn = 1
            WINDOW same AS (PARTITION BY i.key, CASE WHEN i.key IS NULL THEN i.n END)),
        written AS (
            INSERT INTO @extschema@.jobs AS j
                (id, database_id, actor_id, entity_id, organization_id, task_identifier, payload, queue_name, run_at,
                 max_attempts, priority, key)
            SELECT g.first_id, coalesce(g.db_id, tenant), coalesce(g.actor_id, actor), entity, organization,
                   g.identifier, coalesce(g.payload, '{}'), nullif(g.queue_name, ''),
                   coalesce(CASE WHEN g.key = ANY (preserving) THEN g.first_run_at ELSE g.run_at END, now()),
                   coalesce(g.attempt_limit, 25), coalesce(g.priority, 0), g.key
              FROM given g WHERE g.n = g.chosen ORDER BY g.key, g.n
            @or_replace(CASE WHEN excluded.key = ANY (preserving) THEN 'preserve_run_at'
                             WHEN excluded.key = ANY (ignoring) THEN 'ignore' ELSE 'replace' END)@
            RETURNING j.id, j.key, j.superseded)
        SELECT coalesce(array_agg(w.key) FILTER (WHERE NOT w.superseded), '{}'),
               coalesce(array_agg(w.id) FILTER (WHERE NOT w.superseded), '{}'),
               count(*) FILTER (WHERE w.superseded), min(w.key) FILTER (WHERE w.superseded),
               CASE turn WHEN 1 THEN array_agg(w.id) FILTER (WHERE NOT w.superseded AND w.key IS NULL) ELSE unkeyed END
          INTO keys, key_ids, superseded, foreign_key, unkeyed FROM written w;
        IF foreign_key IS NOT NULL THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(foreign_key)
                USING ERRCODE = 'unique_violation',
                      HINT = 'Keys are shared by all tenants: put the tenant into the key.';
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
                 WHERE j.key = ANY (pending) AND j.key = ANY (ignoring)
                   AND (j.locked_at IS NOT NULL OR j.attempts < j.max_attempts)
                 ORDER BY j.key FOR UPDATE) AS h;
    END IF;
    unkeyed_whole :=
        cardinality(unkeyed) = (SELECT count(*) FROM unnest(ids, job_keys) AS i (id, key) WHERE i.key IS NULL);
    RETURN QUERY
    SELECT coalesce(s.id, w.id,
                    CASE WHEN i.key IS NOT NULL THEN NULL
                         WHEN unkeyed_whole THEN unkeyed[row_number() OVER (PARTITION BY i.key ORDER BY i.n)]
                         WHEN i.id = ANY (unkeyed) THEN i.id END),
           s.id IS NOT NULL OR w.id IS NOT NULL AND i.key = ANY (ignoring)
                               AND row_number() OVER (PARTITION BY i.key ORDER BY i.n) > 1
      FROM unnest(ids, job_keys) WITH ORDINALITY AS i (id, key, n)
      LEFT JOIN unnest(written_ids, written_keys) AS w (id, key) ON w.key = i.key
      LEFT JOIN unnest(staying_ids, staying_keys) AS s (id, key) ON s.key = i.key
     ORDER BY i.n;
END
$$;

CREATE OR REPLACE FUNCTION @internal@.enqueue_jobs(
    identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[], actor_ids uuid[], first_position bigint
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql AS $$
DECLARE
    -- What is given wins over the claim, even over a broken one.
    actor uuid := CASE WHEN actor_ids IS NULL OR array_position(actor_ids, NULL) IS NOT NULL
                       THEN @internal@.claim_uuid('jwt.claims.user_id') END;
    tenant uuid := CASE WHEN db_ids IS NULL OR array_position(db_ids, NULL) IS NOT NULL
                        THEN @internal@.claim_uuid('jwt.claims.database_id') END;
    failed bigint;
    message text;
    details text;
    advice text;
    state text;
    constraint_at text;
    table_at text;
BEGIN
    RETURN QUERY SELECT w.id, w.kept FROM @internal@.write_jobs(
        tenant, actor, identifiers, payloads, job_keys, key_modes, queue_names, run_ats, attempt_limits, priorities,
        db_ids, actor_ids) AS w;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    BEGIN
        FOR i IN 1 .. cardinality(identifiers) LOOP
            failed := i;
            PERFORM @internal@.enqueue_job(
                coalesce(db_ids[i], tenant), coalesce(actor_ids[i], actor), identifiers[i], payloads[i], job_keys[i],
                queue_names[i], run_ats[i], attempt_limits[i], priorities[i], key_modes[i]);
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

-- For libraries. The payloads have no default: a call with one argument is the other form's. One db_id of another
-- tenant makes it a batch for any tenant. It is enqueue_all without key modes and actors, and does not call that, since
-- every function that the rows come through costs a large batch 3 %.
CREATE OR REPLACE FUNCTION @extschema@.add_jobs(
    identifiers text[], payloads json[], job_keys text[] DEFAULT NULL, queue_names text[] DEFAULT NULL,
    run_ats timestamptz[] DEFAULT NULL, max_attempts int[] DEFAULT NULL, priorities int[] DEFAULT NULL,
    db_ids uuid[] DEFAULT NULL, first_position bigint DEFAULT 1
) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key_modes text[];
    actor_ids uuid[];
    own uuid := @own_uuid('jwt.claims.database_id')@;
    odd text;
BEGIN
    @element_per_job()@
    IF cardinality(identifiers) = 0 OR identifiers IS NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM unnest(db_ids) AS d (id) WHERE d.id IS NOT NULL AND d.id IS DISTINCT FROM own) THEN
        RETURN QUERY SELECT a.id FROM @extschema@.enqueue_all_for_any_tenant(
            identifiers, payloads, job_keys, key_modes, queue_names, run_ats, max_attempts, priorities, db_ids,
            actor_ids, coalesce(first_position, 1)) AS a;
    ELSE
        RETURN QUERY SELECT a.id FROM @extschema@.enqueue_all_for_own_tenant(
            identifiers, payloads, job_keys, key_modes, queue_names, run_ats, max_attempts, priorities,
            coalesce(first_position, 1)) AS a;
    END IF;
END
$$;

-- For people, and for languages whose arrays are no pleasure. The only form with one argument, so that an untyped
-- literal is JSON. json, not jsonb: a payload arrives as it was written.
--
-- What add_job takes in a payload is taken here, too. To read an object's other values, PostgreSQL turns all its
-- escapes into characters, and fails at those which stand for none ("\u0000", half a surrogate pair). So those are
-- hidden meanwhile.
CREATE OR REPLACE FUNCTION @extschema@.add_jobs(jobs json) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] :=
        '{identifier,payload,job_key,queue_name,run_at,max_attempts,priority,db_id}';
    elements json[];
    -- What the elements are read from without their payloads; the same, where nothing is hidden.
    readable json[];
    marks text[];
    hidden text;
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
        RAISE EXCEPTION 'jobs is no JSON array but of type %', json_typeof(jobs)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an array of objects: [{"identifier": "email:send_email", "payload": {…}}, …].';
    END IF;
    IF jobs::text ~ '\\(u0000|u[dD][89a-fA-F])' THEN
        -- Two characters that the text does not have stand for a backslash of such an escape, and for two that are one.
        marks := ARRAY(SELECT m.mark FROM (SELECT chr(n) AS mark FROM generate_series(57344, 63743) AS n) m
                        WHERE strpos(jobs::text, m.mark) = 0 LIMIT 2);
        IF cardinality(marks) < 2 THEN
            RAISE EXCEPTION 'the text uses all characters from U+E000 to U+F8FF, '
                            'and has escapes that stand for no character'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Enqueue these jobs in several calls.';
        END IF;
        hidden := regexp_replace(
            replace(jobs::text, '\\', marks[2]), '\\(u0000|u[dD][89a-fA-F])', marks[1] || '\1', 'g');
        elements := ARRAY(SELECT e.value FROM json_array_elements(hidden::json) AS e (value));
    ELSE
        elements := ARRAY(SELECT e.value FROM json_array_elements(jobs) AS e (value));
    END IF;
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
        RAISE EXCEPTION 'job %: unknown key %', position,
            coalesce(replace(replace(to_json(name)::text, marks[1], '\'), marks[2], '\\'), to_json(name)::text)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('A job has these keys: %s.', array_to_string(known, ', '));
    END IF;
    readable := elements;
    IF marks IS NOT NULL THEN
        payloads := ARRAY(SELECT replace(replace((e.value -> 'payload')::text, marks[1], '\'), marks[2], '\\')::json
                            FROM unnest(elements) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
        readable := ARRAY(
            SELECT (SELECT coalesce(
                               '{' || string_agg(to_json(k.key) || ':'
                                                 || replace(replace(k.value::text, marks[1], '\'), marks[2], '\\'),
                                                 ',' ORDER BY k.n) || '}', '{}')::json
                      FROM json_each(e.value) WITH ORDINALITY AS k (key, value, n) WHERE k.key <> 'payload')
              FROM unnest(elements) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
    END IF;
    BEGIN
        SELECT array_agg(r.identifier), coalesce(payloads, array_agg(e.value -> 'payload')), array_agg(r.job_key),
               array_agg(r.queue_name), array_agg(r.run_at), array_agg(r.max_attempts), array_agg(r.priority),
               array_agg(r.db_id)
          INTO identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids
          FROM unnest(readable) AS e (value)
         CROSS JOIN LATERAL json_to_record(e.value) AS r (
               identifier text, job_key text, queue_name text, run_at timestamptz, max_attempts int, priority int,
               db_id uuid);
    EXCEPTION WHEN data_exception THEN
        BEGIN
            FOR i IN 1 .. cardinality(elements) LOOP
                position := i;
                PERFORM FROM json_to_record(readable[i]) AS r (
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
        RETURN QUERY SELECT a.id FROM @extschema@.add_jobs(
            identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids) AS a (id);
    END IF;
END
$$;

COMMENT ON FUNCTION @extschema@.add_jobs(
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint) IS
    'Enqueues many jobs given as arrays; returns their ids in that order. '
    'first_position numbers the first one in errors.';

COMMENT ON FUNCTION @extschema@.add_jobs(json) IS
    'Enqueues many jobs, [{"identifier": …, "payload": …, "job_key", "queue_name", "run_at", "max_attempts", '
    '"priority", "db_id": …}, …]; returns their ids in that order.';
