-- The harness's own eyes: every change of a row of app_jobs.jobs, written down in the transaction that makes it.
--
-- Row locks make the order of seq the order of changes of one job, and the locks of gates make it that of the claims
-- behind one gate, but for a job that takes the place of one that ends. A change that a crash of the server takes back
-- is taken back here as well.
CREATE SCHEMA chaos;

CREATE TABLE chaos.changes (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL,
    -- When it happened, and what now() was: a claim takes jobs that are due by now().
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    now timestamptz NOT NULL DEFAULT now(),
    xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    -- Whose transactions a claim could see.
    snapshot text,
    -- The operator's call that has made the change.
    call int,
    old jsonb,
    new jsonb
);

-- Every change of what is set for a gate.
CREATE TABLE chaos.gate_changes (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    name text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    call int,
    new jsonb
);

-- The attempts that have closed a host, and are to be given back.
CREATE TABLE chaos.closing_attempts (
    job_id bigint NOT NULL,
    attempt int NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The number of the operator's call of this session; NULL for everybody else.
CREATE FUNCTION chaos.call() RETURNS int
LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('chaos.call', true), '')::int $$;

CREATE FUNCTION chaos.record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        INSERT INTO chaos.changes (job_id, call, new) VALUES (NEW.id, chaos.call(), to_jsonb(NEW));
    WHEN 'UPDATE' THEN
        INSERT INTO chaos.changes (job_id, snapshot, call, old, new)
        VALUES (NEW.id, CASE WHEN NEW.locked_at IS NOT NULL THEN pg_current_snapshot()::text END, chaos.call(),
                to_jsonb(OLD), to_jsonb(NEW));
    ELSE
        INSERT INTO chaos.changes (job_id, call, old) VALUES (OLD.id, chaos.call(), to_jsonb(OLD));
    END CASE;
    RETURN NULL;
END
$$;

CREATE TRIGGER chaos_record AFTER INSERT OR UPDATE OR DELETE ON app_jobs.jobs
    FOR EACH ROW EXECUTE FUNCTION chaos.record();

CREATE FUNCTION chaos.record_gate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO chaos.gate_changes (kind, name, call) VALUES (OLD.kind, OLD.name, chaos.call());
    ELSE
        INSERT INTO chaos.gate_changes (kind, name, call, new) VALUES (NEW.kind, NEW.name, chaos.call(), to_jsonb(NEW));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER chaos_record AFTER INSERT OR UPDATE OR DELETE ON app_jobs.gates
    FOR EACH ROW EXECUTE FUNCTION chaos.record_gate();

CREATE FUNCTION chaos.record_attempt() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO chaos.closing_attempts (job_id, attempt) VALUES (NEW.job_id, NEW.attempt);
    RETURN NULL;
END
$$;

CREATE TRIGGER chaos_record AFTER INSERT ON app_jobs.attempts_to_return
    FOR EACH ROW EXECUTE FUNCTION chaos.record_attempt();

-- A time as microseconds since 1970.
CREATE FUNCTION chaos.micros(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT (extract(epoch FROM at) * 1000000)::bigint $$;

-- What the checker needs of a row. Columns that this schema does not have are NULL.
CREATE FUNCTION chaos.facts(r jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'n', r -> 'payload' -> 'n', 'schedule', r -> 'payload' -> 'schedule', 'queue', r -> 'queue_name',
        'task', r -> 'task_identifier', 'tenant', r -> 'database_id',
        'priority', r -> 'priority', 'run_at', chaos.micros((r ->> 'run_at')::timestamptz),
        'attempts', r -> 'attempts', 'max_attempts', r -> 'max_attempts', 'holder', r -> 'locked_by',
        'locked_at', chaos.micros((r ->> 'locked_at')::timestamptz), 'epoch', r -> 'epoch',
        'interruptions', r -> 'interruptions', 'superseded', r -> 'superseded', 'error', r -> 'last_error')
     WHERE r IS NOT NULL
$$;

-- What the checker needs of a gate's row.
CREATE FUNCTION chaos.gate_facts(r jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'max_running', r -> 'max_running', 'rate', r -> 'rate', 'burst', r -> 'burst',
        'per', (extract(epoch FROM (r ->> 'per')::interval) * 1000000)::bigint,
        'paused_at', chaos.micros((r ->> 'paused_at')::timestamptz),
        'paused_until', chaos.micros((r ->> 'paused_until')::timestamptz),
        'closed_until', chaos.micros((r ->> 'closed_until')::timestamptz), 'probed', r ->> 'probe_pause' IS NOT NULL)
     WHERE r IS NOT NULL
$$;

-- When a transaction was committed; NULL where that is not known any more.
CREATE FUNCTION chaos.committed(xid bigint) RETURNS bigint
LANGUAGE sql STABLE AS $$ SELECT chaos.micros(pg_xact_commit_timestamp(xid::text::xid)) $$;
