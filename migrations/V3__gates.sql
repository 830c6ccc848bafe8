-- Gates: what can hold a due job back. What runs is derived from the jobs themselves, so no row is written by every job
-- of a queue.

-- As in V2: who stands in the way ends the migration rather than hold up everybody behind it.
SET LOCAL lock_timeout = '2s';
LOCK TABLE @extschema@.scheduled_jobs, @extschema@.jobs, @extschema@.job_queues IN ACCESS EXCLUSIVE MODE;

-- What somebody has set for a gate; a gate without a row has no limit, but for a queue, which runs one job at a time.
CREATE TABLE @extschema@.gates (
    kind text NOT NULL,
    name text COLLATE "C" NOT NULL,
    max_running int,
    rate int,
    per interval,
    burst int,
    weight numeric,
    -- For tenants, with the name *: who waits is served by the least run time per weight.
    fair boolean,
    paused_at timestamptz,
    paused_until timestamptz,
    reason text,
    closed_until timestamptz,
    closed_reason text,
    -- Of a host that has closed by itself: once closed_until has passed, one job may start, and for so long no other.
    probe_pause interval,
    -- When a limit was set last: claims that began before it may not have seen it.
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT gates_pkey PRIMARY KEY (kind, name),
    CONSTRAINT gates_kind CHECK (kind IN ('task', 'queue', 'tenant', 'host', 'all')),
    CONSTRAINT gates_name CHECK (name <> '' OR kind = 'all'),
    CONSTRAINT gates_paused CHECK (paused_at IS NOT NULL OR paused_until IS NULL),
    CONSTRAINT gates_all CHECK (kind <> 'all' OR name = '' AND max_running IS NULL AND rate IS NULL),
    CONSTRAINT gates_tenant CHECK (
        kind <> 'tenant' OR name = '*' OR name ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
    CONSTRAINT gates_max_running_positive CHECK (max_running > 0),
    CONSTRAINT gates_rate CHECK (num_nulls(rate, per, burst) IN (0, 3) AND rate > 0 AND burst > 0
                                 AND per BETWEEN '1 millisecond' AND '366 days'),
    CONSTRAINT gates_weight CHECK (weight IS NULL OR weight >= 0.001 AND weight <= 1000000 AND kind = 'tenant'),
    CONSTRAINT gates_fair CHECK (fair IS NULL OR fair AND kind = 'tenant' AND name = '*'),
    CONSTRAINT gates_probe_pause CHECK (kind = 'host' AND closed_until IS NOT NULL AND probe_pause > '0'
                                        OR probe_pause IS NULL)
);

-- Whether there is any rate: there may be a row for every tenant.
CREATE INDEX gates_rate_idx ON @extschema@.gates (kind) WHERE rate IS NOT NULL;
-- Which rows jobs have to pass, in the words of gate_asks: most may have a weight alone.
CREATE INDEX gates_asked_idx ON @extschema@.gates (kind, name)
 WHERE weight IS NULL OR coalesce(fair, false) OR max_running IS NOT NULL OR rate IS NOT NULL OR paused_at IS NOT NULL
       OR closed_until IS NOT NULL;
CREATE INDEX gates_paused_until_idx ON @extschema@.gates (paused_until) WHERE paused_until IS NOT NULL;
CREATE INDEX gates_closed_until_idx ON @extschema@.gates (closed_until) WHERE closed_until IS NOT NULL;

COMMENT ON TABLE @extschema@.gates IS
    E'@behavior -*\nLimits, rates, pauses and closed hosts: what can hold jobs back. '
    'pause, resume and set_limit change it.';

-- What has been taken from the token buckets of rates.
CREATE TABLE @extschema@.gate_tokens (
    kind text NOT NULL,
    name text COLLATE "C" NOT NULL,
    -- When the bucket is full again: the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371).
    full_at timestamptz NOT NULL,
    CONSTRAINT gate_tokens_pkey PRIMARY KEY (kind, name)
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.gate_tokens IS E'@behavior -*\nWhat has been taken from the token buckets of rates.';

-- The host that a task's jobs are sent to, as workers tell before they send the first one.
CREATE TABLE @extschema@.task_hosts (
    task text COLLATE "C" NOT NULL,
    host text COLLATE "C" NOT NULL,
    CONSTRAINT task_hosts_pkey PRIMARY KEY (task)
);
CREATE INDEX task_hosts_host_idx ON @extschema@.task_hosts (host, task);
COMMENT ON TABLE @extschema@.task_hosts IS
    E'@behavior -*\nThe host that a task''s jobs are sent to, as workers have told.';

-- Hosts that some worker could not use lately, and the failures in a row: five different ones close the host's gate.
CREATE TABLE @extschema@.host_failures (
    host text COLLATE "C" NOT NULL,
    -- The last failures of a host that is open, four at most: which jobs, the number and the message of the attempt,
    -- when it was due, and when the failure was told of.
    job_ids bigint[] NOT NULL DEFAULT '{}',
    attempts int[] NOT NULL DEFAULT '{}',
    errors text[] NOT NULL DEFAULT '{}',
    run_ats timestamptz[] NOT NULL DEFAULT '{}',
    told_ats timestamptz[] NOT NULL DEFAULT '{}',
    -- The last one: whether there was no connection, when it was, and whose.
    unreachable boolean NOT NULL DEFAULT false,
    failed_at timestamptz NOT NULL,
    failed_by text NOT NULL,
    -- The worker that has used the host since.
    reached_at timestamptz,
    reached_by text,
    CONSTRAINT host_failures_pkey PRIMARY KEY (host)
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.host_failures IS
    E'@behavior -*\nHosts that a worker could not use lately, and the last failures.';

-- Attempts that a closed host has used up: each is given back as soon as its outcome is written (return_attempts).
CREATE TABLE @extschema@.attempts_to_return (
    job_id bigint NOT NULL,
    -- The number and the message of the attempt, when it was due, and when the failure was told of.
    attempt int NOT NULL,
    error text NOT NULL,
    run_at timestamptz NOT NULL,
    told_at timestamptz NOT NULL
);
COMMENT ON TABLE @extschema@.attempts_to_return IS
    E'@behavior -*\nAttempts that a closed host has used up and that are to be given back.';

-- While tenants are served fairly, what each has used; functions/fairness.sql explains it. Of a name the row with the
-- largest number counts. It is inserted, and the others are deleted, so that it is found at once however many dead ones
-- somebody's old snapshot keeps. The name is a tenant's, empty for jobs without one, and * for all together.
CREATE TABLE @extschema@.gate_usage (
    name text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    -- Virtual time: seconds of run time by weight, since it is counted. Of *: where those that are served stand.
    served float8 NOT NULL,
    -- Seconds that one job takes, by the last ones.
    mean float8,
    -- How many run, and the sum of when they began, in milliseconds.
    running bigint NOT NULL DEFAULT 0,
    since bigint NOT NULL DEFAULT 0,
    -- When the last one ended; of *, when this was added up.
    ended_at timestamptz,
    -- Of *: what has been added up is of transactions before this one, but for those that were open.
    upto xid8,
    unended xid8[],
    recounted_at timestamptz,
    CONSTRAINT gate_usage_pkey PRIMARY KEY (name, number)
);
COMMENT ON TABLE @extschema@.gate_usage IS E'@behavior -*\nThe run time that tenants have used.';

-- What has not been added up yet: an entry for each tenant of a statement that starts or ends jobs.
CREATE TABLE @extschema@.gate_usage_log (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    name text COLLATE "C" NOT NULL,
    seconds float8 NOT NULL DEFAULT 0,
    ended int NOT NULL DEFAULT 0,
    running int NOT NULL DEFAULT 0,
    since bigint NOT NULL DEFAULT 0,
    ended_at timestamptz,
    -- It had been idle: this is no less than served of gate_usage, before the seconds of the log are added.
    served float8
);
CREATE INDEX gate_usage_log_idx ON @extschema@.gate_usage_log (xid);
COMMENT ON TABLE @extschema@.gate_usage_log IS E'@behavior -*\nWhat has to be added to gate_usage.';

-- Where a job that waits stands. NULL: in the common order. run_at: it waits for its time. Else the gates that it has
-- to pass, and it stands in the order of the jobs with the same ones.
ALTER TABLE @extschema@.jobs ADD COLUMN gate_key text COLLATE "C";
COMMENT ON COLUMN @extschema@.jobs.gate_key IS
    E'@behavior -*\nWhich gates a waiting job has to pass: run_at, or its queue, task or tenant; NULL: none. Derived.';

UPDATE @extschema@.jobs
   SET gate_key = CASE WHEN run_at > now() THEN 'run_at' ELSE 'queue' || quote_literal(queue_name) END
 WHERE run_at > now() OR queue_name IS NOT NULL;

DROP INDEX @extschema@.jobs_claim_idx, @extschema@.jobs_queue_idx, @extschema@.jobs_queue_locked_idx;

-- The order of claiming, of jobs that no gate holds back: a claim walks over no other.
CREATE INDEX jobs_claim_idx ON @extschema@.jobs (priority, run_at, id)
    WHERE gate_key IS NULL AND locked_at IS NULL AND attempts < max_attempts;

-- Jobs that wait for their time, whatever their priority.
CREATE INDEX jobs_run_at_idx ON @extschema@.jobs (run_at)
    WHERE gate_key = 'run_at' AND locked_at IS NULL AND attempts < max_attempts;

-- Jobs with a gate, in the order of claiming, and each gate's own: its first job is one probe away.
CREATE INDEX jobs_gated_idx ON @extschema@.jobs (priority, run_at, id)
    WHERE gate_key <> 'run_at' AND locked_at IS NULL AND attempts < max_attempts;
CREATE INDEX jobs_gate_idx ON @extschema@.jobs (gate_key, priority, run_at, id)
    WHERE gate_key <> 'run_at' AND locked_at IS NULL AND attempts < max_attempts;

-- Jobs of queues whose tasks or tenants have a gate, in the order of each queue, whatever their other gates are.
CREATE INDEX jobs_queue_order_idx ON @extschema@.jobs (queue_name, priority, run_at, id)
    WHERE queue_name IS NOT NULL AND gate_key > 'run_at' AND locked_at IS NULL AND attempts < max_attempts;

-- What runs, by gate. The expression keeps the planner from these indexes where it wants the one on locked_at, which
-- has every running job. A queue's latest comes first: it is the one that runs, if any; the others are dead entries.
CREATE INDEX jobs_queue_running_idx ON @extschema@.jobs (queue_name, locked_at DESC)
    WHERE queue_name IS NOT NULL AND coalesce(locked_at, '-infinity') > '-infinity';
-- A gate_key with a tenant or a task begins with that, behind run_at in the order of letters.
CREATE INDEX jobs_task_running_idx ON @extschema@.jobs (task_identifier)
    WHERE gate_key > 'run_at' AND coalesce(locked_at, '-infinity') > '-infinity';
CREATE INDEX jobs_tenant_running_idx ON @extschema@.jobs (database_id)
    WHERE gate_key > 'run_at' AND coalesce(locked_at, '-infinity') > '-infinity';

DROP TABLE @extschema@.job_queues;
-- Its argument free_queues has another name now.
DROP FUNCTION IF EXISTS @internal@.claim_jobs(
    text, text[], int, interval, text[], boolean, int[], timestamptz[], bigint[], text[]);

-- Of a tenant's rows, a tenant's role sees its own, as in jobs. A view runs as its owner, who sees all.
CREATE VIEW @extschema@.job_queues WITH (security_barrier) AS
SELECT j.queue_name, count(*)::int AS job_count, max(j.locked_at) AS locked_at,
       (array_agg(j.locked_by ORDER BY j.locked_at DESC) FILTER (WHERE j.locked_at IS NOT NULL))[1] AS locked_by
  FROM @extschema@.jobs j
 WHERE j.queue_name IS NOT NULL
   AND (j.database_id = (SELECT nullif(current_setting('jwt.claims.database_id', true), '')::uuid)
        OR (SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
             WHERE c.oid = '@extschema@.jobs'::regclass)
        OR (SELECT r.rolbypassrls OR r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
        OR EXISTS (SELECT FROM pg_policy p CROSS JOIN unnest(p.polroles) AS r (role)
                    WHERE p.polrelid = '@extschema@.jobs'::regclass AND p.polname = 'all_tenants'
                      AND (r.role = 0 OR pg_has_role(current_user, r.role, 'USAGE'))))
 GROUP BY j.queue_name;

COMMENT ON VIEW @extschema@.job_queues IS
    E'@primaryKey queue_name\nNamed queues in use: how many jobs each has, and which worker runs one.';

-- Jobs that no worker can claim, since a trigger, a constraint or a domain of the application's refuses the change.
CREATE TABLE @extschema@.refused_jobs (
    job_id bigint NOT NULL,
    refused_until timestamptz NOT NULL,
    sql_state text NOT NULL,
    message text NOT NULL,
    CONSTRAINT refused_jobs_pkey PRIMARY KEY (job_id)
);
COMMENT ON TABLE @extschema@.refused_jobs IS
    E'@behavior -*\nJobs that a trigger or constraint keeps from being claimed: until when they are left out, and why.';

-- Attempts that somebody has cancelled, for the process that runs them: the job's row is gone, and cannot say why.
CREATE TABLE @extschema@.cancelled_attempts (
    instance uuid NOT NULL,
    job_id bigint NOT NULL,
    epoch bigint NOT NULL,
    reason text,
    cancelled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT cancelled_attempts_pkey PRIMARY KEY (instance, epoch)
);
COMMENT ON TABLE @extschema@.cancelled_attempts IS
    E'@behavior -*\nAttempts that were cancelled while they ran, until their worker has been told.';

SET LOCAL lock_timeout = DEFAULT;
