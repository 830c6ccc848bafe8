-- Which functions of functions/triggers.sql follow which writes. Run after the functions, when this text has changed.
--
-- The tables are locked together and in one order, so that nobody who writes to two of them stands in the way of half
-- of it. Whoever waits behind this lock waits as long as it does: migrate gives up early, and tries again.
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '2s';
LOCK TABLE @extschema@.scheduled_jobs, @extschema@.jobs, @extschema@.gates IN SHARE ROW EXCLUSIVE MODE;

CREATE OR REPLACE TRIGGER jobs_touch BEFORE UPDATE ON @extschema@.jobs FOR EACH ROW
    WHEN (NEW.updated_at IS NULL OR NEW.updated_at <= OLD.updated_at OR NEW.created_at IS DISTINCT FROM OLD.created_at
          OR NEW.locked_by IS DISTINCT FROM OLD.locked_by AND NEW.epoch IS NOT DISTINCT FROM OLD.epoch)
    EXECUTE FUNCTION @internal@.tg_jobs_touch();

CREATE OR REPLACE TRIGGER jobs_inserted AFTER INSERT ON @extschema@.jobs
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION @internal@.tg_jobs_inserted();

CREATE OR REPLACE TRIGGER jobs_updated AFTER UPDATE ON @extschema@.jobs
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION @internal@.tg_jobs_updated();

CREATE OR REPLACE TRIGGER jobs_deleted AFTER DELETE ON @extschema@.jobs
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION @internal@.tg_jobs_deleted();

-- Of the version before.
DROP TRIGGER IF EXISTS jobs_truncated ON @extschema@.jobs;

CREATE OR REPLACE TRIGGER jobs_placed BEFORE INSERT ON @extschema@.jobs FOR EACH ROW
    WHEN (NEW.gate_key IS NULL AND (NEW.run_at > now() OR NEW.queue_name IS NOT NULL
                                    OR current_setting('jobs.gates_set', true) = 'on'))
    EXECUTE FUNCTION @internal@.tg_jobs_placed();

CREATE OR REPLACE TRIGGER jobs_moved BEFORE UPDATE ON @extschema@.jobs FOR EACH ROW
    WHEN (NEW.gate_key IS NOT DISTINCT FROM OLD.gate_key
          AND (NEW.run_at <> OLD.run_at OR NEW.queue_name IS DISTINCT FROM OLD.queue_name
               OR NEW.task_identifier <> OLD.task_identifier OR NEW.database_id IS DISTINCT FROM OLD.database_id
               OR NEW.locked_at IS NULL AND OLD.locked_at IS NOT NULL AND NEW.run_at > now()))
    EXECUTE FUNCTION @internal@.tg_jobs_placed();

CREATE OR REPLACE TRIGGER jobs_bounded BEFORE UPDATE OF payload ON @extschema@.jobs FOR EACH ROW
    WHEN (pg_column_size(NEW.payload) > 65536 AND NEW.payload::text <> OLD.payload::text)
    EXECUTE FUNCTION @internal@.tg_payload_bounded();

-- Also of what replication brings: a limit is kept wherever jobs are claimed.
CREATE OR REPLACE TRIGGER gates_limit_inserted BEFORE INSERT ON @extschema@.gates FOR EACH ROW
    WHEN (NEW.max_running IS NOT NULL OR NEW.rate IS NOT NULL)
    EXECUTE FUNCTION @internal@.tg_gates_limited();
CREATE OR REPLACE TRIGGER gates_limit_updated BEFORE UPDATE ON @extschema@.gates FOR EACH ROW
    WHEN (NEW.kind <> OLD.kind OR NEW.name <> OLD.name OR NEW.max_running IS DISTINCT FROM OLD.max_running
          OR NEW.rate IS DISTINCT FROM OLD.rate OR NEW.per IS DISTINCT FROM OLD.per
          OR NEW.burst IS DISTINCT FROM OLD.burst)
    EXECUTE FUNCTION @internal@.tg_gates_limited();
CREATE OR REPLACE TRIGGER gates_limit_deleted BEFORE DELETE ON @extschema@.gates FOR EACH ROW
    WHEN (OLD.max_running IS NOT NULL OR OLD.rate IS NOT NULL)
    EXECUTE FUNCTION @internal@.tg_gates_limited();
CREATE OR REPLACE TRIGGER gates_counted_inserted AFTER INSERT ON @extschema@.gates FOR EACH ROW
    WHEN (NEW.kind <> 'queue' AND NEW.max_running IS NOT NULL)
    EXECUTE FUNCTION @internal@.tg_gates_counted();
CREATE OR REPLACE TRIGGER gates_counted_updated AFTER UPDATE ON @extschema@.gates FOR EACH ROW
    WHEN (NEW.kind <> 'queue' AND NEW.max_running IS NOT NULL
          AND (NEW.kind <> OLD.kind OR NEW.name <> OLD.name OR NEW.max_running IS DISTINCT FROM OLD.max_running
               OR OLD.set_at = 'infinity' AND NEW.set_at < OLD.set_at))
    EXECUTE FUNCTION @internal@.tg_gates_counted();
ALTER TABLE @extschema@.gates
    ENABLE ALWAYS TRIGGER gates_limit_inserted, ENABLE ALWAYS TRIGGER gates_limit_updated,
    ENABLE ALWAYS TRIGGER gates_limit_deleted, ENABLE ALWAYS TRIGGER gates_counted_inserted,
    ENABLE ALWAYS TRIGGER gates_counted_updated;

CREATE OR REPLACE TRIGGER scheduled_jobs_bounded BEFORE INSERT OR UPDATE OF payload, schedule_info
    ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (pg_column_size(NEW.payload) > 65536 OR pg_column_size(NEW.schedule_info) > 65536)
    EXECUTE FUNCTION @internal@.tg_schedule_bounded();
-- Of the version before.
DROP TRIGGER IF EXISTS scheduled_jobs_bounded_update ON @extschema@.scheduled_jobs;

-- After scheduled_jobs_renewed, by its name, which empties last_error of a rule that changes.
CREATE OR REPLACE TRIGGER scheduled_jobs_rule BEFORE INSERT OR UPDATE OF schedule_info ON @extschema@.scheduled_jobs
    FOR EACH ROW EXECUTE FUNCTION @internal@.tg_scheduled_jobs_checked();

CREATE OR REPLACE TRIGGER scheduled_jobs_inserted AFTER INSERT ON @extschema@.scheduled_jobs
    REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION @internal@.tg_scheduled_jobs_notify('scheduled_jobs:insert');

CREATE OR REPLACE TRIGGER scheduled_jobs_deleted AFTER DELETE ON @extschema@.scheduled_jobs
    REFERENCING OLD TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION @internal@.tg_scheduled_jobs_notify('scheduled_jobs:change');

CREATE OR REPLACE TRIGGER scheduled_jobs_freed AFTER UPDATE ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.locked_at IS NULL AND NEW.paused_at IS NULL AND NEW.ended_at IS NULL
          AND (OLD.locked_at IS NOT NULL OR OLD.paused_at IS NOT NULL OR OLD.ended_at IS NOT NULL))
    EXECUTE FUNCTION @internal@.tg_scheduled_jobs_notify('scheduled_jobs:insert');

CREATE OR REPLACE TRIGGER scheduled_jobs_changed AFTER UPDATE OF schedule_info, task_identifier, payload, paused_at
    ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.schedule_info::text IS DISTINCT FROM OLD.schedule_info::text
          OR NEW.task_identifier IS DISTINCT FROM OLD.task_identifier
          OR NEW.payload::text IS DISTINCT FROM OLD.payload::text
          OR (NEW.paused_at IS NULL) <> (OLD.paused_at IS NULL))
    EXECUTE FUNCTION @internal@.tg_scheduled_jobs_notify('scheduled_jobs:change');

CREATE OR REPLACE TRIGGER scheduled_jobs_renewed BEFORE UPDATE OF schedule_info, paused_at
    ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.schedule_info::text IS DISTINCT FROM OLD.schedule_info::text
          OR (NEW.paused_at IS NULL) <> (OLD.paused_at IS NULL))
    EXECUTE FUNCTION @internal@.tg_scheduled_jobs_renewed();

CREATE OR REPLACE TRIGGER scheduled_jobs_written_by_hand BEFORE UPDATE OF locked_by, locked_at, fired_until
    ON @extschema@.scheduled_jobs FOR EACH ROW
    WHEN (NEW.instance = OLD.instance
          AND (NEW.locked_by IS DISTINCT FROM OLD.locked_by OR (NEW.locked_at IS NULL) <> (OLD.locked_at IS NULL)
               OR (NEW.fired_until BETWEEN timestamptz '1970-01-01 00:00:00+00'
                                       AND timestamptz '9999-12-30 00:00:00+00')
                  <> (OLD.fired_until BETWEEN timestamptz '1970-01-01 00:00:00+00'
                                          AND timestamptz '9999-12-30 00:00:00+00')))
    EXECUTE FUNCTION @internal@.tg_scheduled_jobs_renewed();

INSERT INTO @extschema@.schema_state (part, version, digest) VALUES ('triggers', @version@, '@digest@')
ON CONFLICT (part) DO UPDATE SET version = excluded.version, digest = excluded.digest;

SET LOCAL lock_timeout = DEFAULT;
