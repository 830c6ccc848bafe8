-- Nobody's casts, operators or functions run with rights that he does not have: the trigger functions for an application's
-- tables make JSON without them, and those of this schema's own tables refuse any other table. job_queues is written by them
-- alone.

-- A table's trigger function runs as this schema's owner, so that whoever writes the table needs no right to enqueue. to_json
-- looks for a cast of the value's type, and a cast to text may be a function, too: for a type of somebody else that would be
-- his code with the owner's rights. To look beforehand whether there is one is no help: another session may make it in
-- between, and under REPEATABLE READ queries do not see what to_json and the parser do. So these functions rely on what cannot
-- change in between:
--
-- * Which columns the table has: the statement that fired the trigger holds a lock on the table.
-- * What a value's type is: pg_typeof says it where the value is used.
-- * What kind of type that is, what a domain or an array is made of, and whose it is: another role cannot change any of it.
--
-- Of every other type only the output function is called, which format does. Only superusers can make types with an output
-- function of their own. A column is named without the row before it: row.name, where there is no such column (any more), is
-- read as the call of a function of that name.
DROP FUNCTION @extschema@.require_trusted_json(oid);

-- Whether only PostgreSQL, a superuser or this schema's owner decides what to_json makes of the type's values. Composite types
-- are not among them: their attributes may change.
CREATE FUNCTION @extschema@.has_trusted_json(type oid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    leaf oid := type;
    part oid;
BEGIN
    LOOP
        -- Types below 16384 are PostgreSQL's own.
        IF leaf < 16384 THEN
            RETURN true;
        END IF;
        part := (SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE e.oid END
                   FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid WHERE t.oid = leaf);
        EXIT WHEN part IS NULL;
        leaf := part;
    END LOOP;
    -- Only the owner of a type, or of json, makes a cast from the one to the other.
    RETURN EXISTS (
            SELECT FROM pg_type t JOIN pg_roles o ON o.oid = t.typowner
             WHERE t.oid = leaf AND t.typtype <> 'c' AND (o.rolsuper OR o.rolname = current_user))
       AND NOT EXISTS (
            SELECT FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc JOIN pg_roles o ON o.oid = p.proowner
             WHERE c.castsource = leaf AND c.casttarget = 'json'::regtype AND NOT o.rolsuper AND o.rolname <> current_user);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.has_trusted_json(oid) FROM PUBLIC;

-- The SQL that makes a value JSON as to_json does, but for casts of others: a value of a type that has one is text. So are, of
-- types of others, arrays of composite types with more than one dimension, and what lies deeper than eight levels.
CREATE FUNCTION @extschema@.json_expression(value text, type oid, depth int) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    as_text text := format('to_json(format(''%%s'', %s))', value);
    as_json text;
    base oid := type;
    element oid;
    relation oid;
    delimiter "char";
    item text := format('item %s', depth);
BEGIN
    IF @extschema@.has_trusted_json(type) THEN
        as_json := format('to_json(%s)', value);
    ELSIF depth < 8 THEN
        WHILE EXISTS (SELECT FROM pg_type t WHERE t.oid = base AND t.typtype = 'd') LOOP
            base := (SELECT t.typbasetype FROM pg_type t WHERE t.oid = base);
        END LOOP;
        SELECT e.oid, nullif(t.typrelid, 0), t.typdelim INTO element, relation, delimiter
          FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid WHERE t.oid = base;
        IF relation IS NOT NULL THEN
            as_json := @extschema@.row_expression(value, relation, depth + 1);
        ELSIF element IS NOT NULL THEN
            base := element;
            WHILE EXISTS (SELECT FROM pg_type t WHERE t.oid = base AND t.typtype = 'd') LOOP
                base := (SELECT t.typbasetype FROM pg_type t WHERE t.oid = base);
            END LOOP;
            as_json := (
                SELECT CASE
                    -- An array of values that are text in JSON: written and read as text, it keeps its dimensions.
                    WHEN t.typrelid = 0 AND t.typelem = 0 AND delimiter = ','
                    THEN format('to_json(format(''%%s'', %s)::text[])', value)
                    ELSE format(
                        'CASE WHEN array_ndims(%1$s) > 1 THEN %2$s ELSE array_to_json(ARRAY(
                            SELECT %3$s FROM generate_subscripts(%1$s, 1) AS %4$I ORDER BY %4$I)) END',
                        value, as_text, @extschema@.json_expression(format('(%s)[%I]', value, item), element, depth + 1), item)
                    END
                  FROM pg_type t WHERE t.oid = base);
        END IF;
    END IF;
    RETURN format('CASE WHEN num_nulls(%1$s) = 1 THEN NULL WHEN pg_typeof(%1$s)::oid = %2$s THEN %3$s ELSE %4$s END',
                  value, type, coalesce(as_json, as_text), as_text);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.json_expression(text, oid, int) FROM PUBLIC;

-- The same for a row, column by column. Each value has to be of its column's very type: where the column is gone, its name may
-- be read as that of the whole row, whose type, record, is PostgreSQL's own as well.
CREATE FUNCTION @extschema@.row_expression(value text, relation oid, depth int) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT format('(SELECT to_json(%1$I.*) FROM (SELECT %2$s FROM (SELECT (%3$s).*) AS %4$I) AS %1$I)',
                      format('row %s', depth), string_agg(c.expression, ', ' ORDER BY c.n), value, format('columns %s', depth))
          FROM (SELECT a.attnum AS n,
                       CASE WHEN a.atttypid < 16384
                            THEN format('CASE WHEN pg_typeof(%1$I)::oid = %2$s THEN to_json(%1$I) END AS %1$I',
                                        a.attname, a.atttypid)
                            ELSE format('%s AS %I', @extschema@.json_expression(quote_ident(a.attname), a.atttypid, depth),
                                        a.attname)
                       END AS expression
                  FROM pg_attribute a
                 WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped) c);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.row_expression(text, oid, int) FROM PUBLIC;

CREATE OR REPLACE FUNCTION @extschema@.tg_add_job_with_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record;
    payload json;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    -- Only under READ COMMITTED does a query see every column there is.
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') AND NOT EXISTS (
        SELECT FROM pg_attribute a
         WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped
           AND CASE WHEN a.atttypid >= 16384 THEN NOT @extschema@.has_trusted_json(a.atttypid) END)
    THEN
        payload := to_json(changed);
    ELSE
        EXECUTE 'SELECT ' || @extschema@.row_expression('$1', TG_RELID, 0) INTO payload USING changed;
    END IF;
    PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), payload);
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.tg_add_job_with_row_id() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record;
    type oid;
    payload json;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    IF TG_LEVEL = 'ROW' THEN
        type := pg_typeof(changed.id);
    END IF;
    IF type IS NULL THEN
        payload := '{"id": null}';
    ELSIF type < 16384 THEN
        payload := json_build_object('id', changed.id);
    ELSE
        EXECUTE format('SELECT json_build_object(''id'', %s) FROM (SELECT ($1).*) AS "columns"',
                       @extschema@.json_expression('id', type, 0)) INTO payload USING changed;
    END IF;
    PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), payload);
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.trigger_job_with_fields() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record;
    names text[] := TG_ARGV[1:];
    types oid[];
    fields text[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    IF TG_LEVEL = 'STATEMENT' THEN
        fields := array_fill(NULL::text, ARRAY[cardinality(names)]);
    ELSIF cardinality(names) > 0 THEN
        EXECUTE (SELECT format('SELECT ARRAY[%s] FROM (SELECT ($1).*) AS "columns of the row"',
                               string_agg(format('pg_typeof(%I)::oid', f.name), ', ' ORDER BY f.n))
                   FROM unnest(names) WITH ORDINALITY AS f (name, n)) INTO types USING changed;
        -- PostgreSQL's own types are cast, as only they are sure to have no cast to text but PostgreSQL's.
        EXECUTE (SELECT format('SELECT ARRAY[%s] FROM (SELECT ($1).*) AS "columns of the row"',
                               string_agg(format(CASE WHEN f.type < 16384 THEN '%1$I::text'
                                                      ELSE 'CASE num_nulls(%1$I) WHEN 0 THEN format(''%%s'', %1$I) END' END,
                                                 f.name), ', ' ORDER BY f.n))
                   FROM unnest(names, types) WITH ORDINALITY AS f (name, type, n)) INTO fields USING changed;
    END IF;
    PERFORM @extschema@.add_job(@extschema@.trigger_task(TG_ARGV), json_object(coalesce(names, '{}'), coalesce(fields, '{}')));
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;

-- The functions of this schema's own triggers run as its owner as well. On another table, whose columns may be of any type,
-- the same statements would resolve casts and operators of that table's owner.
CREATE FUNCTION @extschema@.refuse_other_table(relation oid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trigger function of table @extschema@.jobs is on table %', relation::regclass
        USING ERRCODE = 'insufficient_privilege', HINT = 'Drop the trigger: the function is for its own table only.';
END
$$;
REVOKE ALL ON FUNCTION @extschema@.refuse_other_table(oid) FROM PUBLIC;

-- tg_jobs_inserted follows in V20.

CREATE OR REPLACE FUNCTION @extschema@.tg_jobs_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    queued bigint;
    claimable boolean;
    freed boolean := false;
    woken boolean;
BEGIN
    IF TG_RELID <> '@extschema@.jobs'::regclass THEN
        PERFORM @extschema@.refuse_other_table(TG_RELID);
    END IF;
    SELECT count(n.queue_name), bool_or(n.locked_at IS NULL AND n.attempts < n.max_attempts)
      INTO queued, claimable FROM new_rows n;
    IF queued > 0 OR EXISTS (SELECT FROM old_rows o WHERE o.queue_name IS NOT NULL) THEN
        -- Only queues whose count or whose running jobs changed: an update of anything else takes no queue's row, so that
        -- add_job, which may end one job's key and insert another job, holds one queue at a time.
        SELECT @extschema@.sync_queues(
                   coalesce(array_agg(c.queue_name) FILTER (WHERE c.delta <> 0), '{}'),
                   coalesce(array_agg(c.delta) FILTER (WHERE c.delta <> 0), '{}'),
                   coalesce(array_agg(c.queue_name) FILTER (WHERE c.locked), '{}'))
          INTO freed
          FROM (SELECT g.queue_name, sum(g.delta)::int AS delta,
                       bool_or(g.locked_at IS NOT NULL AND g.delta <> 0) AS locked
                  FROM (SELECT r.queue_name, r.locked_at, r.locked_by, sum(r.delta) AS delta
                          FROM (SELECT n.queue_name, n.locked_at, n.locked_by, 1 AS delta FROM new_rows n
                                UNION ALL
                                SELECT o.queue_name, o.locked_at, o.locked_by, -1 FROM old_rows o) r
                         WHERE r.queue_name IS NOT NULL GROUP BY 1, 2, 3) g
                 GROUP BY 1) c
         WHERE c.delta <> 0 OR c.locked
        HAVING count(*) > 0;
    END IF;
    -- A release, a retry, a reschedule or a replaced key: workers look again, or plan their next look anew.
    IF freed OR claimable THEN
        woken := @extschema@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.tg_jobs_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    freed boolean;
    woken boolean;
BEGIN
    IF TG_RELID <> '@extschema@.jobs'::regclass THEN
        PERFORM @extschema@.refuse_other_table(TG_RELID);
    END IF;
    IF NOT EXISTS (SELECT FROM old_rows o WHERE o.queue_name IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    SELECT @extschema@.sync_queues(
               array_agg(c.queue_name), array_agg(-c.jobs),
               coalesce(array_agg(c.queue_name) FILTER (WHERE c.locked), '{}'))
      INTO freed
      FROM (SELECT o.queue_name, count(*)::int AS jobs, bool_or(o.locked_at IS NOT NULL) AS locked
              FROM old_rows o WHERE o.queue_name IS NOT NULL GROUP BY o.queue_name) c;
    IF freed THEN
        woken := @extschema@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.tg_jobs_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_RELID <> '@extschema@.jobs'::regclass THEN
        PERFORM @extschema@.refuse_other_table(TG_RELID);
    END IF;
    DELETE FROM @extschema@.job_queues;
    RETURN NULL;
END
$$;

-- Rows of job_queues are made by the triggers of jobs. What somebody inserts himself is left out: a dump restored into a
-- migrated schema (pg_restore --data-only) has the rows of jobs as well, from which the triggers make these.
CREATE FUNCTION @extschema@.tg_job_queues_derived() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.tg_job_queues_derived() FROM PUBLIC;

CREATE TRIGGER job_queues_derived BEFORE INSERT ON @extschema@.job_queues FOR EACH ROW
    WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION @extschema@.tg_job_queues_derived();
