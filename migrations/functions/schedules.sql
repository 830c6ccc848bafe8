-- Schedules: add, and what is wrong with a rule.

-- What is wrong with a cron rule, in the words of the scheduler, which name the place; NULL when nothing is, or when
-- the text may be a date.
CREATE OR REPLACE FUNCTION @internal@.cron_fault(rule text, place text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    kinds CONSTANT text[] := '{second,minute,hour,day of month,month,day of week}';
    lows CONSTANT int[] := '{0,0,0,1,1,0}';
    highs CONSTANT int[] := '{59,59,23,31,12,7}';
    months CONSTANT text[] := '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}';
    days CONSTANT text[] := '{sun,mon,tue,wed,thu,fri,sat}';
    shown text := ' of ' || CASE WHEN length(rule) > 80 THEN to_json(left(rule, 80))::text || '…'
                                 ELSE to_json(rule)::text END || ')';
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
            RETURN format('%s: is not one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly '
                          '(character %s%s', place, strpos(rule, '@'), shown);
        END IF;
        RETURN NULL;
    END IF;
    -- No date has an asterisk, or five numbers and nothing else.
    IF strpos(rule, '*') = 0 AND rule !~ '^\s*[0-9,/-]+(\s+[0-9,/-]+){4,5}\s*$' THEN
        RETURN NULL;
    END IF;
    fields := (SELECT count(*) FROM regexp_matches(rule, '\S+', 'g'));
    IF fields NOT IN (5, 6) THEN
        RETURN format('%s: is neither a date nor a cron rule: %s field(s) where a cron rule has 5, or 6 with seconds '
                      'first (character 1%s', place, fields, shown);
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
            SELECT i.text,
                   field.at + coalesce(sum(length(i.text) + 1) OVER (
                       ORDER BY i.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS at
              FROM unnest(string_to_array(field.text, ',')) WITH ORDINALITY AS i (text, n) ORDER BY i.n
        LOOP
            body := item.text;
            CONTINUE WHEN kind = 4 AND upper(body) = 'L';
            IF kind = 6 AND body ~* 'l$' THEN
                body := left(body, -1);
                IF body = '' THEN
                    RETURN format('%s, %s: L needs a day before it, as in 5L for the last Friday (character %s%s',
                                  place, kinds[kind], item.at, shown);
                END IF;
                IF strpos(body, '-') > 0 OR strpos(body, '/') > 0 THEN
                    RETURN format('%s, %s: %s is neither a number nor a three-letter name (character %s%s',
                                  place, kinds[kind], to_json(body), item.at, shown);
                END IF;
            ELSIF kind = 6 AND strpos(body, '#') > 0 THEN
                IF split_part(body, '#', 2) !~ '^[1-5]$' OR split_part(body, '#', 3) <> '' THEN
                    RETURN format('%s, %s: the number after # is not within 1-5 (character %s%s',
                                  place, kinds[kind], item.at + strpos(body, '#'), shown);
                END IF;
                body := split_part(body, '#', 1);
            ELSIF body = '' THEN
                RETURN format('%s, %s: an entry of the list is empty (character %s%s',
                              place, kinds[kind], item.at, shown);
            ELSIF strpos(body, '/') > 0 THEN
                IF substr(body, strpos(body, '/') + 1) !~ '^[0-9]*[1-9][0-9]*$' THEN
                    RETURN format('%s, %s: the step after / is not a whole number from 1 on (character %s%s',
                                  place, kinds[kind], item.at + strpos(body, '/'), shown);
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
                                      CASE WHEN length(word.text) > 80 THEN left(word.text, 80) || '…'
                                           ELSE word.text END,
                                      lows[kind], highs[kind], word.at, shown);
                    END IF;
                ELSIF word.text = '' THEN
                    RETURN format('%s, %s: a number is missing (character %s%s', place, kinds[kind], word.at, shown);
                ELSIF lower(word.text) = ANY (names) THEN
                    number := lows[kind] + array_position(names, lower(word.text)) - 1;
                ELSE
                    RETURN format('%s, %s: %s is %s (character %s%s', place, kinds[kind], to_json(left(word.text, 80)),
                                  CASE WHEN cardinality(names) = 0 THEN 'not a number'
                                       ELSE 'neither a number nor a three-letter name' END, word.at, shown);
                END IF;
                IF first > number THEN
                    RETURN format('%s, %s: the range %s-%s runs backward (character %s%s',
                                  place, kinds[kind], first, number, item.at, shown);
                END IF;
                first := number;
            END LOOP;
        END LOOP;
    END LOOP;
    RETURN NULL;
END
$$;

-- What SQL can tell of a rule that cannot be used; NULL when it can tell nothing. It tells of cron rules and of numbers
-- out of range in recurrence objects. Dates, time zones and rules that never fire are the scheduler's to judge.
CREATE OR REPLACE FUNCTION @internal@.schedule_fault(schedule_info json) RETURNS text
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
            RETURN @internal@.cron_fault(rule #>> '{}', place);
        WHEN 'object' THEN
            SELECT format('%s%s: %s is not %swithin %s-%s', path, f.name, v.text,
                          CASE WHEN v.text::numeric <> 0 THEN 'a whole number ' END, f.low, f.high) INTO fault
              FROM (VALUES ('date', 1, 31), ('second', 0, 59), ('minute', 0, 59), ('hour', 0, 23), ('dayOfWeek', 0, 6),
                           ('month', 0, 11)) AS f (name, low, high)
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

-- A rule that is given as text: JSON, or the bare rule.
CREATE OR REPLACE FUNCTION @internal@.rule_json(rule text) RETURNS json
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF rule ~ '^\s*([{["]|-?[0-9.]+\s*$|null\s*$|true\s*$|false\s*$|$)' THEN
        RETURN rule::json;
    END IF;
    RETURN to_json(rule);
END
$$;

-- What a scheduler knows a schedule by: another rule or task is another schedule to it. A text that is stored in more
-- than 128 KiB is not read for it. A scheduler uses no schedule_info of more than half of that, so each that it uses is
-- hashed. STABLE, since pg_column_size is: only so its callers can inline it, which keeps the other columns from being
-- read. Inlined, it resolves names by its caller's search_path, so each is qualified.
CREATE OR REPLACE FUNCTION @internal@.schedule_digest(schedule @extschema@.scheduled_jobs) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_catalog.pg_column_size(schedule.schedule_info) <= 131072
                THEN pg_catalog.hashtextextended(
                    schedule.schedule_info::text, pg_catalog.hashtextextended(schedule.task_identifier, schedule.id))
                ELSE pg_catalog.hashtextextended(
                    pg_catalog.pg_column_size(schedule.schedule_info)::text,
                    pg_catalog.hashtextextended(schedule.task_identifier, schedule.id)) END
$$;

-- One schedule from given values. A schedule that is removed because a scheduler watches it hands on what is known of
-- its jobs; and of its fires, when it is the same one again: applications add their schedules at each start. A schedule
-- is not lost to a trigger: where it would be removed without a new one, that is an error.
CREATE OR REPLACE FUNCTION @internal@.enqueue_scheduled_job(
    new_database_id uuid, new_actor_id uuid, identifier text, new_payload json, new_schedule_info json, job_key text,
    new_queue_name text, new_max_attempts int, new_priority int
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    holder @extschema@.scheduled_jobs;
    removed @extschema@.scheduled_jobs;
    entity uuid := @claim_setting('jwt.claims.entity_id')@;
    organization uuid := @claim_setting('jwt.claims.organization_id')@;
BEGIN
    IF coalesce(identifier, '') = '' THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the task: add_scheduled_job(identifier := ''some-task'', …).';
    END IF;
    IF new_max_attempts < 1 THEN
        RAISE EXCEPTION 'max_attempts is %, and a job has at least one attempt', new_max_attempts
            USING ERRCODE = 'check_violation', TABLE = 'scheduled_jobs',
                  CONSTRAINT = 'scheduled_jobs_max_attempts_positive',
                  HINT = 'Leave max_attempts out for the default, 25; 1 is a single attempt without a retry.';
    END IF;
    FOR turn IN 1 .. 100 LOOP
        -- Without a key the conflict clause never applies.
        INSERT INTO @extschema@.scheduled_jobs AS s
            (database_id, actor_id, entity_id, organization_id, task_identifier, payload, schedule_info, queue_name,
             max_attempts, priority, key, last_scheduled, last_scheduled_id, fired_until)
        VALUES
            (new_database_id, new_actor_id, entity, organization, identifier, coalesce(new_payload, '{}'),
             coalesce(new_schedule_info, '{}'), nullif(new_queue_name, ''), coalesce(new_max_attempts, 25),
             coalesce(new_priority, 0), job_key, removed.last_scheduled, removed.last_scheduled_id,
             CASE WHEN removed.task_identifier = identifier
                       AND removed.schedule_info::text = coalesce(new_schedule_info, '{}')::text
                  THEN removed.fired_until ELSE clock_timestamp() END)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = excluded.actor_id, entity_id = excluded.entity_id, organization_id = excluded.organization_id,
            task_identifier = excluded.task_identifier, payload = excluded.payload,
            schedule_info = excluded.schedule_info, queue_name = excluded.queue_name,
            max_attempts = excluded.max_attempts, priority = excluded.priority
        WHERE s.locked_at IS NULL AND s.database_id IS NOT DISTINCT FROM excluded.database_id
        RETURNING * INTO schedule;
        IF FOUND THEN
            RETURN schedule;
        END IF;
        -- The upsert has locked what stood in its way.
        SELECT * INTO holder FROM @extschema@.scheduled_jobs s
         WHERE s.key = job_key AND (s.locked_at IS NOT NULL OR s.database_id IS DISTINCT FROM new_database_id)
           FOR UPDATE;
        IF holder.id IS NULL AND removed.id IS NULL THEN
            RETURN NULL; -- a trigger keeps it out
        ELSIF holder.id IS NULL THEN
            RAISE EXCEPTION 'a trigger on the table scheduled_jobs keeps out the schedule with the key %',
                quote_literal(job_key)
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'A scheduler watches the one that has the key now. '
                               'It is replaced by a new row, or stays as it is.',
                      HINT = 'Remove that schedule first, if it is to end.';
        ELSIF holder.database_id IS DISTINCT FROM new_database_id THEN
            RAISE EXCEPTION 'the schedule key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation',
                      HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        -- A scheduler watches the row: a new one makes it take up the change.
        DELETE FROM @extschema@.scheduled_jobs s WHERE s.id = holder.id;
        removed := holder;
    END LOOP;
    RAISE EXCEPTION 'the schedule key % was taken by others 100 times in a row', quote_literal(job_key)
        USING ERRCODE = 'serialization_failure', HINT = 'Try again.';
END
$$;

-- The forms of add_scheduled_job mirror those of add_job, for the same reasons. More of them are in forms.sql.
CREATE OR REPLACE FUNCTION @extschema@.add_scheduled_job(
    identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @internal@.enqueue_scheduled_job(
        @claim_setting('jwt.claims.database_id')@, @claim_setting('jwt.claims.user_id')@,
        identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.add_scheduled_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT 25, priority int DEFAULT 0
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
BEGIN
    IF db_id IS NULL OR db_id = @own_uuid('jwt.claims.database_id')@ THEN
        RETURN @extschema@.add_scheduled_job(
            identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
    END IF;
    RETURN @extschema@.add_scheduled_job_for_any_tenant(
        db_id, identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.add_scheduled_job(
    identifier text, payload text, schedule_info text, job_key text, queue_name text, max_attempts text,
    priority text DEFAULT NULL
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @internal@.refuse_untyped_db_id(identifier);
    RETURN @extschema@.add_scheduled_job(
        identifier, payload::json, @internal@.rule_json(schedule_info), job_key, queue_name, max_attempts::int,
        priority::int);
END
$$;

COMMENT ON FUNCTION @extschema@.add_scheduled_job(text, json, json, text, text, int, int) IS
    'Adds a schedule; database_id and actor_id come from the settings jwt.claims.database_id and jwt.claims.user_id.';

COMMENT ON FUNCTION @extschema@.add_scheduled_job(uuid, text, json, json, text, text, int, int) IS
    'Adds a schedule of the given database_id, which wins over the setting jwt.claims.database_id; '
    'another than that needs EXECUTE on add_scheduled_job_for_any_tenant.';

COMMENT ON FUNCTION @extschema@.add_scheduled_job(text, text, text, text, text, text, text) IS
    'Adds a schedule whose arguments are all given as untyped literals.';

CREATE OR REPLACE FUNCTION @extschema@.add_scheduled_job_for_any_tenant(
    tenant uuid, identifier text, payload json, schedule_info json, job_key text, queue_name text, max_attempts int,
    priority int
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN @internal@.enqueue_scheduled_job(
        tenant, @claim_setting('jwt.claims.user_id')@,
        identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;

COMMENT ON FUNCTION @extschema@.add_scheduled_job_for_any_tenant(uuid, text, json, json, text, text, int, int) IS
    'What add_scheduled_job with a db_id calls when that is not the caller''s own: '
    'EXECUTE is the right to name any tenant.';

CREATE OR REPLACE FUNCTION @extschema@.graphql_add_scheduled_job(
    db_id uuid, identifier text, payload json DEFAULT '{}', schedule_info json DEFAULT '{}', job_key text DEFAULT NULL,
    queue_name text DEFAULT NULL, max_attempts int DEFAULT NULL, priority int DEFAULT NULL
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
BEGIN
    RETURN @extschema@.add_scheduled_job(
        db_id, identifier, payload, schedule_info, job_key, queue_name, max_attempts, priority);
END
$$;

COMMENT ON FUNCTION @extschema@.graphql_add_scheduled_job(uuid, text, json, json, text, text, int, int) IS
    E'@name add_scheduled_job\nAdds a schedule: add_scheduled_job, as PostGraphile shows it.';
