-- Schedules bounded: one row, however large it is and whatever its columns hold, stops no other.
SET LOCAL lock_timeout = '5s';

-- What each scheduler takes, so that a schedule that none takes can be told of.
ALTER TABLE @extschema@.schedulers ADD COLUMN tasks text[];
COMMENT ON COLUMN @extschema@.schedulers.tasks IS 'The tasks whose schedules it takes; NULL: all.';

-- As before (V14), but a text that is stored in more than 128 KiB is not read for it. A scheduler uses no schedule_info of more
-- than half of that, so each that it uses is hashed. STABLE, since pg_column_size is: only so its callers can inline it, which
-- keeps the other columns from being read.
CREATE OR REPLACE FUNCTION @extschema@.schedule_digest(schedule @extschema@.scheduled_jobs) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_column_size(schedule.schedule_info) <= 131072
                THEN hashtextextended(schedule.schedule_info::text, hashtextextended(schedule.task_identifier, schedule.id))
                ELSE hashtextextended(pg_column_size(schedule.schedule_info)::text,
                                      hashtextextended(schedule.task_identifier, schedule.id)) END
$$;

-- Two triggers call it. One is for the columns that say what a schedule is: as in V14, but only an update that names them has the
-- texts compared, which a claim and a fire do not. The other is for what people write into the columns of the holder and into
-- fired_until. Outside the years that a scheduler knows, fired_until stops the schedule: written, it frees the schedule, so that a
-- scheduler looks at it anew; corrected, likewise.
CREATE OR REPLACE FUNCTION @extschema@.tg_scheduled_jobs_renewed() RETURNS trigger
LANGUAGE plpgsql AS $$
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
DROP TRIGGER scheduled_jobs_renewed ON @extschema@.scheduled_jobs;
CREATE TRIGGER scheduled_jobs_renewed BEFORE UPDATE OF schedule_info, paused_at ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.schedule_info::text IS DISTINCT FROM OLD.schedule_info::text
          OR (NEW.paused_at IS NULL) <> (OLD.paused_at IS NULL))
    EXECUTE FUNCTION @extschema@.tg_scheduled_jobs_renewed();
CREATE TRIGGER scheduled_jobs_written_by_hand BEFORE UPDATE OF locked_by, locked_at, fired_until
    ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.instance = OLD.instance
          AND (NEW.locked_by IS DISTINCT FROM OLD.locked_by OR (NEW.locked_at IS NULL) <> (OLD.locked_at IS NULL)
               OR (NEW.fired_until BETWEEN timestamptz '1970-01-01 00:00:00+00' AND timestamptz '9999-12-30 00:00:00+00')
                  <> (OLD.fired_until BETWEEN timestamptz '1970-01-01 00:00:00+00' AND timestamptz '9999-12-30 00:00:00+00')))
    EXECUTE FUNCTION @extschema@.tg_scheduled_jobs_renewed();
DROP TRIGGER scheduled_jobs_changed ON @extschema@.scheduled_jobs;
CREATE TRIGGER scheduled_jobs_changed AFTER UPDATE OF schedule_info, task_identifier, payload, paused_at
    ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.schedule_info::text IS DISTINCT FROM OLD.schedule_info::text
          OR NEW.task_identifier IS DISTINCT FROM OLD.task_identifier
          OR NEW.payload::text IS DISTINCT FROM OLD.payload::text
          OR (NEW.paused_at IS NULL) <> (OLD.paused_at IS NULL))
    EXECUTE FUNCTION @extschema@.tg_scheduled_jobs_notify('scheduled_jobs:change');

-- As in V14, but a heartbeat that lies in the future, infinity included, ends no other's.
CREATE OR REPLACE FUNCTION @extschema@.scheduler_heartbeat(
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
    expires_in := (SELECT min(least(s.heartbeat_at, moment) + s.lease) - clock_timestamp() FROM @extschema@.schedulers s
                    WHERE s.instance <> scheduler_heartbeat.instance AND s.heartbeat_at >= moment - s.lease);
END
$$;

-- As in V14, and a scheduler's row says which tasks it takes.
CREATE OR REPLACE FUNCTION @extschema@.claim_schedules(
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
    IF own.tasks IS DISTINCT FROM task_identifiers THEN
        UPDATE @extschema@.schedulers s SET tasks = task_identifiers WHERE s.instance = claim_schedules.instance;
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

-- As in V15, but neither the payload nor a large schedule_info is read.
CREATE OR REPLACE FUNCTION @extschema@.mark_schedules(
    scheduler_id text, instance uuid, schedule_ids bigint[], digests bigint[], errors text[], ended boolean[],
    missed_ats timestamptz[], missed_reasons text[]
) RETURNS SETOF bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    found_id bigint;
    found_digest bigint;
BEGIN
    FOR i IN 1 .. coalesce(cardinality(schedule_ids), 0) LOOP
        SELECT s.id, @extschema@.schedule_digest(s) INTO found_id, found_digest FROM @extschema@.scheduled_jobs s
         WHERE s.id = schedule_ids[i] AND s.instance = mark_schedules.instance FOR UPDATE SKIP LOCKED;
        IF NOT FOUND AND EXISTS (SELECT FROM @extschema@.scheduled_jobs s
                                  WHERE s.id = schedule_ids[i] AND s.instance = mark_schedules.instance) THEN
            RETURN NEXT schedule_ids[i];
        END IF;
        CONTINUE WHEN found_id IS NULL OR found_digest <> digests[i];
        UPDATE @extschema@.scheduled_jobs s
           SET last_error = errors[i], fired_until = greatest(s.fired_until, missed_ats[i]),
               ended_at = CASE WHEN ended[i] THEN clock_timestamp() END,
               locked_by = CASE WHEN NOT ended[i] THEN s.locked_by END,
               locked_at = CASE WHEN NOT ended[i] THEN s.locked_at END,
               instance = CASE WHEN NOT ended[i] THEN s.instance END
         WHERE s.id = found_id;
        IF missed_ats[i] IS NOT NULL THEN
            INSERT INTO @extschema@.schedule_fires (schedule_id, fire_at, outcome, reason, scheduler_id)
            VALUES (found_id, missed_ats[i], 'missed', missed_reasons[i], mark_schedules.scheduler_id)
            ON CONFLICT ON CONSTRAINT schedule_fires_pkey DO NOTHING;
        END IF;
    END LOOP;
END
$$;

SET LOCAL lock_timeout = DEFAULT;
