-- What follows from every write to the tables, by whomever: counts and locks of named queues, sizes, times, wake-ups.

CREATE OR REPLACE FUNCTION @internal@.sync_queues(names text[], deltas int[], relock text[]) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    freed boolean;
BEGIN
    -- One pass in one order locks the rows there are and makes those there are not.
    INSERT INTO @extschema@.job_queues AS q (queue_name, job_count)
    SELECT c.name, sum(c.delta)
      FROM (SELECT n.name, n.delta FROM unnest(names, deltas) AS n (name, delta)
            UNION ALL
            SELECT r.name, 0 FROM unnest(relock) AS r (name)) c
     GROUP BY c.name ORDER BY c.name
    ON CONFLICT (queue_name) DO UPDATE SET job_count = q.job_count + excluded.job_count;

    IF cardinality(relock) > 0 THEN
        UPDATE @extschema@.job_queues q
           SET (locked_at, locked_by) = (
               SELECT j.locked_at, j.locked_by FROM @extschema@.jobs j
                WHERE j.queue_name = q.queue_name AND coalesce(j.locked_at, '-infinity') > '-infinity'
                ORDER BY j.locked_at DESC LIMIT 1)
         WHERE q.queue_name = ANY (relock);
    END IF;

    DELETE FROM @extschema@.job_queues q WHERE q.queue_name = ANY (names || relock) AND q.job_count <= 0;

    SELECT EXISTS (SELECT FROM @extschema@.job_queues q WHERE q.queue_name = ANY (relock) AND q.locked_at IS NULL)
      INTO freed;
    RETURN freed;
END
$$;

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

-- One call per statement, not per row: counts and locks of named queues, the largest payload, and one wake-up. Whether
-- to notify on demand is read along with it. What comes from another table, compressed there, is measured as it is
-- stored. SECURITY DEFINER: whoever may write jobs needs no right to what is derived from them.
CREATE OR REPLACE FUNCTION @internal@.tg_jobs_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs bigint;
    queued bigint;
    largest int;
    on_demand boolean;
    woken boolean;
BEGIN
    @only_on(jobs)@
    SELECT count(*), count(n.queue_name), max(pg_column_size(n.payload)), EXISTS (SELECT FROM @extschema@.settings)
      INTO jobs, queued, largest, on_demand FROM new_rows n;
    IF jobs = 0 THEN
        RETURN NULL;
    END IF;
    IF largest > 65536 THEN
        PERFORM @internal@.refuse_large_payload('jobs', max(octet_length(n.payload::text)))
           FROM new_rows n WHERE pg_column_size(n.payload) > 65536;
    END IF;
    IF queued > 0 THEN
        PERFORM @internal@.sync_queues(
            array_agg(c.queue_name), array_agg(c.jobs),
            coalesce(array_agg(c.queue_name) FILTER (WHERE c.locked), '{}'))
           FROM (SELECT n.queue_name, count(*)::int AS jobs, bool_or(n.locked_at IS NOT NULL) AS locked
                   FROM new_rows n WHERE n.queue_name IS NOT NULL GROUP BY n.queue_name) c;
    END IF;
    -- An assignment is evaluated in place; PERFORM would be a query of its own.
    woken := @internal@.wake_workers(on_demand);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @internal@.tg_jobs_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    queued bigint;
    claimable boolean;
    freed boolean := false;
    woken boolean;
BEGIN
    @only_on(jobs)@
    SELECT count(n.queue_name), bool_or(n.locked_at IS NULL AND n.attempts < n.max_attempts)
      INTO queued, claimable FROM new_rows n;
    IF queued > 0 OR EXISTS (SELECT FROM old_rows o WHERE o.queue_name IS NOT NULL) THEN
        -- Only queues whose count or whose running jobs changed: an update of anything else takes no queue's row, so
        -- that add_job, which may end one job's key and insert another job, holds one queue at a time.
        SELECT @internal@.sync_queues(
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
        woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @internal@.tg_jobs_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    freed boolean;
    woken boolean;
BEGIN
    @only_on(jobs)@
    IF NOT EXISTS (SELECT FROM old_rows o WHERE o.queue_name IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    SELECT @internal@.sync_queues(
               array_agg(c.queue_name), array_agg(-c.jobs),
               coalesce(array_agg(c.queue_name) FILTER (WHERE c.locked), '{}'))
      INTO freed
      FROM (SELECT o.queue_name, count(*)::int AS jobs, bool_or(o.locked_at IS NOT NULL) AS locked
              FROM old_rows o WHERE o.queue_name IS NOT NULL GROUP BY o.queue_name) c;
    IF freed THEN
        woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @internal@.tg_jobs_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    @only_on(jobs)@
    DELETE FROM @extschema@.job_queues;
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

-- Rows of job_queues are made by the triggers of jobs. What somebody inserts himself is left out: a dump restored into
-- a migrated schema (pg_restore --data-only) has the rows of jobs as well, from which the triggers make these.
CREATE OR REPLACE FUNCTION @internal@.tg_job_queues_derived() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NULL;
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
