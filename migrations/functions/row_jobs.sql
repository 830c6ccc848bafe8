-- Trigger functions for an application's own tables: a job for each row.
--
-- They run as the schema's owner, on rows of anybody's types. So they resolve no cast, operator or function of a type
-- that is another's: such a value is written by its type's output function. Another session may change the types
-- meanwhile, so each value's type is looked at where the value is used.

CREATE OR REPLACE FUNCTION @internal@.trigger_task(arguments text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF coalesce(arguments[0], '') = '' THEN
        RAISE EXCEPTION 'the trigger names no task' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give the task as the first argument: EXECUTE FUNCTION …(''my_task'').';
    END IF;
    RETURN arguments[0];
END
$$;

-- Whether only PostgreSQL, a superuser or this schema's owner decides what to_json makes of the type's values.
-- Composite types are not among them: their attributes may change.
CREATE OR REPLACE FUNCTION @internal@.has_trusted_json(type oid) RETURNS boolean
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
             WHERE c.castsource = leaf AND c.casttarget = 'json'::regtype
               AND NOT o.rolsuper AND o.rolname <> current_user);
END
$$;

-- The same for a row, column by column. Each value has to be of its column's very type: where the column is gone, its
-- name may be read as that of the whole row, whose type, record, is PostgreSQL's own as well.
CREATE OR REPLACE FUNCTION @internal@.row_expression(value text, relation oid, depth int) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT format('(SELECT to_json(%1$I.*) FROM (SELECT %2$s FROM (SELECT (%3$s).*) AS %4$I) AS %1$I)',
                      format('row %s', depth), string_agg(c.expression, ', ' ORDER BY c.n), value,
                      format('columns %s', depth))
          FROM (SELECT a.attnum AS n,
                       CASE WHEN a.atttypid < 16384
                            THEN format('CASE WHEN pg_typeof(%1$I)::oid = %2$s THEN to_json(%1$I) END AS %1$I',
                                        a.attname, a.atttypid)
                            ELSE format('%s AS %I',
                                        @internal@.json_expression(quote_ident(a.attname), a.atttypid, depth),
                                        a.attname)
                       END AS expression
                  FROM pg_attribute a
                 WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped) c);
END
$$;

-- The SQL that makes a value JSON as to_json does, but for casts of others: a value of a type that has one is text. So
-- are, of types of others, arrays of composite types with more than one dimension, and what lies deeper than eight
-- levels.
CREATE OR REPLACE FUNCTION @internal@.json_expression(value text, type oid, depth int) RETURNS text
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
    IF @internal@.has_trusted_json(type) THEN
        as_json := format('to_json(%s)', value);
    ELSIF depth < 8 THEN
        WHILE EXISTS (SELECT FROM pg_type t WHERE t.oid = base AND t.typtype = 'd') LOOP
            base := (SELECT t.typbasetype FROM pg_type t WHERE t.oid = base);
        END LOOP;
        SELECT e.oid, nullif(t.typrelid, 0), t.typdelim INTO element, relation, delimiter
          FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid WHERE t.oid = base;
        IF relation IS NOT NULL THEN
            as_json := @internal@.row_expression(value, relation, depth + 1);
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
                        value, as_text,
                        @internal@.json_expression(format('(%s)[%I]', value, item), element, depth + 1), item)
                    END
                  FROM pg_type t WHERE t.oid = base);
        END IF;
    END IF;
    RETURN format('CASE WHEN num_nulls(%1$s) = 1 THEN NULL WHEN pg_typeof(%1$s)::oid = %2$s THEN %3$s ELSE %4$s END',
                  value, type, coalesce(as_json, as_text), as_text);
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
                                                      ELSE 'CASE num_nulls(%1$I) WHEN 0 THEN format(''%%s'', %1$I) END'
                                                 END, f.name), ', ' ORDER BY f.n))
                   FROM unnest(names, types) WITH ORDINALITY AS f (name, type, n)) INTO fields USING changed;
    END IF;
    PERFORM @extschema@.add_job(@internal@.trigger_task(TG_ARGV),
                                json_object(coalesce(names, '{}'), coalesce(fields, '{}')));
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION @extschema@.trigger_job_with_fields() IS
    'Trigger (''task'', ''column'', …): enqueues a job with those columns, as text, in the payload.';

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
           AND CASE WHEN a.atttypid >= 16384 THEN NOT @internal@.has_trusted_json(a.atttypid) END)
    THEN
        payload := to_json(changed);
    ELSE
        EXECUTE 'SELECT ' || @internal@.row_expression('$1', TG_RELID, 0) INTO payload USING changed;
    END IF;
    PERFORM @extschema@.add_job(@internal@.trigger_task(TG_ARGV), payload);
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION @extschema@.tg_add_job_with_row() IS
    'Trigger (''task''): enqueues a job with the whole row as payload.';

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
                       @internal@.json_expression('id', type, 0)) INTO payload USING changed;
    END IF;
    PERFORM @extschema@.add_job(@internal@.trigger_task(TG_ARGV), payload);
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION @extschema@.tg_add_job_with_row_id() IS
    'Trigger (''task''): enqueues a job with the payload {"id": …} of the row.';
