-- Leases of schedulers: who holds a schedule, and who takes over.
--
-- A scheduler process shows that it lives by one heartbeat for all schedules it holds, on the database's clock. One
-- that was taken for dead and is not can do no harm: what it no longer holds it cannot fire.

-- A scheduler process shows that it lives, which also registers it; and others that have gone and hold nothing are
-- forgotten.
--
-- steady_since: the fires since then are its own to make, as far as it holds the schedules. After a gap of more than a
-- lease that is from now on; or, when the server was restarted meanwhile, since it has been there again. covered_since
-- goes further back where another scheduler lived before this one began. expires_in: until the next lease of another
-- ends. A heartbeat that lies in the future, infinity included, ends no other's.
CREATE OR REPLACE FUNCTION @internal@.scheduler_heartbeat(
    scheduler_id text, instance uuid, lease interval, listens boolean,
    OUT steady_since timestamptz, OUT expires_in interval
)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET lock_timeout = '50ms'
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    own @extschema@.schedulers;
    gone uuid;
BEGIN
    PERFORM @internal@.require_worker_id(scheduler_id);
    SELECT * INTO own FROM @extschema@.schedulers s WHERE s.instance = scheduler_heartbeat.instance;
    IF own.heartbeat_at BETWEEN moment - own.lease AND moment + own.lease THEN
        steady_since := own.steady_since;
    ELSE
        steady_since := CASE WHEN pg_postmaster_start_time() > own.heartbeat_at
                             THEN pg_postmaster_start_time() ELSE moment END;
        own.covered_since := (SELECT min(s.covered_since) FROM @extschema@.schedulers s
                               WHERE s.instance <> scheduler_heartbeat.instance AND s.heartbeat_at >= moment - s.lease);
    END IF;
    INSERT INTO @extschema@.schedulers AS s
        (instance, scheduler_id, lease, listens, heartbeat_at, steady_since, covered_since)
    VALUES (scheduler_heartbeat.instance, scheduler_heartbeat.scheduler_id, scheduler_heartbeat.lease,
            scheduler_heartbeat.listens, moment, scheduler_heartbeat.steady_since,
            least(own.covered_since, scheduler_heartbeat.steady_since))
    ON CONFLICT ON CONSTRAINT schedulers_pkey DO UPDATE SET
        lease = excluded.lease, listens = excluded.listens, heartbeat_at = excluded.heartbeat_at,
        steady_since = excluded.steady_since, covered_since = excluded.covered_since;

    -- Who claims holds its row's lock, so a row that is free and holds nothing stays so.
    FOR gone IN
        SELECT s.instance FROM @extschema@.schedulers s
         WHERE s.heartbeat_at NOT BETWEEN moment - 2 * s.lease AND moment + 2 * s.lease FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM @extschema@.schedulers s
         WHERE s.instance = gone AND NOT EXISTS (SELECT FROM @extschema@.scheduled_jobs j WHERE j.instance = gone);
    END LOOP;
    expires_in := (SELECT min(least(s.heartbeat_at, moment) + s.lease) - clock_timestamp() FROM @extschema@.schedulers s
                    WHERE s.instance <> scheduler_heartbeat.instance AND s.heartbeat_at >= moment - s.lease);
END
$$;

-- A scheduler ends: it gives its schedules back and is forgotten. What it could not give back, others take as soon as
-- they can.
CREATE OR REPLACE FUNCTION @internal@.leave_scheduler(instance uuid) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released int := @internal@.release_schedules(leave_scheduler.instance);
BEGIN
    DELETE FROM @extschema@.schedulers s WHERE s.instance = leave_scheduler.instance;
    RETURN released;
END
$$;

-- Locks schedules that nobody holds, up to a number.
CREATE OR REPLACE FUNCTION @internal@.lock_free_schedules(task_identifiers text[], max_schedules int) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT s.id FROM @extschema@.scheduled_jobs s
         WHERE s.locked_at IS NULL AND s.paused_at IS NULL AND s.ended_at IS NULL
           AND @within_tasks(s.task_identifier)@
         ORDER BY s.priority, s.id LIMIT max_schedules FOR UPDATE SKIP LOCKED);
END
$$;

-- Claims up to max_schedules schedules for a registered scheduler: free ones, and those of holders that are gone. A
-- holder is gone when its lease has passed and the server, if it was restarted, has been there for half as long: leases
-- end in an outage. One that was last heard of in the future was so before the clock was set back, and loses no more
-- than its schedules. One with the same id is gone when its session has ended. alone: no other process has this id, so
-- what an unregistered scheduler with the same id (the original's) left locked is taken too. The scheduler's row says
-- which tasks it takes.
--
-- From when on fires are owed: since the last that was dealt with, where the last holder left no longer than a lease
-- ago, or a scheduler was there all along; otherwise only what this one was there for. Not for long after the holder
-- left, because the others may not be for that task.
CREATE OR REPLACE FUNCTION @internal@.claim_schedules(
    scheduler_id text, instance uuid, task_identifiers text[], max_schedules int, alone boolean
) RETURNS SETOF @extschema@.scheduled_jobs
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    own @extschema@.schedulers;
    holder record;
    claimed bigint[];
    room int := max_schedules;
BEGIN
    SELECT * INTO own FROM @extschema@.schedulers s WHERE s.instance = claim_schedules.instance FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF own.tasks IS DISTINCT FROM task_identifiers THEN
        UPDATE @extschema@.schedulers s SET tasks = task_identifiers WHERE s.instance = claim_schedules.instance;
    END IF;
    claimed := @internal@.lock_free_schedules(task_identifiers, room);
    IF cardinality(claimed) > 0 THEN
        room := room - cardinality(claimed);
        RETURN QUERY
        UPDATE @extschema@.scheduled_jobs s
           SET locked_by = claim_schedules.scheduler_id, locked_at = now(), instance = claim_schedules.instance,
               owed_since = CASE
                   WHEN greatest(s.released_at, s.fired_until)
                        >= least(greatest(own.covered_since, moment - 4 * own.lease), moment - own.lease)
                   THEN s.fired_until ELSE greatest(s.fired_until, own.steady_since) END
         WHERE s.id = ANY (claimed)
        RETURNING s.*;
    END IF;

    FOR holder IN
        WITH RECURSIVE holders AS (
            SELECT (SELECT s.instance FROM @extschema@.scheduled_jobs s
                     WHERE s.instance IS NOT NULL ORDER BY s.instance LIMIT 1) AS instance
            UNION ALL
            SELECT (SELECT s.instance FROM @extschema@.scheduled_jobs s
                     WHERE s.instance > h.instance ORDER BY s.instance LIMIT 1)
              FROM holders h WHERE h.instance IS NOT NULL)
        SELECT h.instance, r.heartbeat_at + r.lease AS ends_at
          FROM holders h LEFT JOIN @extschema@.schedulers r ON r.instance = h.instance
         WHERE h.instance <> claim_schedules.instance
           AND CASE
               WHEN r.instance IS NULL THEN true
               WHEN r.heartbeat_at > moment + r.lease THEN true
               WHEN r.heartbeat_at < moment - r.lease AND pg_postmaster_start_time() < moment - r.lease / 2 THEN true
               WHEN r.scheduler_id = claim_schedules.scheduler_id AND r.listens
               THEN pg_try_advisory_xact_lock(@internal@.instance_lock(r.instance))
               ELSE false END
        UNION ALL
        SELECT NULL, NULL WHERE alone
    LOOP
        EXIT WHEN room < 1;
        IF holder.instance IS NOT NULL THEN
            claimed := ARRAY(
                SELECT s.id FROM @extschema@.scheduled_jobs s
                 WHERE s.instance = holder.instance
                   AND @within_tasks(s.task_identifier)@
                 LIMIT room FOR UPDATE SKIP LOCKED);
        ELSE
            claimed := ARRAY(
                SELECT s.id FROM @extschema@.scheduled_jobs s
                 WHERE s.locked_by = claim_schedules.scheduler_id AND s.locked_at IS NOT NULL AND s.instance IS NULL
                   AND @within_tasks(s.task_identifier)@
                 LIMIT room FOR UPDATE SKIP LOCKED);
        END IF;
        CONTINUE WHEN cardinality(claimed) = 0;
        room := room - cardinality(claimed);
        RETURN QUERY
        UPDATE @extschema@.scheduled_jobs s
           SET locked_by = claim_schedules.scheduler_id, locked_at = now(), instance = claim_schedules.instance,
               owed_since = CASE
                   WHEN holder.ends_at >= greatest(own.covered_since, moment - 4 * own.lease)
                   THEN s.fired_until ELSE greatest(s.fired_until, own.steady_since) END
         WHERE s.id = ANY (claimed)
        RETURNING s.*;
    END LOOP;
END
$$;

-- What the original's scheduler calls. It has no lease and keeps what it locks.
CREATE OR REPLACE FUNCTION @internal@.claim_scheduled_jobs(worker_id text, task_identifiers text[], max_schedules int)
RETURNS SETOF @extschema@.scheduled_jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    free bigint[];
BEGIN
    PERFORM @internal@.require_worker_id(worker_id);
    free := @internal@.lock_free_schedules(task_identifiers, max_schedules);
    IF cardinality(free) > 0 THEN
        RETURN QUERY
        UPDATE @extschema@.scheduled_jobs s SET locked_by = worker_id, locked_at = now(), instance = NULL
         WHERE s.id = ANY (free)
        RETURNING s.*;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.get_scheduled_job(worker_id text, task_identifiers text[] DEFAULT NULL)
RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
BEGIN
    SELECT * INTO schedule FROM @internal@.claim_scheduled_jobs(worker_id, task_identifiers, 1);
    RETURN schedule;
END
$$;

COMMENT ON FUNCTION @extschema@.get_scheduled_job(text, text[]) IS
    'Claims one schedule for a scheduler; a row of NULLs when there is none to take.';

-- Gives schedules back: those listed, or all that an instance holds. What another transaction has locked is left out.
-- Returns how many were given back.
CREATE OR REPLACE FUNCTION @internal@.release_schedules(instance uuid, ids bigint[] DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released int;
BEGIN
    UPDATE @extschema@.scheduled_jobs s
       SET locked_by = NULL, locked_at = NULL, instance = NULL, released_at = clock_timestamp()
     WHERE s.id = ANY (ARRAY(
        SELECT h.id FROM @extschema@.scheduled_jobs h
         WHERE h.instance = release_schedules.instance AND (ids IS NULL OR h.id = ANY (ids)) FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END
$$;

-- An unregistered holder has dealt with its fires until now: nobody knows better.
CREATE OR REPLACE FUNCTION @extschema@.release_scheduled_jobs(worker_id text, ids bigint[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @extschema@.scheduled_jobs s
       SET locked_by = NULL, locked_at = NULL, instance = NULL, released_at = clock_timestamp(),
           fired_until = CASE WHEN s.instance IS NULL THEN clock_timestamp() ELSE s.fired_until END
     WHERE s.locked_by = worker_id AND (release_scheduled_jobs.ids IS NULL OR s.id = ANY (release_scheduled_jobs.ids));
END
$$;

COMMENT ON FUNCTION @extschema@.release_scheduled_jobs(text, bigint[]) IS
    'Gives up the schedules of a scheduler: those listed, or all.';
