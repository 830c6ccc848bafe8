-- For applications that have the queue as a library: enqueue with every option there is, ends of an attempt that its handler
-- chooses, and completion in a transaction of the application's own.

-- One job in any of the key's modes. They say what becomes of the job that has the key already:
--
--   replace          one that waits becomes the new job; one that runs goes on without its key. What add_job does.
--   preserve_run_at  the same, but one that waits for its first attempt keeps its time: calls in a row do not put it off for ever.
--   ignore           it stays as it is, waiting or running, and no job is made. Only one that has failed for good is replaced: it
--                    would hold the key until somebody looks.
--
-- kept: that nothing was made, and id is the job that stays.
CREATE FUNCTION @extschema@.enqueue_keyed_job(
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
REVOKE ALL ON FUNCTION @extschema@.enqueue_keyed_job(
    uuid, uuid, text, json, text, text, text, timestamptz, int, int) FROM PUBLIC;

-- As with add_job (V13): what names a tenant or an actor other than the transaction's own is a right by itself, and PostgreSQL
-- decides about it when enqueue, which runs as its caller, chooses between these two.
CREATE FUNCTION @extschema@.enqueue_for_own_tenant(
    identifier text, payload json, job_key text, key_mode text, queue_name text, run_at timestamptz, max_attempts int,
    priority int, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT e.id, e.kept INTO id, kept FROM @extschema@.enqueue_keyed_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_for_own_tenant(
    text, json, text, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.enqueue_for_own_tenant(text, json, text, text, text, timestamptz, int, int) IS
    'What enqueue calls when it names neither tenant nor actor but those in jwt.claims.database_id and jwt.claims.user_id.';

CREATE FUNCTION @extschema@.enqueue_for_any_tenant(
    tenant uuid, actor uuid, identifier text, payload json, job_key text, key_mode text, queue_name text,
    run_at timestamptz, max_attempts int, priority int, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- What is given wins over the claim, even over a broken one.
    SELECT e.id, e.kept INTO id, kept FROM @extschema@.enqueue_keyed_job(
        CASE WHEN tenant IS NULL THEN @extschema@.claim_uuid('jwt.claims.database_id') ELSE tenant END,
        CASE WHEN actor IS NULL THEN @extschema@.claim_uuid('jwt.claims.user_id') ELSE actor END,
        identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_for_any_tenant(
    uuid, uuid, text, json, text, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.enqueue_for_any_tenant(
    uuid, uuid, text, json, text, text, text, timestamptz, int, int) IS
    'What enqueue calls when a tenant or an actor is not the caller''s own: EXECUTE is the right to name any.';

-- The uuid in a setting; NULL for anything else, which is nobody's own.
CREATE FUNCTION @extschema@.own_uuid(setting text) RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN current_setting(setting, true) ~* '^\{?([0-9a-f]{4}-?){8}\}?$' THEN current_setting(setting, true)::uuid END
$$;
REVOKE ALL ON FUNCTION @extschema@.own_uuid(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.enqueue(
    identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, key_mode text DEFAULT 'replace',
    queue_name text DEFAULT NULL, run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0,
    db_id uuid DEFAULT NULL, actor_id uuid DEFAULT NULL, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (db_id IS NULL OR db_id = @extschema@.own_uuid('jwt.claims.database_id'))
       AND (actor_id IS NULL OR actor_id = @extschema@.own_uuid('jwt.claims.user_id'))
    THEN
        SELECT e.id, e.kept INTO id, kept FROM @extschema@.enqueue_for_own_tenant(
            identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
    ELSE
        SELECT e.id, e.kept INTO id, kept FROM @extschema@.enqueue_for_any_tenant(
            db_id, actor_id, identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue(
    text, json, text, text, text, timestamptz, int, int, uuid, uuid) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.enqueue(text, json, text, text, text, timestamptz, int, int, uuid, uuid) IS
    'Enqueues a job like add_job, with a key mode (replace, preserve_run_at, ignore) and an actor; kept says that the job with the key stayed as it was.';

-- enqueue for many, one after the other: what add_jobs cannot say. Several times as slow as that.
CREATE FUNCTION @extschema@.enqueue_all(
    identifiers text[], payloads json[], job_keys text[] DEFAULT NULL, key_modes text[] DEFAULT NULL,
    queue_names text[] DEFAULT NULL, run_ats timestamptz[] DEFAULT NULL, max_attempts int[] DEFAULT NULL,
    priorities int[] DEFAULT NULL, db_ids uuid[] DEFAULT NULL, actor_ids uuid[] DEFAULT NULL,
    first_position bigint DEFAULT 1
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs int := coalesce(cardinality(identifiers), 0);
    odd text;
    failed bigint;
    message text;
    details text;
    advice text;
    state text;
    constraint_at text;
    table_at text;
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
    FOR i IN 1 .. jobs LOOP
        failed := i;
        SELECT e.id, e.kept INTO id, kept FROM @extschema@.enqueue(
            identifiers[i], payloads[i], job_keys[i], key_modes[i], queue_names[i], run_ats[i], max_attempts[i],
            priorities[i], db_ids[i], actor_ids[i]) AS e;
        RETURN NEXT;
    END LOOP;
EXCEPTION WHEN data_exception OR integrity_constraint_violation OR insufficient_privilege THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, details = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT,
        state = RETURNED_SQLSTATE, constraint_at = CONSTRAINT_NAME, table_at = TABLE_NAME;
    RAISE EXCEPTION USING MESSAGE = CASE WHEN failed IS NULL THEN message
                                         ELSE format('job %s: %s', failed + coalesce(first_position, 1) - 1, message) END,
        ERRCODE = state, DETAIL = details, CONSTRAINT = constraint_at, TABLE = table_at,
        HINT = coalesce(nullif(advice, ''), 'Nothing of the batch was enqueued.');
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_all(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[], bigint) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.enqueue_all(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[], bigint) IS
    'Enqueues many jobs given as arrays, with key modes and actors; returns id and kept in that order.';

-- fail_held_jobs (V11) with two more ends, which handlers in the worker's process choose. exact: the wait is the given one, and
-- not the usual one if that is longer. final: no attempt follows. A message that is NULL leaves last_error as it is. That of V11
-- stays for workers of the version before.
CREATE FUNCTION @extschema@.end_held_jobs(
    job_ids bigint[], worker_ids text[], epochs bigint[], error_messages text[], delays float8[], counted boolean[],
    exact boolean[], final boolean[]
) RETURNS int[]
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    held bigint[];
BEGIN
    WITH done AS (
        UPDATE @extschema@.jobs j
           SET last_error = coalesce(d.message, j.last_error), locked_by = NULL, locked_at = NULL, epoch = NULL,
               instance = NULL, accepted = false, deadline = NULL, updated_at = clock_timestamp(),
               run_at = CASE WHEN d.final THEN j.run_at
                             WHEN d.counted AND NOT d.exact THEN
                            greatest(@extschema@.retry_at(j.run_at, j.attempts), now() + make_interval(secs => d.delay))
                        ELSE coalesce(now() + make_interval(secs => d.delay), @extschema@.retry_at(j.run_at, j.attempts)) END,
               attempts = CASE WHEN d.final THEN j.max_attempts
                               WHEN d.counted OR j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END
          FROM unnest(job_ids, worker_ids, epochs, error_messages, delays, counted, exact, final) WITH ORDINALITY
               AS d (job_id, worker_id, epoch, message, delay, counted, exact, final, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id AND (d.epoch IS NULL OR j.epoch = d.epoch)
        RETURNING d.position)
    SELECT array_agg(position) INTO held FROM done;
    RETURN @extschema@.positions_left(cardinality(job_ids), held);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.end_held_jobs(
    bigint[], text[], bigint[], text[], float8[], boolean[], boolean[], boolean[]) FROM PUBLIC;

-- Completes a job in the transaction that does its work: both are committed or neither is. The token names the attempt: its job's
-- id and its epoch, as X-Job-Token brings them. When that attempt is no longer live, because the job has been completed, taken
-- over by another worker or started again, this raises an error, and the transaction with its work has to be rolled back.
--
-- Tokens cannot be guessed from outside, but jobs that were claimed together have tokens from which each other's follow: whoever
-- may call this is trusted with all jobs, but for those of another tenant than its own claim.
CREATE FUNCTION @extschema@.complete_in_transaction(token text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts text[] := regexp_match(token, '^([0-9]{1,18})\.([0-9]{1,19})$');
    own uuid := @extschema@.claim_uuid('jwt.claims.database_id');
BEGIN
    IF parts IS NULL THEN
        RAISE EXCEPTION 'the token % does not name an attempt', coalesce(quote_literal(token), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass the value of the header X-Job-Token as it came.';
    END IF;
    DELETE FROM @extschema@.jobs j
     WHERE j.id = parts[1]::bigint AND j.epoch = parts[2]::numeric AND j.locked_at IS NOT NULL
       AND (own IS NULL OR j.database_id IS NULL OR j.database_id = own);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the attempt of job % is no longer live', parts[1]
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'The job has been completed, taken over or started again, or it is another tenant''s.',
                  HINT = 'Roll back: another attempt does the work, or has done it.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.complete_in_transaction(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.complete_in_transaction(text) IS
    'Completes the job that X-Job-Token names in the caller''s transaction; an error when that attempt is no longer live.';
