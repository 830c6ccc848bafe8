-- Wake-ups on demand: NOTIFY takes a lock of the whole server until its commit, so busy producers do better without.
--
-- A worker that goes to sleep registers as a waiter. The trigger of a write asks whether anybody waits, and notifies only
-- then. No wake-up is lost: who asked before the registration has a transaction id below the horizon, an id drawn after it; the worker looks on until every transaction below the horizon has ended, looks once more, and then sleeps.
--
-- A waiter is not a row but a shared advisory lock of the worker's listening session; a writer asks by trying to have
-- the same lock alone. So the answer is that of the moment, in every isolation level and whatever has been committed; a
-- registration writes nothing, leaves no dead rows that every writer would have to pass while a forgotten transaction
-- keeps them, and ends with its session, however that ends.

-- Settings of the schema that are not the default.
CREATE TABLE @extschema@.settings (
    name text PRIMARY KEY,
    value text NOT NULL,
    -- The triggers below know this row by its being there.
    CONSTRAINT settings_known CHECK (name = 'notify' AND value = 'on_demand')
);
COMMENT ON TABLE @extschema@.settings IS 'Settings of the schema that are not the default; set_notify changes them.';

-- The lock of a waiter, in eight parts. A waiter holds them all, a writer asks for one: writers that ask for the same one
-- at the same moment get in each other's way, which costs a needless notification.
CREATE FUNCTION @extschema@.waiter_lock(part int) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN hashtextextended('@extschema@.waiter', part);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.waiter_lock(int) FROM PUBLIC;

-- Wakes workers: always, or on demand only when one waits; returns whether. However often it is called in a transaction,
-- one notification comes of it. A single expression takes the lock and gives it back, so that no writer keeps it.
CREATE FUNCTION @extschema@.wake_workers(on_demand boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    lock bigint;
BEGIN
    IF on_demand THEN
        lock := hashtextextended('@extschema@.waiter', pg_backend_pid() % 8);
        IF (CASE WHEN pg_try_advisory_lock(lock) THEN pg_advisory_unlock(lock) ELSE false END) THEN
            RETURN false;
        END IF;
    END IF;
    PERFORM pg_notify('jobs:insert', '');
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.wake_workers(boolean) FROM PUBLIC;

-- The triggers of V1, for rows without a queue in one pass. Whether to notify on demand is read along with it.
CREATE OR REPLACE FUNCTION @extschema@.tg_jobs_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs bigint;
    queued bigint;
    on_demand boolean;
    woken boolean;
BEGIN
    SELECT count(*), count(n.queue_name), EXISTS (SELECT FROM @extschema@.settings)
      INTO jobs, queued, on_demand FROM new_rows n;
    IF jobs = 0 THEN
        RETURN NULL;
    END IF;
    IF queued > 0 THEN
        PERFORM @extschema@.sync_queues(
            array_agg(c.queue_name), array_agg(c.jobs),
            coalesce(array_agg(c.queue_name) FILTER (WHERE c.locked), '{}'))
           FROM (SELECT n.queue_name, count(*)::int AS jobs, bool_or(n.locked_at IS NOT NULL) AS locked
                   FROM new_rows n WHERE n.queue_name IS NOT NULL GROUP BY n.queue_name) c;
    END IF;
    -- An assignment is evaluated in place; PERFORM would be a query of its own.
    woken := @extschema@.wake_workers(on_demand);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.tg_jobs_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    queued bigint;
    claimable boolean;
    freed boolean := false;
    woken boolean;
BEGIN
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

-- 'always', the default: others may listen, too. 'on_demand': only workers that register as waiters are woken. In force
-- for every snapshot taken after the commit, which also wakes the workers, so that they follow: a REPEATABLE READ
-- transaction that began before goes on as it began, and what it writes may be found by the next poll only.
CREATE FUNCTION @extschema@.set_notify(mode text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF mode = 'on_demand' THEN
        INSERT INTO @extschema@.settings (name, value) VALUES ('notify', 'on_demand') ON CONFLICT DO NOTHING;
    ELSIF mode = 'always' THEN
        DELETE FROM @extschema@.settings WHERE name = 'notify';
    ELSE
        RAISE EXCEPTION 'unknown mode %', coalesce(quote_literal(mode), 'NULL') USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use ''always'' or ''on_demand''.';
    END IF;
    PERFORM pg_notify('jobs:insert', '');
END
$$;
REVOKE ALL ON FUNCTION @extschema@.set_notify(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.set_notify(text) IS
    'When a write notifies "jobs:insert": ''always'' (default), or ''on_demand'', only while a worker waits.';

-- Registers this session as a waiter until unregister_waiter or its end, and returns the horizon; NULL, and nothing done,
-- when every write notifies anyhow. Once per wait: a second registration needs a second unregister_waiter. Call it in the
-- session that listens, as a transaction of its own: the horizon is a transaction id that must be drawn after the locks. A
-- writer holds a part of the lock for microseconds; whoever holds it for longer makes this an error (55P03), after which
-- the worker looks often instead.
CREATE FUNCTION @extschema@.register_waiter() RETURNS xid8
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    held int := 0;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'register_waiter is called in a transaction that has written'
            USING ERRCODE = 'active_sql_transaction', HINT = 'Call it as a transaction of its own.';
    END IF;
    IF NOT EXISTS (SELECT FROM @extschema@.settings) THEN
        RETURN NULL;
    END IF;
    BEGIN
        FOR part IN 0 .. 7 LOOP
            PERFORM pg_advisory_lock_shared(@extschema@.waiter_lock(part));
            held := part + 1;
        END LOOP;
    EXCEPTION WHEN lock_not_available THEN
        -- Locks of a session outlive the error.
        FOR part IN 0 .. held - 1 LOOP
            PERFORM pg_advisory_unlock_shared(@extschema@.waiter_lock(part));
        END LOOP;
        RAISE;
    END;
    RETURN @extschema@.waiter_horizon();
END
$$;
REVOKE ALL ON FUNCTION @extschema@.register_waiter() FROM PUBLIC;

-- Returns whether this session was a waiter.
CREATE FUNCTION @extschema@.unregister_waiter() RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    waited boolean := false;
BEGIN
    FOR part IN 0 .. 7 LOOP
        waited := pg_advisory_unlock_shared(@extschema@.waiter_lock(part));
    END LOOP;
    RETURN waited;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.unregister_waiter() FROM PUBLIC;

-- The horizon: a transaction id above that of everyone who has written by now. A snapshot's xmax is not: it is one past the
-- latest transaction that ended, and a writer that is still at it may have that very id, or a later one.
CREATE FUNCTION @extschema@.waiter_horizon() RETURNS xid8
LANGUAGE sql VOLATILE AS $$
    SELECT pg_current_xact_id()
$$;
REVOKE ALL ON FUNCTION @extschema@.waiter_horizon() FROM PUBLIC;

-- Whether every transaction below the horizon has ended: then the next look sees all that was written without a
-- notification for this waiter.
CREATE FUNCTION @extschema@.waiter_horizon_passed(horizon xid8) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT pg_snapshot_xmin(pg_current_snapshot()) >= horizon
$$;
REVOKE ALL ON FUNCTION @extschema@.waiter_horizon_passed(xid8) FROM PUBLIC;
