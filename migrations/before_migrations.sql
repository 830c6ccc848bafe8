-- Run before anything else, by migrate and by every script of the extension. Triggers, constraints and functions of
-- these schemas run with the rights of whoever migrates. So their owner must be the one who migrates, or a superuser:
-- membership is not enough, as a role may give itself to others (before PostgreSQL 16). A role that SET ROLE took on
-- is no protection either, since that code could RESET it.
DO $trust$
DECLARE
    me CONSTANT oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);
    -- The owner of the tables, once there are some.
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = to_regclass('@extschema@.jobs'));
    stranger oid;
    refused record;
BEGIN
    IF owner <> me AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = owner) THEN
        RAISE EXCEPTION 'the tables of schema @extschema@ belong to %, whose code would run with the rights of %',
            owner::regrole, me::regrole
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Nothing was changed.',
                  HINT = format('Migrate as %1$s. Who trusts that role may take it on: PGOPTIONS="-c role=%1$s".',
                                owner::regrole);
    END IF;
    owner := coalesce(owner, me);

    -- Whoever owns a schema can drop what is in it, and put his own in its place.
    SELECT r.oid INTO stranger
      FROM pg_namespace n
      JOIN pg_database d ON d.datname = current_database()
      -- Of the schema public, that is the database's owner.
      JOIN pg_roles r
        ON r.oid = CASE pg_get_userbyid(n.nspowner) WHEN 'pg_database_owner' THEN d.datdba ELSE n.nspowner END
     WHERE n.oid = to_regnamespace('@extschema@') AND r.oid <> owner AND r.oid <> me AND NOT r.rolsuper;
    IF FOUND THEN
        RAISE EXCEPTION 'the schema @extschema@ belongs to %, who could replace its tables and functions',
            stranger::regrole
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Nothing was changed.',
                  HINT = format('Look at what is in it. Then ALTER SCHEMA @extschema@ OWNER TO %s, or install into '
                                'another schema (JOBS_SCHEMA).', owner::regrole);
    END IF;

    -- What migrate writes to, and reads which functions are ours from.
    FOR refused IN
        SELECT c.oid::regclass AS relation, c.relowner::regrole AS owner,
               CASE WHEN c.relkind <> 'r' THEN 'is no plain table'
                    WHEN c.relowner <> owner AND NOT r.rolsuper THEN format('belongs to %s', c.relowner::regrole)
                    WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid) THEN 'has a trigger'
                    WHEN EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid) THEN 'has a rule'
               END AS what
          FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
         WHERE c.relnamespace = to_regnamespace('@extschema@')
           AND c.relname IN ('schema_history', 'schema_functions', 'schema_state')
         ORDER BY c.relname
    LOOP
        IF refused.what IS NOT NULL THEN
            RAISE EXCEPTION '% %, and migrate keeps there what it has done', refused.relation, refused.what
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Nothing was changed.',
                      HINT = format('Look at it, and drop what is wrong (its owner is %s), or install into another '
                                    'schema (JOBS_SCHEMA).', refused.owner);
        END IF;
    END LOOP;

    IF to_regclass('@extschema@.schema_functions') IS NOT NULL THEN
        -- Before PostgreSQL 16 a signature with a type that is not there cannot be looked for.
        SELECT d.name, d.base INTO refused
          FROM (VALUES ('rule_text', 'text'), ('rule_jsonb', 'jsonb')) AS d (name, base)
         WHERE to_regtype('@extschema@.' || d.name) IS NULL
           AND EXISTS (SELECT FROM @extschema@.schema_functions f WHERE f.signature ~ ('[.]' || d.name || '[,)]'));
        IF FOUND THEN
            RAISE EXCEPTION 'the domain @extschema@.% is missing, which a migration has made', refused.name
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'Somebody has dropped it, and functions with it. Nothing was changed.',
                      HINT = format('CREATE DOMAIN @extschema@.%s AS %s, as the owner of the tables, and migrate '
                                    'again.', refused.name, refused.base);
        END IF;
        SELECT p.oid::regprocedure AS routine, p.proowner::regrole AS owner INTO refused
          FROM @extschema@.schema_functions f
          JOIN pg_proc p ON p.oid = to_regprocedure(f.signature)
          JOIN pg_roles r ON r.oid = p.proowner
         WHERE r.oid <> owner AND NOT r.rolsuper
         ORDER BY f.signature LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION '% belongs to %, and not to %, the owner of the tables', refused.routine, refused.owner,
                owner::regrole
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Nothing was changed.',
                      HINT = format('DROP ROUTINE %s, and migrate installs it again.', refused.routine);
        END IF;
    END IF;
END
$trust$;
