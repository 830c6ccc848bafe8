-- The harness's own eyes: every change of a row of app_jobs.jobs, written down in the transaction that makes it.
--
-- Row locks make the order of seq the order of changes of one job, and the lock of a queue's row makes it that of the
-- claims and ends in one queue. A change that a crash of the server takes back is taken back here as well.
CREATE SCHEMA chaos;

CREATE TABLE chaos.changes (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL,
    -- When it happened, and what now() was: a claim takes jobs that are due by now().
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    now timestamptz NOT NULL DEFAULT now(),
    xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    -- Whose transactions a change in a named queue could see.
    snapshot text,
    old jsonb,
    new jsonb
);

CREATE FUNCTION chaos.record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        INSERT INTO chaos.changes (job_id, new) VALUES (NEW.id, to_jsonb(NEW));
    WHEN 'UPDATE' THEN
        INSERT INTO chaos.changes (job_id, snapshot, old, new)
        VALUES (NEW.id, CASE WHEN NEW.queue_name IS NOT NULL THEN pg_current_snapshot()::text END,
                to_jsonb(OLD), to_jsonb(NEW));
    ELSE
        INSERT INTO chaos.changes (job_id, old) VALUES (OLD.id, to_jsonb(OLD));
    END CASE;
    RETURN NULL;
END
$$;

CREATE TRIGGER chaos_record AFTER INSERT OR UPDATE OR DELETE ON app_jobs.jobs
    FOR EACH ROW EXECUTE FUNCTION chaos.record();

-- A time as microseconds since 1970.
CREATE FUNCTION chaos.micros(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT (extract(epoch FROM at) * 1000000)::bigint $$;

-- What the checker needs of a row. Columns that this schema does not have are NULL.
CREATE FUNCTION chaos.facts(r jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'n', r -> 'payload' -> 'n', 'schedule', r -> 'payload' -> 'schedule', 'queue', r -> 'queue_name',
        'priority', r -> 'priority', 'run_at', chaos.micros((r ->> 'run_at')::timestamptz),
        'attempts', r -> 'attempts', 'max_attempts', r -> 'max_attempts', 'holder', r -> 'locked_by',
        'locked_at', chaos.micros((r ->> 'locked_at')::timestamptz), 'epoch', r -> 'epoch',
        'interruptions', r -> 'interruptions', 'superseded', r -> 'superseded', 'error', r -> 'last_error')
     WHERE r IS NOT NULL
$$;
