-- Traps for what runs with its caller's search_path: in the schema public, an operator or a function for arguments that
-- PostgreSQL's own takes only after a conversion. A call that is not of exact types prefers the trap, which raises an
-- error.
SET search_path = pg_catalog;

-- Operators: every pair of these types for which PostgreSQL has none.
DO $operators$
DECLARE
    types CONSTANT text[] := '{
        int2, int4, int8, numeric, float8, interval, timestamptz, timestamp, date, text, varchar, name, uuid, json,
        jsonb, oid, int4[], int8[], text[], uuid[], name[], oid[]}';
    trap record;
    number int := 0;
BEGIN
    FOR trap IN
        SELECT o.name, l.type AS l, r.type AS r,
               CASE WHEN o.name IN ('<', '<=', '=', '>=', '>', '<>') THEN 'boolean' ELSE l.type END AS result
          FROM unnest('{+, -, *, /, %, ||, <, <=, =, >=, >, <>}'::text[]) AS o (name),
               unnest(types) AS l (type), unnest(types) AS r (type)
         WHERE NOT EXISTS (SELECT FROM pg_operator p
                            WHERE p.oprnamespace = 'pg_catalog'::regnamespace AND p.oprname = o.name
                              AND p.oprleft = l.type::regtype AND p.oprright = r.type::regtype)
    LOOP
        number := number + 1;
        EXECUTE format(
            'CREATE FUNCTION public.trap_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS $t$ '
            'BEGIN RAISE EXCEPTION USING MESSAGE = %L; END $t$',
            number, trap.l, trap.r, trap.result, format('trapped: %s %s %s', trap.l, trap.name, trap.r));
        EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.trap_%s)',
                       trap.name, trap.l, trap.r, number);
    END LOOP;
END
$operators$;

-- Functions of up to three arguments, aggregates among them: each argument that others are converted to, of those
-- other types.
DO $functions$
DECLARE
    trap record;
BEGIN
    FOR trap IN
        WITH converted (type, from_types) AS (VALUES
            ('"any"'::regtype, '{int4, int8, text, json, uuid, int8[], text[], bool, timestamptz}'::text[]),
            ('anyarray', '{int4[], int8[], text[], uuid[], oid[], name[], json[], bool[], timestamptz[]}'),
            ('anynonarray', '{int8, text, uuid, json}'), ('anyelement', '{int4, int8, text, uuid, json}'),
            ('anycompatiblearray', '{int8[], text[], uuid[]}'), ('anycompatible', '{int8, text, uuid}'),
            ('int8', '{int4, int8}'), ('float8', '{int4, int8, numeric, float8}'), ('numeric', '{int4, int8, numeric}'),
            ('text', '{name, text, varchar}'), ('timestamp', '{date, timestamp}'),
            ('timestamptz', '{timestamp, timestamptz}')),
        arguments AS (
            SELECT p.oid, p.proname, p.pronargs, a.n,
                   unnest(coalesce(c.from_types, ARRAY[format_type(a.type, NULL)])) AS type
              FROM pg_proc p CROSS JOIN LATERAL unnest(p.proargtypes) WITH ORDINALITY AS a (type, n)
              LEFT JOIN converted c ON c.type = a.type
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.pronargs BETWEEN 1 AND 3
               AND p.prokind IN ('f', 'a', 'w')
               AND NOT p.proargtypes::oid[] && '{internal, cstring}'::regtype[]::oid[]
               AND NOT EXISTS (SELECT FROM pg_operator o WHERE o.oprcode = p.oid)
               AND NOT EXISTS (SELECT FROM pg_cast c WHERE c.castfunc = p.oid)),
        forms AS (
            SELECT DISTINCT a.proname, array_remove(ARRAY[a.type, b.type, c.type], NULL) AS types
              FROM arguments a LEFT JOIN arguments b ON b.oid = a.oid AND b.n = 2
              LEFT JOIN arguments c ON c.oid = a.oid AND c.n = 3
             WHERE a.n = 1)
        SELECT f.proname, array_to_string(f.types, ', ') AS types FROM forms f
         WHERE NOT EXISTS (
               SELECT FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = f.proname
                  AND p.proargtypes::oid[] = f.types::regtype[]::oid[])
           AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (f.types::regtype[]::oid[]) AND t.typtype = 'p')
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS text LANGUAGE plpgsql AS $t$ '
                           'BEGIN RAISE EXCEPTION USING MESSAGE = %L; END $t$',
                           trap.proname, trap.types, format('trapped: %s(%s)', trap.proname, trap.types));
        EXCEPTION WHEN duplicate_function THEN
            NULL; -- under two names of one type
        END;
    END LOOP;
END
$functions$;

SET search_path = DEFAULT;
