-- What follows from every write to the tables, by whomever: where jobs wait, sizes, times, wake-ups.

-- The functions of this schema's own triggers run as its owner as well. On another table, whose columns may be of any
-- type, the same statements would resolve casts and operators of that table's owner.
CREATE OR REPLACE FUNCTION @internal@.refuse_other_table(relation oid, own oid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trigger function of table % is on table %', own::regclass, relation::regclass
        USING ERRCODE = 'insufficient_privilege', HINT = 'Drop the trigger: the function is for its own table only.';
END
$$;

CREATE OR REPLACE FUNCTION @internal@.tg_jobs_touch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.created_at := OLD.created_at;
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    IF NEW.locked_by IS DISTINCT FROM OLD.locked_by AND NEW.epoch IS NOT DISTINCT FROM OLD.epoch THEN
        NEW.epoch := NULL;
        NEW.instance := NULL;
        NEW.accepted := false;
        NEW.deadline := NULL;
    END IF;
    RETURN NEW;
END
$$;

-- Where a job waits that is written with a run_at ahead or a queue, or moved, or while the session knows that there are
-- gates (jobs.gates_set). A claim puts in its place what stands where it does not belong; this spares it the work.
-- SECURITY DEFINER: whoever may write jobs needs no right to gates.
CREATE OR REPLACE FUNCTION @internal@.tg_jobs_placed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    @only_on(jobs)@
    -- What runs is counted by its gates.
    IF NEW.run_at > clock_timestamp() AND NEW.locked_at IS NULL THEN
        NEW.gate_key := 'run_at';
    ELSIF EXISTS (SELECT FROM @extschema@.gates) THEN
        NEW.gate_key := @internal@.gate_key(NEW.task_identifier, NEW.queue_name, NEW.database_id);
    ELSE
        NEW.gate_key := 'queue' || quote_literal(NEW.queue_name);
    END IF;
    RETURN NEW;
END
$$;

-- One call per statement, not per row: the largest payload, and one wake-up. Whether to notify on demand is read along
-- with it. What comes from another table, compressed there, is measured as it is stored. SECURITY DEFINER: whoever may
-- write jobs needs no right to what is asked here.
CREATE OR REPLACE FUNCTION @internal@.tg_jobs_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs bigint;
    largest int;
    on_demand boolean;
    gates_set boolean;
    woken boolean;
BEGIN
    @only_on(jobs)@
    SELECT count(*), max(pg_column_size(n.payload)), EXISTS (SELECT FROM @extschema@.settings),
           EXISTS (SELECT FROM @extschema@.gates)
      INTO jobs, largest, on_demand, gates_set FROM new_rows n;
    IF jobs = 0 THEN
        RETURN NULL;
    END IF;
    -- The session's next jobs are put in their place as they are written.
    IF gates_set <> coalesce(current_setting('jobs.gates_set', true) = 'on', false) THEN
        PERFORM set_config('jobs.gates_set', CASE WHEN gates_set THEN 'on' ELSE '' END, false);
    END IF;
    IF largest > 65536 THEN
        PERFORM @internal@.refuse_large_payload('jobs', max(octet_length(n.payload::text)))
           FROM new_rows n WHERE pg_column_size(n.payload) > 65536;
    END IF;
    IF gates_set AND @fair()@ THEN
        -- Left to a claim, a job would wait for all that were written before it to be put in their place.
        PERFORM set_config('jobs.placing', 'on', true);
        UPDATE @extschema@.jobs j
           SET gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id),
               updated_at = clock_timestamp()
         WHERE j.id = ANY (ARRAY(SELECT n.id FROM new_rows n WHERE n.gate_key IS NULL))
           AND j.gate_key IS NULL AND j.locked_at IS NULL;
        PERFORM set_config('jobs.placing', '', true);
    END IF;
    -- An assignment is evaluated in place; PERFORM would be a query of its own.
    woken := @internal@.wake_workers(on_demand);
    RETURN NULL;
END
$$;

-- A release, a retry, a reschedule or a replaced key: workers look again, or plan their next look anew. So they do when
-- what ran has left its gate, whether anything is seen to wait there or not: it may not be committed yet. Not for jobs
-- that a claim puts in their place (jobs.placing): it takes them, or looks again itself.
--
-- While tenants are served fairly, this logs what starts and ends (fairness.sql). A change of a job that runs on, such
-- as that its function has accepted it, is neither.
CREATE OR REPLACE FUNCTION @internal@.tg_jobs_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wake boolean;
    held bigint;
    begun boolean;
    held_before bigint;
    ended boolean;
    run_times jsonb;
    woken boolean;
BEGIN
    @only_on(jobs)@
    SELECT bool_or(n.locked_at IS NULL AND n.attempts < n.max_attempts),
           count(*) FILTER (WHERE n.gate_key IS NOT NULL AND n.locked_at IS NOT NULL),
           bool_or(n.gate_key >= 'tenant' AND n.locked_at IS NOT NULL)
      INTO wake, held, begun FROM new_rows n;
    IF wake AND current_setting('jobs.placing', true) = 'on' THEN
        RETURN NULL;
    END IF;
    SELECT count(*), bool_or(o.gate_key >= 'tenant') INTO held_before, ended
      FROM old_rows o WHERE o.gate_key IS NOT NULL AND o.locked_at IS NOT NULL;
    IF (begun OR ended) AND @fair()@ THEN
        -- Read once: it has a number for each of the jobs.
        run_times := nullif(current_setting('jobs.run_times', true), '')::jsonb;
        INSERT INTO @extschema@.gate_usage_log (name, seconds, ended, running, since, ended_at)
        SELECT c.name, coalesce(sum(@run_time(c)@) FILTER (WHERE c.change < 0), 0),
               count(*) FILTER (WHERE c.change < 0),
               sum(c.change), sum(c.since), CASE WHEN bool_or(c.change < 0) THEN clock_timestamp() END
          FROM (SELECT coalesce(r.database_id::text, '') AS name, r.id, min(r.locked_at) AS locked_at,
                       sum(r.change) AS change, sum(r.change * @milliseconds(r.locked_at)@) AS since
                  FROM (SELECT o.database_id, o.id, o.epoch, o.locked_at, -1 AS change FROM old_rows o
                         WHERE o.gate_key >= 'tenant' AND o.locked_at IS NOT NULL
                        UNION ALL
                        SELECT n.database_id, n.id, n.epoch, n.locked_at, 1 FROM new_rows n
                         WHERE n.gate_key >= 'tenant' AND n.locked_at IS NOT NULL) r
                 GROUP BY r.database_id, r.id, r.epoch
                HAVING sum(r.change) <> 0 OR sum(r.change * @milliseconds(r.locked_at)@) <> 0) c
         GROUP BY c.name;
    END IF;
    IF wake OR held_before > held THEN
        woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @internal@.tg_jobs_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run_times jsonb;
    woken boolean;
BEGIN
    @only_on(jobs)@
    IF EXISTS (SELECT FROM old_rows o WHERE o.gate_key IS NOT NULL AND o.locked_at IS NOT NULL) THEN
        IF @fair()@ THEN
            run_times := nullif(current_setting('jobs.run_times', true), '')::jsonb;
            INSERT INTO @extschema@.gate_usage_log (name, seconds, ended, running, since, ended_at)
            SELECT coalesce(o.database_id::text, ''), sum(@run_time(o)@), count(*), -count(*),
                   -sum(@milliseconds(o.locked_at)@), clock_timestamp()
              FROM old_rows o WHERE o.gate_key >= 'tenant' AND o.locked_at IS NOT NULL GROUP BY 1;
        END IF;
        -- complete_and_claim_next wakes them itself, where no job takes the place of the one that is gone.
        IF current_setting('jobs.succession', true) IS DISTINCT FROM 'on' THEN
            woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- A limit that somebody writes into gates by hand, or that replication brings, is kept as exactly as one of set_limit:
-- claims under way, which do not know it, end first. Only where a limit is lifted nobody has to wait; a queue has one
-- all the same, and where there is a row for *, that one holds from then on.
CREATE OR REPLACE FUNCTION @internal@.tg_gates_limited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    limits boolean := false;
BEGIN
    @only_on(gates)@
    IF TG_OP <> 'DELETE' THEN
        limits := NEW.max_running IS NOT NULL OR NEW.rate IS NOT NULL;
        NEW.set_at := greatest(NEW.set_at, clock_timestamp());
    END IF;
    IF NOT limits THEN
        limits := OLD.kind = 'queue'
                  OR EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = OLD.kind AND g.name = '*');
    END IF;
    IF limits THEN
        PERFORM @internal@.lock_limits();
        -- What claims in an older snapshot stumble upon. Of a queue several jobs may run that were claimed before this:
        -- none follows in the place of one of them.
        INSERT INTO @extschema@.gate_tokens (kind, name, full_at) VALUES ('all', '', clock_timestamp())
        ON CONFLICT ON CONSTRAINT gate_tokens_pkey DO UPDATE SET full_at = excluded.full_at;
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;

-- What runs already gets the key by which it is counted. Where somebody holds such a job, claims count those without
-- the key one by one from now on.
CREATE OR REPLACE FUNCTION @internal@.tg_gates_counted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    running bigint[];
    keyed bigint;
BEGIN
    @only_on(gates)@
    running := ARRAY(
        SELECT r.id FROM @extschema@.jobs r
         WHERE r.locked_at IS NOT NULL
           AND CASE WHEN NEW.name = '*' THEN true WHEN NEW.kind = 'task' THEN r.task_identifier = NEW.name
                    WHEN NEW.kind = 'tenant' THEN r.database_id::text = NEW.name ELSE true END
           AND r.gate_key IS DISTINCT FROM @internal@.gate_key(r.task_identifier, r.queue_name, r.database_id));
    UPDATE @extschema@.jobs j
       SET gate_key = @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id),
           updated_at = clock_timestamp()
     WHERE j.id = ANY (ARRAY(
        SELECT r.id FROM @extschema@.jobs r WHERE r.id = ANY (running) AND r.locked_at IS NOT NULL
         ORDER BY r.id FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS keyed = ROW_COUNT;
    IF keyed < cardinality(running) THEN
        UPDATE @extschema@.gates g SET set_at = 'infinity' WHERE g.kind = NEW.kind AND g.name = NEW.name;
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @internal@.tg_payload_bounded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    @only_on(jobs)@
    PERFORM @internal@.refuse_large_payload('jobs', octet_length(NEW.payload::text));
    RETURN NEW;
END
$$;

-- SECURITY DEFINER: whoever may write jobs needs no right to the limits.
CREATE OR REPLACE FUNCTION @internal@.tg_schedule_bounded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    size int;
BEGIN
    @only_on(scheduled_jobs)@
    -- What was there before is left, also when a limit is lower now.
    IF TG_OP = 'INSERT' OR NEW.payload::text <> OLD.payload::text THEN
        PERFORM @internal@.refuse_large_payload('scheduled_jobs', octet_length(NEW.payload::text));
    END IF;
    size := octet_length(NEW.schedule_info::text);
    IF size > 65536 AND (TG_OP = 'INSERT' OR NEW.schedule_info::text <> OLD.schedule_info::text) THEN
        RAISE EXCEPTION 'schedule_info has % bytes, and 65536 are allowed', size
            USING ERRCODE = 'check_violation', TABLE = 'scheduled_jobs',
                  CONSTRAINT = 'scheduled_jobs_schedule_info_size',
                  HINT = 'Spread the times over several schedules.';
    END IF;
    RETURN NEW;
END
$$;

-- A warning and last_error, not an error: callers of the original rely on the row. SECURITY DEFINER: whoever may write
-- schedules needs no right to what reads a rule.
CREATE OR REPLACE FUNCTION @internal@.tg_scheduled_jobs_checked() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fault text;
BEGIN
    @only_on(scheduled_jobs)@
    IF TG_OP = 'UPDATE' AND NEW.schedule_info::text = OLD.schedule_info::text THEN
        RETURN NEW;
    END IF;
    fault := @internal@.schedule_fault(NEW.schedule_info);
    IF fault IS NOT NULL THEN
        NEW.last_error := fault;
        RAISE WARNING 'the schedule cannot fire: %', fault
            USING HINT = 'Correct schedule_info; last_error of the row says the same.';
    END IF;
    RETURN NEW;
END
$$;

-- A notification of what happens to schedules; its argument is the channel. Called for a statement, whose rows are
-- changed_rows, or for a row. What a scheduler writes (claims, fires, marks) meets no trigger's condition, and costs no
-- call; PostgreSQL sends equal notifications of a transaction once.
CREATE OR REPLACE FUNCTION @internal@.tg_scheduled_jobs_notify() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_LEVEL = 'STATEMENT' THEN
        IF NOT EXISTS (SELECT FROM changed_rows) THEN
            RETURN NULL;
        END IF;
    END IF;
    PERFORM pg_notify(TG_ARGV[0], '');
    RETURN NULL;
END
$$;

-- A schedule whose rule is changed, or which goes on after a pause, begins anew: nothing from before is made up for,
-- also when the clock was set back since. One that is paused is free, so that nobody fires it; an unregistered holder
-- (the original's scheduler) watches its own timers and keeps it. Whoever locks or unlocks a row by hand is an
-- unregistered holder, too.
--
-- Two triggers call it. One is for the columns that say what a schedule is: only an update that names them has the
-- texts compared, which a claim and a fire do not. The other is for what people write into the columns of the holder
-- and into fired_until. Outside the years that a scheduler knows, fired_until stops the schedule: written, it frees the
-- schedule, so that a scheduler looks at it anew; corrected, likewise.
CREATE OR REPLACE FUNCTION @internal@.tg_scheduled_jobs_renewed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.schedule_info::text IS NOT DISTINCT FROM OLD.schedule_info::text
       AND (NEW.paused_at IS NULL) = (OLD.paused_at IS NULL) THEN
        IF NEW.locked_by IS NOT DISTINCT FROM OLD.locked_by AND NEW.locked_at IS NOT DISTINCT FROM OLD.locked_at THEN
            NEW.locked_by := NULL;
            NEW.locked_at := NULL;
        END IF;
        NEW.instance := NULL;
        RETURN NEW;
    END IF;
    NEW.fired_until := clock_timestamp();
    IF NEW.schedule_info::text IS DISTINCT FROM OLD.schedule_info::text THEN
        NEW.ended_at := NULL;
        NEW.last_error := NULL;
    END IF;
    IF NEW.paused_at IS NOT NULL AND NEW.instance IS NOT NULL THEN
        NEW.locked_by := NULL;
        NEW.locked_at := NULL;
        NEW.instance := NULL;
    END IF;
    RETURN NEW;
END
$$;
