-- Enqueue with every option there is, for applications that have the queue as a library: key modes and actors.

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
    SELECT (e.job).id, e.kept INTO id, kept FROM @internal@.enqueue_job(
        @claim_setting('jwt.claims.database_id')@, @claim_setting('jwt.claims.user_id')@,
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority, key_mode) AS e;
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
    SELECT (e.job).id, e.kept INTO id, kept FROM @internal@.enqueue_job(
        coalesce(tenant, @claim_setting('jwt.claims.database_id')@),
        coalesce(actor, @claim_setting('jwt.claims.user_id')@),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority, key_mode) AS e;
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
    @element_per_job()@
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
    'What enqueue_all and add_jobs call when they name neither tenants nor actors '
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
    'What enqueue_all and add_jobs call when a tenant or an actor is not the caller''s own: '
    'EXECUTE is the right to name any.';
