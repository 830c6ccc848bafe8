-- Leases of workers: who takes over when one ends or goes silent.
--
-- A worker process shows that it lives by one heartbeat for all it holds, on the database's clock. What it holds needs
-- no write of its own to be kept, and its epochs see to it that whoever is taken for dead and is not can do no harm.

-- The lock that an instance's listening session holds as long as it lives.
CREATE OR REPLACE FUNCTION @internal@.instance_lock(instance uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.hashtextextended('@extschema@.instance:'::text || instance::text, 0::bigint)
$$;

-- The update of interrupt_jobs, for jobs that the caller has locked.
CREATE OR REPLACE FUNCTION @internal@.free_jobs(ids bigint[], reason text) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed bigint[];
BEGIN
    WITH freed AS (
        UPDATE @extschema@.jobs j
           SET interruptions = n.interruptions, last_error = coalesce(reason, j.last_error),
               attempts = CASE WHEN n.counted OR j.superseded THEN j.attempts ELSE greatest(j.attempts - 1, 0) END,
               run_at = CASE WHEN n.counted THEN @internal@.retry_at(j.run_at, j.attempts) ELSE j.run_at END,
               locked_by = NULL, locked_at = NULL, epoch = NULL, instance = NULL, deadline = NULL,
               updated_at = clock_timestamp()
          FROM (SELECT c.id, c.interruptions, reason IS NOT NULL AND c.interruptions > 3 AS counted
                  FROM (SELECT b.id, CASE WHEN reason IS NULL THEN b.interruptions
                                          WHEN b.attempts < 2 AND b.last_error IS NULL THEN 1
                                          ELSE b.interruptions + 1 END AS interruptions
                          FROM @extschema@.jobs b WHERE b.id = ANY (ids)) c) n
         WHERE j.id = n.id
        RETURNING j.id)
    SELECT array_agg(f.id) INTO changed FROM freed f;
    RETURN changed;
END
$$;

-- Takes from an instance what it runs, but for what a function has accepted or, before it has answered, has had
-- extended. An instance that has ended interrupts its jobs: they start again, and the attempt does not count. But from
-- the 4th interruption on it does, so that a job that kills its worker ends. Without a reason they are given back as if
-- they had not been claimed. Returns their ids; what somebody holds is left for the next time, and what cannot be
-- changed is told in the server's log: neither may keep others from their jobs.
--
-- A job that was replaced by key has begun anew: it has neither attempts nor an error. kept: epochs of claims to leave
-- alone. until: when to leave the rest.
CREATE OR REPLACE FUNCTION @internal@.interrupt_jobs(
    instance uuid, reason text, kept bigint[] DEFAULT '{}', until timestamptz DEFAULT 'infinity'
) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET lock_timeout = '50ms' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids bigint[] := ARRAY(
        SELECT j.id FROM @extschema@.jobs j
         WHERE j.locked_at IS NOT NULL AND j.instance = interrupt_jobs.instance
           AND NOT j.accepted AND (j.deadline IS NULL OR j.deadline < now())
           AND (j.epoch IS NULL OR j.epoch <> ALL (kept))
           FOR UPDATE SKIP LOCKED);
    id bigint;
    interrupted bigint[] := '{}';
BEGIN
    IF cardinality(ids) = 0 THEN
        RETURN interrupted;
    END IF;
    BEGIN
        RETURN @internal@.free_jobs(ids, reason);
    EXCEPTION WHEN OTHERS THEN
        NULL; -- one that cannot be changed is left, and the others are not
    END;
    FOREACH id IN ARRAY ids LOOP
        EXIT WHEN clock_timestamp() > until;
        BEGIN
            interrupted := interrupted || @internal@.free_jobs(ARRAY[id], reason);
        EXCEPTION
            WHEN lock_not_available THEN
                NULL;
            WHEN OTHERS THEN
                RAISE WARNING 'job % of instance % cannot be taken over: %', id, instance, SQLERRM;
        END;
    END LOOP;
    RETURN interrupted;
END
$$;

-- Those of some jobs that have failed for good, as a JSON array; NULL when there are none. Who interrupts or fails jobs
-- that nobody runs asks for it in the same statement.
CREATE OR REPLACE FUNCTION @internal@.exhausted_jobs(job_ids bigint[]) RETURNS json
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT json_agg(json_build_object(
                   'id', j.id, 'task', j.task_identifier, 'queue', j.queue_name, 'attempts', j.attempts,
                   'max_attempts', j.max_attempts, 'error', left(j.last_error, 2000)) ORDER BY j.id)
          FROM @extschema@.jobs j
         WHERE j.id = ANY (job_ids) AND j.attempts >= j.max_attempts AND j.locked_at IS NULL);
END
$$;

-- Instances under a worker id, other than the given one, whose session has ended.
CREATE OR REPLACE FUNCTION @internal@.ended_instances(worker_id text, instance uuid) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other uuid;
    ended uuid[] := '{}';
BEGIN
    FOR other IN
        SELECT w.instance FROM @extschema@.workers w
         WHERE w.worker_id = ended_instances.worker_id AND w.instance <> ended_instances.instance AND w.listens
    LOOP
        IF pg_try_advisory_xact_lock(@internal@.instance_lock(other)) THEN
            ended := ended || other;
        END IF;
    END LOOP;
    RETURN ended;
END
$$;

-- Takes back, without waiting for a lease, the jobs of those of the given instances whose session has ended. The caller
-- has found it ended some seconds before: a session may just be connecting anew.
CREATE OR REPLACE FUNCTION @internal@.take_back_jobs(worker_id text, instance uuid, ended uuid[]) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone uuid;
    interrupted bigint[] := '{}';
BEGIN
    FOREACH gone IN ARRAY @internal@.ended_instances(worker_id, instance) LOOP
        CONTINUE WHEN gone <> ALL (ended);
        interrupted := interrupted || @internal@.interrupt_jobs(
            gone, format('worker %s ended while it ran the job', worker_id));
        PERFORM @internal@.forget_worker(gone);
    END LOOP;
    RETURN interrupted;
END
$$;

-- A worker process shows that it lives, which also registers it. Then it looks after the others' jobs: those of
-- instances whose lease has passed are interrupted, and accepted ones whose callback is overdue fail. Whether locks
-- have expired is told: who claims has to look from the beginning.
--
-- Who was cut off itself cannot tell who else was: nothing is rescued by an instance whose own heartbeats have not come
-- for a full lease without a gap, and a deadline that passed during the gap has half as long for its callback to
-- arrive. A gap is more than half of the shortest lease there is, since those who have it are missed first, but never
-- less than what a lost heartbeat of its own makes. Nothing in the server tells this better: it may have been halted as
-- a whole.
--
-- Rows of other workers are read, not locked: one may be held by a claim whose worker has stopped reading.
CREATE OR REPLACE FUNCTION @internal@.heartbeat(
    worker_id text, instance uuid, lease interval, listens boolean, overdue_message text, job_expiry interval,
    OUT rescued bigint[], OUT silent text[], OUT overdue bigint[], OUT expired boolean
)
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
SET lock_timeout = '50ms' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    gap interval := greatest((SELECT min(w.lease) FROM @extschema@.workers w) / 2, lease / 3);
    steady timestamptz;
    gone record;
    job record;
    interrupted bigint[];
    -- Where among the overdue this heartbeat begins: those that cannot be failed are not always the first.
    -- Never later than now, whatever somebody has written there, infinity included.
    first timestamptz := coalesce(
        (SELECT now() - random() * (now() - min(j.deadline)) FROM @extschema@.jobs j
          WHERE j.deadline < now() AND j.deadline > '-infinity'), now());
    refused bigint[] := '{}';
    refusal text;
BEGIN
    PERFORM @internal@.require_worker_id(worker_id);
    rescued := '{}';
    silent := '{}';
    overdue := '{}';
    INSERT INTO @extschema@.workers AS w (instance, worker_id, lease, listens, heartbeat_at, steady_since)
    VALUES (heartbeat.instance, heartbeat.worker_id, heartbeat.lease, heartbeat.listens, moment, moment)
    ON CONFLICT ON CONSTRAINT workers_pkey DO UPDATE SET
        heartbeat_at = moment, lease = excluded.lease, listens = excluded.listens,
        steady_since = CASE WHEN w.heartbeat_at < moment - gap THEN moment ELSE w.steady_since END
    RETURNING w.steady_since INTO steady;

    FOR gone IN
        SELECT w.instance, format('worker %s gave no sign of life for %s s (JOBS_LEASE) while it ran the job',
                                  w.worker_id, round(extract(epoch FROM w.lease)::numeric, 1)) AS reason, w.worker_id
          FROM @extschema@.workers w
         WHERE w.heartbeat_at < moment - w.lease AND steady <= moment - greatest(w.lease, heartbeat.lease)
        UNION ALL
        -- Forgotten, and yet it had a claim under way; or its function's extension has run out since.
        SELECT o.instance, 'worker ' || o.locked_by || ' is gone', o.locked_by
          FROM (SELECT DISTINCT ON (j.instance) j.instance, j.locked_by FROM @extschema@.jobs j
                 WHERE j.locked_at IS NOT NULL AND j.locked_at < moment - heartbeat.lease AND j.instance IS NOT NULL
                   AND NOT j.accepted AND (j.deadline IS NULL OR j.deadline < now())
                   AND NOT EXISTS (SELECT FROM @extschema@.workers w WHERE w.instance = j.instance)) o
         WHERE steady <= moment - heartbeat.lease
    LOOP
        -- The rest has the next heartbeat: what takes too long is cut off, and the sign of life with it.
        EXIT WHEN clock_timestamp() > moment + heartbeat.lease / 24;
        interrupted := @internal@.interrupt_jobs(gone.instance, gone.reason, '{}', moment + heartbeat.lease / 24);
        IF cardinality(interrupted) > 0 THEN
            rescued := rescued || interrupted;
            silent := silent || gone.worker_id;
        END IF;
        PERFORM @internal@.forget_worker(gone.instance);
    END LOOP;

    FOR job IN
        SELECT l.* FROM (
            SELECT j.id, j.locked_by FROM @extschema@.jobs j
             WHERE j.deadline IS NOT NULL AND j.deadline >= first AND j.deadline < now() AND j.accepted
               AND j.locked_by IS NOT NULL AND (j.deadline >= steady OR steady <= moment - heartbeat.lease / 2)
             ORDER BY j.deadline LIMIT 1000 FOR UPDATE SKIP LOCKED) l
        UNION ALL
        SELECT e.* FROM (
            SELECT j.id, j.locked_by FROM @extschema@.jobs j
             WHERE j.deadline IS NOT NULL AND j.deadline < first AND j.accepted
               AND j.locked_by IS NOT NULL AND (j.deadline >= steady OR steady <= moment - heartbeat.lease / 2)
             ORDER BY j.deadline LIMIT 1000 FOR UPDATE SKIP LOCKED) e
    LOOP
        EXIT WHEN clock_timestamp() > moment + heartbeat.lease / 24;
        BEGIN
            PERFORM @extschema@.fail_job(job.locked_by, job.id, overdue_message);
            overdue := overdue || job.id;
        EXCEPTION
            WHEN lock_not_available THEN
                NULL;
            WHEN OTHERS THEN
                refused := refused || job.id;
                refusal := SQLERRM;
        END;
    END LOOP;
    IF cardinality(refused) > 0 THEN
        RAISE WARNING 'jobs % (% in all) cannot be failed at their deadlines: %',
            refused[1:10], cardinality(refused), refusal;
    END IF;

    expired := EXISTS (
        SELECT FROM @extschema@.jobs j
         WHERE j.locked_at IS NOT NULL AND j.locked_at < now() - job_expiry AND j.attempts < j.max_attempts
           AND j.deadline IS NULL);
    PERFORM @internal@.sweep();
END
$$;

-- Removes what nobody needs any more; what somebody holds stays for the next time. Buckets are looked through in a
-- fiftieth of the calls: there may be very many.
CREATE OR REPLACE FUNCTION @internal@.sweep() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'host' AND @gate_over(g)@) THEN
        PERFORM @internal@.sweep_hosts();
    END IF;
    -- Of jobs that run on: a later attempt counts.
    DELETE FROM @extschema@.attempts_to_return d
     WHERE d.ctid = ANY (ARRAY(
        SELECT r.ctid FROM @extschema@.attempts_to_return r WHERE r.told_at < now() - interval '5 minutes'
         LIMIT 1000 FOR UPDATE SKIP LOCKED));
    -- Failures from an hour ago, of hosts that have no gate.
    DELETE FROM @extschema@.host_failures d
     WHERE d.host = ANY (ARRAY(
        SELECT f.host FROM @extschema@.host_failures f
         WHERE f.failed_at < now() - interval '1 hour'
           AND NOT EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'host' AND g.name = f.host)
         LIMIT 1000 FOR UPDATE SKIP LOCKED));
    -- Of workers that have ended since, or had forgotten the attempt.
    DELETE FROM @extschema@.cancelled_attempts a
     WHERE (a.instance, a.epoch) IN (
        SELECT o.instance, o.epoch FROM @extschema@.cancelled_attempts o
         WHERE o.cancelled_at < now() - interval '10 minutes' LIMIT 1000 FOR UPDATE SKIP LOCKED);
    DELETE FROM @extschema@.refused_jobs d
     WHERE d.job_id = ANY (ARRAY(
        SELECT o.job_id FROM @extschema@.refused_jobs o WHERE o.refused_until < now() - interval '10 minutes'
         LIMIT 1000 FOR UPDATE SKIP LOCKED));
    -- A bucket that is full is as one that is not there.
    IF random() < 0.02 THEN
        DELETE FROM @extschema@.gate_tokens t
         WHERE (t.kind, t.name) IN (
            SELECT f.kind, f.name FROM @extschema@.gate_tokens f
             WHERE f.kind <> 'all' AND f.full_at < now() - interval '1 minute' LIMIT 10000 FOR UPDATE SKIP LOCKED);
    END IF;
END
$$;

-- Removes an instance that runs nothing any more; what functions have does not count. True when it is gone.
CREATE OR REPLACE FUNCTION @internal@.forget_worker(instance uuid) RETURNS boolean
LANGUAGE plpgsql SET enable_seqscan = off SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @extschema@.workers w
     WHERE w.instance = (SELECT h.instance FROM @extschema@.workers h
                          WHERE h.instance = forget_worker.instance FOR UPDATE SKIP LOCKED)
       AND NOT EXISTS (SELECT FROM @extschema@.jobs j
                        WHERE j.locked_at IS NOT NULL AND j.instance = w.instance AND j.deadline IS NULL);
    RETURN FOUND;
END
$$;
