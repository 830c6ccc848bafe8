-- Succession: in the transaction that completes a job of a queue, or of a task with a limit, the next one takes its
-- place.

-- Completes jobs as complete_held_jobs does, and claims the next due jobs of their queues and tasks. Returns the
-- claimed jobs; and for each job that was not held a row without an id, whose attempts is its position, from 1.
--
-- queues: the queue of each job when it was claimed, of which the next job is wanted; of_tasks: its task, likewise.
-- NULL: none is. next_epochs: as in claim_instance_jobs, one for each job, which names the claim of its successor.
-- task_identifiers: the next job of a queue is the first one among these tasks; NULL: any. When it is of no task in
-- own_tasks (one for each job; NULL: any but the excluded_tasks), nothing is claimed.
--
-- No gate's lock is needed: a job takes the place of another at one moment for everybody else, and so many run as
-- before. That one has to count for everybody: its claim is young, so that its lock has expired for nobody, and no
-- limit was set or lifted since. Of a queue, it is the only one that runs, and nothing is set for a gate of either. A
-- task has a limit, and its jobs no other gate: no rate, no host, no queue, no tenants with gates.
--
-- A task's places are not for these jobs alone: claims give them to the first of all, whoever claims, with queues or
-- without. So one a second of each session is left to those, and while jobs with queues wait for the limit, one of each
-- 16th statement.
--
-- The next job is the first one from the beginning of the queue, or of the task's jobs. While some transaction keeps an
-- old snapshot open, that walks over the dead index entries of every job done since. When it has taken long twice, the
-- next ones are looked for behind the job that ends, for 20 times as long, and 2 s at most: they do not pass by dead
-- entries. Not while a task has jobs before that. Settings of the session remember that.
CREATE OR REPLACE FUNCTION @internal@.complete_and_claim_next(
    job_ids bigint[], worker_ids text[], epochs bigint[], queues text[], own_tasks text[], next_epochs bigint[],
    instance uuid, task_identifiers text[], excluded_tasks text[], job_expiry interval, of_tasks text[] DEFAULT NULL
) RETURNS SETOF @extschema@.jobs
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off
SET plan_cache_mode = force_generic_plan SET jit = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stale timestamptz := now() - job_expiry;
    swept timestamptz := now() - interval '1 minute';
    -- Claims of before do not count: a limit of a queue was set or lifted then.
    since timestamptz;
    ruled boolean := false;
    -- Whether all that a task's jobs have to pass are the gates of tasks.
    tasks_alone boolean := false;
    succeeded boolean := current_setting('transaction_isolation') = 'read committed'
                         AND pg_try_advisory_xact_lock_shared(@limits_lock()@);
    held bigint[];
    gated bigint;
    -- Positions of the jobs with a successor, and where those stood in the order.
    ended bigint[];
    priorities int[];
    run_ats timestamptz[];
    -- The same of the jobs with a successor of their task.
    ended_of_tasks bigint[];
    tasks text[];
    task_priorities int[];
    task_run_ats timestamptz[];
    -- Those of which a job has become due that no claim has put in its place.
    unplaced text[] := '{}';
    moment timestamptz := clock_timestamp();
    ahead boolean;
    took float8;
    slow float8;
    jobs int;
    next_ids bigint[];
    next_of bigint[];
    -- Whether a place is left to claims; and whether jobs of a task come before one that ends.
    leaves boolean;
    came_before boolean;
    task_next_ids bigint[];
    task_next_of bigint[];
    job @extschema@.jobs;
    woken boolean;
BEGIN
    IF succeeded THEN
        ruled := EXISTS (SELECT FROM @extschema@.gates);
        succeeded := NOT ruled OR NOT EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'all' AND @gate_says(g)@);
        tasks_alone := succeeded AND ruled AND of_tasks IS NOT NULL AND NOT EXISTS (
            SELECT FROM @extschema@.gates g WHERE g.kind = 'tenant' AND @gate_asks(g)@);
        since := greatest(now() - least(job_expiry / 2, interval '10 seconds'),
                          (SELECT t.full_at FROM @extschema@.gate_tokens t WHERE t.kind = 'all' AND t.name = ''));
    END IF;

    -- Whether workers are to be woken is known below.
    PERFORM set_config('jobs.succession', 'on', true);
    WITH done AS (
        DELETE FROM @extschema@.jobs j
         USING unnest(job_ids, worker_ids, epochs, queues) WITH ORDINALITY
               AS d (job_id, worker_id, epoch, queue, position)
         WHERE j.id = d.job_id AND j.locked_by = d.worker_id AND (d.epoch IS NULL OR j.epoch = d.epoch)
        RETURNING d.position, j.gate_key, j.task_identifier AS task, j.priority, j.run_at,
                  succeeded AND j.queue_name = d.queue AND j.gate_key = 'queue' || quote_literal(d.queue)
                  AND j.locked_at > since
                  AND NOT (ruled AND EXISTS (
                      SELECT FROM @extschema@.gates g
                       WHERE g.kind = 'queue' AND g.name IN (d.queue, '*') AND @gate_says(g)@)) AS succeeded,
                  tasks_alone AND j.task_identifier = of_tasks[d.position] AND j.locked_at > since
                  AND j.gate_key = 'task' || quote_literal(j.task_identifier) AS succeeded_by_task)
    SELECT array_agg(d.position), count(d.gate_key), array_agg(d.position) FILTER (WHERE d.succeeded),
           array_agg(d.priority) FILTER (WHERE d.succeeded), array_agg(d.run_at) FILTER (WHERE d.succeeded),
           array_agg(d.position) FILTER (WHERE d.succeeded_by_task),
           array_agg(d.task) FILTER (WHERE d.succeeded_by_task),
           array_agg(d.priority) FILTER (WHERE d.succeeded_by_task),
           array_agg(d.run_at) FILTER (WHERE d.succeeded_by_task)
      INTO held, gated, ended, priorities, run_ats, ended_of_tasks, tasks, task_priorities, task_run_ats FROM done d;
    PERFORM set_config('jobs.succession', '', true);

    IF ended IS NOT NULL OR ended_of_tasks IS NOT NULL THEN
        ahead := coalesce(nullif(current_setting('jobs.look_at', true), '')::float8 - extract(epoch FROM moment)
                          BETWEEN 0 AND 2, false);
        moment := clock_timestamp();
        IF ended IS NOT NULL THEN
            IF NOT ahead THEN
                unplaced := ARRAY(SELECT w.queue_name FROM @extschema@.jobs w
                                   WHERE w.gate_key = 'run_at' AND @waits(w)@ AND w.run_at <= moment
                                     AND w.queue_name = ANY (queues));
            END IF;
            SELECT array_agg(h.id), array_agg(e.position) INTO next_ids, next_of
              FROM (SELECT DISTINCT ON (queues[u.position]) u.*, queues[u.position] AS queue,
                           'queue' || quote_literal(queues[u.position]) AS gate_key, job_ids[u.position] AS id,
                           own_tasks[u.position] AS own_task
                      FROM unnest(ended, priorities, run_ats) AS u (position, priority, run_at)) e
             CROSS JOIN LATERAL (
                   SELECT j.id, j.task_identifier,
                          ruled AND j.gate_key IS DISTINCT FROM
                          @internal@.gate_key(j.task_identifier, j.queue_name, j.database_id) AS misplaced
                     FROM @extschema@.jobs j
                    -- In these words no other index has the order.
                    WHERE (j.gate_key, j.priority, j.run_at, j.id)
                          >= (e.gate_key, CASE WHEN ahead THEN e.priority ELSE -2147483648 END,
                              CASE WHEN ahead THEN e.run_at ELSE '-infinity' END,
                              CASE WHEN ahead THEN e.id ELSE -9223372036854775808 END)
                      AND j.gate_key <= e.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@
                      AND j.queue_name = e.queue AND j.run_at <= moment AND @within_tasks(j.task_identifier)@
                    ORDER BY j.gate_key, j.priority, j.run_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) h
             WHERE e.queue <> ALL (unplaced) AND NOT h.misplaced
               AND CASE WHEN e.own_task IS NULL THEN excluded_tasks IS NULL OR h.task_identifier <> ALL (excluded_tasks)
                        ELSE h.task_identifier = e.own_task END
               -- An earlier one may stand among those with more gates.
               AND NOT EXISTS (SELECT FROM @extschema@.jobs o
                                WHERE o.queue_name = e.queue AND o.gate_key > 'run_at' AND @waits(o)@)
               AND (ahead OR NOT EXISTS (
                    SELECT FROM @extschema@.jobs r WHERE r.queue_name = e.queue AND @runs(r.queue_name IS NOT NULL)@));
        END IF;
        IF ended_of_tasks IS NOT NULL THEN
            leaves := coalesce(nullif(current_setting('jobs.left_at', true), '')::float8
                               < extract(epoch FROM moment) - 1, true);
            IF leaves THEN
                PERFORM set_config('jobs.left_at', extract(epoch FROM moment)::text, false);
            END IF;
            SELECT array_agg(h.id), array_agg(e.positions[h.n]),
                   bool_or((h.priority, h.run_at, h.id) < (e.priority, e.run_at, e.id))
              INTO task_next_ids, task_next_of, came_before
              FROM (SELECT t.*, cardinality(t.positions) - (leaves OR random() < 1.0 / 16 AND EXISTS (
                               -- Their keys begin with the task's.
                               SELECT FROM @extschema@.jobs o
                                WHERE o.gate_key > t.gate_key || ' ' AND o.gate_key < t.gate_key || '!'
                                  AND o.gate_key <> 'run_at' AND @waits(o)@))::int AS places
                      FROM (SELECT u.task, 'task' || quote_literal(u.task) AS gate_key,
                                   array_agg(u.position) AS positions,
                                   (array_agg(u.priority ORDER BY u.priority, u.run_at, u.id))[1] AS priority,
                                   (array_agg(u.run_at ORDER BY u.priority, u.run_at, u.id))[1] AS run_at,
                                   (array_agg(u.id ORDER BY u.priority, u.run_at, u.id))[1] AS id
                              FROM (SELECT o.*, job_ids[o.position] AS id
                                      FROM unnest(ended_of_tasks, tasks, task_priorities, task_run_ats)
                                           AS o (position, task, priority, run_at)) u
                             GROUP BY u.task) t) e
             CROSS JOIN LATERAL (
                   SELECT f.*, row_number() OVER () AS n FROM (
                       SELECT j.id, j.priority, j.run_at FROM @extschema@.jobs j
                        WHERE (j.gate_key, j.priority, j.run_at, j.id)
                              >= (e.gate_key, CASE WHEN ahead THEN e.priority ELSE -2147483648 END,
                                  CASE WHEN ahead THEN e.run_at ELSE '-infinity' END,
                                  CASE WHEN ahead THEN e.id ELSE -9223372036854775808 END)
                          AND j.gate_key <= e.gate_key AND j.gate_key <> 'run_at' AND @waits(j)@
                          AND j.task_identifier = e.task AND j.queue_name IS NULL AND j.run_at <= moment
                        ORDER BY j.gate_key, j.priority, j.run_at, j.id LIMIT e.places FOR UPDATE SKIP LOCKED) f) h
             WHERE (SELECT g.max_running IS NOT NULL AND g.rate IS NULL AND NOT @gate_stops(g)@
                      FROM @extschema@.gates g
                     WHERE g.kind = 'task' AND g.name IN (e.task, '*') AND @gate_holds(g)@
                     ORDER BY g.name = '*' LIMIT 1)
               AND NOT EXISTS (
                   SELECT FROM @extschema@.task_hosts t
                     JOIN @extschema@.gates g ON g.kind = 'host' AND g.name IN (t.host, '*') WHERE t.task = e.task);
            next_ids := next_ids || task_next_ids;
            next_of := next_of || task_next_of;
        END IF;
        IF NOT ahead THEN
            jobs := coalesce(cardinality(ended), 0) + coalesce(cardinality(ended_of_tasks), 0);
            took := extract(epoch FROM clock_timestamp() - moment) / jobs;
            -- Once may be chance.
            slow := least(took, coalesce(nullif(current_setting('jobs.look_took', true), '')::float8, 0));
            IF slow > 0.0001 AND came_before IS NOT TRUE THEN
                PERFORM set_config('jobs.look_at', (extract(epoch FROM clock_timestamp())
                                                    + least(20 * slow * jobs, 2))::text, false);
            END IF;
            PERFORM set_config('jobs.look_took', took::text, false);
        END IF;
    END IF;
    IF gated > coalesce(cardinality(next_ids), 0) THEN
        woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
    END IF;
    IF next_ids IS NOT NULL THEN
        RETURN QUERY
        UPDATE @extschema@.jobs j
           SET attempts = j.attempts + 1, locked_by = worker_ids[n.position], locked_at = now(),
               updated_at = clock_timestamp(), epoch = next_epochs[n.position],
               instance = complete_and_claim_next.instance, accepted = false, deadline = NULL
          FROM unnest(next_ids, next_of) AS n (id, position) WHERE j.id = n.id
        RETURNING j.*;
    END IF;
    IF cardinality(held) IS DISTINCT FROM cardinality(job_ids) THEN
        FOREACH job.attempts IN ARRAY @internal@.positions_left(cardinality(job_ids), held) LOOP
            RETURN NEXT job;
        END LOOP;
    END IF;
END
$$;
