-- Least privilege: who may name a tenant, and which rows a role sees. The roles and their rights are in grants.sql, which every
-- migrate repeats; docs/roles.md explains them.

-- Enqueueing for a tenant other than the caller's own is a right by itself.
--
-- Functions that run as their owner (SECURITY DEFINER) cannot know who called them: current_user is the owner, session_user and
-- the setting role are whoever began the session, which is another role inside an application's own SECURITY DEFINER function.
-- So the forms with a db_id run as their caller now and only choose between two functions that run as the owner: one takes the
-- tenant from the claim jwt.claims.database_id, the other, named …_for_any_tenant, takes any. PostgreSQL's own rights on the second
-- one decide. A producer that names another tenant, or any without a claim, gets "permission denied for function
-- add_job_for_any_tenant" (42501). Without a db_id and without a claim its job has no tenant.
--
-- Only the forms with a db_id pay for that, with one call more.

CREATE FUNCTION @extschema@.add_job_for_any_tenant(
    tenant uuid, identifier text, payload json, job_key text, queue_name text, run_at timestamptz, max_attempts int,
    priority int
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    IF job_key IS NULL AND identifier <> '' THEN
        INSERT INTO @extschema@.jobs
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        VALUES
            (tenant,
             CASE WHEN current_setting('jwt.claims.user_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.user_id') END,
             identifier, coalesce(payload, '{}'), queue_name, coalesce(run_at, now()), coalesce(max_attempts, 25),
             coalesce(priority, 0))
        RETURNING * INTO job;
        RETURN job;
    END IF;
    RETURN @extschema@.enqueue_job(
        tenant, @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_job_for_any_tenant(
    uuid, text, json, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_job_for_any_tenant(uuid, text, json, text, text, timestamptz, int, int) IS
    'What add_job with a db_id calls when that is not the caller''s own: EXECUTE is the right to name any tenant.';

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
    IF db_id IS NULL
       OR db_id = (CASE WHEN current_setting('jwt.claims.database_id', true) ~* '^\{?([0-9a-f]{4}-?){8}\}?$'
                        THEN current_setting('jwt.claims.database_id', true)::uuid END)
    THEN
        RETURN @extschema@.add_job(identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
    END IF;
    RETURN @extschema@.add_job_for_any_tenant(
        db_id, identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
COMMENT ON FUNCTION @extschema@.add_job(uuid, text, json, text, text, timestamptz, int, int) IS
    'Enqueues a job of the given database_id, which wins over the setting jwt.claims.database_id; another than that needs EXECUTE on add_job_for_any_tenant.';

CREATE FUNCTION @extschema@.add_scheduled_job_for_any_tenant(
    tenant uuid, identifier text, payload json, schedule_info json, job_key text, queue_name text, max_attempts int,
    priority int
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @extschema@.enqueue_scheduled_job(
        tenant, @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_scheduled_job_for_any_tenant(
    uuid, text, json, json, text, text, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_scheduled_job_for_any_tenant(uuid, text, json, json, text, text, int, int) IS
    'What add_scheduled_job with a db_id calls when that is not the caller''s own: EXECUTE is the right to name any tenant.';

CREATE OR REPLACE FUNCTION @extschema@.add_scheduled_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
BEGIN
    IF db_id IS NULL
       OR db_id = (CASE WHEN current_setting('jwt.claims.database_id', true) ~* '^\{?([0-9a-f]{4}-?){8}\}?$'
                        THEN current_setting('jwt.claims.database_id', true)::uuid END)
    THEN
        RETURN @extschema@.add_scheduled_job(
            identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
    END IF;
    RETURN @extschema@.add_scheduled_job_for_any_tenant(
        db_id, identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;
COMMENT ON FUNCTION @extschema@.add_scheduled_job(uuid, text, json, json, text, text, int, int) IS
    'Adds a schedule of the given database_id, which wins over the setting jwt.claims.database_id; another than that needs EXECUTE on add_scheduled_job_for_any_tenant.';

-- The same for batches. One db_id of another tenant makes it a batch for any tenant.

CREATE FUNCTION @extschema@.require_element_per_job(
    identifiers text[], payloads json[], job_keys text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[]
) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    jobs int := coalesce(cardinality(identifiers), 0);
    odd text;
BEGIN
    SELECT format('%s has %s elements for %s identifiers', a.name, a.elements, jobs) INTO odd
      FROM (VALUES ('payloads', cardinality(payloads)), ('job_keys', cardinality(job_keys)),
                   ('queue_names', cardinality(queue_names)), ('run_ats', cardinality(run_ats)),
                   ('max_attempts', cardinality(attempt_limits)), ('priorities', cardinality(priorities)),
                   ('db_ids', cardinality(db_ids))) AS a (name, elements)
     WHERE a.elements <> jobs LIMIT 1;
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION '%', odd USING ERRCODE = 'array_subscript_error',
            HINT = 'Give one element a job, NULL for the default, or NULL for the whole array.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.require_element_per_job(
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.add_jobs_for_any_tenant(
    identifiers text[], payloads json[], job_keys text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], db_ids uuid[], first_position bigint
) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.require_element_per_job(
        identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids);
    IF cardinality(identifiers) > 0 THEN
        RETURN QUERY SELECT e.id FROM @extschema@.enqueue_jobs(
            identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids,
            coalesce(first_position, 1)) AS e (id);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_jobs_for_any_tenant(
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_jobs_for_any_tenant(
    text[], json[], text[], text[], timestamptz[], int[], int[], uuid[], bigint) IS
    'What add_jobs calls when a db_id is not the caller''s own: EXECUTE is the right to name any tenant.';

CREATE FUNCTION @extschema@.add_jobs_for_own_tenant(
    identifiers text[], payloads json[], job_keys text[], queue_names text[], run_ats timestamptz[],
    attempt_limits int[], priorities int[], first_position bigint
) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.require_element_per_job(
        identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, NULL);
    IF cardinality(identifiers) > 0 THEN
        RETURN QUERY SELECT e.id FROM @extschema@.enqueue_jobs(
            identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, NULL,
            coalesce(first_position, 1)) AS e (id);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_jobs_for_own_tenant(
    text[], json[], text[], text[], timestamptz[], int[], int[], bigint) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_jobs_for_own_tenant(
    text[], json[], text[], text[], timestamptz[], int[], int[], bigint) IS
    'What add_jobs calls when it names no tenant but the one in jwt.claims.database_id.';

-- These run as their caller with a search_path, whose price a batch does not feel.
CREATE OR REPLACE FUNCTION @extschema@.add_jobs(
    identifiers text[], payloads json[], job_keys text[] DEFAULT NULL, queue_names text[] DEFAULT NULL,
    run_ats timestamptz[] DEFAULT NULL, max_attempts int[] DEFAULT NULL, priorities int[] DEFAULT NULL,
    db_ids uuid[] DEFAULT NULL, first_position bigint DEFAULT 1
) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own uuid := CASE WHEN current_setting('jwt.claims.database_id', true) ~* '^\{?([0-9a-f]{4}-?){8}\}?$'
                     THEN current_setting('jwt.claims.database_id', true)::uuid END;
BEGIN
    IF cardinality(db_ids) <> coalesce(cardinality(identifiers), 0) THEN
        RAISE EXCEPTION 'db_ids has % elements for % identifiers', cardinality(db_ids), coalesce(cardinality(identifiers), 0)
            USING ERRCODE = 'array_subscript_error',
                  HINT = 'Give one element a job, NULL for the default, or NULL for the whole array.';
    END IF;
    IF EXISTS (SELECT FROM unnest(db_ids) AS d (id) WHERE d.id IS NOT NULL AND d.id IS DISTINCT FROM own) THEN
        RETURN QUERY SELECT a.id FROM @extschema@.add_jobs_for_any_tenant(
            identifiers, payloads, job_keys, queue_names, run_ats, max_attempts, priorities, db_ids, first_position)
            AS a (id);
    ELSE
        RETURN QUERY SELECT a.id FROM @extschema@.add_jobs_for_own_tenant(
            identifiers, payloads, job_keys, queue_names, run_ats, max_attempts, priorities, first_position) AS a (id);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.add_jobs(jobs json) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
        RETURN QUERY SELECT a.id FROM @extschema@.add_jobs(
            identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids) AS a (id);
    END IF;
END
$$;

-- Rights that were given by hand keep their meaning: whoever could call a form with a db_id goes on naming any tenant.
DO $rights$
DECLARE
    was record;
BEGIN
    FOR was IN
        SELECT f.needed, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
          FROM (VALUES
            ('add_job(uuid,text,json,text,text,timestamptz,int,int)',
             'add_job(text,json,text,text,timestamptz,int,int)'),
            ('add_job(uuid,text,json,text,text,timestamptz,int,int)',
             'add_job_for_any_tenant(uuid,text,json,text,text,timestamptz,int,int)'),
            ('add_scheduled_job(uuid,text,json,json,text,text,int,int)',
             'add_scheduled_job(text,json,json,text,text,int,int)'),
            ('add_scheduled_job(uuid,text,json,json,text,text,int,int)',
             'add_scheduled_job_for_any_tenant(uuid,text,json,json,text,text,int,int)'),
            ('add_jobs(json)',
             'add_jobs(text[],json[],text[],text[],timestamptz[],int[],int[],uuid[],bigint)'),
            ('add_jobs(json)',
             'add_jobs_for_own_tenant(text[],json[],text[],text[],timestamptz[],int[],int[],bigint)'),
            ('add_jobs(json)',
             'add_jobs_for_any_tenant(text[],json[],text[],text[],timestamptz[],int[],int[],uuid[],bigint)'),
            ('add_jobs(text[],json[],text[],text[],timestamptz[],int[],int[],uuid[],bigint)',
             'add_jobs_for_own_tenant(text[],json[],text[],text[],timestamptz[],int[],int[],bigint)'),
            ('add_jobs(text[],json[],text[],text[],timestamptz[],int[],int[],uuid[],bigint)',
             'add_jobs_for_any_tenant(text[],json[],text[],text[],timestamptz[],int[],int[],uuid[],bigint)')
          ) AS f (called, needed)
          JOIN pg_proc p ON p.oid = ('@extschema@.' || f.called)::regprocedure
         CROSS JOIN LATERAL aclexplode(p.proacl) AS a
         WHERE a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.%s TO %s', was.needed, was.grantee);
    END LOOP;
END
$rights$;

-- Which rows a role sees. Row level security is for roles with rights to the tables: a superuser, a role with BYPASSRLS and
-- the owner see every row as before, and so does everything that runs as the owner: add_job, the triggers. A role that policy
-- all_tenants names sees every row, too, and for it the condition below is dropped when a statement is planned: its plans are
-- those of the owner. Everybody else sees the rows of the tenant in jwt.claims.database_id, and without a claim none.
--
-- The claim is read once per statement, by a subquery, and not once per row. Nothing but PostgreSQL's own functions: what a
-- policy calls, the role must be allowed to call.
--
-- job_queues has names of all tenants' queues, and no tenant.
--
-- A transaction that stands in the way ends the migration rather than hold up everybody who comes after it.
SET LOCAL lock_timeout = '5s';
ALTER TABLE @extschema@.jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.scheduled_jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.job_queues ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON @extschema@.jobs
    USING (database_id = (SELECT nullif(current_setting('jwt.claims.database_id', true), '')::uuid));
CREATE POLICY own_tenant ON @extschema@.scheduled_jobs
    USING (database_id = (SELECT nullif(current_setting('jwt.claims.database_id', true), '')::uuid));

-- Lets a role, or 'public', see all tenants' rows, as far as it has rights to the tables. Nothing happens, and no lock is
-- taken, when it does already; otherwise it waits 5 s at most for transactions that use the tables.
CREATE FUNCTION @extschema@.show_all_tenants_to(role_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    relation regclass;
    added text := CASE role_name WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(role_name) END;
    named text[];
BEGIN
    FOREACH relation IN ARRAY ARRAY['@extschema@.jobs', '@extschema@.scheduled_jobs', '@extschema@.job_queues']::regclass[]
    LOOP
        SELECT array_agg(CASE r.role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.role)) END) INTO named
          FROM pg_policy p CROSS JOIN unnest(p.polroles) AS r (role)
         WHERE p.polrelid = relation AND p.polname = 'all_tenants';
        IF named IS NULL THEN
            EXECUTE format('CREATE POLICY all_tenants ON %s TO %s USING (true)', relation, added);
        ELSIF added <> ALL (named) AND 'PUBLIC' <> ALL (named) THEN
            EXECUTE format('ALTER POLICY all_tenants ON %s TO %s', relation, array_to_string(named || added, ', '));
        END IF;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.show_all_tenants_to(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.show_all_tenants_to(text) IS
    'For the owner: lets a role see the rows of all tenants in the tables it has rights to.';

-- Whoever saw all rows goes on seeing them: administrator, and every role with rights of its own to one of the tables, such as
-- the login of an original worker. In a schema that is made just now nobody has seen anything: rights that are there already
-- come from default privileges. The row of the table's type tells, as no ALTER TABLE writes it anew.
DO $seen$
DECLARE
    role_name text;
BEGIN
    IF (SELECT t.xmin = pg_current_xact_id()::xid FROM pg_type t WHERE t.oid = to_regtype('@extschema@.jobs')) THEN
        RETURN;
    END IF;
    FOR role_name IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee)::text END
          FROM pg_class c
          LEFT JOIN pg_attribute t ON t.attrelid = c.oid AND t.attacl IS NOT NULL
         CROSS JOIN LATERAL (SELECT e.grantee FROM aclexplode(c.relacl) AS e
                             UNION
                             SELECT e.grantee FROM aclexplode(t.attacl) AS e) AS a
         WHERE c.oid IN ('@extschema@.jobs'::regclass, '@extschema@.scheduled_jobs'::regclass, '@extschema@.job_queues'::regclass)
           AND a.grantee <> c.relowner
    LOOP
        PERFORM @extschema@.show_all_tenants_to(role_name);
        IF role_name <> 'administrator' THEN
            RAISE NOTICE 'role % has rights to the tables and goes on seeing all tenants (policy all_tenants)', role_name;
        END IF;
    END LOOP;
END
$seen$;
SET LOCAL lock_timeout = DEFAULT;
