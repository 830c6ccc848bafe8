-- Functions of this schema as they were before the attacks of attacks.rs were fended off. There each attack has to
-- succeed: else it shows nothing.

CREATE OR REPLACE FUNCTION app_jobs.require_trusted_json(relation oid) RETURNS void
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

CREATE OR REPLACE FUNCTION app_jobs.tg_add_job_with_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM app_jobs.require_trusted_json(TG_RELID);
    IF TG_OP = 'DELETE' THEN
        PERFORM app_jobs.add_job(app_jobs_internal.trigger_task(TG_ARGV), to_json(OLD));
        RETURN OLD;
    END IF;
    PERFORM app_jobs.add_job(app_jobs_internal.trigger_task(TG_ARGV), to_json(NEW));
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION app_jobs.tg_add_job_with_row_id() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM app_jobs.require_trusted_json(TG_RELID);
    IF TG_OP = 'DELETE' THEN
        PERFORM app_jobs.add_job(app_jobs_internal.trigger_task(TG_ARGV), json_build_object('id', OLD.id));
        RETURN OLD;
    END IF;
    PERFORM app_jobs.add_job(app_jobs_internal.trigger_task(TG_ARGV), json_build_object('id', NEW.id));
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION app_jobs.trigger_job_with_fields() RETURNS trigger
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
        -- %I quotes the column's name; the row itself is a parameter. PostgreSQL's own types are cast; of others only
        -- the output function is called, which is what format does.
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
    PERFORM app_jobs.add_job(app_jobs_internal.trigger_task(TG_ARGV), json_object(names, fields));
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;

-- What it did to the rows of queues, which there were then, is not needed: the call alone casts.
CREATE FUNCTION app_jobs_internal.sync_queues(names text[], deltas int[], relock text[]) RETURNS boolean
LANGUAGE plpgsql AS 'BEGIN RETURN false; END';

CREATE OR REPLACE FUNCTION app_jobs_internal.tg_jobs_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs bigint;
    queued bigint;
    on_demand boolean;
    woken boolean;
BEGIN
    SELECT count(*), count(n.queue_name), EXISTS (SELECT FROM app_jobs.settings)
      INTO jobs, queued, on_demand FROM new_rows n;
    IF jobs = 0 THEN
        RETURN NULL;
    END IF;
    IF queued > 0 THEN
        PERFORM app_jobs_internal.sync_queues(
            array_agg(c.queue_name), array_agg(c.jobs),
            coalesce(array_agg(c.queue_name) FILTER (WHERE c.locked), '{}'))
           FROM (SELECT n.queue_name, count(*)::int AS jobs, bool_or(n.locked_at IS NOT NULL) AS locked
                   FROM new_rows n WHERE n.queue_name IS NOT NULL GROUP BY n.queue_name) c;
    END IF;
    -- An assignment is evaluated in place; PERFORM would be a query of its own.
    woken := app_jobs_internal.wake_workers(on_demand);
    RETURN NULL;
END
$$;
