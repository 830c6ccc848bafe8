-- Wake-ups. By default every write notifies. On demand (set_notify): NOTIFY takes a lock of the whole server until its
-- commit, so busy producers do better without.
--
-- A worker that goes to sleep registers as a waiter. The trigger of a write asks whether anybody waits, and notifies
-- only then. No wake-up is lost: who asked before the registration has a transaction id below the horizon, an id drawn
-- after it. The worker looks on until every transaction below the horizon has ended, looks once more, and then sleeps.
--
-- A waiter is not a row but a shared advisory lock of the worker's listening session; a writer asks by trying to have
-- the same lock alone. So the answer is that of the moment, in every isolation level and whatever has been committed; a
-- registration writes nothing, leaves no dead rows that every writer would have to pass while a forgotten transaction
-- keeps them, and ends with its session, however that ends.

-- The lock of a waiter, in eight parts. A waiter holds them all, a writer asks for one: writers that ask for the same
-- one at the same moment get in each other's way, which costs a needless notification.
CREATE OR REPLACE FUNCTION @internal@.waiter_lock(part int) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN hashtextextended('@extschema@.waiter', part::bigint);
END
$$;

-- The horizon: a transaction id above that of everyone who has written by now. A snapshot's xmax is not: it is one past
-- the latest transaction that ended, and a writer that is still at it may have that very id, or a later one.
CREATE OR REPLACE FUNCTION @internal@.waiter_horizon() RETURNS xid8
LANGUAGE sql VOLATILE AS $$
    SELECT pg_current_xact_id()
$$;

-- Whether every transaction below the horizon has ended: then the next look sees all that was written without a
-- notification for this waiter.
CREATE OR REPLACE FUNCTION @internal@.waiter_horizon_passed(horizon xid8) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT pg_snapshot_xmin(pg_current_snapshot()) >= horizon
$$;

-- Registers this session as a waiter until unregister_waiter or its end, and returns the horizon; NULL, and nothing
-- done, when every write notifies anyhow. Once per wait: a second registration needs a second unregister_waiter. Call
-- it in the session that listens, as a transaction of its own: the horizon is a transaction id that must be drawn after
-- the locks. A writer holds a part of the lock for microseconds; whoever holds it for longer makes this an error
-- (55P03), after which the worker looks often instead.
CREATE OR REPLACE FUNCTION @internal@.register_waiter() RETURNS xid8
LANGUAGE plpgsql SET lock_timeout = '250ms' SET search_path = pg_catalog, pg_temp AS $$
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
            PERFORM pg_advisory_lock_shared(@internal@.waiter_lock(part));
            held := part + 1;
        END LOOP;
    EXCEPTION WHEN lock_not_available THEN
        -- Locks of a session outlive the error.
        FOR part IN 0 .. held - 1 LOOP
            PERFORM pg_advisory_unlock_shared(@internal@.waiter_lock(part));
        END LOOP;
        RAISE;
    END;
    RETURN @internal@.waiter_horizon();
END
$$;

-- Returns whether this session was a waiter.
CREATE OR REPLACE FUNCTION @internal@.unregister_waiter() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waited boolean := false;
BEGIN
    FOR part IN 0 .. 7 LOOP
        waited := pg_advisory_unlock_shared(@internal@.waiter_lock(part));
    END LOOP;
    RETURN waited;
END
$$;

-- Wakes workers: always, or on demand only when one waits; returns whether. However often it is called in a
-- transaction, one notification comes of it. A single expression takes the lock and gives it back, so that no writer
-- keeps it, and evaluates pg_notify in place, without a query of its own.
CREATE OR REPLACE FUNCTION @internal@.wake_workers(on_demand boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    lock bigint;
BEGIN
    IF on_demand THEN
        lock := hashtextextended('@extschema@.waiter', (pg_backend_pid() % 8)::bigint);
        IF (CASE WHEN pg_try_advisory_lock(lock) THEN pg_advisory_unlock(lock) ELSE false END) THEN
            RETURN false;
        END IF;
    END IF;
    RETURN pg_notify('jobs:insert', '') IS NOT NULL;
END
$$;

-- 'always', the default: others may listen, too. 'on_demand': only workers that register as waiters are woken. In force
-- for every snapshot taken after the commit, which also wakes the workers, so that they follow: a REPEATABLE READ
-- transaction that began before goes on as it began, and what it writes may be found by the next poll only.
CREATE OR REPLACE FUNCTION @extschema@.set_notify(mode text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF mode = 'on_demand' THEN
        INSERT INTO @extschema@.settings (name, value) VALUES ('notify', 'on_demand') ON CONFLICT DO NOTHING;
    ELSIF mode = 'always' THEN
        DELETE FROM @extschema@.settings WHERE name = 'notify';
    ELSE
        RAISE EXCEPTION 'unknown mode %', coalesce(quote_literal(mode), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use ''always'' or ''on_demand''.';
    END IF;
    PERFORM pg_notify('jobs:insert', '');
END
$$;

COMMENT ON FUNCTION @extschema@.set_notify(text) IS
    'When a write notifies "jobs:insert": ''always'' (default), or ''on_demand'', only while a worker waits.';
