-- Forms of add_job and add_scheduled_job that are made from one text: payloads and rules as text and jsonb, and calls
-- with names that people try.

-- The forms of add_scheduled_job for payloads and rules as text and jsonb. The types of the first arguments differ, and
-- what is called is the same; so they are made from one text. There are none with a db_id: an
-- untyped payload would fit two of them, and give PostgreSQL no reason to choose.
DO $forms$
DECLARE
    form record;
    signature text;
BEGIN
    FOR form IN
        SELECT * FROM (VALUES
            ('payload text, schedule_info json DEFAULT ''{}''', 'text, json', 'payload::json, schedule_info',
             'the payload as text that holds JSON'),
            ('payload text, schedule_info text', 'text, text', 'payload::json, @internal@.rule_json(schedule_info)',
             'the payload as text that holds JSON, and the rule as text: JSON, or a bare rule such as */5 * * * *'),
            ('payload json, schedule_info text', 'json, text', 'payload, @internal@.rule_json(schedule_info)',
             'the rule as text: JSON, or a bare rule such as */5 * * * *'),
            ('payload jsonb, schedule_info jsonb DEFAULT ''{}''', 'jsonb, jsonb', 'payload::json, schedule_info::json',
             'payload and rule of type jsonb'),
            ('payload jsonb, schedule_info text', 'jsonb, text', 'payload::json, @internal@.rule_json(schedule_info)',
             'a payload of type jsonb, and the rule as text'),
            ('payload text, schedule_info jsonb', 'text, jsonb', 'payload::json, schedule_info::json',
             'the payload as text that holds JSON, and a rule of type jsonb'),
            ('schedule_info @extschema@.rule_text, payload json DEFAULT ''{}''', '@extschema@.rule_text, json',
             'payload, @internal@.rule_json(schedule_info)', 'its arguments by name, the rule as text'),
            ('schedule_info @extschema@.rule_jsonb, payload json DEFAULT ''{}''', '@extschema@.rule_jsonb, json',
             'payload, schedule_info::json', 'its arguments by name, the rule of type jsonb')
        ) AS f (arguments, types, values, told)
    LOOP
        EXECUTE format(
            $sql$
CREATE OR REPLACE FUNCTION @extschema@.add_scheduled_job(
    identifier text, %s, job_key text DEFAULT NULL, queue_name text DEFAULT NULL, max_attempts int DEFAULT 25,
    priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @internal@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.add_scheduled_job(identifier, %s, job_key, queue_name, max_attempts, priority);
END
$body$
            $sql$, form.arguments, form.values);
        signature := format('@extschema@.add_scheduled_job(text, %s, text, text, int, int)', form.types);
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', signature, 'Adds a schedule: ' || form.told || '.');
    END LOOP;
END
$forms$;

-- Names that people try. PostgreSQL says "function … does not exist" of a call with a name that no form has; these
-- forms have them, and say what the argument is called. They run as their caller and do nothing else. A payload is of
-- whatever type: an untyped one is text, as it is to the other forms.
DO $misnamed$
DECLARE
    form record;
    signature regprocedure;
BEGIN
    FOR form IN
        SELECT f.function, f.returned, o.arguments, o.run_at, f.names, f.told FROM (VALUES
            ('add_job', 'jobs',
             '{key,queue,task,task_identifier,name,data,args,delay,at,run_in,attempts,retries,tenant,database_id,'
             'actor_id,entity_id,organization_id}'::text[],
             'key is job_key; queue is queue_name; task, task_identifier and name are identifier; '
             'data and args are payload; delay, at and run_in are run_at, a time such as now() + interval '
             '''10 minutes''; attempts and retries are max_attempts; tenant and database_id are db_id, in first place; '
             'actor_id is taken by enqueue() alone; entity_id and organization_id are the settings '
             'jwt.claims.entity_id and jwt.claims.organization_id'),
            ('add_scheduled_job', 'scheduled_jobs',
             '{key,queue,task,task_identifier,name,data,args,rule,cron,schedule,attempts,retries,tenant,database_id}',
             'key is job_key; queue is queue_name; task, task_identifier and name are identifier; '
             'data and args are payload; rule, cron and schedule are schedule_info; '
             'attempts and retries are max_attempts; tenant and database_id are db_id, in first place')
          ) AS f (function, returned, names, told) JOIN (VALUES
            ('add_job', 'identifier @extschema@.misnamed DEFAULT NULL, payload anycompatible DEFAULT NULL::text',
             'run_at timestamptz DEFAULT NULL'),
            -- Without a rule or with an untyped one; and with one of type json or jsonb.
            ('add_scheduled_job', 'identifier @extschema@.misnamed DEFAULT NULL, '
             'payload anycompatible DEFAULT NULL::text, schedule_info @extschema@.misnamed DEFAULT NULL', NULL),
            ('add_scheduled_job', 'identifier @extschema@.misnamed, payload anycompatible, schedule_info anycompatible',
             NULL)
          ) AS o (function, arguments, run_at) USING (function)
    LOOP
        EXECUTE format(
            $sql$
CREATE OR REPLACE FUNCTION @extschema@.%1$I(
    %2$s, max_attempts int DEFAULT NULL, priority int DEFAULT NULL, %3$s
) RETURNS @extschema@.%4$I
LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION '%1$s was called without an identifier, or with a name that is none of its arguments'
        USING ERRCODE = 'undefined_parameter', HINT = %5$L;
END
$body$
            $sql$,
            form.function,
            concat_ws(', ', form.arguments, 'job_key @extschema@.misnamed DEFAULT NULL',
                      'queue_name @extschema@.misnamed DEFAULT NULL', form.run_at),
            (SELECT string_agg(format('%I @extschema@.misnamed DEFAULT NULL', n), ', ') FROM unnest(form.names) AS n),
            form.returned, 'Its arguments have other names: ' || form.told || '.');
    END LOOP;
    FOR signature IN
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = '@extschema@'::regnamespace
           AND p.proargtypes::oid[] @> ARRAY['@extschema@.misnamed'::regtype::oid]
    LOOP
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', signature, 'Tells what the arguments are called.');
    END LOOP;
END
$misnamed$;
