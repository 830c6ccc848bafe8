-- Leases for schedulers: who holds a schedule, and who takes over.
--
-- A scheduler process shows that it lives by one heartbeat for all schedules it holds, on the database's clock. One that was taken
-- for dead and is not can do no harm: what it no longer holds it cannot fire (V15).
SET LOCAL lock_timeout = '5s';

ALTER TABLE @extschema@.scheduled_jobs
    -- The process that holds it; NULL under a lock of a scheduler that has not registered, such as the original's.
    ADD COLUMN instance uuid,
    -- Its fires up to this instant are dealt with. (A constant for rows that exist: the table is not written anew.)
    ADD COLUMN fired_until timestamptz NOT NULL DEFAULT now(),
    -- From when on the holder owes every fire, whatever schedule_info says about missed ones.
    ADD COLUMN owed_since timestamptz,
    -- When its last holder gave it back.
    ADD COLUMN released_at timestamptz,
    -- Set by hand: it does not fire, and nobody holds it.
    ADD COLUMN paused_at timestamptz,
    -- Set by a scheduler: it has no fire left, and nobody holds it.
    ADD COLUMN ended_at timestamptz,
    -- What is wrong with schedule_info, and where.
    ADD COLUMN last_error text;
ALTER TABLE @extschema@.scheduled_jobs ALTER COLUMN fired_until SET DEFAULT clock_timestamp();
COMMENT ON COLUMN @extschema@.scheduled_jobs.paused_at IS
    'Set it to pause the schedule, set it to NULL to go on; fires in between are not made up for.';
COMMENT ON COLUMN @extschema@.scheduled_jobs.ended_at IS 'Since when the schedule has no fire left.';
COMMENT ON COLUMN @extschema@.scheduled_jobs.last_error IS
    'What is wrong with schedule_info, and where. Only a schedule whose rule cannot be used does not fire.';

DROP INDEX @extschema@.scheduled_jobs_claim_idx;
CREATE INDEX scheduled_jobs_claim_idx ON @extschema@.scheduled_jobs (priority, id)
    WHERE locked_at IS NULL AND paused_at IS NULL AND ended_at IS NULL;
CREATE INDEX scheduled_jobs_instance_idx ON @extschema@.scheduled_jobs (instance) WHERE instance IS NOT NULL;
CREATE INDEX scheduled_jobs_unregistered_idx ON @extschema@.scheduled_jobs (locked_by)
    WHERE locked_at IS NOT NULL AND instance IS NULL;

-- Scheduler processes and when they were last heard of, by the database's clock.
CREATE TABLE @extschema@.schedulers (
    instance uuid PRIMARY KEY,
    scheduler_id text NOT NULL,
    -- Without a heartbeat for so long, what the instance holds is taken over.
    lease interval NOT NULL,
    -- Whether it holds instance_lock in a session: then its end shows at once.
    listens boolean NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL,
    -- Since when it has been able to fire without a gap of a lease.
    steady_since timestamptz NOT NULL,
    -- Since when there has always been one.
    covered_since timestamptz NOT NULL,
    CONSTRAINT schedulers_scheduler_id_length CHECK (length(scheduler_id) > 3),
    CONSTRAINT schedulers_lease_positive CHECK (lease > '0')
);
COMMENT ON TABLE @extschema@.schedulers IS 'Scheduler processes and their heartbeats. Schedulers write it; nobody else needs to.';

-- A schedule whose rule is changed, or which goes on after a pause, begins anew: nothing from before is made up for, also when
-- the clock was set back since. One that is paused is free, so that nobody fires it; an unregistered holder (the original's
-- scheduler) watches its own timers and keeps it. Whoever locks or unlocks a row by hand is an unregistered holder, too.
CREATE FUNCTION @extschema@.tg_scheduled_jobs_renewed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.schedule_info::text IS NOT DISTINCT FROM OLD.schedule_info::text
       AND (NEW.paused_at IS NULL) = (OLD.paused_at IS NULL) THEN
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
REVOKE ALL ON FUNCTION @extschema@.tg_scheduled_jobs_renewed() FROM PUBLIC;
CREATE TRIGGER scheduled_jobs_renewed BEFORE UPDATE ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.schedule_info::text IS DISTINCT FROM OLD.schedule_info::text
          OR (NEW.paused_at IS NULL) <> (OLD.paused_at IS NULL)
          OR NEW.instance = OLD.instance AND (NEW.locked_by IS DISTINCT FROM OLD.locked_by
                                              OR (NEW.locked_at IS NULL) <> (OLD.locked_at IS NULL)))
    EXECUTE FUNCTION @extschema@.tg_scheduled_jobs_renewed();

-- The notifications of an update. What a scheduler writes (claims, fires, marks) meets neither condition, and costs no call;
-- PostgreSQL sends equal notifications of a transaction once.
CREATE FUNCTION @extschema@.tg_scheduled_jobs_notify() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], '');
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.tg_scheduled_jobs_notify() FROM PUBLIC;
DROP TRIGGER scheduled_jobs_updated ON @extschema@.scheduled_jobs;
CREATE TRIGGER scheduled_jobs_freed AFTER UPDATE ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.locked_at IS NULL AND NEW.paused_at IS NULL AND NEW.ended_at IS NULL
          AND (OLD.locked_at IS NOT NULL OR OLD.paused_at IS NOT NULL OR OLD.ended_at IS NOT NULL))
    EXECUTE FUNCTION @extschema@.tg_scheduled_jobs_notify('scheduled_jobs:insert');
CREATE TRIGGER scheduled_jobs_changed AFTER UPDATE ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.schedule_info::text IS DISTINCT FROM OLD.schedule_info::text
          OR NEW.task_identifier IS DISTINCT FROM OLD.task_identifier
          OR NEW.payload::text IS DISTINCT FROM OLD.payload::text
          OR (NEW.paused_at IS NULL) <> (OLD.paused_at IS NULL))
    EXECUTE FUNCTION @extschema@.tg_scheduled_jobs_notify('scheduled_jobs:change');

CREATE OR REPLACE FUNCTION @extschema@.tg_scheduled_jobs_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF EXISTS (SELECT FROM new_rows) THEN
            PERFORM pg_notify('scheduled_jobs:insert', '');
        END IF;
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        PERFORM pg_notify('scheduled_jobs:change', '');
    END IF;
    RETURN NULL;
END
$$;

-- What the original's scheduler calls. It has no lease and keeps what it locks.
CREATE OR REPLACE FUNCTION @extschema@.claim_scheduled_jobs(worker_id text, task_identifiers text[], max_schedules int)
RETURNS SETOF @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
DECLARE
    free bigint[];
BEGIN
    PERFORM @extschema@.require_worker_id(worker_id);
    free := ARRAY(
        SELECT s.id FROM @extschema@.scheduled_jobs s
         WHERE s.locked_at IS NULL AND s.paused_at IS NULL AND s.ended_at IS NULL
           AND (task_identifiers IS NULL OR s.task_identifier = ANY (task_identifiers))
         ORDER BY s.priority, s.id LIMIT max_schedules FOR UPDATE SKIP LOCKED);
    IF cardinality(free) > 0 THEN
        RETURN QUERY
        UPDATE @extschema@.scheduled_jobs s SET locked_by = worker_id, locked_at = now(), instance = NULL
         WHERE s.id = ANY (free)
        RETURNING s.*;
    END IF;
END
$$;

-- An unregistered holder has dealt with its fires until now: nobody knows better.
CREATE OR REPLACE FUNCTION @extschema@.release_scheduled_jobs(worker_id text, ids bigint[] DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
    UPDATE @extschema@.scheduled_jobs s
       SET locked_by = NULL, locked_at = NULL, instance = NULL, released_at = clock_timestamp(),
           fired_until = CASE WHEN s.instance IS NULL THEN clock_timestamp() ELSE s.fired_until END
     WHERE s.locked_by = worker_id AND (release_scheduled_jobs.ids IS NULL OR s.id = ANY (release_scheduled_jobs.ids))
$$;

-- By hand, and what the original's scheduler calls: then the fires until now are dealt with. It leaves no row in the ledger. It
-- calls nothing new, to which a role that was given rights by hand would have none.
CREATE OR REPLACE FUNCTION @extschema@.run_scheduled_job(id bigint, job_expiry interval DEFAULT '1 hours')
RETURNS @extschema@.jobs
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    job @extschema@.jobs;
BEGIN
    -- The row lock makes two schedulers take turns: the second sees the job of the first.
    SELECT * INTO schedule FROM @extschema@.scheduled_jobs s WHERE s.id = run_scheduled_job.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM @extschema@.jobs j
         WHERE j.id = schedule.last_scheduled_id
           AND CASE WHEN j.locked_at IS NULL THEN j.attempts < j.max_attempts
                    ELSE j.locked_at >= now() - coalesce(job_expiry, interval '1 hour') END
    ) THEN
        RAISE EXCEPTION 'ALREADY_SCHEDULED' USING ERRCODE = 'JB002',
            DETAIL = format('Job %s of schedule %s is still waiting or running.', schedule.last_scheduled_id, schedule.id);
    END IF;
    job := @extschema@.enqueue_job(
        schedule.database_id, schedule.actor_id, schedule.task_identifier, schedule.payload, schedule.key,
        schedule.queue_name, now(), schedule.max_attempts, schedule.priority);
    UPDATE @extschema@.scheduled_jobs s
       SET last_scheduled = now(), last_scheduled_id = job.id,
           fired_until = CASE WHEN schedule.locked_by IS NOT NULL AND schedule.instance IS NULL
                              THEN clock_timestamp() ELSE s.fired_until END
     WHERE s.id = schedule.id;
    RETURN job;
END
$$;

-- What a scheduler knows a schedule by: another rule or task is another schedule to it.
CREATE FUNCTION @extschema@.schedule_digest(schedule @extschema@.scheduled_jobs) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended(schedule.schedule_info::text, hashtextextended(schedule.task_identifier, schedule.id))
$$;
REVOKE ALL ON FUNCTION @extschema@.schedule_digest(@extschema@.scheduled_jobs) FROM PUBLIC;

-- A scheduler process shows that it lives, which also registers it; and others that have gone and hold nothing are forgotten.
--
-- steady_since: the fires since then are its own to make, as far as it holds the schedules. After a gap of more than a lease
-- that is from now on; or, when the server was restarted meanwhile, since it has been there again. covered_since goes
-- further back where another scheduler lived before this one began. expires_in: until the next lease of another ends.
CREATE FUNCTION @extschema@.scheduler_heartbeat(
    scheduler_id text, instance uuid, lease interval, listens boolean,
    OUT steady_since timestamptz, OUT expires_in interval
)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET lock_timeout = '50ms' AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    own @extschema@.schedulers;
    gone uuid;
BEGIN
    PERFORM @extschema@.require_worker_id(scheduler_id);
    SELECT * INTO own FROM @extschema@.schedulers s WHERE s.instance = scheduler_heartbeat.instance;
    IF own.heartbeat_at BETWEEN moment - own.lease AND moment + own.lease THEN
        steady_since := own.steady_since;
    ELSE
        steady_since := CASE WHEN pg_postmaster_start_time() > own.heartbeat_at THEN pg_postmaster_start_time() ELSE moment END;
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
    expires_in := (SELECT min(s.heartbeat_at + s.lease) - clock_timestamp() FROM @extschema@.schedulers s
                    WHERE s.instance <> scheduler_heartbeat.instance AND s.heartbeat_at >= moment - s.lease);
END
$$;
REVOKE ALL ON FUNCTION @extschema@.scheduler_heartbeat(text, uuid, interval, boolean) FROM PUBLIC;

-- Claims up to max_schedules schedules for a registered scheduler: free ones, and those of holders that are gone. A holder is
-- gone when its lease has passed and the server, if it was restarted, has been there for half as long: leases end in an outage.
-- One that was last heard of in the future was so before the clock was set back, and loses no more than its schedules.
-- One with the same id is gone when its session has ended. alone: no other process has this id, so what an unregistered
-- scheduler with the same id (the original's, a version before this) left locked is taken too.
--
-- From when on fires are owed: since the last that was dealt with, where the last holder left no longer than a lease ago, or a
-- scheduler was there all along; otherwise only what this one was there for. Not for long after the holder left, because the
-- others may not be for that task.
CREATE FUNCTION @extschema@.claim_schedules(
    scheduler_id text, instance uuid, task_identifiers text[], max_schedules int, alone boolean
) RETURNS SETOF @extschema@.scheduled_jobs
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off AS $$
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
    claimed := ARRAY(
        SELECT s.id FROM @extschema@.scheduled_jobs s
         WHERE s.locked_at IS NULL AND s.paused_at IS NULL AND s.ended_at IS NULL
           AND (task_identifiers IS NULL OR s.task_identifier = ANY (task_identifiers))
         ORDER BY s.priority, s.id LIMIT room FOR UPDATE SKIP LOCKED);
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
               THEN pg_try_advisory_xact_lock(@extschema@.instance_lock(r.instance))
               ELSE false END
        UNION ALL
        SELECT NULL, NULL WHERE alone
    LOOP
        EXIT WHEN room < 1;
        IF holder.instance IS NOT NULL THEN
            claimed := ARRAY(
                SELECT s.id FROM @extschema@.scheduled_jobs s
                 WHERE s.instance = holder.instance
                   AND (task_identifiers IS NULL OR s.task_identifier = ANY (task_identifiers))
                 LIMIT room FOR UPDATE SKIP LOCKED);
        ELSE
            claimed := ARRAY(
                SELECT s.id FROM @extschema@.scheduled_jobs s
                 WHERE s.locked_by = claim_schedules.scheduler_id AND s.locked_at IS NOT NULL AND s.instance IS NULL
                   AND (task_identifiers IS NULL OR s.task_identifier = ANY (task_identifiers))
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
REVOKE ALL ON FUNCTION @extschema@.claim_schedules(text, uuid, text[], int, boolean) FROM PUBLIC;

-- Gives schedules back: those listed, or all that an instance holds. What another transaction has locked is left out. Returns
-- how many were given back.
CREATE FUNCTION @extschema@.release_schedules(instance uuid, ids bigint[] DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
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
REVOKE ALL ON FUNCTION @extschema@.release_schedules(uuid, bigint[]) FROM PUBLIC;

-- A scheduler ends: it gives its schedules back and is forgotten. What it could not give back, others take as soon as they can.
CREATE FUNCTION @extschema@.leave_scheduler(instance uuid) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    released int := @extschema@.release_schedules(leave_scheduler.instance);
BEGIN
    DELETE FROM @extschema@.schedulers s WHERE s.instance = leave_scheduler.instance;
    RETURN released;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.leave_scheduler(uuid) FROM PUBLIC;

-- As in V4, but a schedule that is removed because a scheduler watches it hands on what is known of its jobs; and of its fires,
-- when it is the same one again: applications add their schedules at each start.
CREATE OR REPLACE FUNCTION @extschema@.enqueue_scheduled_job(
    new_database_id uuid, new_actor_id uuid, identifier text, new_payload json, new_schedule_info json, job_key text,
    new_queue_name text, new_max_attempts int, new_priority int
) RETURNS @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
DECLARE
    schedule @extschema@.scheduled_jobs;
    holder @extschema@.scheduled_jobs;
    removed @extschema@.scheduled_jobs;
BEGIN
    IF coalesce(identifier, '') = '' THEN
        RAISE EXCEPTION 'the task identifier is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the task: add_scheduled_job(identifier := ''some-task'', …).';
    END IF;
    -- Without a key the conflict clause never applies. Each turn either writes the row or makes room for it.
    LOOP
        INSERT INTO @extschema@.scheduled_jobs AS s
            (database_id, actor_id, task_identifier, payload, schedule_info, queue_name, max_attempts, priority, key,
             last_scheduled, last_scheduled_id, fired_until)
        VALUES
            (new_database_id, new_actor_id, identifier, coalesce(new_payload, '{}'), coalesce(new_schedule_info, '{}'),
             new_queue_name, coalesce(new_max_attempts, 25), coalesce(new_priority, 0), job_key,
             removed.last_scheduled, removed.last_scheduled_id,
             CASE WHEN removed.task_identifier = identifier
                       AND removed.schedule_info::text = coalesce(new_schedule_info, '{}')::text
                  THEN removed.fired_until ELSE clock_timestamp() END)
        ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
            actor_id = excluded.actor_id, task_identifier = excluded.task_identifier, payload = excluded.payload,
            schedule_info = excluded.schedule_info, queue_name = excluded.queue_name,
            max_attempts = excluded.max_attempts, priority = excluded.priority
        WHERE s.locked_at IS NULL AND s.database_id IS NOT DISTINCT FROM excluded.database_id
        RETURNING * INTO schedule;
        IF FOUND THEN
            RETURN schedule;
        END IF;
        SELECT * INTO holder FROM @extschema@.scheduled_jobs s WHERE s.key = job_key FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF holder.database_id IS DISTINCT FROM new_database_id THEN
            RAISE EXCEPTION 'the schedule key % is in use under another database_id', quote_literal(job_key)
                USING ERRCODE = 'unique_violation', HINT = 'Keys are shared by all tenants: put the tenant into the key.';
        END IF;
        -- A scheduler watches the row: a new one makes it take up the change.
        DELETE FROM @extschema@.scheduled_jobs s WHERE s.id = holder.id AND s.locked_at IS NOT NULL;
        IF FOUND THEN
            removed := holder;
        END IF;
    END LOOP;
END
$$;

SET LOCAL lock_timeout = DEFAULT;
