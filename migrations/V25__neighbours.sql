-- What newer versions of the original and what surrounds it expect.

-- As in V13, and what add_job takes in a payload is taken here, too. To read an object's other values, PostgreSQL turns all its escapes
-- into characters, and fails at those which stand for none ("\u0000", half a surrogate pair). So those are hidden meanwhile.
CREATE OR REPLACE FUNCTION @extschema@.add_jobs(jobs json) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] :=
        '{identifier,payload,job_key,queue_name,run_at,max_attempts,priority,db_id}';
    elements json[];
    -- What the elements are read from without their payloads; the same, where nothing is hidden.
    readable json[];
    marks text[];
    hidden text;
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
    IF jobs::text ~ '\\(u0000|u[dD][89a-fA-F])' THEN
        -- Two characters that the text does not have stand for a backslash of such an escape, and for two that are one.
        marks := ARRAY(SELECT m.mark FROM (SELECT chr(n) AS mark FROM generate_series(57344, 63743) AS n) m
                        WHERE strpos(jobs::text, m.mark) = 0 LIMIT 2);
        hidden := regexp_replace(replace(jobs::text, '\\', marks[2]), '\\(u0000|u[dD][89a-fA-F])', marks[1] || '\1', 'g');
        elements := ARRAY(SELECT e.value FROM json_array_elements(hidden::json) AS e (value));
    ELSE
        elements := ARRAY(SELECT e.value FROM json_array_elements(jobs) AS e (value));
    END IF;
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
        RAISE EXCEPTION 'job %: unknown key %', position, coalesce(replace(replace(to_json(name)::text, marks[1], '\'), marks[2], '\\'), to_json(name)::text) USING ERRCODE = 'invalid_parameter_value',
            HINT = format('A job has these keys: %s.', array_to_string(known, ', '));
    END IF;
    readable := elements;
    IF marks IS NOT NULL THEN
        payloads := ARRAY(SELECT replace(replace((e.value -> 'payload')::text, marks[1], '\'), marks[2], '\\')::json
                            FROM unnest(elements) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
        readable := ARRAY(
            SELECT (SELECT coalesce('{' || string_agg(to_json(k.key) || ':'
                                    || replace(replace(k.value::text, marks[1], '\'), marks[2], '\\'), ',' ORDER BY k.n) || '}', '{}')::json
                      FROM json_each(e.value) WITH ORDINALITY AS k (key, value, n) WHERE k.key <> 'payload')
              FROM unnest(elements) WITH ORDINALITY AS e (value, n) ORDER BY e.n);
    END IF;
    BEGIN
        SELECT array_agg(r.identifier), coalesce(payloads, array_agg(e.value -> 'payload')), array_agg(r.job_key), array_agg(r.queue_name),
               array_agg(r.run_at), array_agg(r.max_attempts), array_agg(r.priority), array_agg(r.db_id)
          INTO identifiers, payloads, job_keys, queue_names, run_ats, attempt_limits, priorities, db_ids
          FROM unnest(readable) AS e (value)
         CROSS JOIN LATERAL json_to_record(e.value) AS r (
               identifier text, job_key text, queue_name text, run_at timestamptz, max_attempts int, priority int,
               db_id uuid);
    EXCEPTION WHEN data_exception THEN
        BEGIN
            FOR i IN 1 .. cardinality(elements) LOOP
                position := i;
                PERFORM FROM json_to_record(readable[i]) AS r (
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

-- Takes the job with this key out of the queue and returns it: one that waits is removed; one that runs loses its key, goes on, and is
-- not tried again. A row of NULLs when no job has the key.
CREATE FUNCTION @extschema@.remove_job(job_key text) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    job @extschema@.jobs;
BEGIN
    DELETE FROM @extschema@.jobs j WHERE j.key = job_key AND j.locked_at IS NULL RETURNING * INTO job;
    IF NOT FOUND THEN
        UPDATE @extschema@.jobs j
           SET key = NULL, attempts = j.max_attempts, superseded = true, updated_at = clock_timestamp()
         WHERE j.key = job_key AND j.locked_at IS NOT NULL
        RETURNING * INTO job;
    END IF;
    RETURN job;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.remove_job(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.remove_job(text) IS
    'Removes the job with this key; one that runs goes on without it and is not tried again. Returns the job, or a row of NULLs.';

-- For workers that are gone for good: whatever they hold starts again at once, and the attempts that they began count.
CREATE FUNCTION @extschema@.force_unlock_workers(worker_ids text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @extschema@.jobs j SET locked_at = NULL, locked_by = NULL, updated_at = clock_timestamp()
     WHERE j.id IN (SELECT h.id FROM @extschema@.jobs h
                     WHERE h.locked_at IS NOT NULL AND h.locked_by = ANY (worker_ids) ORDER BY h.id FOR UPDATE);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.force_unlock_workers(text[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.force_unlock_workers(text[]) IS
    'Gives up all jobs that these workers hold: they start again at once. For workers that are gone for good.';

-- INSERT … ON CONFLICT (key) on schedules, as on a column that is unique. Not on jobs: there the index would have an entry for every
-- job without a key, which makes a bulk enqueue 10 to 15 % slower; ON CONFLICT (key) WHERE key IS NOT NULL is the form there.
SET LOCAL lock_timeout = '5s';
ALTER TABLE @extschema@.scheduled_jobs ADD CONSTRAINT scheduled_jobs_key_unique UNIQUE (key);
DROP INDEX @extschema@.scheduled_jobs_key_idx;
SET LOCAL lock_timeout = DEFAULT;

-- PostGraphile, which makes a GraphQL API of what a role may call. It leaves out functions of which there are several forms, so that
-- these two stand for add_job and add_scheduled_job, under their names. They run as their caller, who needs the right to those.
CREATE FUNCTION @extschema@.graphql_add_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', job_key text DEFAULT NULL, queue_name text DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, max_attempts int DEFAULT NULL, priority int DEFAULT NULL
) RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
BEGIN
    RETURN @extschema@.add_job(db_id, identifier, payload, job_key, queue_name, run_at, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.graphql_add_job(uuid, text, json, text, text, timestamptz, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.graphql_add_job(uuid, text, json, text, text, timestamptz, int, int) IS
    E'@name add_job\nEnqueues a job: add_job, as PostGraphile shows it.';

CREATE FUNCTION @extschema@.graphql_add_scheduled_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT NULL, priority int DEFAULT NULL
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
BEGIN
    RETURN @extschema@.add_scheduled_job(db_id, identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.graphql_add_scheduled_job(uuid, text, json, json, text, text, int, int) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.graphql_add_scheduled_job(uuid, text, json, json, text, text, int, int) IS
    E'@name add_scheduled_job\nAdds a schedule: add_scheduled_job, as PostGraphile shows it.';

-- What else it shows: the original's functions and tables. A function of a later migration that is not for applications gets the line
-- "@behavior -*" at the beginning of its comment, too.
DO $hidden$
DECLARE
    shown CONSTANT text[] := '{graphql_add_job,graphql_add_scheduled_job,get_job,complete_job,fail_job,release_jobs,complete_jobs,
        permanently_fail_jobs,reschedule_jobs,get_scheduled_job,release_scheduled_jobs,run_scheduled_job,remove_job,
        force_unlock_workers}';
    object record;
BEGIN
    FOR object IN
        SELECT 'FUNCTION ' || p.oid::regprocedure AS name, obj_description(p.oid, 'pg_proc') AS told
          FROM pg_proc p WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proname <> ALL (shown)
        UNION ALL
        SELECT 'TABLE ' || c.oid::regclass, obj_description(c.oid, 'pg_class')
          FROM pg_class c WHERE c.relnamespace = '@extschema@'::regnamespace AND c.relkind = 'r'
           AND c.relname <> ALL ('{jobs,scheduled_jobs,job_queues,schedule_fires}') AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('COMMENT ON %s IS %L', object.name, concat_ws(E'\n', '@behavior -*', object.told));
    END LOOP;
    EXECUTE format('COMMENT ON TABLE @extschema@.jobs IS %L',
                   E'@unique key\n' || obj_description('@extschema@.jobs'::regclass, 'pg_class'));
    EXECUTE format('COMMENT ON TABLE @extschema@.schedule_fires IS %L',
                   E'@behavior -insert -update -delete\n' || obj_description('@extschema@.schedule_fires'::regclass, 'pg_class'));
END
$hidden$;
