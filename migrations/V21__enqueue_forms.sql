-- Forms of enqueueing that people write and that were refused: jsonb, a bare rule as text; and what is wrong is told with a hint.

-- Domains keep a form out of calls that mean another one: for an untyped argument, and for one of type text or varchar, PostgreSQL
-- prefers text itself. Nobody has a value of these types.
CREATE DOMAIN @extschema@.rule_text AS text;
CREATE DOMAIN @extschema@.rule_jsonb AS jsonb;
CREATE DOMAIN @extschema@.misnamed AS text;

-- As in V8 and V13, but an empty queue name is none, and max_attempts below 1 is told with a hint.
CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    -- What is wrong is told by enqueue_job.
    IF job_key IS NULL AND identifier <> '' AND coalesce(max_attempts, 1) > 0 THEN
        INSERT INTO @extschema@.jobs
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        VALUES
            (CASE WHEN current_setting('jwt.claims.database_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.database_id') END,
             CASE WHEN current_setting('jwt.claims.user_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.user_id') END,
             identifier, coalesce(payload, '{}'), nullif(queue_name, ''), coalesce(run_at, now()), coalesce(max_attempts, 25),
             coalesce(priority, 0))
        RETURNING * INTO job;
        RETURN job;
    END IF;
    RETURN @extschema@.enqueue_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.add_job_for_any_tenant(
    tenant uuid, identifier text, payload json, job_key text, queue_name text, run_at timestamptz, max_attempts int,
    priority int
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    -- What is wrong is told by enqueue_job.
    IF job_key IS NULL AND identifier <> '' AND coalesce(max_attempts, 1) > 0 THEN
        INSERT INTO @extschema@.jobs
            (database_id, actor_id, task_identifier, payload, queue_name, run_at, max_attempts, priority)
        VALUES
            (tenant,
             CASE WHEN current_setting('jwt.claims.user_id', true) <> ''
                  THEN @extschema@.claim_uuid('jwt.claims.user_id') END,
             identifier, coalesce(payload, '{}'), nullif(queue_name, ''), coalesce(run_at, now()), coalesce(max_attempts, 25),
             coalesce(priority, 0))
        RETURNING * INTO job;
        RETURN job;
    END IF;
    RETURN @extschema@.enqueue_job(
        tenant, @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;

-- A time that is given as text: an interval, which people write for "in 10 minutes", gets a hint.
CREATE FUNCTION @extschema@.run_at_of(value text) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF value ~* '^\s*(in\s+|[-+@]\s*)?[0-9.]+\s*(us|ms|s|m|h|d|w|secs?|seconds?|mins?|minutes?|hours?|days?|weeks?|mons?|months?|years?|y)\s*$'
       OR value ~ '^\s*P[0-9T]' THEN
        RAISE EXCEPTION 'run_at is a time, and % is an interval', quote_literal(value)
            USING ERRCODE = 'invalid_datetime_format', HINT = format('Add it to a time: now() + interval %L.', value);
    END IF;
    RETURN value::timestamptz;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.run_at_of(text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION @extschema@.add_job(
    identifier text, payload text, job_key text, queue_name text, run_at text, max_attempts text DEFAULT NULL,
    priority text DEFAULT NULL
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.enqueue_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload::json, job_key, queue_name, @extschema@.run_at_of(run_at), max_attempts::int, priority::int);
END
$$;

-- A payload of type jsonb, as psycopg's Jsonb sends it. Without a default: add_job('x') stays the first form's. (Beside the form with
-- a db_id there is none: an untyped payload would fit both, and give PostgreSQL no reason to choose.)
CREATE FUNCTION @extschema@.add_job(
    identifier text, payload jsonb, job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT now(), max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @extschema@.enqueue_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, payload::json, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.add_job(text, jsonb, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.add_job(text, jsonb, text, text, timestamptz, int, int) IS
    'Enqueues a job whose payload is of type jsonb.';

-- A rule that is given as text: JSON, or the bare rule.
CREATE FUNCTION @extschema@.rule_json(rule text) RETURNS json
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF rule ~ '^\s*([{["]|-?[0-9.]+\s*$|null\s*$|true\s*$|false\s*$|$)' THEN
        RETURN rule::json;
    END IF;
    RETURN to_json(rule);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.rule_json(text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION @extschema@.add_scheduled_job(
    identifier text, payload text, schedule_info text, job_key text, queue_name text, max_attempts text,
    priority text DEFAULT NULL
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.enqueue_scheduled_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'), identifier,
        payload::json, @extschema@.rule_json(schedule_info), job_key, queue_name, max_attempts::int, priority::int);
END
$$;

-- The forms of add_scheduled_job for payloads and rules as text and jsonb. The types of the first arguments differ, and what is
-- called is the same; so they are made from one text. Not beside the form with a db_id, as above.
DO $forms$
DECLARE
    form record;
    signature text;
BEGIN
    FOR form IN
        SELECT * FROM (VALUES
            ('payload text, schedule_info text', 'text, text', 'payload::json, @extschema@.rule_json(schedule_info)',
             'the payload as text that holds JSON, and the rule as text: JSON, or a bare rule such as */5 * * * *'),
            ('payload json, schedule_info text', 'json, text', 'payload, @extschema@.rule_json(schedule_info)',
             'the rule as text: JSON, or a bare rule such as */5 * * * *'),
            ('payload jsonb, schedule_info jsonb DEFAULT ''{}''', 'jsonb, jsonb', 'payload::json, schedule_info::json',
             'payload and rule of type jsonb'),
            ('payload jsonb, schedule_info text', 'jsonb, text', 'payload::json, @extschema@.rule_json(schedule_info)',
             'a payload of type jsonb, and the rule as text'),
            ('payload text, schedule_info jsonb', 'text, jsonb', 'payload::json, schedule_info::json',
             'the payload as text that holds JSON, and a rule of type jsonb'),
            ('schedule_info @extschema@.rule_text, payload json DEFAULT ''{}''', '@extschema@.rule_text, json',
             'payload, @extschema@.rule_json(schedule_info)', 'its arguments by name, the rule as text'),
            ('schedule_info @extschema@.rule_jsonb, payload json DEFAULT ''{}''', '@extschema@.rule_jsonb, json',
             'payload, schedule_info::json', 'its arguments by name, the rule of type jsonb')
        ) AS f (arguments, types, values, told)
    LOOP
        EXECUTE format(
            $sql$
CREATE FUNCTION @extschema@.add_scheduled_job(
    identifier text, %s, job_key text DEFAULT NULL, queue_name text DEFAULT NULL, max_attempts int DEFAULT 25,
    priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @extschema@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.enqueue_scheduled_job(
        @extschema@.claim_uuid('jwt.claims.database_id'), @extschema@.claim_uuid('jwt.claims.user_id'),
        identifier, %s, job_key, queue_name, max_attempts, priority);
END
$body$
            $sql$, form.arguments, form.values);
        signature := format('@extschema@.add_scheduled_job(text, %s, text, text, int, int)', form.types);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', signature, 'Adds a schedule: ' || form.told || '.');
    END LOOP;
END
$forms$;

-- Names that people try. PostgreSQL says "function … does not exist" of a call with a name that no form has; these forms have
-- them, and say what the argument is called. They run as their caller and do nothing else.
DO $misnamed$
DECLARE
    form record;
    wrong text;
BEGIN
    FOR form IN
        SELECT f.*, o.* FROM (VALUES
            ('add_job', 'jobs', 'run_at timestamptz DEFAULT NULL',
             '{key,queue,task,task_identifier,name,data,args,delay,at,run_in,attempts,retries,tenant,database_id,actor_id}'::text[],
             'key is job_key; queue is queue_name; task, task_identifier and name are identifier; data and args are payload; delay, at and run_in are run_at, a time such as now() + interval ''10 minutes''; attempts and retries are max_attempts; tenant and database_id are db_id, in first place; actor_id is taken by enqueue() alone'),
            ('add_scheduled_job', 'scheduled_jobs', NULL,
             '{key,queue,task,task_identifier,name,data,args,rule,cron,schedule,attempts,retries,tenant,database_id}',
             'key is job_key; queue is queue_name; task, task_identifier and name are identifier; data and args are payload; rule, cron and schedule are schedule_info; attempts and retries are max_attempts; tenant and database_id are db_id, in first place')
          ) AS f (function, returned, run_at, names, told)
          CROSS JOIN (VALUES
            -- Without a payload or with one of type json; untyped or of type text; of type jsonb; and each with an untyped rule.
            ('identifier @extschema@.misnamed DEFAULT NULL, payload json DEFAULT NULL', 'schedule_info json DEFAULT NULL', NULL::text),
            ('identifier @extschema@.misnamed, payload text', 'schedule_info text DEFAULT NULL', NULL),
            ('identifier @extschema@.misnamed, payload jsonb', 'schedule_info jsonb DEFAULT NULL', NULL),
            ('identifier @extschema@.misnamed, payload json', 'schedule_info @extschema@.misnamed', 'add_scheduled_job'),
            ('identifier @extschema@.misnamed, payload jsonb', 'schedule_info @extschema@.misnamed', 'add_scheduled_job'),
            ('identifier @extschema@.misnamed, schedule_info @extschema@.misnamed', NULL, 'add_scheduled_job')
          ) AS o (first, schedule_info, only_in)
         WHERE o.only_in IS NULL OR o.only_in = f.function
    LOOP
        wrong := (SELECT string_agg(format('%I @extschema@.misnamed DEFAULT NULL', n), ', ') FROM unnest(form.names) AS n);
        EXECUTE format(
            $sql$
CREATE FUNCTION @extschema@.%1$I(%2$s) RETURNS @extschema@.%3$I
LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION '%1$s was called without an identifier, or with a name that is none of its arguments' USING ERRCODE = 'undefined_parameter', HINT = %4$L;
END
$body$
            $sql$,
            form.function,
            concat_ws(', ', form.first,
                      CASE WHEN form.function = 'add_scheduled_job' THEN form.schedule_info END,
                      'job_key @extschema@.misnamed DEFAULT NULL, queue_name @extschema@.misnamed DEFAULT NULL', form.run_at,
                      'max_attempts int DEFAULT NULL, priority int DEFAULT NULL', wrong),
            form.returned, 'Its arguments have other names: ' || form.told || '.');
    END LOOP;
    FOR form IN
        SELECT p.oid::regprocedure AS signature FROM pg_proc p
         WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proargtypes::oid[] @> ARRAY['@extschema@.misnamed'::regtype::oid]
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', form.signature);
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', form.signature, 'Tells what the arguments are called.');
    END LOOP;
END
$misnamed$;

-- What SQL can tell of a rule that cannot be used, in the words of the scheduler; NULL when it can tell nothing. It tells of cron
-- rules and of numbers out of range in recurrence objects. Dates, time zones and rules that never fire are the scheduler's to judge.
CREATE FUNCTION @extschema@.cron_fault(rule text, place text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    kinds CONSTANT text[] := '{second,minute,hour,day of month,month,day of week}';
    lows CONSTANT int[] := '{0,0,0,1,1,0}';
    highs CONSTANT int[] := '{59,59,23,31,12,7}';
    months CONSTANT text[] := '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}';
    days CONSTANT text[] := '{sun,mon,tue,wed,thu,fri,sat}';
    shown text := ' of ' || CASE WHEN length(rule) > 80 THEN to_json(left(rule, 80))::text || '…' ELSE to_json(rule)::text END || ')';
    field record;
    item record;
    word record;
    kind int;
    fields int;
    names text[];
    body text;
    first int;
    number numeric;
BEGIN
    IF btrim(rule, E' \t\n\r') ~ '^@' THEN
        IF lower(btrim(rule, E' \t\n\r')) <> ALL ('{@yearly,@annually,@monthly,@weekly,@daily,@midnight,@hourly}') THEN
            RETURN format('%s: is not one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly (character %s%s',
                          place, strpos(rule, '@'), shown);
        END IF;
        RETURN NULL;
    END IF;
    -- No date has an asterisk, or five numbers and nothing else.
    IF strpos(rule, '*') = 0 AND rule !~ '^\s*[0-9,/-]+(\s+[0-9,/-]+){4,5}\s*$' THEN
        RETURN NULL;
    END IF;
    fields := (SELECT count(*) FROM regexp_matches(rule, '\S+', 'g'));
    IF fields NOT IN (5, 6) THEN
        RETURN format('%s: is neither a date nor a cron rule: %s field(s) where a cron rule has 5, or 6 with seconds first (character 1%s',
                      place, fields, shown);
    END IF;
    -- Each field, its entries between commas, and their words, with where they begin.
    FOR field IN
        SELECT f.n, f.text, 1 + sum(length(f.gap) + coalesce(length(f.before), 0)) OVER (ORDER BY f.n) AS at
          FROM (SELECT m.n, m.parts[2] AS text, m.parts[1] AS gap, lag(m.parts[2]) OVER (ORDER BY m.n) AS before
                  FROM regexp_matches(rule, '(\s*)(\S+)', 'g') WITH ORDINALITY AS m (parts, n)) f
         ORDER BY f.n
    LOOP
        kind := field.n + 6 - fields;
        names := CASE kind WHEN 5 THEN months WHEN 6 THEN days ELSE '{}' END;
        FOR item IN
            SELECT i.text, field.at + coalesce(sum(length(i.text) + 1) OVER (ORDER BY i.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS at
              FROM unnest(string_to_array(field.text, ',')) WITH ORDINALITY AS i (text, n) ORDER BY i.n
        LOOP
            body := item.text;
            CONTINUE WHEN kind = 4 AND upper(body) = 'L';
            IF kind = 6 AND body ~* 'l$' THEN
                body := left(body, -1);
                IF body = '' THEN
                    RETURN format('%s, %s: L needs a day before it, as in 5L for the last Friday (character %s%s', place, kinds[kind], item.at, shown);
                END IF;
                IF strpos(body, '-') > 0 OR strpos(body, '/') > 0 THEN
                    RETURN format('%s, %s: %s is neither a number nor a three-letter name (character %s%s', place, kinds[kind], to_json(body), item.at, shown);
                END IF;
            ELSIF kind = 6 AND strpos(body, '#') > 0 THEN
                IF split_part(body, '#', 2) !~ '^[1-5]$' OR split_part(body, '#', 3) <> '' THEN
                    RETURN format('%s, %s: the number after # is not within 1-5 (character %s%s', place, kinds[kind], item.at + strpos(body, '#'), shown);
                END IF;
                body := split_part(body, '#', 1);
            ELSIF body = '' THEN
                RETURN format('%s, %s: an entry of the list is empty (character %s%s', place, kinds[kind], item.at, shown);
            ELSIF strpos(body, '/') > 0 THEN
                IF substr(body, strpos(body, '/') + 1) !~ '^[0-9]*[1-9][0-9]*$' THEN
                    RETURN format('%s, %s: the step after / is not a whole number from 1 on (character %s%s', place, kinds[kind],
                                  item.at + strpos(body, '/'), shown);
                END IF;
                body := split_part(body, '/', 1);
            END IF;
            CONTINUE WHEN body = '*' OR body = '?' AND kind IN (4, 6);
            first := NULL;
            FOR word IN
                SELECT split_part(body, '-', 1) AS text, item.at AS at
                UNION ALL
                SELECT substr(body, strpos(body, '-') + 1), item.at + strpos(body, '-') WHERE strpos(body, '-') > 0
            LOOP
                IF word.text ~ '^[0-9]+$' THEN
                    number := word.text::numeric;
                    IF number NOT BETWEEN lows[kind] AND highs[kind] THEN
                        RETURN format('%s, %s: %s is not within %s-%s (character %s%s', place, kinds[kind],
                                      CASE WHEN length(word.text) > 80 THEN left(word.text, 80) || '…' ELSE word.text END,
                                      lows[kind], highs[kind], word.at, shown);
                    END IF;
                ELSIF word.text = '' THEN
                    RETURN format('%s, %s: a number is missing (character %s%s', place, kinds[kind], word.at, shown);
                ELSIF lower(word.text) = ANY (names) THEN
                    number := lows[kind] + array_position(names, lower(word.text)) - 1;
                ELSE
                    RETURN format('%s, %s: %s is %s (character %s%s', place, kinds[kind], to_json(left(word.text, 80)),
                                  CASE WHEN cardinality(names) = 0 THEN 'not a number' ELSE 'neither a number nor a three-letter name' END,
                                  word.at, shown);
                END IF;
                IF first > number THEN
                    RETURN format('%s, %s: the range %s-%s runs backward (character %s%s', place, kinds[kind], first, number, item.at, shown);
                END IF;
                first := number;
            END LOOP;
        END LOOP;
    END LOOP;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.cron_fault(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.schedule_fault(schedule_info json) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    rule json := schedule_info;
    place text := 'schedule_info';
    path text := '';
    fault text;
BEGIN
    IF json_typeof(rule) = 'object' AND json_typeof(rule -> 'rule') <> 'null' THEN
        rule := rule -> 'rule';
        place := 'rule';
        path := 'rule.';
    END IF;
    CASE json_typeof(rule)
        WHEN 'string' THEN
            RETURN @extschema@.cron_fault(rule #>> '{}', place);
        WHEN 'object' THEN
            SELECT format('%s%s: %s is not %swithin %s-%s', path, f.name, v.text, CASE WHEN v.text::numeric <> 0 THEN 'a whole number ' END,
                          f.low, f.high) INTO fault
              FROM (VALUES ('date', 1, 31), ('second', 0, 59), ('minute', 0, 59), ('hour', 0, 23), ('dayOfWeek', 0, 6), ('month', 0, 11))
                   AS f (name, low, high)
             CROSS JOIN LATERAL (SELECT rule ->> f.name AS text WHERE json_typeof(rule -> f.name) = 'number') AS v
             WHERE v.text::numeric NOT BETWEEN f.low AND f.high OR v.text::numeric % 1 <> 0 LIMIT 1;
            RETURN fault;
        WHEN 'number' THEN
            RETURN NULL;
        ELSE
            RETURN place || ': is neither a cron rule, nor a date, nor a recurrence object';
    END CASE;
EXCEPTION WHEN data_exception THEN
    -- A text that PostgreSQL cannot hold, such as "\u0000".
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.schedule_fault(json) FROM PUBLIC;

-- A warning and last_error, not an error: callers of the original rely on the row. SECURITY DEFINER: whoever may write schedules
-- needs no right to the functions above.
CREATE FUNCTION @extschema@.tg_scheduled_jobs_checked() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fault text;
BEGIN
    IF TG_RELID <> '@extschema@.scheduled_jobs'::regclass THEN
        RAISE EXCEPTION 'this trigger function is for the table scheduled_jobs of its schema only'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.schedule_info::text = OLD.schedule_info::text THEN
        RETURN NEW;
    END IF;
    fault := @extschema@.schedule_fault(NEW.schedule_info);
    IF fault IS NOT NULL THEN
        NEW.last_error := fault;
        RAISE WARNING 'the schedule cannot fire: %', fault USING HINT = 'Correct schedule_info; last_error of the row says the same.';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.tg_scheduled_jobs_checked() FROM PUBLIC;
SET LOCAL lock_timeout = '5s';
-- After scheduled_jobs_renewed, by its name, which empties last_error of a rule that changes.
CREATE TRIGGER scheduled_jobs_rule BEFORE INSERT OR UPDATE OF schedule_info ON @extschema@.scheduled_jobs
    FOR EACH ROW EXECUTE FUNCTION @extschema@.tg_scheduled_jobs_checked();
SET LOCAL lock_timeout = DEFAULT;

-- Rights that were given by hand keep their meaning: a call that fits a new form better than the one it meant until now finds that form
-- allowed, too.
DO $rights$
DECLARE
    was record;
BEGIN
    FOR was IN
        SELECT DISTINCT n.oid::regprocedure AS signature,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
          FROM pg_proc p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
          JOIN pg_proc n ON n.pronamespace = p.pronamespace AND n.proname = p.proname AND n.proargtypes[0] <> 'uuid'::regtype
         WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proname IN ('add_job', 'add_scheduled_job')
           AND p.proargtypes[0] <> 'uuid'::regtype AND a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', was.signature, was.grantee);
    END LOOP;
END
$rights$;
