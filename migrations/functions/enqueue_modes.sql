-- Enqueue with every option there is, for applications that have the queue as a library: key modes and actors.

-- One job in any of the key's modes. They say what becomes of the job that has the key already:
--
--   replace          one that waits becomes the new job; one that runs goes on without its key. What add_job does.
--   preserve_run_at  the same, but one that waits for its first attempt keeps its time: calls in a row do not put it
--                    off for ever.
--   ignore           it stays as it is, waiting or running, and no job is made. Only one that has failed for good is
--                    replaced: it would hold the key until somebody looks. One that waits is kept from starting until
--                    the transaction ends, so that it sees what the transaction wrote. One that runs is not waited for,
--                    and may have read before that.
--
-- kept: that nothing was made, and id is the job that stays.
CREATE OR REPLACE FUNCTION @internal@.enqueue_keyed_job(
    tenant uuid, actor uuid, identifier text, payload json, job_key text, key_mode text, queue_name text,
    run_at timestamptz, max_attempts int, priority int, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    mode text := coalesce(key_mode, 'replace');
    entity uuid := CASE WHEN current_setting('jwt.claims.entity_id', true) <> ''
                        THEN @internal@.claim_uuid('jwt.claims.entity_id') END;
    organization uuid := CASE WHEN current_setting('jwt.claims.organization_id', true) <> ''
                              THEN @internal@.claim_uuid('jwt.claims.organization_id') END;
    job @extschema@.jobs;
BEGIN
    kept := false;
    IF mode NOT IN ('replace', 'preserve_run_at', 'ignore') THEN
        RAISE EXCEPTION 'the key mode % is none', quote_literal(mode) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A key mode is replace, preserve_run_at or ignore.';
    END IF;
    IF job_key IS NULL OR mode = 'replace' OR coalesce(identifier, '') = '' OR max_attempts < 1 THEN
        id := (@internal@.enqueue_job(
            tenant, actor, identifier, payload, job_key, queue_name, run_at, max_attempts, priority)).id;
        RETURN;
    END IF;
    IF pg_column_size(payload) > 65536 THEN
        PERFORM @internal@.refuse_large_payload('jobs', octet_length(payload::text));
    END IF;
    FOR turn IN 1 .. 100 LOOP
        IF mode = 'ignore' AND current_setting('transaction_isolation') = 'read committed' THEN
            -- Without a lock, which would hold up the end of the attempt until the caller's transaction ends. At a
            -- higher isolation level the statement would see a job run that has ended since the transaction began.
            SELECT j.id INTO id FROM @extschema@.jobs j
             WHERE j.key = job_key AND j.locked_at IS NOT NULL AND j.database_id IS NOT DISTINCT FROM tenant;
            IF FOUND THEN
                kept := true;
                RETURN;
            END IF;
        END IF;
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, entity_id, organization_id, task_identifier, payload, queue_name, run_at,
             max_attempts, priority, key)
        VALUES
            (tenant, actor, entity, organization, identifier, coalesce(payload, '{}'),
             nullif(enqueue_keyed_job.queue_name, ''),
             coalesce(enqueue_keyed_job.run_at, now()), coalesce(enqueue_keyed_job.max_attempts, 25),
             coalesce(enqueue_keyed_job.priority, 0), job_key)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = CASE WHEN j.locked_at IS NULL THEN excluded.actor_id ELSE j.actor_id END,
            entity_id = CASE WHEN j.locked_at IS NULL THEN excluded.entity_id ELSE j.entity_id END,
            organization_id = CASE WHEN j.locked_at IS NULL THEN excluded.organization_id ELSE j.organization_id END,
            task_identifier = CASE WHEN j.locked_at IS NULL THEN excluded.task_identifier ELSE j.task_identifier END,
            payload = CASE WHEN j.locked_at IS NULL THEN excluded.payload ELSE j.payload END,
            queue_name = CASE WHEN j.locked_at IS NULL THEN excluded.queue_name ELSE j.queue_name END,
            run_at = CASE WHEN j.locked_at IS NOT NULL OR mode = 'preserve_run_at' AND j.attempts = 0
                          THEN j.run_at ELSE excluded.run_at END,
            max_attempts = CASE WHEN j.locked_at IS NULL THEN excluded.max_attempts ELSE j.max_attempts END,
            priority = CASE WHEN j.locked_at IS NULL THEN excluded.priority ELSE j.priority END,
            attempts = CASE WHEN j.locked_at IS NULL THEN 0 ELSE j.max_attempts END,
            last_error = CASE WHEN j.locked_at IS NOT NULL THEN j.last_error END,
            superseded = j.locked_at IS NOT NULL OR j.database_id IS DISTINCT FROM excluded.database_id,
            key = CASE WHEN j.locked_at IS NULL OR j.database_id IS DISTINCT FROM excluded.database_id THEN j.key END,
            updated_at = clock_timestamp()
        -- In mode ignore a job that waits or runs is locked, and not written.
        WHERE mode <> 'ignore' OR j.locked_at IS NULL AND j.attempts >= j.max_attempts
           OR j.database_id IS DISTINCT FROM excluded.database_id
        RETURNING * INTO job;
        IF NOT FOUND THEN
            SELECT j.id INTO id FROM @extschema@.jobs j
             WHERE mode = 'ignore' AND j.key = job_key AND (j.locked_at IS NOT NULL OR j.attempts < j.max_attempts)
               FOR UPDATE;
            kept := FOUND;
            RETURN;
        ELSIF NOT job.superseded THEN
            id := job.id;
            RETURN;
        ELSIF job.key IS NOT NULL THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation',
                      HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the job key % was taken by others, whose jobs began to run, 100 times in a row',
        quote_literal(job_key)
        USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.enqueue(
    identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, key_mode text DEFAULT 'replace',
    queue_name text DEFAULT NULL, run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0,
    db_id uuid DEFAULT NULL, actor_id uuid DEFAULT NULL, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (db_id IS NULL OR db_id = @own_uuid('jwt.claims.database_id')@)
       AND (actor_id IS NULL OR actor_id = @own_uuid('jwt.claims.user_id')@)
    THEN
        SELECT e.id, e.kept INTO id, kept FROM @extschema@.enqueue_for_own_tenant(
            identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
    ELSE
        SELECT e.id, e.kept INTO id, kept FROM @extschema@.enqueue_for_any_tenant(
            db_id, actor_id, identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
    END IF;
END
$$;

COMMENT ON FUNCTION @extschema@.enqueue(text, json, text, text, text, timestamptz, int, int, uuid, uuid) IS
    'Enqueues a job like add_job, with a key mode (replace, preserve_run_at, ignore) and an actor; '
    'kept says that the job with the key stayed as it was.';

-- As with add_job: what names a tenant or an actor other than the transaction's own is a right by itself, and
-- PostgreSQL decides about it when enqueue, which runs as its caller, chooses between these two.
CREATE OR REPLACE FUNCTION @extschema@.enqueue_for_own_tenant(
    identifier text, payload json, job_key text, key_mode text, queue_name text, run_at timestamptz, max_attempts int,
    priority int, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT e.id, e.kept INTO id, kept FROM @internal@.enqueue_keyed_job(
        @internal@.claim_uuid('jwt.claims.database_id'), @internal@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
END
$$;

COMMENT ON FUNCTION @extschema@.enqueue_for_own_tenant(text, json, text, text, text, timestamptz, int, int) IS
    'What enqueue calls when it names neither tenant nor actor '
    'but those in jwt.claims.database_id and jwt.claims.user_id.';

CREATE OR REPLACE FUNCTION @extschema@.enqueue_for_any_tenant(
    tenant uuid, actor uuid, identifier text, payload json, job_key text, key_mode text, queue_name text,
    run_at timestamptz, max_attempts int, priority int, OUT id bigint, OUT kept boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- What is given wins over the claim, even over a broken one.
    SELECT e.id, e.kept INTO id, kept FROM @internal@.enqueue_keyed_job(
        CASE WHEN tenant IS NULL THEN @internal@.claim_uuid('jwt.claims.database_id') ELSE tenant END,
        CASE WHEN actor IS NULL THEN @internal@.claim_uuid('jwt.claims.user_id') ELSE actor END,
        identifier, payload, job_key, key_mode, queue_name, run_at, max_attempts, priority) AS e;
END
$$;

COMMENT ON FUNCTION @extschema@.enqueue_for_any_tenant(
    uuid, uuid, text, json, text, text, text, timestamptz, int, int) IS
    'What enqueue calls when a tenant or an actor is not the caller''s own: EXECUTE is the right to name any.';

CREATE OR REPLACE FUNCTION @extschema@.enqueue_all(
    identifiers text[], payloads json[], job_keys text[] DEFAULT NULL, key_modes text[] DEFAULT NULL,
    queue_names text[] DEFAULT NULL, run_ats timestamptz[] DEFAULT NULL, max_attempts int[] DEFAULT NULL,
    priorities int[] DEFAULT NULL, db_ids uuid[] DEFAULT NULL, actor_ids uuid[] DEFAULT NULL,
    first_position bigint DEFAULT 1
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs int := coalesce(cardinality(identifiers), 0);
    tenant uuid := @own_uuid('jwt.claims.database_id')@;
    actor uuid := @own_uuid('jwt.claims.user_id')@;
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
            identifiers, payloads, job_keys, key_modes, queue_names, run_ats, max_attempts, priorities, db_ids,
            actor_ids, coalesce(first_position, 1)) AS e;
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
    RAISE EXCEPTION 'job %: %', foreign_one + coalesce(first_position, 1) - 1, message
        USING ERRCODE = 'insufficient_privilege';
END
$$;

COMMENT ON FUNCTION @extschema@.enqueue_all(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[], bigint) IS
    'Enqueues many jobs given as arrays, with key modes and actors; returns id and kept in that order.';

-- As enqueue, for many: PostgreSQL decides between these two whether the caller may name tenants and actors.
CREATE OR REPLACE FUNCTION @extschema@.enqueue_all_for_own_tenant(
    identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], first_position bigint
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT e.id, e.kept FROM @internal@.enqueue_jobs(
        identifiers, payloads, job_keys, key_modes, queue_names, run_ats, attempt_limits, priorities, NULL, NULL,
        first_position) AS e;
END
$$;

COMMENT ON FUNCTION @extschema@.enqueue_all_for_own_tenant(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], bigint) IS
    'What enqueue_all calls when it names neither tenants nor actors '
    'but those in jwt.claims.database_id and jwt.claims.user_id.';

CREATE OR REPLACE FUNCTION @extschema@.enqueue_all_for_any_tenant(
    identifiers text[], payloads json[], job_keys text[], key_modes text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[], actor_ids uuid[], first_position bigint
) RETURNS TABLE (id bigint, kept boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT e.id, e.kept FROM @internal@.enqueue_jobs(
        identifiers, payloads, job_keys, key_modes, queue_names, run_ats, attempt_limits, priorities, db_ids, actor_ids,
        first_position) AS e;
END
$$;

COMMENT ON FUNCTION @extschema@.enqueue_all_for_any_tenant(
    text[], json[], text[], text[], text[], timestamptz[], int[], int[], uuid[], uuid[], bigint) IS
    'What enqueue_all calls when a tenant or an actor is not the caller''s own: EXECUTE is the right to name any.';
