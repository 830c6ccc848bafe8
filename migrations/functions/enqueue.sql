-- Enqueue: one job, in the argument forms of add_job.
--
-- Enqueueing for a tenant other than the caller's own is a right by itself. Functions that run as their owner (SECURITY
-- DEFINER) cannot know who called them: current_user is the owner, session_user and the setting role are whoever began
-- the session, which is another role inside an application's own SECURITY DEFINER function. So the forms with a db_id
-- run as their caller and only choose between two functions that run as the owner: one takes the tenant from the claim
-- jwt.claims.database_id, the other, named ..._for_any_tenant, takes any. PostgreSQL's own rights on the second one
-- decide. A producer that names another tenant, or any without a claim, gets "permission denied for function
-- add_job_for_any_tenant" (42501). Without a db_id and without a claim its job has no tenant.

-- The uuid in a transaction's setting, such as jwt.claims.database_id. Unset or empty is NULL; anything else that is
-- not a uuid is an error, never a job without a tenant.
CREATE OR REPLACE FUNCTION @internal@.claim_uuid(setting text) RETURNS uuid
LANGUAGE plpgsql STABLE AS $$
DECLARE
    value text := nullif(current_setting(setting, true), '');
BEGIN
    IF value !~* '^\{?([0-9a-f]{4}-?){8}\}?$' THEN
        RAISE EXCEPTION 'the setting % is not a uuid: %', setting, quote_literal(value)
            USING ERRCODE = 'invalid_text_representation',
                  HINT = format('Set it to a uuid, or to '''' for none: SELECT set_config(%L, ''…'', true).',
                                setting);
    END IF;
    RETURN value::uuid;
END
$$;

-- A uuid in a text argument is a db_id that was not cast.
CREATE OR REPLACE FUNCTION @internal@.refuse_untyped_db_id(identifier text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF identifier ~* '^\{?([0-9a-f]{4}-?){8}\}?$' THEN
        RAISE EXCEPTION 'the task identifier % is a uuid', quote_literal(identifier)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Cast a database id in first place: %L::uuid.', identifier);
    END IF;
END
$$;

-- A time that is given as text: an interval, which people write for "in 10 minutes", gets a hint.
CREATE OR REPLACE FUNCTION @internal@.run_at_of(value text) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF value ~* '^\s*(in\s+|[-+@]\s*)?[0-9.]+\s*'
                '(us|ms|s|m|h|d|w|secs?|seconds?|mins?|minutes?|hours?|days?|weeks?|mons?|months?|years?|y)\s*$'
       OR value ~ '^\s*P[0-9T]' THEN
        RAISE EXCEPTION 'run_at is a time, and % is an interval', quote_literal(value)
            USING ERRCODE = 'invalid_datetime_format', HINT = format('Add it to a time: now() + interval %L.', value);
    END IF;
    RETURN value::timestamptz;
END
$$;

-- An error when a payload of so many bytes is beyond the limit. SECURITY DEFINER: whoever may enqueue needs no right to
-- the limits.
CREATE OR REPLACE FUNCTION @internal@.refuse_large_payload(relation text, size bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed int := coalesce((SELECT l.bytes FROM @extschema@.limits l WHERE l.name = 'payload'), 16777216);
BEGIN
    IF size > allowed THEN
        RAISE EXCEPTION 'the payload has % bytes, and % are allowed', size, allowed
            USING ERRCODE = 'check_violation', TABLE = relation, CONSTRAINT = relation || '_payload_size',
                  HINT = 'Store the content elsewhere and put a reference into the payload, '
                         'or raise the limit: SELECT @extschema@.set_max_payload(…).';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.set_max_payload(bytes int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF bytes NOT BETWEEN 65536 AND 536870912 THEN
        RAISE EXCEPTION 'a limit of % bytes cannot be set', bytes USING ERRCODE = 'invalid_parameter_value',
            HINT = 'From 65536 (64 KiB) to 536870912 (512 MiB), or NULL for the default, 16777216 (16 MiB).';
    END IF;
    DELETE FROM @extschema@.limits WHERE name = 'payload';
    INSERT INTO @extschema@.limits (name, bytes)
    SELECT 'payload', set_max_payload.bytes WHERE set_max_payload.bytes IS NOT NULL;
END
$$;

COMMENT ON FUNCTION @extschema@.set_max_payload(int) IS
    'How many bytes a payload may have, in jobs and in schedules that are enqueued from now on; '
    'NULL for the default, 16 MiB.';

-- One job from given values. Every way to make a job by itself ends here, but for add_job's plain case.
--
-- key_mode says what becomes of the job that has the key already:
--
--   replace          one that waits becomes the new job; one that runs goes on without its key. What add_job does.
--   preserve_run_at  the same, but one that waits for its first attempt keeps its time: calls in a row do not put it
--                    off for ever.
--   ignore           it stays as it is, waiting or running, and no job is made. Only one that has failed for good is
--                    replaced: it would hold the key until somebody looks. One that waits is kept from starting until
--                    the transaction ends, so that it sees what the transaction wrote. One that runs is not waited for,
--                    and may have read before that.
--
-- kept: that nothing was made, and job is the one that stays.
--
-- A BEFORE INSERT trigger of the application's may return NULL, because the row goes elsewhere. Then a job's row is not
-- written and nothing holds its key. The upsert tells this from another session that was faster: it writes to whatever
-- holds the key. A job that runs loses its key there and then, superseded, and one of another tenant is marked
-- superseded with its key, by which the call sees whose it is and raises an error, which undoes it. So no row at all
-- means that a trigger kept it out, or in mode ignore that a job stays. The result is then a row of NULLs.
--
-- Another turn follows only when a running job has lost its key. A bound ends what should end by itself.
CREATE OR REPLACE FUNCTION @internal@.enqueue_job(
    tenant uuid, actor uuid, identifier text, payload json, job_key text, queue_name text, run_at timestamptz,
    max_attempts int, priority int, key_mode text DEFAULT 'replace',
    entity uuid DEFAULT @claim_setting('jwt.claims.entity_id')@,
    organization uuid DEFAULT @claim_setting('jwt.claims.organization_id')@,
    OUT job @extschema@.jobs, OUT kept boolean
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mode text := coalesce(key_mode, 'replace');
BEGIN
    kept := false;
    IF coalesce(identifier, '') = '' THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the task: add_job(identifier := ''email:send_email'', …).';
    END IF;
    IF max_attempts < 1 THEN
        RAISE EXCEPTION 'max_attempts is %, and a job has at least one attempt', max_attempts
            USING ERRCODE = 'check_violation', TABLE = 'jobs', CONSTRAINT = 'jobs_max_attempts_positive',
                  HINT = 'Leave max_attempts out for the default, 25; 1 is a single attempt without a retry.';
    END IF;
    IF mode NOT IN ('replace', 'preserve_run_at', 'ignore') THEN
        RAISE EXCEPTION 'the key mode % is none', quote_literal(mode) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A key mode is replace, preserve_run_at or ignore.';
    END IF;
    IF job_key IS NULL THEN
        @new_job()@
        RETURNING * INTO job;
        RETURN;
    END IF;
    IF pg_column_size(payload) > 65536 THEN
        PERFORM @internal@.refuse_large_payload('jobs', octet_length(payload::text));
    END IF;
    FOR turn IN 1 .. 100 LOOP
        IF mode = 'ignore' AND current_setting('transaction_isolation') = 'read committed' THEN
            -- Without a lock, which would hold up the end of the attempt until the caller's transaction ends. At a
            -- higher isolation level the statement would see a job run that has ended since the transaction began.
            SELECT * INTO job FROM @extschema@.jobs j
             WHERE j.key = job_key AND j.locked_at IS NOT NULL AND j.database_id IS NOT DISTINCT FROM tenant;
            IF FOUND THEN
                kept := true;
                RETURN;
            END IF;
        END IF;
        @new_job()@
        @or_replace(mode)@
        RETURNING * INTO job;
        IF NOT FOUND THEN
            SELECT * INTO job FROM @extschema@.jobs j
             WHERE mode = 'ignore' AND j.key = job_key AND (j.locked_at IS NOT NULL OR j.attempts < j.max_attempts)
               FOR UPDATE;
            kept := FOUND;
            RETURN;
        ELSIF NOT job.superseded THEN
            RETURN;
        ELSIF job.key IS NOT NULL THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation',
                      HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        -- A running job has lost its key and goes on; a newer one takes its place.
    END LOOP;
    RAISE EXCEPTION 'the job key % was taken by others, whose jobs began to run, 100 times in a row',
        quote_literal(job_key)
        USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
END
$$;

-- The form that the others call. SECURITY DEFINER: a producer may enqueue without any right to the tables. The plain
-- case, a job without a key, is one function call and one INSERT. An empty queue name is none.
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant uuid := @claim_setting('jwt.claims.database_id')@;
    actor uuid := @claim_setting('jwt.claims.user_id')@;
    entity uuid := @claim_setting('jwt.claims.entity_id')@;
    organization uuid := @claim_setting('jwt.claims.organization_id')@;
    job @extschema@.jobs;
BEGIN
    -- What is wrong is told by enqueue_job.
    IF job_key IS NULL AND identifier <> '' AND coalesce(max_attempts, 1) > 0 THEN
        @new_job()@
        RETURNING * INTO job;
        RETURN job;
    END IF;
    RETURN (@internal@.enqueue_job(
        tenant, actor, identifier, payload, job_key, queue_name, run_at, max_attempts, priority, 'replace', entity,
        organization)).job;
END
$$;

COMMENT ON FUNCTION @extschema@.add_job(text, json, text, text, timestamptz, int, int) IS
    'Enqueues a job; database_id and actor_id come from the settings jwt.claims.database_id and jwt.claims.user_id.';

-- Untyped literals, add_job('x', '{}'), fit the forms for json and for a db_id equally well. PostgreSQL prefers text
-- for an untyped literal, so this form decides. Its payload has no default: add_job('x') stays the form for json.
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload text, job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- No task of fewer than 32 characters is a uuid.
    IF length(identifier) >= 32 THEN
        PERFORM @internal@.refuse_untyped_db_id(identifier);
    END IF;
    RETURN @extschema@.add_job(identifier, payload::json, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

COMMENT ON FUNCTION @extschema@.add_job(text, text, text, text, timestamptz, int, int) IS
    'Enqueues a job whose payload is given as text that holds JSON.';

-- Calls with five or more untyped literals: in fifth place the uuid form has text and the others a timestamp, so only a
-- form of text throughout is preferred everywhere. The first five have no default, which keeps it out of shorter calls.
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload text, job_key text, queue_name text, run_at text, max_attempts text DEFAULT NULL,
    priority text DEFAULT NULL
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @internal@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.add_job(
        identifier, payload::json, job_key, queue_name, @internal@.run_at_of(run_at), max_attempts::int, priority::int);
END
$$;

COMMENT ON FUNCTION @extschema@.add_job(text, text, text, text, text, text, text) IS
    'Enqueues a job whose arguments are all given as untyped literals.';

-- A payload of type jsonb, as psycopg's Jsonb sends it. Without a default: add_job('x') stays the first form's. (Beside
-- the form with a db_id there is none: an untyped payload would fit both, and give PostgreSQL no reason to choose.)
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload jsonb, job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @extschema@.add_job(identifier, payload::json, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

COMMENT ON FUNCTION @extschema@.add_job(text, jsonb, text, text, timestamptz, int, int) IS
    'Enqueues a job whose payload is of type jsonb.';

-- Runs as its caller, without a search_path of its own, which would cost more than the call. Everything here is either
-- qualified or found in pg_catalog under its exact types, where nothing in the caller's path can come before it.
--
-- A claim that is not a uuid is nobody's own tenant; where no db_id is given, the form without one refuses it.
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
BEGIN
    IF db_id IS NULL OR db_id = @own_uuid('jwt.claims.database_id')@ THEN
        RETURN @extschema@.add_job(identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
    END IF;
    RETURN @extschema@.add_job_for_any_tenant(
        db_id, identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

COMMENT ON FUNCTION @extschema@.add_job(uuid, text, json, text, text, timestamptz, int, int) IS
    'Enqueues a job of the given database_id, which wins over the setting jwt.claims.database_id; '
    'another than that needs EXECUTE on add_job_for_any_tenant.';

CREATE OR REPLACE FUNCTION @extschema@.add_job_for_any_tenant(
    tenant uuid, identifier text, payload json, job_key text, queue_name text, run_at timestamptz, max_attempts int,
    priority int
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor uuid := @claim_setting('jwt.claims.user_id')@;
    entity uuid := @claim_setting('jwt.claims.entity_id')@;
    organization uuid := @claim_setting('jwt.claims.organization_id')@;
    job @extschema@.jobs;
BEGIN
    -- As in add_job.
    IF job_key IS NULL AND identifier <> '' AND coalesce(max_attempts, 1) > 0 THEN
        @new_job()@
        RETURNING * INTO job;
        RETURN job;
    END IF;
    RETURN (@internal@.enqueue_job(
        tenant, actor, identifier, payload, job_key, queue_name, run_at, max_attempts, priority, 'replace', entity,
        organization)).job;
END
$$;

COMMENT ON FUNCTION @extschema@.add_job_for_any_tenant(uuid, text, json, text, text, timestamptz, int, int) IS
    'What add_job with a db_id calls when that is not the caller''s own: EXECUTE is the right to name any tenant.';

-- PostGraphile, which makes a GraphQL API of what a role may call. It leaves out functions of which there are several
-- forms, so that these two stand for add_job and add_scheduled_job, under their names. They run as their caller, who
-- needs the right to those.
CREATE OR REPLACE FUNCTION @extschema@.graphql_add_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, max_attempts int DEFAULT NULL, priority int DEFAULT NULL
) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
BEGIN
    RETURN @extschema@.add_job(db_id, identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

COMMENT ON FUNCTION @extschema@.graphql_add_job(uuid, text, json, text, text, timestamptz, int, int) IS
    E'@name add_job\nEnqueues a job: add_job, as PostGraphile shows it.';
