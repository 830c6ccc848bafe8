-- Enqueue: add_job in its argument forms, and the trigger functions that call it.

-- The uuid in a transaction's setting, such as jwt.claims.database_id. Unset or empty is NULL; anything else that is
-- not a uuid is an error, never a job without a tenant.
CREATE FUNCTION @extschema@.claim_uuid(setting text) RETURNS uuid
LANGUAGE plpgsql STABLE AS $$
DECLARE
    value text := nullif(current_setting(setting, true), '');
BEGIN
    IF value !~* '^\{?([0-9a-f]{4}-?){8}\}?$' THEN
        RAISE EXCEPTION 'the setting % is not a uuid: %', setting, quote_literal(value)
            USING ERRCODE = 'invalid_text_representation',
                  HINT = format('Set it to a uuid, or to '''' for none: SELECT set_config(%L, ''…'', true).', setting);
    END IF;
    RETURN value::uuid;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.claim_uuid(text) FROM PUBLIC;

-- One row from given values; the rule of keys. Every way to make a job ends here.
CREATE FUNCTION @extschema@.enqueue_job(
    new_database_id uuid, new_actor_id uuid, identifier text, new_payload json, job_key text, new_queue_name text,
    new_run_at timestamptz, new_max_attempts int, new_priority int
) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
    holder @extschema@.jobs;
BEGIN
    IF coalesce(identifier, '') = '' THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the task: add_job(identifier := ''email:send_email'', …).';
    END IF;
    IF job_key IS NULL THEN
        INSERT INTO @extschema@.jobs
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        VALUES
            (new_database_id, new_actor_id, identifier, coalesce(new_payload, '{}'), new_queue_name,
             coalesce(new_run_at, now()), coalesce(new_max_attempts, 25), coalesce(new_priority, 0))
        RETURNING * INTO job;
        RETURN job;
    END IF;
    -- Each turn either writes the row or makes room for it; another turn follows only when another session was faster.
    LOOP
        INSERT INTO @extschema@.jobs AS j
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority, key)
        VALUES
            (new_database_id, new_actor_id, identifier, coalesce(new_payload, '{}'), new_queue_name,
             coalesce(new_run_at, now()), coalesce(new_max_attempts, 25), coalesce(new_priority, 0), job_key)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = excluded.actor_id, task_identifier = excluded.task_identifier, payload = excluded.payload,
            queue_name = excluded.queue_name, run_at = excluded.run_at, max_attempts = excluded.max_attempts,
            priority = excluded.priority, attempts = 0, last_error = NULL, updated_at = clock_timestamp()
        WHERE j.locked_at IS NULL AND j.database_id IS NOT DISTINCT FROM excluded.database_id
        RETURNING * INTO job;
        IF FOUND THEN
            RETURN job;
        END IF;
        SELECT * INTO holder FROM @extschema@.jobs j WHERE j.key = job_key FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF holder.database_id IS DISTINCT FROM new_database_id THEN
            RAISE EXCEPTION 'the job key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        -- The running job goes on, but a newer one takes its place.
        UPDATE @extschema@.jobs j
           SET key = NULL, attempts = j.max_attempts, superseded = true, updated_at = clock_timestamp()
         WHERE j.id = holder.id AND j.locked_at IS NOT NULL;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.enqueue_job(uuid, uuid, text, json, text, text, timestamptz, int, int) FROM PUBLIC;

-- SECURITY DEFINER: a producer may enqueue without any right to the tables.
CREATE FUNCTION @extschema@.add_job(
    identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @extschema@.enqueue_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_job(text, json, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_job(text, json, text, text, timestamptz, int, int) IS
    'Enqueues a job; database_id and actor_id come from the settings jwt.claims.database_id and jwt.claims.user_id.';

CREATE FUNCTION @extschema@.add_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @extschema@.enqueue_job(
        coalesce(db_id, @extschema@.claim_uuid('jwt.claims.database_id')), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_job(uuid, text, json, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_job(uuid, text, json, text, text, timestamptz, int, int) IS
    'Enqueues a job of the given database_id, which wins over the setting jwt.claims.database_id.';

-- A uuid in a text argument is a db_id that was not cast.
CREATE FUNCTION @extschema@.refuse_untyped_db_id(identifier text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF identifier ~* '^\{?([0-9a-f]{4}-?){8}\}?$' THEN
        RAISE EXCEPTION 'the task identifier % is a uuid', quote_literal(identifier)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Cast a database id in first place: %L::uuid.', identifier);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.refuse_untyped_db_id(text) FROM PUBLIC;

-- Untyped literals, add_job('x', '{}'), fit both forms above equally well. PostgreSQL prefers text for an untyped
-- literal, so this third form decides. Its payload has no default: add_job('x') stays the first form's.
CREATE FUNCTION @extschema@.add_job(
    identifier text, payload text, job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.enqueue_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload::json, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_job(text, text, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_job(text, text, text, text, timestamptz, int, int) IS
    'Enqueues a job whose payload is given as text that holds JSON.';

-- Calls with five or more untyped literals: in fifth place the uuid form has text and the others a timestamp, so only a
-- form of text throughout is preferred everywhere. The first five have no default, which keeps it out of shorter calls.
CREATE FUNCTION @extschema@.add_job(
    identifier text, payload text, job_key text, queue_name text, run_at text, max_attempts text DEFAULT NULL,
    priority text DEFAULT NULL
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.enqueue_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload::json, job_key, queue_name, run_at::timestamptz, max_attempts::int, priority::int);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_job(text, text, text, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_job(text, text, text, text, text, text, text) IS
    'Enqueues a job whose arguments are all given as untyped literals.';

-- Trigger functions for the application's own tables. SECURITY DEFINER: whoever may write such a table causes the job,
-- without any right to this schema. So no code of others may run in them: a cast of a column's type is such code.

-- Refuses a table with a column whose type, or a type inside it, has a cast to json by a role that is neither a
-- superuser nor this schema's owner: to_json would call it.
CREATE FUNCTION @extschema@.require_trusted_json(relation oid) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    foreign_type regtype;
BEGIN
    -- Types below 16384 are PostgreSQL's own.
    WITH RECURSIVE reached (type) AS (
        SELECT a.atttypid FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
        UNION
        SELECT inner_type.oid FROM reached r JOIN pg_type t ON t.oid = r.type
         CROSS JOIN LATERAL (
            SELECT t.typelem AS oid UNION ALL SELECT t.typbasetype
            UNION ALL
            SELECT a.atttypid FROM pg_attribute a
             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) inner_type
         WHERE inner_type.oid >= 16384)
    SELECT r.type::regtype INTO foreign_type
      FROM reached r JOIN pg_cast c ON c.castsource = r.type AND c.casttarget = 'json'::regtype
      JOIN pg_proc p ON p.oid = c.castfunc JOIN pg_roles o ON o.oid = p.proowner
     WHERE NOT o.rolsuper AND o.rolname <> current_user LIMIT 1;
    IF foreign_type IS NOT NULL THEN
        RAISE EXCEPTION 'type % of table % has a cast to json of its own', foreign_type, relation::regclass
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Use trigger_job_with_fields, or let the owner of the jobs schema own the cast.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.require_trusted_json(oid) FROM PUBLIC;

CREATE FUNCTION @extschema@.trigger_task(arguments text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF coalesce(arguments[0], '') = '' THEN
        RAISE EXCEPTION 'the trigger names no task' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give the task as the first argument: EXECUTE FUNCTION …(''my_task'').';
    END IF;
    RETURN arguments[0];
END
$$;
REVOKE ALL ON FUNCTION @extschema@.trigger_task(text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.tg_add_job_with_row_id() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.require_trusted_json(TG_RELID);
    IF TG_OP = 'DELETE' THEN
        PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), json_build_object('id', OLD.id));
        RETURN OLD;
    END IF;
    PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), json_build_object('id', NEW.id));
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.tg_add_job_with_row_id() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tg_add_job_with_row_id() IS
    'Trigger (''task''): enqueues a job with the payload {"id": …} of the row.';

CREATE FUNCTION @extschema@.tg_add_job_with_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.require_trusted_json(TG_RELID);
    IF TG_OP = 'DELETE' THEN
        PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), to_json(OLD));
        RETURN OLD;
    END IF;
    PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), to_json(NEW));
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.tg_add_job_with_row() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.tg_add_job_with_row() IS 'Trigger (''task''): enqueues a job with the whole row as payload.';

CREATE FUNCTION @extschema@.trigger_job_with_fields() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names text[] := '{}';
    fields text[] := '{}';
    type oid;
    field text;
    query text;
BEGIN
    FOR i IN 1 .. TG_NARGS - 1 LOOP
        -- For a name that is no column, ($1).name would look for a function or a cast of that name.
        SELECT a.atttypid INTO type FROM pg_attribute a
         WHERE a.attrelid = TG_RELID AND a.attname = TG_ARGV[i] AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'table % has no column %', TG_RELID::regclass, quote_literal(TG_ARGV[i])
                USING ERRCODE = 'undefined_column';
        END IF;
        -- %I quotes the column's name; the row itself is a parameter. PostgreSQL's own types are cast; of others only the
        -- output function is called, which is what format does.
        query := CASE WHEN type < 16384 THEN 'SELECT ($1).%1$I::text'
                      ELSE 'SELECT CASE num_nulls(($1).%1$I) WHEN 0 THEN format(''%%s'', ($1).%1$I) END' END;
        IF TG_OP = 'DELETE' THEN
            EXECUTE format(query, TG_ARGV[i]) INTO field USING OLD;
        ELSE
            EXECUTE format(query, TG_ARGV[i]) INTO field USING NEW;
        END IF;
        names := names || TG_ARGV[i];
        fields := fields || field;
    END LOOP;
    PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), json_object(names, fields));
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.trigger_job_with_fields() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.trigger_job_with_fields() IS
    'Trigger (''task'', ''column'', …): enqueues a job with those columns, as text, in the payload.';
